//! The ABI between Fairlead's BPF programs and its agent.
//!
//! Every type here is laid out in BPF maps: `#[repr(C)]`, without padding (asserted beside each
//! definition), the same on both sides of the kernel. Addresses and ports are held in network
//! byte order, everything else in the machine's. Nothing here has logic or does I/O.
//!
//! Types are generic over the address family through [`Addr`]; each family has maps of its own,
//! named in [`maps`].
#![no_std]

mod addr;
pub mod bench;
pub mod config;
pub mod counters;
pub mod dry_run;
pub mod flow;
pub mod kernel;
pub mod maps;
pub mod service;
pub mod socket;
mod tick;

pub use addr::{Addr, Port, V4, V6, proto};
pub use tick::{Jiffy, Tick};

/// Asserts that a layout has the given size, the sum of its fields: so it has no padding.
macro_rules! assert_layout {
    ($($type:ty = $size:expr),+ $(,)?) => {
        $(const _: () = assert!(size_of::<$type>() == $size, "padding in a map layout");)+
        $(
            #[cfg(feature = "user")]
            // SAFETY: the type is `repr(C)`, made of integers only (every bit pattern is a value)
            // and, as asserted above, without padding.
            unsafe impl aya::Pod for $type {}
        )+
    };
}
pub(crate) use assert_layout;

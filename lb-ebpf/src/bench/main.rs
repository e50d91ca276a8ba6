//! Measuring programs of `cargo xtask bench datapath`.
//!
//! A program that rewrites its packet cannot be run twice on one buffer: the second time it would
//! see its own output. So an outer program lays the packet anew, of the next flow in turn, and
//! tail-calls the program to be measured. The same outer program with [`targets::nop`] is the floor
//! that is subtracted.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod outer;
#[cfg(target_arch = "bpf")]
mod targets;

/// On the host there is nothing to run; the binary exists so that one package holds both sides.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

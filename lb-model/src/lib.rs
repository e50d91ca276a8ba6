//! The pipeline on the host: packets as byte vectors, maps as hash maps, a clock and a FIB that do as
//! they are told.
//!
//! Tests hold the pipeline against what is specified with it (`lb-ebpf/tests/pipeline`), and the
//! programs in the kernel against the pipeline (`tests/tests/differential`).
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "part of tests: what does not fit fails them where it shows"
)]
#![expect(
    clippy::len_without_is_empty,
    clippy::new_without_default,
    clippy::return_self_not_must_use,
    reason = "what no test asks for is not there"
)]

pub mod family;
pub mod flows;
pub mod frame;
pub mod icmp;
pub mod lists;
pub mod node;
pub mod packet;
pub mod sockets;
pub mod tables;
pub mod wire;

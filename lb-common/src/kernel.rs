//! What the running kernel lacks, as the BPF object is told when it is loaded.
//!
//! The agent probes the kernel and sets the global [`GLOBAL`]. To the verifier that is a constant, so a helper or a
//! flag that the kernel does not know is gone from the loaded code.

/// Name of the global: a u32 of the bits below, 0 where the kernel has everything.
pub const GLOBAL: &str = "KERNEL_LACKS";

/// `bpf_fib_lookup` knows no `BPF_FIB_LOOKUP_SRC` (Linux 6.7; stable 6.6.19, 6.1.81, 5.15.151). The source of a
/// forwarded packet is then the node's primary address, not the one that the route prefers.
pub const FIB_SOURCE: u32 = 1 << 0;

/// Programs on `connect` and `sendmsg` cannot call `bpf_set_retval` (Linux 6.1). A refused call then fails with
/// `EPERM` in place of `ECONNREFUSED`.
pub const RETVAL: u32 = 1 << 1;

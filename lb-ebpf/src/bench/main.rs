//! Measuring programs of `cargo xtask bench datapath`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// On the host there is nothing to run; the binary exists so that one package holds both sides.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

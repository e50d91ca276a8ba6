//! How long tests wait for what has to come.
//!
//! Limits are written for a machine that is busy, but real. A guest without KVM is some 10 to 20 times slower, so
//! all of them are multiplied by one number, which whoever starts the tests there gives: `cargo xtask kernels`
//! sets `FAIRLEAD_PATIENCE`. Nothing is tried again for it, and what must *not* come is waited for no longer.

use std::{env, sync::OnceLock, time::Duration};

/// The variable: a whole number, 1 if it is not set.
const VARIABLE: &str = "FAIRLEAD_PATIENCE";

/// A limit as it is on this machine.
pub fn patient(limit: Duration) -> Duration {
    limit * factor()
}

/// A factor that is no number is of no use to anyone, least of all as 1.
fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| match env::var(VARIABLE) {
        Ok(text) => match text.parse() {
            Ok(factor) if factor > 0 => factor,
            Ok(_) | Err(_) => {
                eprintln!("{VARIABLE} is `{text}`: it has to be a whole number from 1 up");
                std::process::exit(2)
            }
        },
        Err(_) => 1,
    })
}

//! Finds the BPF object that the agent carries.

use std::{env, path::PathBuf};

/// Names the object, for builds that keep it elsewhere.
const OBJECT: &str = "FAIRLEAD_EBPF_OBJECT";

/// Where `cargo xtask build-ebpf` puts it, wherever cargo's own target directory is.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/fairlead");

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let object = env::var_os(OBJECT).map_or_else(|| PathBuf::from(BUILT), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env={OBJECT}={}", object.display());
    } else {
        println!(
            "cargo::error=the BPF object {} does not exist: run `cargo xtask build-ebpf`",
            object.display()
        );
    }
}

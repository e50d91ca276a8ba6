//! Finds the BPF object that the agent carries.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Names the object, for builds that keep it elsewhere.
const OBJECT: &str = "FAIRLEAD_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let Some(object) = env::var_os(OBJECT)
        .map(PathBuf::from)
        .or_else(built_by_xtask)
    else {
        println!("cargo::error=OUT_DIR is not below a target directory; set {OBJECT}");
        return;
    };
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

/// `<target>/bpf/fairlead`; the target directory is the nearest one above `OUT_DIR` that cargo has
/// tagged as its own, or where cargo puts it by default.
fn built_by_xtask() -> Option<PathBuf> {
    let out = env::var_os("OUT_DIR")?;
    let target = Path::new(&out)
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .or_else(|| Path::new(&out).ancestors().nth(4))?;
    Some(target.join("bpf").join("fairlead"))
}

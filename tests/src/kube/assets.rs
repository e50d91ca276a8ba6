//! Where the programs are.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

/// One of the programs that `cargo xtask kube-assets` provides.
pub(super) fn program(name: &str) -> Result<Command> {
    let path = path(name);
    if !path.is_file() {
        bail!("{name} is not in target/kube-assets: run `cargo xtask kube-assets` first");
    }
    Ok(Command::new(path))
}

/// Whether there are a control plane and kube-proxy to be run.
pub fn are_there() -> bool {
    let programs = ["etcd", "kube-apiserver", "kube-proxy"];
    programs.into_iter().all(|name| path(name).is_file())
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/kube-assets")
        .join(name)
}

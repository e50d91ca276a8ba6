//! Where the programs are.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

/// One of the programs that `cargo xtask kube-assets` provides.
pub(super) fn program(name: &str) -> Result<Command> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/kube-assets")
        .join(name);
    if !path.is_file() {
        bail!("{name} is not in target/kube-assets: run `cargo xtask kube-assets` first");
    }
    Ok(Command::new(path))
}

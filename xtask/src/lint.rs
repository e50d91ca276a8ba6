//! `cargo xtask lint`: format, clippy on both targets, documentation, dependencies, shell scripts.

use std::io::{self, IsTerminal as _};

use anyhow::Result;

use crate::{
    ebpf,
    exec::{cargo, output, program, run},
    steps::Steps,
    tools::{self, Component},
};

/// All checks, as steps.
pub(crate) fn lint() -> Result<()> {
    let mut steps = Steps::default();
    // The agent embeds the object, so nothing of it compiles without.
    if steps.step("build-ebpf", || ebpf::build(&[])) {
        all(&mut steps);
    }
    steps.finish()
}

/// The checks themselves; the BPF objects have to be there.
pub(crate) fn all(steps: &mut Steps) {
    steps.step("fmt", format);
    steps.step("clippy on the host", clippy_host);
    steps.step("clippy on BPF", clippy_bpf);
    steps.step("docs", docs);
    steps.step("deny", deny);
    steps.step("shell scripts", shell_scripts);
}

/// Those that other programs run; nobody would see them fail.
fn shell_scripts() -> Result<()> {
    tools::debian_packages(tools::SHELLCHECK)?;
    run(program("shellcheck").args([
        ".ci/run",
        "deploy/image/rootfs.sh",
        "xtask/src/kernels/init.sh",
    ]))
}

fn format() -> Result<()> {
    tools::component(Component::Rustfmt)?;
    // Left to itself it paints into files too.
    let color = if io::stdout().is_terminal() {
        "auto"
    } else {
        "never"
    };
    run(cargo().args(["fmt", "--all", "--check", "--", "--color", color]))
}

fn clippy_host() -> Result<()> {
    tools::component(Component::Clippy)?;
    run(cargo()
        .args(["clippy", "--workspace", "--all-targets"])
        .args(["--", "-Dwarnings"]))
}

fn clippy_bpf() -> Result<()> {
    tools::component(Component::Clippy)?;
    run(ebpf::cargo_for_bpf("clippy")?.args(["--", "-Dwarnings"]))
}

fn docs() -> Result<()> {
    run(cargo().env("RUSTDOCFLAGS", "-Dwarnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]))
}

fn deny() -> Result<()> {
    let deny = tools::cargo_deny()?;
    let deny = || program(&deny.to_string_lossy());
    let mut check = deny();
    check.args(["check", "bans", "licenses", "sources"]);
    // A machine without a way to the database can still check all the rest.
    match output(deny().args(["fetch", "db"])) {
        Ok(_) => {
            check.arg("advisories");
        }
        Err(error) => {
            let error = format!("{error:#}");
            let cause = error.lines().last().unwrap_or("");
            println!("advisories are NOT checked: their database cannot be fetched: {cause}");
        }
    }
    run(&mut check)
}

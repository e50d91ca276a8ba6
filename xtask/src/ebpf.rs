//! Building the BPF objects.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    exec::{cargo, output, root, run},
    tools::{self, Component},
};

/// The BPF programs: what the agent loads, and what `bench` measures with.
const OBJECTS: [&str; 2] = ["fairlead", "fairlead-bench"];

/// Compiler flags of the BPF objects. `v3` has 32-bit registers and atomics with results.
const RUSTFLAGS: &[&str] = &[
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    // One object serves x86-64 and arm64: both are little-endian. The crate for BPF insists on a CPU, and uses
    // it only for the registers that tracing programs read; we have no such program.
    r#"--cfg=bpf_target_arch="x86_64""#,
    "-Clink-arg=--btf",
    "-Clink-arg=--cpu-features=+alu32",
    // Blocks out of their order make short jumps backward, of which the x86 JIT of linux 6.18 may not find
    // the lengths: it then refuses the program with ENOTSUPP ("bpf_jit: fatal error").
    "-Clink-arg=--llvm-args=-disable-block-placement",
];

/// Builds the objects and puts them where all look for them, without DWARF: `target/bpf/<name>`.
///
/// The agent embeds one, of which DWARF would be four fifths. The kernel reads BTF alone: its line information, which
/// the verifier's log shows, stays. The whole object stays in `target/bpf-build`, for debugging.
pub(crate) fn build(features: &[String]) -> Result<()> {
    let mut build = cargo_for_bpf("build")?;
    if !features.is_empty() {
        build.args(["--features", &features.join(",")]);
    }
    run(&mut build).context("cannot build the BPF objects")?;
    for name in OBJECTS {
        publish(name)?;
    }
    Ok(())
}

/// A cargo verb over the BPF binaries, for the BPF target.
pub(crate) fn cargo_for_bpf(verb: &str) -> Result<Command> {
    tools::component(Component::RustSrc)?;
    let linker = tools::bpf_linker()?;
    let mut command = cargo();
    command
        // The pinned compiler is a stable one; `core` for BPF has to be built from source.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        // The only variable that would win over this one goes: none of the caller's flags remain.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", RUSTFLAGS.join(" "))
        .args([verb, "-Zbuild-std=core", "--target=bpfel-unknown-none"])
        .args(["--profile=bpf", "--package=lb-ebpf", "--bins"])
        // A directory of its own: other flags would have the host's builds start afresh.
        .arg("--target-dir")
        .arg(build_directory());
    Ok(command)
}

fn build_directory() -> PathBuf {
    root().join("target/bpf-build")
}

/// Copies a built object without DWARF, leaving an equal one alone: others rebuild when it is newer.
fn publish(name: &str) -> Result<()> {
    let built = build_directory().join("bpfel-unknown-none/bpf").join(name);
    let stripped = build_directory().join(format!("{name}.stripped"));
    output(
        Command::new(tools::llvm_strip()?)
            .args(["--strip-debug", "-o"])
            .args([&stripped, &built]),
    )?;
    let target = root().join("target/bpf").join(name);
    let object =
        fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
    if fs::read(&target).is_ok_and(|old| old == object) {
        return Ok(());
    }
    fs::create_dir_all(root().join("target/bpf")).context("cannot create target/bpf")?;
    fs::write(&target, object).with_context(|| format!("cannot write {}", target.display()))?;
    eprintln!("built target/bpf/{name}");
    Ok(())
}

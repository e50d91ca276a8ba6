//! `cargo xtask build-static`: programs that need no library beside them, for both CPUs.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    ebpf,
    exec::{cargo, output, root, run_reading},
    tools::{self, Package},
};

/// CPU that programs are built for, by its name in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

/// Value of `--arch`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Choice {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
    /// Both.
    All,
}

/// How a CPU is named by others, and the C compiler for it.
struct Names {
    kubernetes: &'static str,
    target: &'static str,
    cross_compiler: &'static str,
    compiler: Package,
    headers: Package,
}

impl Arch {
    /// All CPUs that Fairlead is built for.
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Its name in Kubernetes, which is Debian's too.
    pub(crate) fn name(self) -> &'static str {
        self.names().kubernetes
    }

    /// The CPU of this machine.
    pub(crate) fn native() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("Fairlead is not built for {other}: use an amd64 or arm64 machine"),
        }
    }

    fn names(self) -> Names {
        match self {
            Self::Amd64 => Names {
                kubernetes: "amd64",
                target: "x86_64-unknown-linux-musl",
                cross_compiler: "x86_64-linux-gnu-gcc",
                compiler: tools::GCC_FOR_AMD64,
                headers: tools::HEADERS_FOR_AMD64,
            },
            Self::Arm64 => Names {
                kubernetes: "arm64",
                target: "aarch64-unknown-linux-musl",
                cross_compiler: "aarch64-linux-gnu-gcc",
                compiler: tools::GCC_FOR_ARM64,
                headers: tools::HEADERS_FOR_ARM64,
            },
        }
    }

    /// Folder of the stripped programs, of the profile that was built last: `target/static/<arch>`.
    pub(crate) fn folder(self) -> PathBuf {
        root().join("target/static").join(self.name())
    }

    /// A cargo verb for this CPU's static target, with the tools that it needs.
    ///
    /// Only `ring` is written in C. It calls no C library, so any compiler for the CPU will do, with any library's headers.
    fn cargo(self, verb: &str, profile: &str) -> Result<Command> {
        let Names {
            target,
            cross_compiler,
            compiler,
            headers,
            ..
        } = self.names();
        tools::rust_target(target)?;
        tools::debian_packages(&[compiler])?;
        if self != Self::native()? {
            tools::debian_packages(&[headers])?;
        }
        let upper = target.to_uppercase().replace('-', "_");
        let mut command = cargo();
        command
            .env(format!("CC_{}", target.replace('-', "_")), cross_compiler)
            // Rust brings its own linker and the objects of musl: no C library is asked of the machine.
            .env(format!("CARGO_TARGET_{upper}_LINKER"), "rust-lld")
            .args([verb, "--target", target, "--profile", profile]);
        Ok(command)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Choice {
    /// One, or both.
    pub(crate) fn archs(self) -> &'static [Arch] {
        match self {
            Self::Amd64 => &[Arch::Amd64],
            Self::Arm64 => &[Arch::Arm64],
            Self::All => &Arch::ALL,
        }
    }
}

/// How much a copied program loses.
#[derive(Clone, Copy)]
enum Strip {
    /// Everything that is not needed to run.
    All,
    /// DWARF only: a panic still names functions.
    Debug,
}

impl Strip {
    fn option(self) -> &'static str {
        match self {
            Self::All => "--strip-all",
            Self::Debug => "--strip-debug",
        }
    }
}

/// What is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection<'a> {
    /// CPUs that it is built for.
    pub(crate) archs: Choice,
    /// Cargo's profile, such as `release` or `dev`.
    pub(crate) profile: &'a str,
    /// Also the programs and suites of the `tests` crate.
    pub(crate) tests: bool,
}

/// Builds the selected programs, and prints the size of each in bytes and where it is.
pub(crate) fn build(selection: Selection<'_>) -> Result<()> {
    let Selection {
        archs,
        profile,
        tests,
    } = selection;
    ebpf::build(&[])?;
    for arch in archs.archs() {
        let mut built = binaries(*arch, profile)?;
        if tests {
            built.extend(test_programs(*arch, profile)?);
        }
        for program in built {
            let shown = program.strip_prefix(root()).unwrap_or(&program);
            let bytes = fs::metadata(&program)
                .with_context(|| format!("cannot read {}", program.display()))?
                .len();
            println!("{bytes:>10} {}", shown.display());
        }
    }
    Ok(())
}

/// Builds `lb-agent` and `lbctl`, and returns their stripped copies in [`Arch::folder`].
///
/// The agent embeds `target/bpf/fairlead`, which has to be there.
pub(crate) fn binaries(arch: Arch, profile: &str) -> Result<Vec<PathBuf>> {
    let mut build = arch.cargo("build", profile)?;
    build.args(["--package=lb-userspace", "--bins"]);
    copies(&executables(&mut build)?, &arch.folder(), Strip::All)
}

/// Builds the programs of the `tests` crate, and returns their copies without DWARF.
///
/// `bench`, `demo` and `programs` are in [`Arch::folder`]. The test suites are in its folder `tests`, named
/// as in tests/Cargo.toml: each finds `lb-agent` and `lbctl` one folder up, where [`binaries`] puts them.
pub(crate) fn test_programs(arch: Arch, profile: &str) -> Result<Vec<PathBuf>> {
    let mut bins = arch.cargo("build", profile)?;
    bins.args(["--package=tests", "--bins"]);
    let mut copied = copies(&executables(&mut bins)?, &arch.folder(), Strip::Debug)?;
    let mut suites = arch.cargo("test", profile)?;
    suites.args(["--package=tests", "--no-run", "--lib", "--tests"]);
    // Cargo builds the binaries as well, for the suites that start them.
    let mut built = executables(&mut suites)?;
    built.retain(|program| program.is_test);
    copied.extend(copies(&built, &arch.folder().join("tests"), Strip::Debug)?);
    Ok(copied)
}

/// A program that cargo has built, or found up to date.
#[derive(Debug, PartialEq, Eq)]
struct Executable {
    name: String,
    path: PathBuf,
    is_test: bool,
}

/// Runs a cargo command and returns the programs that it names.
fn executables(command: &mut Command) -> Result<Vec<Executable>> {
    command.arg("--message-format=json-render-diagnostics");
    let mut lines = Vec::new();
    run_reading(command, |line| lines.push(line.to_owned()))?;
    let mut programs = Vec::new();
    for line in &lines {
        programs.extend(executable(line)?);
    }
    if programs.is_empty() {
        bail!("cargo has named no program that it built");
    }
    Ok(programs)
}

/// The program that one of cargo's JSON messages names, if it names one.
fn executable(line: &str) -> Result<Option<Executable>> {
    let message: Value =
        serde_json::from_str(line).with_context(|| format!("`{line}` of cargo is not JSON"))?;
    if message["reason"] != "compiler-artifact" {
        return Ok(None);
    }
    let Some(path) = message["executable"].as_str() else {
        return Ok(None);
    };
    let name = message["target"]["name"]
        .as_str()
        .with_context(|| format!("cargo has not named the target of {path}"))?;
    Ok(Some(Executable {
        name: name.to_owned(),
        path: path.into(),
        is_test: message["profile"]["test"] == true,
    }))
}

fn copies(programs: &[Executable], folder: &Path, strip: Strip) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let llvm_strip = tools::llvm_strip()?;
    programs
        .iter()
        .map(|program| {
            let copy = folder.join(&program.name);
            output(
                Command::new(llvm_strip)
                    .arg(strip.option())
                    .arg("-o")
                    .args([&copy, &program.path]),
            )?;
            Ok(copy)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_about_a_program_names_it() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"snat","kind":["test"]},
            "profile":{"test":true},"executable":"/t/deps/snat-1f"}"#;
        let expected = Executable {
            name: "snat".to_owned(),
            path: "/t/deps/snat-1f".into(),
            is_test: true,
        };
        assert_eq!(executable(line).unwrap(), Some(expected));
    }

    #[test]
    fn messages_about_libraries_and_the_end_name_no_program() {
        for line in [
            r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ] {
            assert_eq!(executable(line).unwrap(), None);
        }
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        assert!(executable("warning: unused").is_err());
    }
}

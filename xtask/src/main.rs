//! `cargo xtask`: the one way to do each chore of the repository.

mod budgets;
mod ebpf;
mod exec;
mod go;
mod kernels;
mod kube_assets;
mod lint;
mod semantics;
mod static_build;
mod steps;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::{
    exec::{become_it, cargo, run},
    static_build::Choice,
    test::Selection,
};

/// The chores of Fairlead. Each installs what it lacks where it may, else says how.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Build the BPF objects into target/bpf.
    BuildEbpf {
        /// Features of lb-ebpf to build them with.
        #[arg(long, value_delimiter = ',')]
        features: Vec<String>,
    },
    /// Build static programs into target/static/ARCH, stripped, and print their sizes in bytes.
    BuildStatic {
        /// CPU to build for.
        #[arg(long, value_enum, default_value = "all")]
        arch: Choice,
        /// Cargo's profile.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Also build the programs and test suites of the `tests` crate.
        #[arg(long)]
        tests: bool,
    },
    /// Show Fairlead at work: a client, two nodes and three pods in network namespaces (needs root).
    #[command(disable_help_flag = true)]
    Demo {
        /// Options of the demo; see `demo --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Run all tests and checks (needs root), ending with `N passed, N failed`.
    Test {
        /// Also run the tests that take minutes (those marked `#[ignore]`).
        #[arg(long)]
        long: bool,
        /// Run only tests whose name contains one of these, and no other checks.
        filters: Vec<String>,
    },
    /// Measure: `bench datapath`, `control-plane` or `traffic`, `[--json] [--check]` (needs root).
    #[command(disable_help_flag = true)]
    Bench {
        /// What to measure, and its options; see `bench --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Print the rows of docs/semantics.md with their tests; fail on a row without one.
    Semantics,
    /// Build the Kubernetes components that tests run into a cache, once (`KUBEBUILDER_ASSETS` wins).
    KubeAssets,
    /// Boot other kernels in QEMU, and show that Fairlead loads and serves on them.
    Kernels(kernels::Options),
    /// Check format, clippy on host and BPF, documentation, dependencies, shell scripts.
    Lint,
    /// Check the rules of the repository, and the programs' instruction budgets (needs root).
    Tidy,
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::BuildEbpf { features } => ebpf::build(&features),
        Verb::BuildStatic {
            arch,
            profile,
            tests,
        } => static_build::build(static_build::Selection {
            archs: arch,
            profile: &profile,
            tests,
        }),
        Verb::Demo { options } => demo(&options),
        Verb::Test { long, filters } => {
            return test::test(&Selection {
                long,
                filters: &filters,
            });
        }
        Verb::Bench { options } => bench(&options),
        Verb::Semantics => semantics::semantics(),
        Verb::KubeAssets => kube_assets::provide(),
        Verb::Kernels(options) => kernels::kernels(options),
        Verb::Lint => lint::lint(),
        Verb::Tidy => tidy::tidy(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(options: &[String]) -> Result<()> {
    tools::debian_packages(tools::NETWORK)?;
    ebpf::build(&[])?;
    build_binaries()?;
    become_binary("demo", options)
}

fn bench(options: &[String]) -> Result<()> {
    ebpf::build(&[])?;
    let is_of = |bench: &str| options.iter().any(|word| word == bench);
    if is_of("control-plane") || is_of("traffic") {
        let needs = [
            tools::NETWORK,
            tools::NFTABLES,
            tools::IPTABLES,
            tools::STRACE,
        ];
        needs.into_iter().try_for_each(tools::debian_packages)?;
        match kube_assets::provide() {
            // It tells who is absent, and what there is without.
            Err(error) if is_of("traffic") => eprintln!("warning: no kube-proxy: {error:#}"),
            provided => provided?,
        }
        build_binaries()?;
    }
    become_binary("bench", options)
}

/// What is started as processes stands beside what starts it.
fn build_binaries() -> Result<()> {
    run(cargo()
        .args(["build", "--release", "--bins"])
        .args(["--package=lb-userspace", "--package=tests"]))
}

fn become_binary(name: &str, options: &[String]) -> Result<()> {
    become_it(
        cargo()
            .args(["run", "--release", "--package=tests"])
            .args(["--bin", name, "--"])
            .args(options),
    )
}

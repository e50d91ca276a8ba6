//! `cargo xtask`: the one way to do each chore of the repository.

mod ebpf;
mod exec;
mod tools;

use std::process::ExitCode;

use clap::Parser;

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
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::BuildEbpf { features } => ebpf::build(&features),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

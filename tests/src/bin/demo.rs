//! `cargo xtask demo`: see `tests::demo`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tests::demo;

/// Shows Fairlead at work: a client, two nodes and three pods in network namespaces of this
/// machine, an agent on each node, and real requests on every path. Everything is removed again.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo", bin_name = "cargo xtask demo")]
struct Args {
    /// Leave it up, and print commands to play with
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// Take down what an earlier --keep left up
    #[arg(long)]
    down: bool,
    #[command(subcommand)]
    inside: Option<Inside>,
}

#[derive(Debug, Subcommand)]
enum Inside {
    /// Answer requests as a pod, in the namespace this runs in
    #[command(hide = true)]
    Serve {
        /// The pod's name
        pod: String,
    },
}

fn main() -> ExitCode {
    let Args { keep, down, inside } = Args::parse();
    let outcome = match inside {
        Some(Inside::Serve { pod }) => demo::serve(&pod),
        None if down => demo::down(),
        None => demo::run(keep),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

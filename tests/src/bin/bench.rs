//! `cargo xtask bench`: figures, held against what was asked.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use tests::bench::{Extent, datapath};

/// Measures Fairlead.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds per packet, by path, beside the primitives each pays (needs root).
    ///
    /// Examples:
    ///
    ///   cargo xtask bench datapath            every figure, for people
    ///
    ///   cargo xtask bench datapath --check    fail when one is over its limit
    #[command(verbatim_doc_comment)]
    Datapath(Datapath),
}

#[derive(Args)]
struct Datapath {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Exit with 1 when a row is over its limit.
    #[arg(long)]
    check: bool,
    /// IPv4 with one service and one flow only.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().what {
        What::Datapath(options) => run(&options),
    }
}

fn run(options: &Datapath) -> Result<ExitCode> {
    let extent = if options.quick {
        Extent::Quick
    } else {
        Extent::Full
    };
    let report = datapath(extent, &mut |line| eprintln!("measuring {line}"))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    let over = report.rows.iter().filter(|row| row.is_over()).count();
    if over != 0 {
        eprintln!("{over} of {} rows are over their limit", report.rows.len());
    }
    Ok(ExitCode::from(u8::from(options.check && over != 0)))
}

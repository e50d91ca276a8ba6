//! `programs [--json] OBJECT`: gives each program of a BPF object to the kernel's verifier, then the copies for
//! dry runs (`dry:`), and prints what it says of each: outcome, time, instructions, stack. It fails when one is
//! refused, after all have been tried. `cargo xtask tidy` and `cargo xtask kernels` hold the figures against
//! `lb-ebpf/budgets.txt`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use tests::verifier;

/// Loads every program of a BPF object and prints what the kernel's verifier says.
#[derive(Parser)]
struct Options {
    /// Print a JSON object a line.
    #[arg(long)]
    json: bool,
    /// Print, in place of all else, which numbers functions read from their caller's stack, a line each: kernels before
    /// 6.8 may run such code wrong. Takes a kernel that says what it knows of them (6.18).
    #[arg(long)]
    stack_reads: bool,
    /// Print what the verifier wrote, too.
    #[arg(long)]
    log: bool,
    /// The object, as `cargo xtask build-ebpf` makes it.
    object: PathBuf,
}

fn main() -> Result<()> {
    let Options {
        json,
        stack_reads,
        log,
        object,
    } = Options::parse();
    if stack_reads {
        let found = verifier::stack_reads(&object)?;
        for line in found {
            println!("{line}");
        }
        return Ok(());
    }
    let mut reports = Vec::new();
    verifier::load_all(&object, |report| {
        if json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            println!("{}", report.line());
        }
        if log {
            println!("{}", report.log);
        }
        reports.push(report.clone());
        Ok(())
    })?;
    verifier::judge(&reports)
}

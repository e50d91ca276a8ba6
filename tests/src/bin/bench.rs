//! `cargo xtask bench`: figures, held against what was asked.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use tests::bench::{
    Extent,
    control_plane::{self, Proxy, Size},
    datapath,
};

/// How often a slice is changed, and how often for a look.
const CHANGES: (usize, usize) = (200, 20);

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
    /// Time, CPU and memory to follow a cluster's Services, beside kube-proxy (needs root).
    ///
    /// The API server, etcd and kube-proxy are real. All of it takes about 50 minutes.
    ///
    /// Examples:
    ///
    ///   cargo xtask bench control-plane                                every figure, for people
    ///
    ///   cargo xtask bench control-plane --sizes 1000,5000x50           other sizes
    ///
    ///   cargo xtask bench control-plane --quick --proxies fairlead     a look, in two minutes
    #[command(verbatim_doc_comment)]
    ControlPlane(ControlPlane),
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

#[derive(Args)]
struct ControlPlane {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Exit with 1 when what is asked for is not met.
    #[arg(long)]
    check: bool,
    /// The smallest size with few changes only.
    #[arg(long)]
    quick: bool,
    /// How many Services there are, and how many endpoints each has (10 where it is not said).
    #[arg(long, value_delimiter = ',', value_name = "SERVICES[xENDPOINTS]", default_values_t = Size::ALL)]
    sizes: Vec<Size>,
    /// Who is measured.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Proxy::ALL)]
    proxies: Vec<Proxy>,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().what {
        What::Datapath(options) => run_datapath(&options),
        What::ControlPlane(options) => run_control_plane(&options),
    }
}

fn run_datapath(options: &Datapath) -> Result<ExitCode> {
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

fn run_control_plane(options: &ControlPlane) -> Result<ExitCode> {
    let ControlPlane {
        json,
        check,
        quick,
        sizes,
        proxies,
    } = options;
    let (all, few) = CHANGES;
    let wanted = control_plane::Options {
        sizes: match sizes.iter().min() {
            Some(smallest) if *quick => vec![*smallest],
            Some(_) | None => sizes.clone(),
        },
        proxies: proxies.clone(),
        changes: if *quick { few } else { all },
    };
    let minutes = wanted.estimate().as_secs().div_ceil(60);
    eprintln!("this takes about {minutes} minutes, and longer where kube-proxy does");
    let began = Instant::now();
    let report = control_plane::measure(&wanted, &mut |line| {
        eprintln!("[{:>4} s] {line}", began.elapsed().as_secs());
    })?;
    if *json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    let over = report.requirements.iter().filter(|it| it.is_over()).count();
    if over != 0 {
        eprintln!(
            "{over} of {} requirements are not met",
            report.requirements.len()
        );
    }
    Ok(ExitCode::from(u8::from(*check && over != 0)))
}

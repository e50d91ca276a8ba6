//! `cargo xtask bench`: figures, held against what was asked.

use std::{
    fs, io,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tests::bench::{
    Extent, built_objects,
    control_plane::{self, Proxy, Size},
    datapath, paired,
    traffic::{self, Contestant},
};

/// How often a slice is changed, and how often for a look.
const CHANGES: (usize, usize) = (200, 20);

/// How often traffic is measured, and how often for a look.
const ROUNDS: (usize, usize) = (24, 4);

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
    ///
    ///   cargo xtask bench datapath --against /tmp/old         what has changed since objects kept there
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
    /// Connections, requests, throughput and latency, beside no proxy and kube-proxy (needs root).
    ///
    /// Clients on the node, in a pod and outside; the API server, etcd and kube-proxy are real. All of it
    /// takes about 25 minutes, longest where kube-proxy programs 10,000 services by iptables.
    ///
    /// Examples:
    ///
    ///   cargo xtask bench traffic                                      every figure, for people
    ///
    ///   cargo xtask bench traffic --sizes 1000                         with 1,000 services only
    ///
    ///   cargo xtask bench traffic --quick --by direct,fairlead         a look, in a minute
    #[command(verbatim_doc_comment)]
    Traffic(Traffic),
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
    /// Measure the programs of this folder too, in turn with the built ones on the same maps, and print the ratios:
    /// both families, one service, one flow and many. Their maps must have the same layout.
    #[arg(long, value_name = "DIR", value_parser = existing)]
    against: Option<PathBuf>,
    /// How often both are measured, on tables that are filled afresh.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, requires = "against")]
    turns: usize,
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
    /// Measure this program as Fairlead. Given again, all are measured in this order: name two in turn
    /// (A, B, A, B) to compare them on a machine that others use too.
    #[arg(long = "agent", value_name = "PATH", value_parser = existing)]
    agents: Vec<PathBuf>,
}

#[derive(Args)]
struct Traffic {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Exit with 1 when what is asked for is not met.
    #[arg(long)]
    check: bool,
    /// The smallest size with few rounds only.
    #[arg(long)]
    quick: bool,
    /// How many Services there are, and how many endpoints each has (10 where it is not said).
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "SERVICES[xENDPOINTS]",
        default_values_t = Size::OF_TRAFFIC
    )]
    sizes: Vec<Size>,
    /// Who is measured.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Contestant::ALL)]
    by: Vec<Contestant>,
}

/// A program's whole path: agents are started in other directories.
fn existing(path: &str) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

fn main() -> Result<ExitCode> {
    match Cli::parse().what {
        What::Datapath(options) => run_datapath(&options),
        What::ControlPlane(options) => run_control_plane(&options),
        What::Traffic(options) => run_traffic(&options),
    }
}

fn run_datapath(options: &Datapath) -> Result<ExitCode> {
    let extent = match (options.quick, &options.against) {
        (true, _) => Extent::Quick,
        (false, Some(_)) => Extent::Pair,
        (false, None) => Extent::Full,
    };
    let mut progress = |line: &str| eprintln!("measuring {line}");
    if let Some(against) = &options.against {
        let pairing = paired(extent, against, options.turns, &mut progress)?;
        show(&pairing, options.json, || pairing.table())?;
        let over = pairing.rows.iter().filter(|row| row.is_over()).count();
        return Ok(judged(over, pairing.rows.len(), options.check));
    }
    let report = datapath(extent, &built_objects(), None, &mut progress)?;
    show(&report, options.json, || report.table())?;
    let over = report.rows.iter().filter(|row| row.is_over()).count();
    if over != 0 {
        eprintln!("{over} of {} rows are over their limit", report.rows.len());
    }
    Ok(ExitCode::from(u8::from(options.check && over != 0)))
}

/// Prints a report, for programs or for people.
fn show(report: &impl Serialize, json: bool, table: impl FnOnce() -> String) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", table());
    }
    Ok(())
}

fn run_control_plane(options: &ControlPlane) -> Result<ExitCode> {
    let ControlPlane {
        json,
        check,
        quick,
        sizes,
        proxies,
        agents,
    } = options;
    let (all, few) = CHANGES;
    let wanted = control_plane::Options {
        sizes: chosen(sizes, *quick),
        proxies: proxies.clone(),
        agents: agents.clone(),
        changes: if *quick { few } else { all },
    };
    let report = control_plane::measure(&wanted, &mut announced(wanted.estimate()))?;
    show(&report, *json, || report.table())?;
    let over = report.requirements.iter().filter(|it| it.is_over()).count();
    Ok(judged(over, report.requirements.len(), *check))
}

fn run_traffic(options: &Traffic) -> Result<ExitCode> {
    let Traffic {
        json,
        check,
        quick,
        sizes,
        by,
    } = options;
    let (all, few) = ROUNDS;
    let wanted = traffic::Options {
        sizes: chosen(sizes, *quick),
        contestants: by.clone(),
        rounds: if *quick { few } else { all },
    };
    let report = traffic::measure(&wanted, &mut announced(wanted.estimate()))?;
    show(&report, *json, || report.table())?;
    let unmet = report.requirements.iter().filter(|it| !it.is_met()).count();
    Ok(judged(unmet, report.requirements.len(), *check))
}

/// The smallest size alone, for a look.
fn chosen(sizes: &[Size], is_look: bool) -> Vec<Size> {
    match sizes.iter().min() {
        Some(smallest) if is_look => vec![*smallest],
        Some(_) | None => sizes.to_vec(),
    }
}

/// Says how long it takes, and then what is at hand since when.
fn announced(estimate: Duration) -> impl FnMut(&str) {
    let minutes = estimate.as_secs().div_ceil(60);
    eprintln!("this takes about {minutes} minutes, and longer where kube-proxy does");
    let began = Instant::now();
    move |line: &str| eprintln!("[{:>4} s] {line}", began.elapsed().as_secs())
}

/// Says how many of the requirements are not met; a failure if that is to be one.
fn judged(unmet: usize, all: usize, check: bool) -> ExitCode {
    if unmet != 0 {
        eprintln!("{unmet} of {all} requirements are not met");
    }
    ExitCode::from(u8::from(check && unmet != 0))
}

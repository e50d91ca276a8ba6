//! `lbctl`: the realised state as people and scripts read it.
//!
//! Everything comes from pinned maps, so it works while the agent is down; nothing is changed.
//! A verb reads (`pinned`, `collect`) plain data (`snapshot`) and renders that (`output`).

mod collect;
mod convert;
mod endpoints;
mod explain;
mod interfaces;
mod kernel;
mod maps;
pub(crate) mod output;
mod pinned;
mod service;
mod snapshot;
mod status;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use aya::{maps::MapError, programs::ProgramError};
use clap::{Parser, Subcommand};
use lb_common::maps::ABI_VERSION;

pub use self::output::Paint;
use self::pinned::PinnedMaps;
use crate::pins::OpenError;

/// Shows what Fairlead has put into the kernel of this node.
///
/// lbctl reads the BPF maps that lb-agent pinned. It works while the agent is stopped, and changes
/// nothing. It needs root.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Where the BPF filesystem is that the agent pins to.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "FAIRLEAD_BPFFS",
        hide_env_values = true,
        default_value = "/sys/fs/bpf"
    )]
    bpffs: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  lbctl status                    Is all well on this node?
  lbctl service list -A           Every Service, its addresses, backends and traffic
  lbctl explain --from 10.0.1.5 --to 10.96.0.10:80
                                  What would become of this pod's packet?
  lbctl maps dump frontends       What clients address, and where it leads
  lbctl maps dump -o json         The whole realised state";

#[derive(Debug, Subcommand)]
enum Verb {
    /// What would become of a packet, by asking the loaded programs.
    Explain(explain::Args),
    /// The BPF maps, readable.
    #[command(subcommand)]
    Maps(maps::Verb),
    /// The Services this node serves.
    #[command(subcommand, visible_alias = "svc")]
    Service(service::Verb),
    /// The node: agent, interfaces, capacities, packets by reason, problems.
    Status(status::Args),
    /// The version of lbctl and of the map layouts it reads.
    Version,
}

/// Why `lbctl` could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is pinned.
    #[error(
        "no Fairlead maps under {}: is lb-agent running on this node (or was it given another --bpffs)?",
        .0.display()
    )]
    NoMaps(PathBuf),
    /// The caller may not read them.
    #[error("no permission to read the maps under {}: run lbctl as root", .0.display())]
    Permission(PathBuf),
    /// The pin directory cannot be read.
    #[error("cannot read directory {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// A map is not there or cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// A map cannot be read.
    #[error("cannot read map {map}")]
    Read {
        /// Name of the map.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// The command line contradicts itself.
    #[error("{0}")]
    Usage(String),
    /// The programs of dry runs are not there.
    #[error(
        "no program {}: `lbctl explain` needs lb-agent to have come up once; \
         if it has, `lbctl status` tells why there is none",
        .0.display()
    )]
    NoProgram(PathBuf),
    /// The programs of dry runs are not there yet.
    #[error(
        "lb-agent is loading the programs that `lbctl explain` asks; ask again in a few seconds"
    )]
    Loading,
    /// A program of dry runs cannot be used.
    #[error("cannot open pinned program {}", path.display())]
    Program {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: ProgramError,
    },
    /// The kernel did not run a program.
    #[error("cannot run program {program} on a packet at interface {interface}")]
    Run {
        /// The program.
        program: &'static str,
        /// The interface, by index.
        interface: u32,
        /// Why.
        source: ProgramError,
    },
    /// A program ran, and did not answer.
    #[error(
        "program {0} does not answer as this lbctl understands: \
         run the lbctl that came with the lb-agent of this node"
    )]
    NoAnswer(&'static str),
    /// What was asked about does not hold still.
    #[error("the service changes faster than it can be looked at: ask again")]
    Restless,
    /// It is not known where the packet would be seen.
    #[error("{0}")]
    Nowhere(String),
    /// The kernel cannot be asked for routes.
    #[error("cannot ask the kernel for the route to {0}: {1}")]
    Route(IpAddr, String),
    /// No thread to read the status with.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The agent's status is not what this version writes.
    #[error("cannot read the agent's status")]
    Status(#[source] serde_json::Error),
    /// JSON could not be made.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
    /// YAML could not be made.
    #[error("cannot write YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// The result could not be written.
    #[error("cannot write the result")]
    Write(#[from] io::Error),
}

impl Cli {
    /// Does what the command line says and writes the result to `out`.
    pub fn run(&self, out: &mut dyn Write, paint: Paint) -> Result<(), Error> {
        let maps = || PinnedMaps::open(&self.bpffs);
        let text = match &self.verb {
            Verb::Explain(args) => args.run(maps)?,
            Verb::Maps(verb) => verb.run(&maps()?)?,
            Verb::Service(verb) => verb.run(&maps()?)?,
            Verb::Status(args) => args.run(&maps()?, paint)?,
            Verb::Version => format!(
                "lbctl {} (map layouts v{ABI_VERSION})\n",
                env!("CARGO_PKG_VERSION")
            ),
        };
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }
}

/// The program: 0 when done, 1 when something failed, 2 when the command line is wrong.
pub fn main() -> ExitCode {
    match Cli::parse().run(&mut io::stdout().lock(), Paint::detect()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as with `| head`.
        Err(Error::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody left to tell if standard error is gone too.
            let _ = writeln!(io::stderr(), "lbctl: {}", output::printable(&chain(&error)));
            if matches!(error, Error::Usage(_)) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// The error and its causes on one line.
fn chain(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

//! `lb-agent`: ties source, control plane and kernel together on a node.
//!
//! [`run`] is the loop, [`node`] what it runs; everything it moves is beside it: [`options`] (what is wanted), [`programs`]
//! (the BPF object), [`monitor`] and [`table`] (what the kernel has), [`interface`] and [`attach`]
//! and [`sockets`] (where programs are), [`dry_run`] (those that only answer), [`addresses`], [`snat`] and [`config`] (what the programs are told),
//! [`problems`] and [`account`] (what people are told).

mod account;
mod addresses;
mod attach;
mod bpffs;
mod cleanup;
mod config;
mod decode;
mod dry_run;
mod epoch;
mod interface;
mod links;
mod logging;
mod monitor;
mod netns;
mod node;
mod options;
mod problems;
mod programs;
mod run;
mod serve;
mod snat;
mod socket_options;
mod sockets;
mod source;
mod table;
mod values;

use std::process::ExitCode;

use clap::Parser as _;
use tracing::error;

use options::{Cli, Command, Options};

/// `lb-agent` as called from the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log_level());
    let done = match cli.command {
        Command::Run(args) => match Options::try_from(*args) {
            Ok(options) => run::run(options).map_err(|error| error.to_string()),
            Err(error) => error.exit(),
        },
        Command::Cleanup(args) => cleanup::cleanup(&args.bpffs).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            error!("{line}");
            ExitCode::FAILURE
        }
    }
}

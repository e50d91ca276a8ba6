//! `lb-agent`: ties source, control plane and kernel together on a node.
//!
//! [`run`] is the loop, [`node`] what it runs; everything it moves is beside it: [`options`] (what is wanted), [`probe`](mod@probe) (what the kernel can do), [`sysctls`], [`programs`]
//! (the BPF object), [`monitor`] and [`table`] (what the kernel has), [`interface`] and [`attach`]
//! and [`sockets`] (where programs are), [`dry_run`] (those that only answer), [`addresses`], [`families`], [`snat`] and [`config`] (what the programs are told),
//! [`problems`] and [`account`] (what people are told). [`preflight`] only looks.

mod account;
mod addresses;
mod attach;
mod bpffs;
mod cgroup;
mod cleanup;
mod config;
mod config_file;
mod conntrack;
mod decode;
mod dry_run;
mod epoch;
mod families;
mod filters;
mod interface;
mod leftovers;
mod links;
mod logging;
mod monitor;
#[cfg(test)]
mod namespace;
mod netlink;
mod netns;
mod node;
mod options;
mod preflight;
mod probe;
mod problems;
mod programs;
mod run;
mod serve;
mod snat;
mod socket_options;
mod sockets;
mod source;
mod sysctls;
mod table;
mod tc_attach;
mod upkeep;
mod values;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use tracing::{debug, error, info, warn};

use crate::pins::Pins;
use config_file::ConfigFile;
use options::{CleanupArgs, Cli, Command, Host, Options, Resolved, RunArgs, Task};
use probe::Features;

/// `lb-agent` as called from the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Preflight(args) => {
            logging::start(cli.log_level(0));
            return preflight::main(args);
        }
        Command::Run(args) => run_with(&cli, args),
        Command::Cleanup(args) => {
            logging::start(cli.log_level(0));
            clean_up(args)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            error!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn clean_up(args: &CleanupArgs) -> Result<(), String> {
    if args.kube_proxy {
        leftovers::remove().map_err(|error| error.to_string())
    } else {
        cleanup::cleanup(&args.bpffs).map_err(|error| error.to_string())
    }
}

fn run_with(cli: &Cli, args: &RunArgs) -> Result<(), String> {
    let Resolved {
        options,
        task,
        warnings,
        verbosity,
        file,
    } = match options::resolve(args, &Host::this()) {
        Ok(resolved) => resolved,
        Err(message) => Cli::command()
            .error(ErrorKind::ValueValidation, message)
            .exit(),
    };
    logging::start(cli.log_level(verbosity));
    for line in warnings {
        warn!("{line}");
    }
    debug!("in force: {}", options.configz());
    match task {
        Task::Run => {
            let features = prepare(&options)?;
            // It takes as long as other programs do, for which nobody is to wait.
            thread::spawn(leftovers::tell);
            let file = file.map(|(path, text)| watched(args, path, text));
            run::run(options, features, file).map_err(|error| error.to_string())
        }
        Task::Init => {
            prepare(&options)?;
            bpffs::prepare(&options.bpffs, &Pins::new(&options.bpffs))
                .map_err(|error| error.to_string())
        }
        Task::Cleanup => cleanup::cleanup(&options.bpffs).map_err(|error| error.to_string()),
        Task::WriteConfig(path) => write_config(&options, &path),
    }
}

/// The file, to be looked at while the agent runs.
fn watched(args: &RunArgs, path: PathBuf, text: String) -> ConfigFile {
    let args = args.clone();
    let check = move || options::resolve(&args, &Host::this()).map(drop);
    ConfigFile::new(path, text, Box::new(check))
}

/// What is seen to outside of the programs and maps.
fn prepare(options: &Options) -> Result<Features, String> {
    let features = probe::probe();
    if options.check_kernel() {
        features.check().map_err(|error| error.to_string())?;
    }
    features.log();
    let root = Path::new("/");
    sysctls::set_oom_score(root, options.oom_score_adj());
    sysctls::set(root, options.conntrack()).map_err(|error| error.to_string())?;
    Ok(features)
}

fn write_config(options: &Options, path: &Path) -> Result<(), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("--write-config-to {}: {error}", path.display());
    let text = options.to_file().map_err(|error| failed(&error))?;
    fs::write(path, text).map_err(|error| failed(&error))?;
    info!("wrote {}", path.display());
    Ok(())
}

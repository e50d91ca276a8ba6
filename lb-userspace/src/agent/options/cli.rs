//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{BPFFS, flags::ProxyFlags, own::Own};
use crate::{
    agent::{logging::Level, values},
    cli::output::Format,
};

const EXAMPLES: &str = "\
Examples:
  Serve the Services in /etc/fairlead to what arrives on eth0 and to pods:
      lb-agent run --manifests /etc/fairlead --node-name node-a --external-interface eth0

  Dual-stack, allocating cluster IPs, node ports on every address:
      lb-agent run --manifests /etc/fairlead --node-name node-a --external-interface eth0,eth1 \\
          --service-cluster-ip-range 10.96.0.0/16,fd00:96::/112 --nodeport-addresses all

  With the configuration that kube-proxy had:
      lb-agent run --config /var/lib/kube-proxy/config.conf --hostname-override node-a

  Two agents on one kernel, each in its node's network namespace (not by `ip netns exec`, whose
  mounts nobody else sees and which end with it):
      nsenter --net=/run/netns/node-a lb-agent run --bpffs /run/a/bpf --state-dir /run/a/state ...
      nsenter --net=/run/netns/node-b lb-agent run --bpffs /run/b/bpf --state-dir /run/b/state ...

kube-proxy's other options (--proxy-mode, --ipvs-scheduler, ...) are taken too, and a warning says
that they have no effect here.

When the agent stops, its programs and maps stay and traffic goes on. `lb-agent cleanup` ends that.";

const PREFLIGHT_EXAMPLES: &str = "\
Exit status:
  0  no failure; there may be warnings
  1  a failure: with these options the agent would not start here, or not serve this node
  2  the options are wrong

Run it as root, in the network, PID and mount namespaces that the agent is to run in. It changes
nothing: it mounts nothing, sets nothing, loads no kernel modules and attaches no programs.

Examples:
  Can this node be served?
      lb-agent preflight

  With the options of the DaemonSet, for a script:
      lb-agent preflight --config /etc/fairlead/config.yaml -o json | jq -e '.failures == 0'

  What are the failures, and what helps?
      lb-agent preflight -o json | jq -r '.findings[] | select(.state == \"failure\") | .action'

  With reasons and remedies in columns, for one external interface:
      lb-agent preflight -o wide --external-interface eth0 --xdp always";

/// Fairlead's agent: keeps a node's BPF programs and maps in line with its Services.
#[derive(Debug, Parser)]
#[command(name = "lb-agent", version, after_help = EXAMPLES)]
pub(in crate::agent) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(in crate::agent) command: Command,
    /// How much to log.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "info",
        value_name = "LEVEL"
    )]
    log_level: Level,
    /// Log more: -v is --log-level debug, -vv is --log-level trace. With a number, as kube-proxy
    /// has it: from 4 on debug, from 6 on trace.
    #[arg(short, long = "v", global = true, value_name = "NUMBER", num_args = 0..=1,
        require_equals = true, default_missing_value = "4", action = clap::ArgAction::Append)]
    verbosity: Vec<u32>,
}

impl Cli {
    /// How much to log, given what a file says (`logging.verbosity`).
    pub(in crate::agent) fn log_level(&self, configured: u32) -> Level {
        let told = if self.verbosity.is_empty() {
            configured
        } else {
            self.verbosity
                .iter()
                .fold(0_u32, |sum, v| sum.saturating_add(*v))
        };
        let told = match told {
            0..4 => Level::Error,
            4..6 => Level::Debug,
            6.. => Level::Trace,
        };
        told.max(self.log_level)
    }
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub(in crate::agent) enum Command {
    /// Run on this node until told to stop (SIGTERM, SIGINT).
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Check whether this node can be served with these options, and change nothing.
    ///
    /// Give it the options that `run` is to have. Each check is ok, a warning, a failure, or unknown
    /// (not visible to this user, or from this container).
    #[command(after_help = PREFLIGHT_EXAMPLES)]
    Preflight(Box<PreflightArgs>),
    /// Detach every program and remove every map that an agent left behind; or take away what
    /// kube-proxy left.
    Cleanup(CleanupArgs),
}

/// The options of `run` as given.
#[derive(Clone, Debug, Args)]
pub(in crate::agent) struct RunArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    /// Write the options that would be in force to a file for --config, and end.
    #[arg(long, value_name = "FILE")]
    pub(super) write_config_to: Option<PathBuf>,
    /// Do what needs root alone (kernel parameters, the BPF file system), and end.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set)]
    pub(super) init_only: bool,
    /// Do what `lb-agent cleanup` does, and end.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set)]
    pub(super) cleanup: bool,
}

/// The options that say how this node is served, as given.
#[derive(Clone, Debug, Args)]
pub(in crate::agent) struct NodeArgs {
    /// File of options: kube-proxy's configuration, and Fairlead's own as another document (kind
    /// `FairleadConfiguration`). With kube-proxy's, the options that kube-proxy has too
    /// do not count, but for --hostname-override and -v; Fairlead's own do, before what it says.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Address of the API server, in place of the kubeconfig's or the service account's.
    #[arg(long, value_name = "URL", value_parser = values::url)]
    pub(super) master: Option<String>,
    #[command(flatten)]
    pub(super) own: Own,
    #[command(flatten)]
    pub(super) proxy: ProxyFlags,
}

/// The options of `preflight`: those of `run`, and how to show the result.
#[derive(Debug, Args)]
pub(in crate::agent) struct PreflightArgs {
    /// How to show the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(in crate::agent) output: Format,
    /// Directory that the node's root file system is mounted at, as `kubectl debug node` mounts it
    /// at /host. The CNI's configuration and the kernel's modules are looked for below it [default:
    /// /host if it has an etc directory, else /].
    #[arg(long, value_name = "DIR")]
    pub(in crate::agent) host_root: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::agent) node: NodeArgs,
}

/// The options of `cleanup`.
#[derive(Debug, Args)]
pub(in crate::agent) struct CleanupArgs {
    /// The directory that `run` was given.
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    pub(in crate::agent) bpffs: PathBuf,
    /// Take kube-proxy's rules away instead: its nftables tables and its iptables chains, with the
    /// programs of the same names. Do so once it runs no more.
    #[arg(long)]
    pub(in crate::agent) kube_proxy: bool,
}

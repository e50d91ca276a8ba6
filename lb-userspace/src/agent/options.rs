//! The command line of `lb-agent`, and what is made of it.

use std::{net::Ipv4Addr, ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use glob::Pattern;
use ipnet::IpNet;

use super::{
    interface::{Selection, Xdp},
    logging::Level,
    serve::{self, Bind},
    socket_options::SocketOptions,
    source::Source,
    values::{self, NodeName},
};
use crate::{
    control::{NodePortAddresses, Settings},
    source::{
        kubernetes::{self, Access},
        manifests,
    },
};

/// Where a BPF file system usually is.
const BPFFS: &str = "/sys/fs/bpf";

/// Below it each node keeps its state, unless told otherwise.
const STATE: &str = "/var/lib/fairlead";

const EXAMPLES: &str = "\
Examples:
  Serve the Services in /etc/fairlead to what arrives on eth0 and to pods:
      lb-agent run --manifests /etc/fairlead --node-name node-a --external-interface eth0

  Dual-stack, allocating cluster IPs, node ports on every address:
      lb-agent run --manifests /etc/fairlead --node-name node-a --external-interface eth0,eth1 \\
          --service-cluster-ip-range 10.96.0.0/16,fd00:96::/112 --nodeport-addresses all

  Two agents on one kernel, each in its node's network namespace (not by `ip netns exec`, whose
  mounts nobody else sees and which end with it):
      nsenter --net=/run/netns/node-a lb-agent run --bpffs /run/a/bpf --state-dir /run/a/state ...
      nsenter --net=/run/netns/node-b lb-agent run --bpffs /run/b/bpf --state-dir /run/b/state ...

When the agent stops, its programs and maps stay and traffic goes on. `lb-agent cleanup` ends that.";

/// Fairlead's agent: keeps a node's BPF programs and maps in line with its Services.
#[derive(Debug, Parser)]
#[command(name = "lb-agent", version, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
    /// How much to log.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "info",
        value_name = "LEVEL"
    )]
    log_level: Level,
    /// Log more: -v is --log-level debug, -vv is --log-level trace.
    #[arg(short, global = true, action = ArgAction::Count)]
    verbose: u8,
}

impl Cli {
    /// How much to log.
    pub(super) fn log_level(&self) -> Level {
        let told = match self.verbose {
            0 => Level::Error,
            1 => Level::Debug,
            2.. => Level::Trace,
        };
        told.max(self.log_level)
    }
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run on this node until told to stop (SIGTERM, SIGINT).
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Detach every program and remove every map that an agent left behind.
    Cleanup(CleanupArgs),
}

/// The options of `run` as given.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Directory of Kubernetes manifests (*.yaml, *.yml, *.json) to follow, in place of an API
    /// server.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"])]
    manifests: Option<PathBuf>,
    /// Kubeconfig that says where the API server is, and who we are there. Without it, and without
    /// --manifests, it is the service account of the Pod we run in.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Address of the API server, in place of the kubeconfig's or the service account's.
    #[arg(long, value_name = "URL", value_parser = values::url)]
    master: Option<String>,
    /// Name of this node, as endpoints and the Node object have it [default: the host's name].
    #[arg(
        long,
        visible_alias = "hostname-override",
        value_name = "NAME",
        env = "NODE_NAME"
    )]
    node_name: Option<NodeName>,
    /// Interface that clients and other nodes are behind. Repeat it, or separate with commas.
    #[arg(long, value_name = "IF", required = true, value_delimiter = ',', value_parser = values::interface)]
    external_interface: Vec<String>,
    /// Names of pod interfaces: of these, each veth that leads to another network namespace is a
    /// pod's. * stands for any text, ? for a character.
    #[arg(long, value_name = "GLOB", value_delimiter = ',', default_value = "*", value_parser = values::glob)]
    pod_interface: Vec<Pattern>,
    /// Where XDP may be used, of the external interfaces whose driver has it.
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = Xdp::Auto)]
    xdp: Xdp,
    /// Directory to pin programs and maps below. A BPF file system is mounted there if it is not in
    /// one already.
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    bpffs: PathBuf,
    /// Pod networks of the cluster, at most one a family. Which clients are inside is told by the
    /// interface their packets arrive on, so these are only checked.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = values::cidr)]
    cluster_cidr: Vec<IpNet>,
    /// Networks that Services' cluster IPs are in, at most one a family. Packets to other
    /// addresses in them are dropped. Without it, cluster IPs must be written in the manifests.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = values::cidr)]
    service_cluster_ip_range: Vec<IpNet>,
    /// Ports that node ports are in: FIRST-LAST, or FIRST+COUNT.
    #[arg(long, value_name = "PORTS", default_value = "30000-32767", value_parser = values::ports)]
    service_node_port_range: RangeInclusive<u16>,
    /// Addresses of this node to serve node ports on: any of primary, all, localhost and networks. A family
    /// that none of them is for is served on all its addresses.
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        default_value = "primary"
    )]
    nodeport_addresses: Vec<String>,
    #[command(flatten)]
    sockets: SocketOptions,
    /// Directory for what must survive a restart: allocated cluster IPs and node ports
    /// [default: /var/lib/fairlead/NODE-NAME].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// The options of `cleanup`.
#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// The directory that `run` was given.
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    pub(super) bpffs: PathBuf,
}

/// The options of `run`, valid and complete.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Where objects come from.
    pub(super) source: Source,
    /// Name of this node.
    pub(super) node_name: String,
    /// Which interfaces are ours.
    pub(super) selection: Selection,
    /// Directory to pin below.
    pub(super) bpffs: PathBuf,
    /// Networks of cluster IPs, at most one a family.
    pub(super) cluster_ranges: Vec<IpNet>,
    /// Ports of node ports.
    pub(super) node_ports: RangeInclusive<u16>,
    /// Addresses to serve node ports on.
    pub(super) node_port_addresses: NodePortAddresses,
    /// Which sockets are led to services.
    pub(super) sockets: SocketOptions,
    /// Directory of what must survive a restart.
    pub(super) state_dir: PathBuf,
}

impl TryFrom<RunArgs> for Options {
    type Error = clap::Error;

    fn try_from(args: RunArgs) -> Result<Self, clap::Error> {
        let RunArgs {
            manifests,
            kubeconfig,
            master,
            node_name,
            external_interface,
            pod_interface,
            xdp,
            bpffs,
            cluster_cidr,
            service_cluster_ip_range,
            service_node_port_range,
            nodeport_addresses,
            sockets,
            state_dir,
        } = args;
        values::one_a_family("--cluster-cidr", &cluster_cidr).map_err(invalid)?;
        values::one_a_family("--service-cluster-ip-range", &service_cluster_ip_range)
            .map_err(invalid)?;
        values::disjoint(&cluster_cidr, &service_cluster_ip_range).map_err(invalid)?;
        let NodeName(node_name) = match node_name {
            Some(name) => name,
            None => values::host_name().map_err(invalid)?,
        };
        Ok(Self {
            source: Source::chosen(manifests, kubeconfig, master).map_err(|message| {
                Cli::command().error(ErrorKind::MissingRequiredArgument, message)
            })?,
            state_dir: state_dir.unwrap_or_else(|| PathBuf::from(STATE).join(&node_name)),
            node_name,
            selection: Selection {
                external: values::unique(external_interface),
                pods: pod_interface,
                xdp,
            },
            bpffs,
            cluster_ranges: service_cluster_ip_range,
            node_ports: service_node_port_range,
            node_port_addresses: values::node_port_addresses(&nodeport_addresses)
                .map_err(invalid)?,
            sockets,
        })
    }
}

impl Options {
    /// What the control plane needs to know.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            node_port_addresses: self.node_port_addresses.clone(),
            ..Settings::new(&self.node_name)
        }
    }

    /// What the servers need to know.
    pub(super) fn servers(&self) -> serve::Options {
        serve::Options {
            healthz: Some(Bind::Any(10_256)),
            metrics: Some(Bind::One((Ipv4Addr::LOCALHOST, 10_249).into())),
            hard_fail: false,
            patience: Duration::from_secs(60),
            node_name: self.node_name.clone(),
            configz: serde_json::Value::Null,
            flags: Vec::new(),
        }
    }

    /// What a directory as source needs to know.
    pub(super) fn manifests(&self, dir: PathBuf) -> manifests::Options {
        manifests::Options {
            dir,
            state_dir: Some(self.state_dir.clone()),
            cluster: manifests::Cluster {
                node_name: self.node_name.clone(),
                cluster_ranges: self.cluster_ranges.clone(),
                node_ports: self.node_ports.clone(),
            },
        }
    }

    /// What an API server as source needs to know.
    pub(super) fn kubernetes(&self, access: Access) -> kubernetes::Options {
        kubernetes::Options {
            access,
            node_name: self.node_name.clone(),
            external_ips: true,
        }
    }
}

fn invalid(message: String) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Options, clap::Error> {
        let args = ["lb-agent", "run"]
            .into_iter()
            .chain(args.split_whitespace());
        match Cli::try_parse_from(args)?.command {
            Command::Run(args) => (*args).try_into(),
            Command::Cleanup(_) => unreachable!("run was asked for"),
        }
    }

    fn shown(options: Options) -> String {
        let Options {
            source,
            node_name,
            selection:
                Selection {
                    external,
                    pods,
                    xdp,
                },
            bpffs,
            cluster_ranges,
            node_ports,
            node_port_addresses,
            sockets,
            state_dir,
        } = options;
        let pods: Vec<_> = pods.iter().map(Pattern::as_str).collect();
        format!(
            "{source}, state {state_dir:?}, bpffs {bpffs:?}\nnode {node_name}\n\
             external {external:?}, pods {pods:?}, XDP {xdp:?}\n\
             cluster IPs {cluster_ranges:?}\nnode ports {node_ports:?} on {node_port_addresses:?}\n\
             {sockets:?}"
        )
    }

    const LEAST: &str = "--manifests /m --node-name node-a --external-interface eth0";

    #[test]
    fn three_options_are_enough() {
        insta::assert_snapshot!(shown(parse(LEAST).unwrap()));
    }

    #[test]
    fn lists_are_repeated_or_separated_with_commas() {
        let options = parse(
            "--manifests /m --node-name Node-A --external-interface eth0,eth1 \
             --external-interface eth0 --external-interface bond0 \
             --pod-interface veth*,cali* --pod-interface lxc? --bpffs /b --state-dir /s \
             --cluster-cidr 10.1.0.0/16,fd00:1::/48 \
             --service-cluster-ip-range 10.96.0.0/16 --service-cluster-ip-range fd00:96::/112 \
             --service-node-port-range 20000+1000 --nodeport-addresses 192.0.2.0/24,2001:db8::1 \
             --socket-lb off --cgroup /c --localhost-nodeports false",
        );
        insta::assert_snapshot!(shown(options.unwrap()));
    }

    #[test]
    fn wrong_values_are_refused_with_what_where_why() {
        let messages: Vec<String> = [
            "--node-name node_a --external-interface eth0",
            "--external-interface eth/0",
            "--external-interface a-very-long-interface",
            "--external-interface ,",
            "--pod-interface veth[",
            "--cluster-cidr 10.0.0.0/33",
            "--cluster-cidr 10.0.0.0/8,172.16.0.0/12",
            "--service-cluster-ip-range 10.96.0.0",
            "--service-cluster-ip-range fd00:1::/64,fd00:2::/64",
            "--service-cluster-ip-range 10.1.0.0/16 --cluster-cidr 10.0.0.0/8",
            "--service-node-port-range 32767-30000",
            "--service-node-port-range 0-100",
            "--service-node-port-range 65000+1000",
            "--service-node-port-range many",
            "--nodeport-addresses nearby",
            "--socket-lb some",
            "--localhost-nodeports=perhaps",
            "--log-level loud",
        ]
        .into_iter()
        .map(|args| match parse(&complete(args)) {
            Ok(options) => format!("{args}\n    accepted: {options:?}"),
            Err(error) => format!("{args}\n    {}", first_line(&error)),
        })
        .collect();
        insta::assert_snapshot!(messages.join("\n"));
    }

    /// What was not given, as in [`LEAST`].
    fn complete(args: &str) -> String {
        let least = [
            "--manifests /m",
            "--node-name node-a",
            "--external-interface eth0",
        ];
        let given = |arg: &&str| args.contains(arg.split(' ').next().unwrap_or_default());
        let missing = least.into_iter().filter(|arg| !given(arg));
        missing.chain([args]).collect::<Vec<_>>().join(" ")
    }

    fn first_line(error: &clap::Error) -> String {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_is_missing_is_named() {
        insta::assert_snapshot!(parse("--manifests /m").unwrap_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_shows_everything() {
        let command = Cli::command().term_width(100);
        let help = command.try_get_matches_from(["lb-agent", "run", "--help"]);
        insta::assert_snapshot!(help.unwrap_err());
    }

    #[test]
    fn verbosity_only_adds() {
        let level = |args: &str| {
            let args = format!("lb-agent cleanup {args}");
            Cli::try_parse_from(args.split_whitespace())
                .unwrap()
                .log_level()
        };
        assert_eq!(level(""), Level::Info);
        assert_eq!(level("-v"), Level::Debug);
        assert_eq!(level("-vv --log-level warn"), Level::Trace);
        assert_eq!(level("--log-level error"), Level::Error);
    }
}

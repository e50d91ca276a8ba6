//! Fairlead's own options: as flags, and as `FairleadConfiguration`
//! (`config.fairlead.dev/v1alpha1`) beside kube-proxy's configuration.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::{Deserialize, Serialize};

use crate::{
    agent::{interface::Xdp, socket_options::SocketLb, tc_attach::TcAttach},
    control::TableSize,
    model::Algorithm,
};

/// `apiVersion` of the configuration.
pub(super) const API_VERSION: &str = "config.fairlead.dev/v1alpha1";
/// `kind` of the configuration.
pub(super) const KIND: &str = "FairleadConfiguration";

/// What no kube-proxy has. The comments are the text of `--help`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Own {
    /// Directory of Kubernetes manifests (*.yaml, *.yml, *.json) to follow in place of an API
    /// server.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) manifests: Option<PathBuf>,
    /// Name of this node, as endpoints and the Node object have it [default: `$NODE_NAME`, else
    /// the host's name].
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node_name: Option<String>,
    /// Interface that clients and other nodes are behind. Repeat it, or separate with commas.
    /// auto finds those of default routes and of the Node's addresses, as they come and go. The
    /// tunnels of an overlay are attached to in any case [default: auto].
    #[arg(long, value_name = "IF", value_delimiter = ',')]
    #[serde(rename = "externalInterfaces")]
    pub(super) external_interface: Vec<String>,
    /// Names of pod interfaces: of these, each veth that leads to another network namespace is a
    /// pod's. * stands for any text, ? for a character [default: *].
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    #[serde(rename = "podInterfaces")]
    pub(super) pod_interface: Vec<String>,
    /// Where XDP may be used, of the external interfaces whose driver has it [default: auto].
    #[arg(long, value_name = "WHERE", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) xdp: Option<Xdp>,
    /// How programs of tc are attached; for troubleshooting [default: auto].
    #[arg(long, value_name = "HOW", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tc_attach: Option<TcAttach>,
    /// Directory to pin programs and maps below. A BPF file system is mounted there if it is not in
    /// one already [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bpffs: Option<PathBuf>,
    /// Networks that Services' cluster IPs are in, at most one a family. Packets to other
    /// addresses in them are dropped. Without it, cluster IPs must be written in the manifests.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    #[serde(rename = "serviceClusterIPRanges")]
    pub(super) service_cluster_ip_range: Vec<String>,
    /// Ports that node ports are in: FIRST-LAST, or FIRST+COUNT [default: 30000-32767].
    #[arg(long, value_name = "PORTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_node_port_range: Option<String>,
    /// Whose sockets are led straight to services' backends: those of the node's own processes and of
    /// its pods', of the node's alone, or nobody's. Packets of pods that are not led are translated
    /// [default: host].
    #[arg(long, value_name = "WHOSE", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) socket_lb: Option<SocketLb>,
    /// Directory of the cgroup2 hierarchy whose processes that concerns [default: its root, found
    /// by itself].
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<PathBuf>,
    /// Serve node ports on this node's loopback addresses too, to its own processes [default:
    /// true].
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true")]
    #[serde(rename = "localhostNodePorts", skip_serializing_if = "Option::is_none")]
    pub(super) localhost_nodeports: Option<bool>,
    /// Let load balancer source ranges of one family close the other to all; kube-proxy, and we
    /// without this, leave it open [default: false].
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) strict_source_ranges: Option<bool>,
    /// How new flows of Services without the annotation fairlead.dev/algorithm are spread over
    /// their endpoints: by chance, or by the flow's addresses and ports, alike on every node
    /// [default: random].
    #[arg(long, value_name = "HOW", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) algorithm: Option<Algorithm>,
    /// Slots of a Maglev table, a prime of those between 251 and 131071 that are next below a power
    /// of two. Service ports with the same endpoints share a table; there is room for 1048576 slots in
    /// each family [default: 16381].
    #[arg(long, value_name = "SLOTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) maglev_table_size: Option<TableSize>,
    /// How long a flow may be unused, by protocol and how far it has got; by default tcp-opening=2m,
    /// tcp-established=24h, tcp-closing=1h, tcp-closed=2m, tcp-reset=10s, udp-opening=30s,
    /// udp-established=2m, sctp-opening=1m, sctp-established=210s, sctp-closing=1m, sctp-closed=10s,
    /// sctp-reset=10s. Repeat it, or separate with commas.
    #[arg(long, value_name = "STAGE=TIME", value_delimiter = ',')]
    #[serde(rename = "flowTimeouts")]
    pub(super) flow_timeout: Vec<String>,
    /// End at the start where the kernel lacks what nothing stands in for: the BPF JIT compiler, or a
    /// function the programs call. false tries to load them all the same [default: true].
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) check_kernel: Option<bool>,
    /// Directory for what must survive a restart: allocated cluster IPs and node ports
    /// [default: /var/lib/fairlead/NODE-NAME].
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state_dir: Option<PathBuf>,
}

impl Own {
    /// The flags, and for each that was not given what the file says.
    pub(super) fn over(self, file: Self) -> Self {
        let Self {
            manifests,
            node_name,
            external_interface,
            pod_interface,
            xdp,
            tc_attach,
            bpffs,
            service_cluster_ip_range,
            service_node_port_range,
            socket_lb,
            cgroup,
            localhost_nodeports,
            strict_source_ranges,
            algorithm,
            maglev_table_size,
            flow_timeout,
            check_kernel,
            state_dir,
        } = self;
        Self {
            manifests: manifests.or(file.manifests),
            node_name: node_name.or(file.node_name),
            external_interface: or(external_interface, file.external_interface),
            pod_interface: or(pod_interface, file.pod_interface),
            xdp: xdp.or(file.xdp),
            tc_attach: tc_attach.or(file.tc_attach),
            bpffs: bpffs.or(file.bpffs),
            service_cluster_ip_range: or(service_cluster_ip_range, file.service_cluster_ip_range),
            service_node_port_range: service_node_port_range.or(file.service_node_port_range),
            socket_lb: socket_lb.or(file.socket_lb),
            cgroup: cgroup.or(file.cgroup),
            localhost_nodeports: localhost_nodeports.or(file.localhost_nodeports),
            strict_source_ranges: strict_source_ranges.or(file.strict_source_ranges),
            algorithm: algorithm.or(file.algorithm),
            maglev_table_size: maglev_table_size.or(file.maglev_table_size),
            flow_timeout: or(flow_timeout, file.flow_timeout),
            check_kernel: check_kernel.or(file.check_kernel),
            state_dir: state_dir.or(file.state_dir),
        }
    }
}

fn or(flags: Vec<String>, file: Vec<String>) -> Vec<String> {
    if flags.is_empty() { file } else { flags }
}

//! What is wanted of the agent: from the command line ([`cli`]), from kube-proxy's flags
//! ([`flags`]) and configuration ([`file`](mod@file), [`kube_proxy`]) and from our own ([`own`]) to one
//! valid and complete [`Options`].

mod cli;
mod duration;
mod file;
mod flags;
mod inapplicable;
mod kube_proxy;
mod names;
mod own;
mod resolve;
#[cfg(test)]
mod tests;
mod validate;

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf};

use ipnet::IpNet;
use serde_json::{Value, json};

pub(super) use cli::{CleanupArgs, Cli, Command, PreflightArgs, RunArgs};
pub(super) use duration::Span;
pub(super) use kube_proxy::Conntrack;
pub(super) use resolve::{Host, Resolved, Task, resolve, resolve_preflight};

use super::{
    interface::Selection,
    serve::{self, Bind},
    socket_options::{SocketLb, SocketOptions},
    source::Source,
    tc_attach::TcAttach,
    upkeep::Lifetimes,
};
use crate::{
    control::{NodePortAddresses, Settings, TableSize},
    model::Algorithm,
    source::{
        kubernetes::{self, Access, Requests},
        manifests,
    },
};
use kube_proxy::KubeProxy;
use own::Own;

/// Where a BPF file system usually is.
const BPFFS: &str = "/sys/fs/bpf";

/// Below it each node keeps its state, unless told otherwise.
const STATE: &str = "/var/lib/fairlead";

/// How clients inside the cluster are told from those outside (SEMANTICS D10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// By the interface their packets arrive on: a pod's.
    Interfaces,
    /// By their address. In a family that no network is of, all are outside, as kube-proxy has it.
    Networks(Vec<IpNet>),
    /// By their address: those in the Node's `podCIDRs`, as they stand.
    NodeNetworks,
}

/// The options of `run`, valid and complete.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Where objects come from.
    pub(super) source: Source,
    /// Name of this node.
    pub(super) node_name: String,
    /// The node's primary address, if it is not for the Node object to say.
    pub(super) bind_address: Option<IpAddr>,
    /// Which interfaces are ours.
    pub(super) selection: Selection,
    /// Who is inside the cluster.
    pub(super) inside: Inside,
    /// Whether all traffic to cluster IPs gets the node's address as source.
    pub(super) masquerade_all: bool,
    /// Whether `externalIPs` are served.
    pub(super) external_ips: bool,
    /// Directory to pin below.
    pub(super) bpffs: PathBuf,
    /// Networks of cluster IPs, at most one a family.
    pub(super) cluster_ranges: Vec<IpNet>,
    /// Ports of node ports.
    pub(super) node_ports: RangeInclusive<u16>,
    /// Addresses to serve node ports on.
    pub(super) node_port_addresses: NodePortAddresses,
    /// Whether source ranges of one family close the other.
    pub(super) strict_source_ranges: bool,
    /// How new flows of Services that do not say are spread.
    pub(super) algorithm: Algorithm,
    /// How many slots a Maglev table has.
    pub(super) maglev_table_size: TableSize,
    /// How long flows may be unused.
    pub(super) lifetimes: Lifetimes,
    /// By what programs of tc are to be on interfaces.
    pub(super) tc_attach: TcAttach,
    /// Which sockets are led to services.
    pub(super) sockets: SocketOptions,
    /// Directory of what must survive a restart.
    pub(super) state_dir: PathBuf,
    /// kube-proxy's side of the configuration as it is in force.
    proxy: KubeProxy,
    /// Our own side.
    own: Own,
}

impl Options {
    /// What the control plane needs to know.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            bind_address: self.bind_address,
            node_port_addresses: self.node_port_addresses.clone(),
            strict_source_ranges: self.strict_source_ranges,
            algorithm: self.algorithm,
            maglev_table_size: self.maglev_table_size,
            ..Settings::new(&self.node_name)
        }
    }

    /// What the servers need to know. The addresses have been validated; none means no server.
    pub(super) fn servers(&self, requests: Requests) -> serve::Options {
        let bind = |text: &str| text.parse::<Bind>().ok();
        serve::Options {
            healthz: bind(&self.proxy.healthz_bind_address),
            metrics: bind(&self.proxy.metrics_bind_address),
            hard_fail: self.proxy.bind_address_hard_fail,
            patience: 2 * self.proxy.sync_period(),
            node_name: self.node_name.clone(),
            flags: self.listed(),
            configz: self.configz(),
            requests,
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
    pub(super) fn kubernetes(&self, access: Access, requests: Requests) -> kubernetes::Options {
        kubernetes::Options {
            access,
            requests,
            node_name: self.node_name.clone(),
            external_ips: self.external_ips,
            pods: self.sockets.socket_lb == SocketLb::All,
        }
    }

    /// Whether a kernel is refused that lacks what nothing stands in for.
    pub(super) fn check_kernel(&self) -> bool {
        self.own.check_kernel.unwrap_or(true)
    }

    /// What the kernel's connection tracking is to be set to.
    pub(super) fn conntrack(&self) -> &Conntrack {
        &self.proxy.conntrack
    }

    /// The `oom_score_adj` of this process.
    pub(super) fn oom_score_adj(&self) -> i32 {
        self.proxy.oom_score_adj
    }

    /// The configuration in force, by API group.
    pub(super) fn configz(&self) -> Value {
        json!({
            "kubeproxy.config.k8s.io": self.proxy,
            "config.fairlead.dev": self.own,
        })
    }

    /// The options in force, a line each.
    fn listed(&self) -> Vec<(String, String)> {
        let groups = [json!(self.proxy), json!(self.own)];
        let fields = groups.into_iter().flat_map(|group| match group {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        });
        fields
            .map(|(name, value)| (name, value.to_string()))
            .collect()
    }

    /// The configuration in force as a file for `--config`.
    pub(super) fn to_file(&self) -> Result<String, serde_saphyr::ser::Error> {
        let document = |api_version: &str, kind: &str, fields: Value| {
            let mut document = json!({"apiVersion": api_version, "kind": kind});
            if let (Value::Object(document), Value::Object(fields)) = (&mut document, fields) {
                document.extend(fields);
            }
            document
        };
        serde_saphyr::to_string_multiple(&[
            document(kube_proxy::API_VERSION, kube_proxy::KIND, json!(self.proxy)),
            document(own::API_VERSION, own::KIND, json!(self.own)),
        ])
    }
}

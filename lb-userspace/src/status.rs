//! What the agent says of itself: JSON in the pinned `STATUS` map, read by `lbctl status` even
//! when the agent is gone.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The agent's own account. A field that an older agent did not write is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started: String,
    /// Where objects come from, e.g. `manifests /etc/fairlead`.
    pub source: String,
    /// When the maps last were brought into line with the source, RFC 3339; none before the first.
    pub last_sync: Option<String>,
    /// The node's own addresses, primary first.
    pub node_addresses: Vec<IpAddr>,
    /// Why the node has no IPv6, and IPv4 alone is served; none if it has.
    pub without_ipv6: Option<String>,
    /// Addresses that node ports are served on.
    pub node_port_addresses: Vec<IpAddr>,
    /// Ports that source translation takes, first and last.
    pub snat_ports: (u16, u16),
    /// Interfaces and how packets are seen on them.
    pub interfaces: Vec<Interface>,
    /// How sockets are led to services.
    pub sockets: Sockets,
    /// By what programs of tc are on their interfaces.
    pub tc_attach: TcWay,
    /// What the kernel can do, and what is done in place of what it cannot.
    pub kernel: Vec<KernelFeature>,
    /// Which programs are being loaded.
    pub loading: Loading,
    /// What is wrong now, one line each.
    pub problems: Vec<String>,
}

/// Which programs an agent is loading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Loading {
    /// Those of the data path: the node is served as an earlier agent left it, or not yet.
    DataPath,
    /// Those that answer `lbctl explain`; traffic is served.
    DryRuns,
    /// None.
    #[default]
    Nothing,
}

impl Status {
    /// Reads the value of the `STATUS` map; none before the agent has written one.
    pub fn decode(value: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let Some((length, text)) = value.split_first_chunk() else {
            return Ok(None);
        };
        match u32::from_ne_bytes(*length) as usize {
            0 => Ok(None),
            length => serde_json::from_slice(&text[..length.min(text.len())]).map(Some),
        }
    }
}

/// By what programs of tc are on interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcWay {
    /// By tcx links.
    #[default]
    Tcx,
    /// By filters of the clsact qdisc.
    Clsact,
}

/// Whether the kernel has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureState {
    /// It has.
    Has,
    /// It has not.
    Lacks,
    /// It cannot be told.
    Unknown,
}

/// A feature of the kernel that the agent has tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFeature {
    /// Its name.
    pub feature: String,
    /// Whether the kernel has it.
    pub state: FeatureState,
    /// Why that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What follows from its lack; none if the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<String>,
}

/// Whose sockets are led to services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketMode {
    /// Those of the node's own processes, and of its pods'.
    All,
    /// Those of the node's own processes.
    Host,
    /// Nobody's, as is wanted.
    #[default]
    Off,
    /// Nobody's, though it is wanted: a problem says why.
    None,
}

/// The hooks of sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sockets {
    /// Whose sockets are led.
    pub mode: SocketMode,
    /// The cgroup whose processes it concerns; none while none is found or named.
    pub cgroup: Option<PathBuf>,
    /// How many pods' sockets are led.
    pub pods_led: usize,
    /// How many pods are left to tc where pods' sockets are led.
    pub pods_left: usize,
}

/// What an interface is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Clients and other nodes are behind it.
    External,
    /// A pod is behind it.
    Pod,
}

/// How packets are seen on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Native XDP, with tc behind it.
    Xdp,
    /// tc alone.
    Tc,
    /// Not at all.
    None,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What it is to us.
    pub role: Role,
    /// How it is attached.
    pub mode: Mode,
    /// Why, where the mode is not the best there is; empty otherwise.
    pub reason: String,
}

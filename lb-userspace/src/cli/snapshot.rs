//! What the pinned maps held, as people and scripts see it: plain data, names resolved, sorted.
//!
//! The field names are `lbctl -o json`'s contract.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Serialize, Serializer};

use crate::{model::Algorithm, status::Status};

/// The maps that were asked for, in the order they are shown. Serialises as one object with a
/// field a section.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Snapshot {
    pub(super) sections: Vec<Section>,
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { sections } = self;
        serializer.collect_map(
            sections
                .iter()
                .map(|section| (section.table().name(), section)),
        )
    }
}

/// A concept of the data path; both families' maps make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Config,
    Links,
    Frontends,
    Slots,
    Backends,
    Services,
    Flows,
    Sockets,
    Netns,
    Reasons,
    Status,
}

impl Table {
    /// Every table, in the order they are shown.
    pub(super) const ALL: [Self; 11] = [
        Self::Config,
        Self::Links,
        Self::Frontends,
        Self::Slots,
        Self::Backends,
        Self::Services,
        Self::Flows,
        Self::Sockets,
        Self::Netns,
        Self::Reasons,
        Self::Status,
    ];

    /// Its name on the command line and in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Links => "links",
            Self::Frontends => "frontends",
            Self::Slots => "slots",
            Self::Backends => "backends",
            Self::Services => "services",
            Self::Flows => "flows",
            Self::Sockets => "sockets",
            Self::Netns => "netns",
            Self::Reasons => "reasons",
            Self::Status => "status",
        }
    }
}

/// The content of one table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Section {
    Config(Config),
    Links(Vec<Link>),
    Frontends(Vec<Frontend>),
    Slots(Vec<Slot>),
    Backends(Vec<Backend>),
    Services(Vec<Service>),
    Flows(Vec<Flow>),
    Sockets(Vec<Socket>),
    Netns(Vec<Netns>),
    Reasons(Vec<Reason>),
    Status(Option<Box<Status>>),
}

impl Section {
    /// The table this is the content of.
    pub(super) const fn table(&self) -> Table {
        match self {
            Self::Config(_) => Table::Config,
            Self::Links(_) => Table::Links,
            Self::Frontends(_) => Table::Frontends,
            Self::Slots(_) => Table::Slots,
            Self::Backends(_) => Table::Backends,
            Self::Services(_) => Table::Services,
            Self::Flows(_) => Table::Flows,
            Self::Sockets(_) => Table::Sockets,
            Self::Netns(_) => Table::Netns,
            Self::Reasons(_) => Table::Reasons,
            Self::Status(_) => Table::Status,
        }
    }
}

/// The network namespace of a pod whose sockets are led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Netns {
    /// The number by which the kernel names it to programs.
    pub(super) cookie: u64,
    /// The addresses that the pod is known by.
    pub(super) addresses: Vec<IpAddr>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct HostPort {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Facts of the node that the programs know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) epoch: u32,
    pub(super) snat_ports: PortRange,
    pub(super) ipv4: FamilyConfig,
    pub(super) ipv6: FamilyConfig,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        write!(f, "{first}-{last}")
    }
}

/// Facts of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FamilyConfig {
    pub(super) node_address: Option<IpAddr>,
    /// Network of the service cluster IPs.
    pub(super) cluster_network: Option<String>,
}

/// What the programs may do with an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) interface: Option<String>,
    pub(super) direct: bool,
    pub(super) xdp_target: bool,
}

/// What clients address, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frontend {
    #[serde(flatten)]
    pub(super) at: HostPort,
    pub(super) protocol: String,
    /// The row only says that this cluster IP is in use: whatever has no row of its own is rejected.
    pub(super) whole_address: bool,
    pub(super) service_id: u32,
    /// `namespace/name:port`; none if the id has no name.
    pub(super) service: Option<String>,
    /// How a backend is chosen for a new flow.
    pub(super) algorithm: Algorithm,
    pub(super) inside: Choice,
    pub(super) outside: Choice,
}

/// The backends one kind of client may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Choice {
    pub(super) first_slot: u32,
    pub(super) slot_count: u32,
    pub(super) without_backends: WithoutBackends,
    /// Once each, however many slots they have.
    pub(super) backends: Vec<BackendRef>,
}

/// What becomes of a packet when there is no backend to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum WithoutBackends {
    Reject,
    Drop,
}

/// A backend that a slot or a flow leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendRef {
    pub(super) index: u32,
    /// None if the index is outside the map.
    #[serde(flatten)]
    pub(super) at: Option<HostPort>,
    pub(super) alive: bool,
    pub(super) local: bool,
    pub(super) terminating: bool,
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{at}")?,
            None => write!(f, "backend {}", self.index)?,
        }
        let marks = self.marks();
        if marks.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", marks.join(", "))
    }
}

impl BackendRef {
    /// What is worth saying of it.
    pub(super) fn marks(&self) -> Vec<&'static str> {
        let state = match (self.at, self.alive) {
            (None, _) => Some("missing"),
            (Some(_), false) => Some("not in use"),
            (Some(_), true) => None,
        };
        let local = self.local.then_some("local");
        let terminating = self.terminating.then_some("terminating");
        [state, local, terminating].into_iter().flatten().collect()
    }
}

/// A slot that a frontend refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slot {
    pub(super) family: Family,
    pub(super) index: u32,
    #[serde(flatten)]
    pub(super) holds: Held,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Held {
    /// A backend's index.
    Backend(BackendRef),
    /// First slot of the Maglev table of the list that begins here.
    TableOffset(u32),
    /// How many slots that table has.
    TableSize(u32),
    /// In a Maglev table: a backend's position in the lists that have the table.
    Position(u32),
}

/// A backend that a slot or a flow refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backend {
    pub(super) family: Family,
    #[serde(flatten)]
    pub(super) entry: BackendRef,
    pub(super) generation: u32,
}

/// A named service id with its counters, summed over the CPUs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: String,
    pub(super) protocol: String,
    pub(super) family: Family,
    pub(super) id: u32,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) flows: u64,
    pub(super) rejects: u64,
}

impl Service {
    /// `namespace/name:port`, without the colon when the port has no name.
    pub(super) fn full_name(&self) -> String {
        let Self {
            namespace,
            name,
            port,
            ..
        } = self;
        let colon = if port.is_empty() { "" } else { ":" };
        format!("{namespace}/{name}{colon}{port}")
    }
}

/// One direction of a translated connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Flow {
    pub(super) direction: &'static str,
    pub(super) protocol: String,
    pub(super) source: HostPort,
    pub(super) destination: HostPort,
    pub(super) new_source: HostPort,
    pub(super) new_destination: HostPort,
    pub(super) service_id: u32,
    pub(super) service: Option<String>,
    pub(super) half: &'static str,
    pub(super) route: &'static str,
    /// How far the flow has got.
    pub(super) stage: &'static str,
    pub(super) backend: u32,
    pub(super) generation: u32,
    pub(super) next_hop: Option<NextHop>,
    pub(super) idle_seconds: u64,
}

/// One half of what is remembered of a socket that was led straight to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Socket {
    /// The kernel's number of the socket.
    pub(super) cookie: u64,
    pub(super) protocol: String,
    pub(super) service_address: HostPort,
    pub(super) backend_address: HostPort,
    pub(super) service_id: u32,
    pub(super) service: Option<String>,
    pub(super) half: &'static str,
    pub(super) backend: u32,
    pub(super) generation: u32,
}

/// The cached next hop of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NextHop {
    pub(super) interface_index: u32,
    pub(super) interface: Option<String>,
    /// None where the kernel's neighbour table is asked for every packet.
    pub(super) destination_mac: Option<String>,
    pub(super) source_mac: Option<String>,
    /// The longest IP packet it takes, in bytes; none while unknown.
    pub(super) mtu: Option<u16>,
    pub(super) epoch: u32,
    pub(super) age_seconds: u64,
}

/// Packets with one outcome, summed over the CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) reason: &'static str,
    pub(super) packets: u64,
}

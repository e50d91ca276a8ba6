//! Who is measured, from where, and what is asked.

use clap::ValueEnum;
use serde::Serialize;

use crate::bench::control_plane::Proxy;

/// Who leads clients to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Contestant {
    /// Nobody: clients ask the pod.
    Direct,
    /// Our agent.
    Fairlead,
    /// kube-proxy in nftables mode.
    Nftables,
    /// kube-proxy in iptables mode.
    Iptables,
}

impl Contestant {
    /// All of them, in the order they are set up in.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Fairlead, Self::Nftables, Self::Iptables];
    /// The other proxy, in all its modes.
    pub(super) const KUBE_PROXY: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// What programs the node.
    pub(super) const fn proxy(self) -> Option<Proxy> {
        match self {
            Self::Direct => None,
            Self::Fairlead => Some(Proxy::Fairlead),
            Self::Nftables => Some(Proxy::Nftables),
            Self::Iptables => Some(Proxy::Iptables),
        }
    }

    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self.proxy() {
            None => "direct",
            Some(proxy) => proxy.name(),
        }
    }
}

/// Where the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// A process on the node: Fairlead leads its sockets.
    Host,
    /// A process in a pod of the node: Fairlead translates its packets at tc.
    Pod,
    /// Another machine: Fairlead translates its packets at XDP.
    External,
}

impl Client {
    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Pod => "pod",
            Self::External => "external",
        }
    }
}

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// A TCP connection, one request, its answer, the end.
    ConnectClose,
    /// Requests over one TCP connection, one after the other.
    KeepAlive,
    /// One TCP connection, down which a server sends all it can.
    Bulk,
    /// Datagrams and answers over one socket, one after the other.
    Datagrams,
    /// Making a UDP socket, connecting it, closing it: no packet is sent.
    Connect,
    /// Datagrams to a node port whose pod is on another node, one way.
    NodePort,
}

impl Measure {
    /// The name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectClose => "connect, request, close",
            Self::KeepAlive => "keep-alive request",
            Self::Bulk => "bulk",
            Self::Datagrams => "UDP request",
            Self::Connect => "socket, connect, close",
            Self::NodePort => "NodePort packet",
        }
    }

    /// What its rate counts.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::ConnectClose | Self::KeepAlive | Self::Datagrams => "/s",
            Self::Bulk => "MB/s",
            Self::Connect | Self::NodePort => "/CPU s",
        }
    }
}

/// A client and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) client: Client,
    pub(super) measure: Measure,
}

impl Case {
    /// All that are measured.
    pub(super) const ALL: [Self; 10] = [
        Self::new(Client::Host, Measure::ConnectClose),
        Self::new(Client::Host, Measure::KeepAlive),
        Self::new(Client::Host, Measure::Bulk),
        Self::new(Client::Host, Measure::Datagrams),
        Self::new(Client::Host, Measure::Connect),
        Self::new(Client::Pod, Measure::ConnectClose),
        Self::new(Client::Pod, Measure::KeepAlive),
        Self::new(Client::Pod, Measure::Bulk),
        Self::new(Client::Pod, Measure::Datagrams),
        Self::new(Client::External, Measure::NodePort),
    ];

    pub(super) const fn new(client: Client, measure: Measure) -> Self {
        Self { client, measure }
    }

    /// Whether there is something to measure: without a proxy nobody has a node port.
    pub(super) fn is_of(self, contestant: Contestant) -> bool {
        contestant != Contestant::Direct || self.client != Client::External
    }

    pub(super) fn name(self) -> String {
        format!("{}, {}", self.client.name(), self.measure.name())
    }
}

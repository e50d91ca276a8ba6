//! Kubernetes objects, reduced to the fields used, and the stream of their changes.
//!
//! Every source (a directory of manifests, later the API server) yields [`Change`]s; everything
//! behind it sees only these types. A source has already applied the API server's defaults and
//! validation.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::SystemTime};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// The object `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// The IP header's number of the protocol.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::proto::TCP,
            Self::Udp => lb_common::proto::UDP,
            Self::Sctp => lb_common::proto::SCTP,
        }
    }

    /// The protocol with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            lb_common::proto::TCP => Some(Self::Tcp),
            lb_common::proto::UDP => Some(Self::Udp),
            lb_common::proto::SCTP => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `spec.type` of a Service that is programmed. `ExternalName` and headless Services never get here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// `ClusterIP`
    ClusterIP,
    /// `NodePort`
    NodePort,
    /// `LoadBalancer`
    LoadBalancer,
}

/// `internalTrafficPolicy`, `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Only endpoints on the node that received the packet.
    Local,
}

/// How new flows are spread over a Service's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Each anew, by chance.
    #[default]
    Random,
    /// By the flow's addresses and ports, alike on every node, and so that few of them would move
    /// if an endpoint came or went (Eisenbud et al., Maglev, NSDI 2016).
    Maglev,
}

impl Algorithm {
    /// Its name, as options and annotations have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Maglev => "maglev",
        }
    }
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name; empty when the Service has a single unnamed port. With the protocol it is the port's
    /// identity and what slice ports are matched by.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the service addresses.
    pub port: u16,
    /// Port on the node's addresses; 0 for none.
    pub node_port: u16,
}

/// A Service to program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since the epoch; 0 if unknown. The older Service
    /// wins an address two of them claim.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs`, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode `VIP`.
    pub ingress_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` if `spec.sessionAffinity` is
    /// `ClientIP`: 1 to 86400.
    #[serde(default)]
    pub affinity: Option<u32>,
    /// Annotation `fairlead.dev/algorithm`; without it the node's own setting counts.
    #[serde(default)]
    pub algorithm: Option<Algorithm>,
    /// `spec.loadBalancerSourceRanges`, of both families; empty when all may come.
    #[serde(default)]
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort` of type `LoadBalancer` with `externalTrafficPolicy: Local`;
    /// else 0.
    #[serde(default)]
    pub health_check_node_port: u16,
}

/// A port of an EndpointSlice: name and protocol match a [`ServicePort`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Port name, as in the Service.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port number on the endpoint.
    pub port: u16,
}

/// How many new flows an endpoint gets for each one of an endpoint of weight 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8")]
pub struct Weight(u8);

impl Weight {
    /// The weight of an endpoint of which nothing else is said.
    pub const ONE: Self = Self(1);
    /// The greatest there is.
    pub const MAX: Self = Self(100);

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Weight {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let (least, most) = (Self::ONE.number(), Self::MAX.number());
        if (least..=most).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not {least} to {most}"))
        }
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// One endpoint of a slice, conditions defaulted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address (the first of the API's list).
    pub addr: IpAddr,
    /// Node it runs on; local means equal to our own name.
    pub node: Option<String>,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though perhaps terminating.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// How many new flows it gets for each one of an endpoint of weight 1, by the slice's
    /// annotation `fairlead.dev/weights`: 1 to [`Weight::MAX`].
    #[serde(default)]
    pub weight: Weight,
    /// `hints.forZones`: zones whose nodes should use it.
    #[serde(default)]
    pub for_zones: Vec<String>,
    /// `hints.forNodes`: nodes that should use it.
    #[serde(default)]
    pub for_nodes: Vec<String>,
}

impl Endpoint {
    /// One of which nothing is said but its address: ready, on no node, of weight 1.
    pub const fn at(addr: IpAddr) -> Self {
        Self {
            addr,
            node: None,
            ready: true,
            serving: true,
            terminating: false,
            weight: Weight::ONE,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    }
}

/// An EndpointSlice, or the part of an Endpoints object that would be mirrored into one. All its
/// endpoints are of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// Name of the Service it belongs to, in the same namespace.
    pub service: String,
    /// Ports every endpoint serves.
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// Our own Node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `status.addresses` of type InternalIP, in order: the first of a family is the primary one.
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether load balancers may send to this node: false while it is being deleted or tainted
    /// `ToBeDeletedByClusterAutoscaler` (KEP-3836).
    pub eligible: bool,
}

impl Node {
    /// Taint of a Node that is about to be taken away.
    pub const DELETION_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
}

impl Default for Node {
    /// A node of which nothing is known: nothing speaks against using it.
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            zone: None,
            pod_cidrs: Vec::new(),
            eligible: true,
        }
    }
}

/// A Pod of our node that asks to be left to tc: annotation `fairlead.dev/socket-lb: "off"`. Others
/// are not told of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pod {
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
}

/// What happened to an object: its new state, or none when it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A Service. Types that program nothing (headless, ExternalName) are sent as gone.
    Service(ObjectName, Option<Service>),
    /// An EndpointSlice.
    Slice(ObjectName, Option<EndpointSlice>),
    /// The Node this agent runs on.
    Node(Option<Node>),
    /// Networks that cluster IPs are given from (`ServiceCIDR` objects), all that there are.
    ServiceNetworks(BTreeSet<IpNet>),
    /// A Pod of our node.
    Pod(ObjectName, Option<Pod>),
}

/// Changes that belong together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub changes: Vec<Change>,
    /// Problems of the source as they stand after this batch, one line each (file, document,
    /// field, what is wrong); replaces the earlier set.
    pub problems: BTreeSet<String>,
    /// The source has never been seen: there are no changes, and what is in force may all be in it.
    pub unseen: bool,
    /// When what led to these changes happened, for Services whose slices changed and say so
    /// (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
    pub triggers: Vec<(ObjectName, SystemTime)>,
}

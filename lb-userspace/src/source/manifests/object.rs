//! Objects as manifests ask for them: defaulted and validated one by one, not yet against each
//! other.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::model::{self, Algorithm, ObjectName, Protocol, TrafficPolicy};

/// IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Pod,
    Node,
    Endpoints,
    EndpointSlice,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::Service,
        Self::Pod,
        Self::Node,
        Self::Endpoints,
        Self::EndpointSlice,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Pod | Self::Node | Self::Endpoints => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }
}

/// Identity of an object. A Node's namespace is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name } = self;
        if name.namespace.is_empty() {
            write!(f, "{} {}", kind.name(), name.name)
        } else {
            write!(f, "{} {name}", kind.name())
        }
    }
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Service(Arc<Service>),
    Pod(Arc<Pod>),
    Node(Arc<Node>),
    Endpoints(Arc<Endpoints>),
    EndpointSlice(Arc<EndpointSlice>),
}

impl Object {
    pub(super) fn key(&self) -> Key {
        let (kind, name) = match self {
            Self::Service(service) => (Kind::Service, service.name.clone()),
            Self::Pod(pod) => (Kind::Pod, pod.name.clone()),
            Self::Node(node) => (Kind::Node, ObjectName::new("", &node.name)),
            Self::Endpoints(endpoints) => (Kind::Endpoints, endpoints.name.clone()),
            Self::EndpointSlice(slice) => (Kind::EndpointSlice, slice.name.clone()),
        };
        Key { kind, name }
    }

    pub(super) fn into_service(self) -> Option<Arc<Service>> {
        if let Self::Service(service) = self {
            Some(service)
        } else {
            None
        }
    }

    pub(super) fn into_pod(self) -> Option<Arc<Pod>> {
        if let Self::Pod(pod) = self {
            Some(pod)
        } else {
            None
        }
    }

    pub(super) fn into_node(self) -> Option<Arc<Node>> {
        if let Self::Node(node) = self {
            Some(node)
        } else {
            None
        }
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: ObjectName,
    pub(super) created: i64,
    /// None for a type that programs nothing: headless or ExternalName.
    pub(super) virtual_ip: Option<VirtualIp>,
    pub(super) ports: Vec<ServicePort>,
    /// Another proxy's (row A1): holds its addresses and ports, is not programmed.
    pub(super) foreign: bool,
    pub(super) external_ips: Vec<IpAddr>,
    pub(super) ingress_ips: Vec<IpAddr>,
    pub(super) internal_policy: TrafficPolicy,
    pub(super) external_policy: TrafficPolicy,
    /// Seconds a client is remembered, if it is.
    pub(super) affinity: Option<u32>,
    /// How new flows are spread, if it is said.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) source_ranges: Vec<IpNet>,
    pub(super) health_check_node_port: Option<u16>,
    pub(super) selector: BTreeMap<String, String>,
    pub(super) publish_not_ready: bool,
}

/// What makes a Service one to program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VirtualIp {
    pub(super) kind: model::ServiceType,
    /// Families of its cluster IPs, in order.
    pub(super) families: Vec<Family>,
    /// Cluster IPs asked for, for the first of these families.
    pub(super) explicit: Vec<IpAddr>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServicePort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) target: Target,
    pub(super) node_port: NodePort,
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Number(u16),
    Name(String),
}

/// `nodePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodePort {
    None,
    Explicit(u16),
    Allocate,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: ObjectName,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) node: Option<String>,
    /// Empty when it can be no endpoint: no address yet, or its containers have ended.
    pub(super) ips: Vec<IpAddr>,
    pub(super) ready: bool,
    pub(super) terminating: bool,
    /// Whether it asks to be left to tc.
    pub(super) left_to_tc: bool,
    pub(super) ports: Vec<NamedPort>,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) facts: model::Node,
}

/// An Endpoints object; its name is that of its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) name: ObjectName,
    /// Whether it is mirrored into slices at all.
    pub(super) mirrored: bool,
    /// Subset and family by family.
    pub(super) slices: Vec<model::EndpointSlice>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointSlice {
    pub(super) name: ObjectName,
    /// None when no proxy heeds it: FQDN, labelled headless, or of no Service.
    pub(super) slice: Option<model::EndpointSlice>,
}

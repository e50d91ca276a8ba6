//! What one Service asks of the maps of one family (SEMANTICS B1 to B4, C14 to C17, table 1b).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use lb_common::{
    Port,
    service::{FrontendKey, frontend},
};

use super::select::{Lists, select};
use crate::{
    maps::Family,
    model::{EndpointSlice, ObjectName, Protocol, Service, ServicePort, TrafficPolicy},
};

/// A port within its Service (A6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// Name; may be empty.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
}

/// A Service port: what a service id stands for, once per family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: PortKey,
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, port } = self;
        write!(f, "Service {service}")?;
        if !port.name.is_empty() {
            write!(f, " port {}", port.name)?;
        }
        write!(f, " ({})", port.protocol)
    }
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan<A> {
    /// When it was created: the older one wins a frontend two Services claim.
    pub created: i64,
    /// Its ports.
    pub ports: BTreeMap<PortKey, PortPlan<A>>,
}

/// What a Service port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan<A> {
    /// Its endpoints.
    pub lists: Lists<A>,
    /// Its frontends.
    pub targets: BTreeMap<FrontendKey<A>, Target>,
}

/// Where a frontend leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// [`frontend`] flags.
    pub flags: u32,
    /// For clients inside the cluster.
    pub inside: List,
    /// For clients outside.
    pub outside: List,
}

/// One of the [`Lists`] of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// No endpoint.
    None,
    /// [`Lists::cluster`].
    Cluster,
    /// [`Lists::local`].
    Local,
}

/// What of our node matters to Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Addresses node ports are served on.
    pub node_port_addresses: BTreeSet<IpAddr>,
}

/// Plans a Service in family `A`; empty if it has no cluster IP of the family (A5).
pub fn plan<'a, A: Family>(
    service: &Service,
    slices: &(impl Iterator<Item = &'a EndpointSlice> + Clone),
    node: &NodeView,
) -> ServicePlan<A> {
    let mut plan = ServicePlan {
        created: service.created,
        ports: BTreeMap::new(),
    };
    let Some(cluster_ip) = of_family::<A>(&service.cluster_ips).next() else {
        return plan;
    };
    for port in &service.ports {
        let key = PortKey {
            name: port.name.clone(),
            protocol: port.protocol,
        };
        let lists = select(slices.clone(), &key, &node.name);
        let targets = targets(service, port, cluster_ip, &lists, node);
        plan.ports.insert(key, PortPlan { lists, targets });
    }
    // The row of the whole address belongs to no port; the first one keeps it.
    if let Some(mut first) = plan.ports.first_entry() {
        let targets = &mut first.get_mut().targets;
        targets.insert(FrontendKey::whole_address(cluster_ip), Target::REJECT);
    }
    plan
}

fn targets<A: Family>(
    service: &Service,
    port: &ServicePort,
    cluster_ip: A,
    lists: &Lists<A>,
    node: &NodeView,
) -> BTreeMap<FrontendKey<A>, Target> {
    let key = |addr, number| FrontendKey::new(addr, Port::new(number), port.protocol.number());
    let external = Target::external(service.external_policy, lists);
    let mut targets = BTreeMap::new();

    if port.node_port != 0 {
        let addresses = of_family::<A>(&node.node_port_addresses);
        let node_port = Target {
            flags: external.flags | frontend::NODE_PORT,
            ..external
        };
        targets.extend(addresses.map(|addr| (key(addr, port.node_port), node_port)));
    }
    let external_ips = service.external_ips.iter().chain(&service.ingress_ips);
    let addresses = of_family::<A>(external_ips);
    targets.extend(addresses.map(|addr| (key(addr, port.port), external)));
    // Last: a Service that also lists its cluster IP as an external one stays internal there.
    let internal = Target::internal(service.internal_policy, lists);
    targets.insert(key(cluster_ip, port.port), internal);
    targets
}

fn of_family<'a, A: Family>(ips: impl IntoIterator<Item = &'a IpAddr>) -> impl Iterator<Item = A> {
    ips.into_iter().filter_map(|ip| A::from_ip(*ip))
}

impl Target {
    const REJECT: Self = Self {
        flags: 0,
        inside: List::None,
        outside: List::None,
    };

    /// Of a cluster IP: one list for all clients (C14); dropped where only other nodes have
    /// endpoints (C15).
    fn internal<A>(policy: TrafficPolicy, lists: &Lists<A>) -> Self {
        let (list, elsewhere) = List::of(policy, lists);
        Self {
            flags: if elsewhere {
                frontend::DROP_INSIDE | frontend::DROP_OUTSIDE
            } else {
                0
            },
            inside: list,
            outside: list,
        }
    }

    /// Of any other address: clients inside reach every endpoint (C17), those outside as the
    /// policy says (C16).
    fn external<A>(policy: TrafficPolicy, lists: &Lists<A>) -> Self {
        let (list, elsewhere) = List::of(policy, lists);
        Self {
            flags: if elsewhere { frontend::DROP_OUTSIDE } else { 0 },
            inside: List::Cluster,
            outside: list,
        }
    }
}

impl List {
    /// The list a policy uses, and whether it is empty though other nodes have endpoints (C6).
    fn of<A>(policy: TrafficPolicy, lists: &Lists<A>) -> (Self, bool) {
        match policy {
            TrafficPolicy::Cluster => (Self::Cluster, false),
            TrafficPolicy::Local => (
                Self::Local,
                lists.local.is_empty() && !lists.cluster.is_empty(),
            ),
        }
    }
}

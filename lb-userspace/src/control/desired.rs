//! What one Service asks of the maps of one family (SEMANTICS B1 to B4, C14 to C17, E8 to E12,
//! table 1b).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use lb_common::{
    Port,
    service::{FrontendKey, frontend},
};

use super::{
    node::NodeView,
    ranges::{Admission, admission},
    select::{List, Lists, select},
    spread::Spread,
};
use crate::{
    maps::{Family, Network},
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

impl PortKey {
    /// The first in order that there can be.
    pub(super) const FIRST: Self = Self {
        name: String::new(),
        protocol: Protocol::Tcp,
    };
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
    /// Its ports, in the order of their keys.
    pub ports: Box<[PortPlan<A>]>,
    /// Whether its load balancer addresses are open only because its source ranges are of the
    /// other family.
    pub unranged: bool,
    /// How many addresses of this node are ready endpoints of it (H4).
    pub local_endpoints: usize,
}

/// What a Service port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan<A> {
    /// Which port it is.
    pub id: Arc<PortId>,
    /// Its endpoints.
    pub lists: Lists<A>,
    /// Its frontends, in the order of their keys.
    pub targets: Box<[(FrontendKey<A>, Target)]>,
    /// Seconds a client is remembered; 0 for no affinity.
    pub affinity: u32,
    /// How new flows are spread over the endpoints of each list.
    pub spread: Spread,
    /// Networks that frontends with [`frontend::SOURCE_RANGES`] are open to, in order.
    pub source_ranges: Box<[Network<A>]>,
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

impl<A: Family> ServicePlan<A> {
    /// The plan of one of its ports.
    pub fn port(&self, key: &PortKey) -> Option<&PortPlan<A>> {
        let at = self.ports.binary_search_by(|plan| plan.id.port.cmp(key));
        at.ok().map(|at| &self.ports[at])
    }
}

impl<A> PortPlan<A> {
    /// Whether the policy of traffic to the cluster IP, and that of traffic to any other address,
    /// finds no endpoint here though another node has one.
    pub fn without_local_endpoint(&self) -> (bool, bool) {
        let dropped = |internal: bool| {
            let mut targets = self.targets.iter().map(|(_, target)| target.flags);
            targets.any(|flags| {
                flags & frontend::DROP_OUTSIDE != 0
                    && (flags & frontend::CLUSTER_IP != 0) == internal
            })
        };
        (dropped(true), dropped(false))
    }
}

/// Plans a Service in family `A`; empty if it has no cluster IP of the family (A5).
pub fn plan<'a, A: Family>(
    service: &Service,
    slices: &(impl Iterator<Item = &'a EndpointSlice> + Clone),
    node: &NodeView,
) -> ServicePlan<A> {
    let Some(cluster_ip) = of_family::<A>(&service.cluster_ips).next() else {
        return ServicePlan {
            created: service.created,
            ports: Box::default(),
            unranged: false,
            local_endpoints: 0,
        };
    };
    let admission = admission::<A>(service, node);
    let spread = Spread::of(service, node);
    let mut ports = BTreeMap::new();
    for port in &service.ports {
        let key = PortKey {
            name: port.name.clone(),
            protocol: port.protocol,
        };
        let lists = select(slices.clone(), &key, node);
        let mut targets = targets(service, port, cluster_ip, &lists, &admission, node);
        for target in targets.values_mut() {
            target.flags |= spread.flag();
        }
        ports.insert(key, (lists, targets));
    }
    // The row of the whole address belongs to no port; the first one keeps it.
    if let Some(mut first) = ports.first_entry() {
        let (_, targets) = first.get_mut();
        targets.insert(FrontendKey::whole_address(cluster_ip), Target::REJECT);
    }
    let ports: Box<[_]> = ports
        .into_iter()
        .map(|(key, (lists, targets))| port_plan(service, key, lists, targets, &admission, spread))
        .collect();
    ServicePlan {
        created: service.created,
        unranged: admission == Admission::Unranged,
        local_endpoints: local_endpoints(&ports),
        ports,
    }
}

fn port_plan<A: Family>(
    service: &Service,
    port: PortKey,
    lists: Lists<A>,
    targets: BTreeMap<FrontendKey<A>, Target>,
    admission: &Admission<A>,
    spread: Spread,
) -> PortPlan<A> {
    let id = PortId {
        service: service.name.clone(),
        port,
    };
    PortPlan {
        id: Arc::new(id),
        lists,
        targets: targets.into_iter().collect(),
        affinity: service.affinity.unwrap_or_default(),
        spread,
        source_ranges: admission.networks().into(),
    }
}

fn targets<A: Family>(
    service: &Service,
    port: &ServicePort,
    cluster_ip: A,
    lists: &Lists<A>,
    admission: &Admission<A>,
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
    // Behind those: a Service that also lists its cluster IP as an external one stays internal there.
    let internal = Target::internal(service.internal_policy, lists);
    targets.insert(key(cluster_ip, port.port), internal);
    // Last: what is a load balancer address too is no way around its ranges.
    for addr in of_family::<A>(&service.ingress_ips) {
        let target = targets.get_mut(&key(addr, port.port));
        if let Some(target) = target.filter(|_| admission.restricts()) {
            target.flags |= frontend::SOURCE_RANGES;
        }
    }
    targets
}

/// Distinct addresses, whatever the port.
fn local_endpoints<A: Family>(ports: &[PortPlan<A>]) -> usize {
    let members = ports.iter().flat_map(|port| port.lists.all());
    let ready = members.filter(|member| member.ready && member.endpoint.local);
    ready
        .map(|member| member.endpoint.addr)
        .collect::<BTreeSet<_>>()
        .len()
}

pub(super) fn of_family<'a, A: Family>(
    ips: impl IntoIterator<Item = &'a IpAddr>,
) -> impl Iterator<Item = A> {
    ips.into_iter().filter_map(|ip| A::from_ip(*ip))
}

impl Target {
    const REJECT: Self = Self {
        flags: frontend::CLUSTER_IP,
        inside: List::None,
        outside: List::None,
    };

    /// Of a cluster IP: one list for all clients (C14); dropped where only other nodes have
    /// endpoints (C15).
    fn internal<A>(policy: TrafficPolicy, lists: &Lists<A>) -> Self {
        let (list, flags) = list_of(policy, lists);
        Self {
            flags: frontend::CLUSTER_IP | flags,
            inside: list,
            outside: list,
        }
    }

    /// Of any other address: clients inside reach every endpoint (C17), those outside as the
    /// policy says (C16).
    fn external<A>(policy: TrafficPolicy, lists: &Lists<A>) -> Self {
        let (list, flags) = list_of(policy, lists);
        Self {
            flags: flags & (frontend::DROP_OUTSIDE | frontend::LOCAL_OUTSIDE),
            inside: List::Cluster,
            outside: list,
        }
    }
}

/// The list a policy uses, and the flags of a frontend that uses it for all its clients: dropped
/// if it is empty though other nodes have endpoints (C6).
fn list_of<A>(policy: TrafficPolicy, lists: &Lists<A>) -> (List, u32) {
    match policy {
        TrafficPolicy::Cluster => (List::Cluster, 0),
        TrafficPolicy::Local => {
            let local = frontend::LOCAL_INSIDE | frontend::LOCAL_OUTSIDE;
            let elsewhere = lists.is_empty(List::Local) && !lists.is_empty(List::Cluster);
            let dropped = frontend::DROP_INSIDE | frontend::DROP_OUTSIDE;
            (List::Local, local | if elsewhere { dropped } else { 0 })
        }
    }
}

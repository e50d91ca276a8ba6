//! Which endpoints a Service port uses on this node (SEMANTICS A8 to A13, C2 to C12).

use std::net::IpAddr;

use lb_common::service::backend;

use super::{desired::PortKey, node::NodeView};
use crate::{
    maps::Family,
    model::{Endpoint as ModelEndpoint, EndpointSlice, Protocol, Weight},
};

/// A backend as the control plane knows it: what makes it the same one over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint<A> {
    /// Address.
    pub addr: A,
    /// Port number.
    pub port: u16,
    /// On this node.
    pub local: bool,
}

/// An endpoint that is used, and its present condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<A> {
    /// The endpoint.
    pub endpoint: Endpoint<A>,
    /// Takes new connections.
    pub ready: bool,
    /// On its way out.
    pub terminating: bool,
    /// How many new flows it gets, beside the others of a list.
    pub weight: Weight,
    /// The lists it is in, as [`backend`] flags; may be none.
    pub lists: u16,
    /// Whether flows that are led to it go on though it is in no list: over UDP they do for as long
    /// as it serves (G2). Over TCP what is established goes on anyway.
    pub keeps_flows: bool,
}

/// One of the endpoint lists of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// No endpoint.
    None,
    /// For policy `Cluster`. Empty only if no node has a usable endpoint (C6).
    Cluster,
    /// For policy `Local`.
    Local,
}

/// The endpoints a Service port uses, ordered by address and port: each in one list or both (C7),
/// or only for the flows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists<A>(Box<[Member<A>]>);

impl<A> Lists<A> {
    /// All endpoints in use.
    pub fn all(&self) -> &[Member<A>] {
        &self.0
    }

    /// Whether a list has no endpoint.
    pub fn is_empty(&self, list: List) -> bool {
        let mut members = self.0.iter();
        !members.any(|member| member.lists & list.flag() != 0)
    }
}

impl List {
    /// The flag of [`backend`]s that are in the list.
    pub const fn flag(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Cluster => backend::IN_CLUSTER,
            Self::Local => backend::IN_LOCAL,
        }
    }
}

/// Selects the endpoints of one port from a Service's slices.
pub(super) fn select<'a, A: Family>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    port: &PortKey,
    node: &NodeView,
) -> Lists<A> {
    let candidates = candidates::<A>(slices, port, node);
    let any_ready = candidates.iter().any(Candidate::is_ready);
    let any_local_ready = candidates.iter().any(|it| it.local && it.is_ready());
    let nearby = Nearby::of(&candidates, node);
    let members = candidates.iter().filter_map(|candidate| {
        let in_cluster = candidate.is_usable(any_ready) && nearby.allows(candidate, node);
        let in_local = candidate.local && candidate.is_usable(any_local_ready);
        let flag = |is_in, list: List| if is_in { list.flag() } else { 0 };
        let lists = flag(in_cluster, List::Cluster) | flag(in_local, List::Local);
        let member = Member {
            endpoint: Endpoint {
                addr: A::from_ip(candidate.addr)?,
                port: candidate.port,
                local: candidate.local,
            },
            ready: candidate.is_ready(),
            terminating: candidate.endpoint.terminating,
            weight: candidate.endpoint.weight,
            lists,
            keeps_flows: port.protocol == Protocol::Udp && candidate.endpoint.serving,
        };
        (lists != 0 || member.keeps_flows).then_some(member)
    });
    Lists(members.collect())
}

/// An endpoint that serves the port.
struct Candidate<'a> {
    addr: IpAddr,
    port: u16,
    local: bool,
    endpoint: &'a ModelEndpoint,
}

impl Candidate<'_> {
    const fn is_ready(&self) -> bool {
        self.endpoint.ready
    }

    /// Ready ones are used; without any, those that still serve while they terminate (C4, C5).
    const fn is_usable(&self, any_ready: bool) -> bool {
        if any_ready {
            self.endpoint.ready
        } else {
            self.endpoint.serving && self.endpoint.terminating
        }
    }
}

/// All endpoints of the family that serve the port, once each, ordered by address and port: of two
/// with the same the later one counts, unless it is terminating (A12).
fn candidates<'a, A: Family>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    key: &PortKey,
    node: &NodeView,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for slice in slices {
        let of_family = |endpoint: &&ModelEndpoint| endpoint.addr.is_ipv6() == A::IS_V6;
        let numbers = slice.ports.iter().filter(|port| {
            port.name == key.name && port.protocol == key.protocol && port.port != 0
        });
        for number in numbers.map(|port| port.port) {
            let endpoints = slice.endpoints.iter().filter(of_family);
            candidates.extend(endpoints.map(|endpoint| Candidate {
                addr: endpoint.addr,
                port: number,
                local: endpoint.node.as_deref() == Some(&node.name),
                endpoint,
            }));
        }
    }
    candidates.sort_by_key(|candidate| (candidate.addr, candidate.port));
    candidates.dedup_by(|later, kept| {
        let same = (later.addr, later.port) == (kept.addr, kept.port);
        if same && !later.endpoint.terminating {
            (kept.local, kept.endpoint) = (later.local, later.endpoint);
        }
        same
    });
    candidates
}

/// How far topology lets traffic go. Hints count only if every ready endpoint has some, and one of
/// them is for us (C10 to C12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nearby {
    /// To endpoints for this node.
    Node,
    /// To endpoints for this node's zone.
    Zone,
    /// Anywhere.
    All,
}

impl Nearby {
    fn of(candidates: &[Candidate<'_>], node: &NodeView) -> Self {
        let levels = [Self::Node, Self::Zone];
        let fits = |level: &Self| {
            let mut ready = candidates.iter().filter(|it| it.is_ready());
            let hinted = ready.clone().all(|it| level.has_hint(it));
            hinted && ready.any(|it| level.allows(it, node))
        };
        levels.into_iter().find(fits).unwrap_or(Self::All)
    }

    const fn has_hint(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::Node => !candidate.endpoint.for_nodes.is_empty(),
            Self::Zone => !candidate.endpoint.for_zones.is_empty(),
            Self::All => true,
        }
    }

    fn allows(self, candidate: &Candidate<'_>, node: &NodeView) -> bool {
        let NodeView { name, zone, .. } = node;
        match self {
            Self::Node => candidate.endpoint.for_nodes.contains(name),
            Self::Zone => zone
                .as_ref()
                .is_some_and(|zone| candidate.endpoint.for_zones.contains(zone)),
            Self::All => true,
        }
    }
}

//! Which endpoints a Service port uses on this node (SEMANTICS A8 to A13, C2 to C8).

use std::{collections::BTreeMap, net::IpAddr};

use super::desired::PortKey;
use crate::{
    maps::Family,
    model::{Endpoint as ModelEndpoint, EndpointSlice},
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

/// An endpoint in a list, and its present condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<A> {
    /// The endpoint.
    pub endpoint: Endpoint<A>,
    /// On its way out.
    pub terminating: bool,
}

/// The endpoint lists of a Service port, each ordered by address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists<A> {
    /// For policy `Cluster`. Empty only if no node has a usable endpoint.
    pub cluster: Vec<Member<A>>,
    /// For policy `Local`.
    pub local: Vec<Member<A>>,
}

impl<A> Default for Lists<A> {
    fn default() -> Self {
        Self {
            cluster: Vec::new(),
            local: Vec::new(),
        }
    }
}

/// Selects the endpoints of one port from a Service's slices.
pub(super) fn select<'a, A: Family>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    port: &PortKey,
    node: &str,
) -> Lists<A> {
    let endpoints = endpoints::<A>(slices, port);
    let is_local = |endpoint: &ModelEndpoint| endpoint.node.as_deref() == Some(node);
    let list = |only_local: bool| {
        let eligible = |endpoint: &ModelEndpoint| !only_local || is_local(endpoint);
        let usable = usable(endpoints.values().copied().filter(|e| eligible(e)));
        let chosen = endpoints
            .iter()
            .filter(|(_, endpoint)| eligible(endpoint) && usable(endpoint));
        let members = chosen.filter_map(|((ip, port), endpoint)| {
            Some(Member {
                endpoint: Endpoint {
                    addr: A::from_ip(*ip)?,
                    port: *port,
                    local: is_local(endpoint),
                },
                terminating: endpoint.terminating,
            })
        });
        members.collect()
    };
    Lists {
        cluster: list(false),
        local: list(true),
    }
}

type Endpoints<'a> = BTreeMap<(IpAddr, u16), &'a ModelEndpoint>;

/// All endpoints of the family that serve the port, once each: of two with the same address and port
/// the later one counts, unless it is terminating (A12).
fn endpoints<'a, A: Family>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    key: &PortKey,
) -> Endpoints<'a> {
    let mut endpoints = Endpoints::new();
    for slice in slices {
        let numbers = slice.ports.iter().filter(|port| {
            port.name == key.name && port.protocol == key.protocol && port.port != 0
        });
        for number in numbers.map(|port| port.port) {
            let of_family = |endpoint: &&ModelEndpoint| A::from_ip(endpoint.addr).is_some();
            for endpoint in slice.endpoints.iter().filter(of_family) {
                let same = endpoints.entry((endpoint.addr, number)).or_insert(endpoint);
                if !endpoint.terminating {
                    *same = endpoint;
                }
            }
        }
    }
    endpoints
}

/// Which of them are used: the ready ones; without any, those that still serve while they
/// terminate (C4, C5).
fn usable<'a>(
    mut eligible: impl Iterator<Item = &'a ModelEndpoint>,
) -> impl Fn(&ModelEndpoint) -> bool {
    let any_ready = eligible.any(|endpoint| endpoint.ready);
    move |endpoint| {
        if any_ready {
            endpoint.ready
        } else {
            endpoint.serving && endpoint.terminating
        }
    }
}

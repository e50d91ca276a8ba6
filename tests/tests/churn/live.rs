//! Which backends live: those that frontends lead to, and those that only flows go on with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::service::backend;
use lb_userspace::{
    maps::{Dump, Family},
    model::Protocol,
};

use crate::{
    expected::{Frontends, PortName, endpoints, port_name, socket, told},
    world::{NODE, World},
};

/// An endpoint of a port, and whether it is local.
type Endpoint = (PortName, SocketAddr, bool);
/// The backends that live: index and generation of each.
pub(crate) type Live = BTreeMap<Endpoint, (u32, u32)>;

/// The endpoints that keep the flows they have, for those are UDP, whoever is led there anew.
pub(crate) fn keeping(world: &World) -> BTreeSet<Endpoint> {
    let mut keeping = BTreeSet::new();
    for service in world.services.values() {
        let ports = service.ports.iter();
        for port in ports.filter(|port| port.protocol == Protocol::Udp) {
            let all = [false, true].into_iter();
            let all = all.flat_map(|v6| endpoints(world, service, port, v6));
            let serving = all.filter(|(_, endpoint)| endpoint.serving);
            keeping.extend(serving.map(|(socket, endpoint)| {
                let local = endpoint.node.as_deref() == Some(NODE);
                (port_name(service, port), socket, local)
            }));
        }
    }
    keeping
}

/// The endpoints that frontends lead to.
pub(crate) fn listed(frontends: &Frontends) -> BTreeSet<Endpoint> {
    let lists = frontends.values().flat_map(|leads| {
        let backends = leads.inside.iter().chain(&leads.outside);
        backends.map(|(socket, local, _)| (leads.port.clone(), *socket, *local))
    });
    lists.collect()
}

/// The ports that have a frontend of a family.
pub(crate) fn served(frontends: &Frontends) -> BTreeSet<(&PortName, bool)> {
    let frontends = frontends.iter();
    frontends
        .map(|((ip, ..), leads)| (&leads.port, ip.is_ipv6()))
        .collect()
}

/// The backends of a family that live, whether a frontend leads there or not.
pub(crate) fn live<A: Family>(dump: &Dump) -> Live {
    let mut live = Live::new();
    for (index, found) in &A::of(dump).backends {
        if found.flags & backend::ALIVE != 0 {
            let port = told(&dump.names[&found.service]);
            let key = (port, socket(found), found.flags & backend::LOCAL != 0);
            let earlier = live.insert(key, (*index, found.generation));
            assert_eq!(earlier, None, "{found:?} lives twice");
        }
    }
    live
}

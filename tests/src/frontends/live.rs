//! Which backends live: those that frontends lead to, and those that only flows go on with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context, Result, ensure};
use lb_common::{V4, V6, service::backend};
use lb_userspace::{
    maps::{Dump, Family},
    model::Protocol,
};

use super::{
    Frontends, Here, Objects, PortName,
    expected::{by_service, endpoints, of, port_name},
    programmed::{socket, told},
};

/// An endpoint of a port, and whether it is local.
type Endpoint = (PortName, SocketAddr, bool);
/// The backends that live: index and generation of each.
pub type Live = BTreeMap<Endpoint, (u32, u32)>;

/// The endpoints that keep the flows they have, for those are UDP, whoever is led there anew.
pub fn keeping(objects: &Objects, here: &Here) -> BTreeSet<Endpoint> {
    let slices = by_service(objects);
    let mut keeping = BTreeSet::new();
    for service in objects.services.values() {
        let ports = service.ports.iter();
        for port in ports.filter(|port| port.protocol == Protocol::Udp) {
            let all = [false, true].into_iter();
            let all = all.flat_map(|v6| endpoints(of(&slices, service), port, v6));
            let serving = all.filter(|(_, endpoint)| endpoint.serving);
            keeping.extend(serving.map(|(socket, endpoint)| {
                let local = endpoint.node.as_deref() == Some(&*here.name);
                (port_name(service, port), socket, local)
            }));
        }
    }
    keeping
}

/// The endpoints that frontends lead to.
pub fn listed(frontends: &Frontends) -> BTreeSet<Endpoint> {
    let lists = frontends.values().flat_map(|leads| {
        let backends = leads.inside.iter().chain(&leads.outside);
        backends.map(|(socket, local, ..)| (leads.port.clone(), *socket, *local))
    });
    lists.collect()
}

/// The ports that have a frontend of a family.
pub fn served(frontends: &Frontends) -> BTreeSet<(&PortName, bool)> {
    let frontends = frontends.iter();
    frontends
        .map(|((ip, ..), leads)| (&leads.port, ip.is_ipv6()))
        .collect()
}

/// The backends that live, whether a frontend leads there or not.
pub fn live(dump: &Dump) -> Result<Live> {
    let mut live = Live::new();
    take_in::<V4>(dump, &mut live)?;
    take_in::<V6>(dump, &mut live)?;
    Ok(live)
}

fn take_in<A: Family>(dump: &Dump, live: &mut Live) -> Result<()> {
    for (index, found) in &A::of(dump).backends {
        if found.flags & backend::ALIVE != 0 {
            let name = dump.names.get(&found.service);
            let port = told(name.with_context(|| format!("nobody's: {found:?}"))?);
            let key = (port, socket(found), found.flags & backend::LOCAL != 0);
            let earlier = live.insert(key, (*index, found.generation));
            ensure!(earlier.is_none(), "lives twice: {found:?}");
        }
    }
    Ok(())
}

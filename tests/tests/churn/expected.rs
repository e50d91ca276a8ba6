//! What the maps should say, worked out from all objects at once by the shortest route, and what
//! they do say, followed as a packet would.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_common::{
    V4, V6,
    service::{Backend, Frontend, ServiceName, Slots, backend, frontend, text},
};
use lb_userspace::{
    control::{ByFamily, HealthCheck, NodePortAddresses},
    maps::{Dump, Family},
    model::{Endpoint, ObjectName, Service, ServicePort, TrafficPolicy},
};

use crate::world::{NODE, World};

/// Address, port and protocol; zeros after the address for the row of a whole address.
type Key = (IpAddr, u16, u8);
/// Namespace, Service, port, protocol.
pub(crate) type PortName = (String, String, String, u8);
/// Backends: address, local, terminating.
type Backends = BTreeSet<(SocketAddr, bool, bool)>;

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a flag of the frontend each, compared one by one"
)]
pub(crate) struct Leads {
    pub(crate) port: PortName,
    cluster_ip: bool,
    drop_inside: bool,
    drop_outside: bool,
    local_inside: bool,
    local_outside: bool,
    /// Networks it is open to; none if it is to all.
    open_to: Option<BTreeSet<IpNet>>,
    /// Seconds a client is remembered.
    affinity: u32,
    pub(crate) inside: Backends,
    pub(crate) outside: Backends,
}

/// All frontends.
pub(crate) type Frontends = BTreeMap<Key, Leads>;

/// What the objects ask for.
pub(crate) fn expected(world: &World, setting: &NodePortAddresses) -> Frontends {
    let mut services: Vec<_> = world.services.values().collect();
    services.sort_by_key(|service| (service.created, &service.name));
    let mut frontends = Frontends::new();
    for service in services {
        for v6 in [false, true] {
            let mut ports: Vec<_> = service.ports.iter().collect();
            ports.sort_by_key(|port| (&port.name, port.protocol));
            let cluster_ip = service.cluster_ips.iter().find(|ip| ip.is_ipv6() == v6);
            for (number, port) in ports.into_iter().enumerate() {
                let Some(cluster_ip) = cluster_ip else {
                    continue;
                };
                if number == 0 {
                    let mut row = leads(service, port, &[], &[], false);
                    row.cluster_ip = true;
                    frontends.entry((*cluster_ip, 0, 0)).or_insert(row);
                }
                for (key, row) in rows(world, setting, service, port, *cluster_ip) {
                    frontends.entry(key).or_insert(row);
                }
            }
        }
    }
    frontends
}

fn rows(
    world: &World,
    setting: &NodePortAddresses,
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
) -> Vec<(Key, Leads)> {
    let all = endpoints(world, service, port, cluster_ip.is_ipv6());
    let is_local = |endpoint: &&(SocketAddr, Endpoint)| endpoint.1.node.as_deref() == Some(NODE);
    let zone = world.node.as_ref().and_then(|node| node.zone.as_deref());
    let cluster = nearby(chosen(all.clone()), zone);
    let local = chosen(all.iter().filter(is_local).cloned().collect());
    let pick = |policy| match policy {
        TrafficPolicy::Cluster => &cluster,
        TrafficPolicy::Local => &local,
    };
    let (internal, external) = (pick(service.internal_policy), pick(service.external_policy));
    let elsewhere = !cluster.is_empty();

    let proto = port.protocol.number();
    let mut inner = leads(service, port, internal, internal, elsewhere);
    inner.drop_inside = internal.is_empty() && elsewhere;
    inner.cluster_ip = true;
    inner.local_inside = service.internal_policy == TrafficPolicy::Local;
    inner.local_outside = inner.local_inside;
    let mut outer = leads(service, port, &cluster, external, elsewhere);
    outer.local_outside = service.external_policy == TrafficPolicy::Local;
    let mut rows = vec![((cluster_ip, port.port, proto), inner)];
    for ip in service.external_ips.iter().chain(&service.ingress_ips) {
        rows.push(((*ip, port.port, proto), outer.clone()));
    }
    let node = world.node.clone().unwrap_or_default().addresses;
    for ip in setting.choose(&node, &world.own) {
        if port.node_port != 0 {
            rows.push(((ip, port.node_port, proto), outer.clone()));
        }
    }
    rows.retain(|((ip, ..), _)| ip.is_ipv6() == cluster_ip.is_ipv6());
    for ((ip, number, _), row) in &mut rows {
        if service.ingress_ips.contains(ip) && *number == port.port {
            row.open_to = open_to(world, service, ip.is_ipv6());
        }
    }
    rows
}

/// Networks whose clients may use the load balancer addresses of a family; none if all may.
fn open_to(world: &World, service: &Service, v6: bool) -> Option<BTreeSet<IpNet>> {
    let family = |ip: &&IpAddr| ip.is_ipv6() == v6;
    let ranges = service.source_ranges.iter();
    let mut ranges: BTreeSet<IpNet> = ranges
        .filter(|range| family(&&range.addr()))
        .copied()
        .collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    let node = world.node.clone().unwrap_or_default().addresses;
    let mut known = node.iter().chain(&world.own).filter(family);
    let primary = known.find(|ip| !ip.is_loopback());
    if primary.is_some_and(|ip| ranges.iter().any(|range| range.contains(ip))) {
        let own = service.ingress_ips.iter().filter(family);
        ranges.extend(own.map(|ip| IpNet::from(*ip)));
    }
    Some(ranges)
}

fn leads(
    service: &Service,
    port: &ServicePort,
    inside: &[(SocketAddr, Endpoint)],
    outside: &[(SocketAddr, Endpoint)],
    elsewhere: bool,
) -> Leads {
    let backends = |list: &[(SocketAddr, Endpoint)]| {
        let local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(NODE);
        list.iter()
            .map(|(socket, endpoint)| (*socket, local(endpoint), endpoint.terminating))
            .collect()
    };
    Leads {
        port: port_name(service, port),
        cluster_ip: false,
        drop_inside: false,
        drop_outside: outside.is_empty() && elsewhere,
        local_inside: false,
        local_outside: false,
        open_to: None,
        affinity: service.affinity.unwrap_or(0),
        inside: backends(inside),
        outside: backends(outside),
    }
}

pub(crate) fn port_name(service: &Service, port: &ServicePort) -> PortName {
    let ObjectName { namespace, name } = service.name.clone();
    (namespace, name, port.name.clone(), port.protocol.number())
}

pub(crate) fn endpoints(
    world: &World,
    service: &Service,
    port: &ServicePort,
    v6: bool,
) -> Vec<(SocketAddr, Endpoint)> {
    let mut found: Vec<(SocketAddr, Endpoint)> = Vec::new();
    for slice in world.slices.values() {
        if slice.name.namespace != service.name.namespace || slice.service != service.name.name {
            continue;
        }
        for slice_port in &slice.ports {
            if (&slice_port.name, slice_port.protocol) != (&port.name, port.protocol) {
                continue;
            }
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.addr.is_ipv6() == v6)
            {
                let socket = SocketAddr::new(endpoint.addr, slice_port.port);
                let old = found.iter().position(|(old, _)| *old == socket);
                match old {
                    Some(_) if endpoint.terminating => {}
                    Some(old) => found[old] = (socket, endpoint.clone()),
                    None => found.push((socket, endpoint.clone())),
                }
            }
        }
    }
    found
}

fn chosen(all: Vec<(SocketAddr, Endpoint)>) -> Vec<(SocketAddr, Endpoint)> {
    let (ready, unready): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, e)| e.ready);
    if !ready.is_empty() {
        return ready;
    }
    unready
        .into_iter()
        .filter(|(_, e)| e.serving && e.terminating)
        .collect()
}

/// Those of the chosen ones that topology leaves.
fn nearby(chosen: Vec<(SocketAddr, Endpoint)>, zone: Option<&str>) -> Vec<(SocketAddr, Endpoint)> {
    type Hints = fn(&Endpoint) -> &Vec<String>;
    let levels: [(Hints, Option<&str>); 2] = [
        (|endpoint| &endpoint.for_nodes, Some(NODE)),
        (|endpoint| &endpoint.for_zones, zone),
    ];
    let ready = chosen.iter().any(|(_, endpoint)| endpoint.ready);
    for (hints, here) in levels.into_iter().filter(|_| ready) {
        let is_here = |hint: &String| Some(hint.as_str()) == here;
        let near = chosen.iter().filter(|(_, e)| hints(e).iter().any(is_here));
        let near: Vec<_> = near.cloned().collect();
        if !near.is_empty() && chosen.iter().all(|(_, e)| !hints(e).is_empty()) {
            return near;
        }
    }
    chosen
}

/// What the maps say. Everything in them must be of use to some frontend, or to flows.
pub(crate) fn actual(dump: &Dump) -> Frontends {
    let mut frontends = Frontends::new();
    let mut names = BTreeSet::new();
    follow::<V4>(dump, &mut frontends, &mut names);
    follow::<V6>(dump, &mut frontends, &mut names);
    assert!(
        names.iter().eq(dump.names.keys()),
        "each name is used: {names:?}"
    );
    frontends
}

fn follow<A: Family>(dump: &Dump, frontends: &mut Frontends, names: &mut BTreeSet<u32>) {
    let maps = A::of(dump);
    for (key, value) in &maps.frontends {
        let name = &dump.names[&value.service];
        assert_eq!(name.family, A::NUMBER);
        names.insert(value.service);
        let Frontend {
            service,
            flags,
            inside,
            outside,
            affinity,
        } = *value;
        let has = |flag| flags & flag != 0;
        let ranges = maps.source_ranges.iter().filter(|(id, _)| *id == service);
        let ranges = ranges.map(|(_, network)| network.to_string().parse().unwrap());
        let backends = |slots: Slots| -> Backends {
            let range = slots.offset as usize..(slots.offset + slots.count) as usize;
            let indices = &maps.slots[range];
            let found: Backends = indices
                .iter()
                .map(|index| resolve(service, &maps.backends[index]))
                .collect();
            assert_eq!(
                found.len(),
                indices.len(),
                "each backend stands in one slot"
            );
            found
        };
        let leads = Leads {
            port: told(name),
            cluster_ip: has(frontend::CLUSTER_IP),
            drop_inside: has(frontend::DROP_INSIDE),
            drop_outside: has(frontend::DROP_OUTSIDE),
            local_inside: has(frontend::LOCAL_INSIDE),
            local_outside: has(frontend::LOCAL_OUTSIDE),
            open_to: has(frontend::SOURCE_RANGES).then(|| ranges.collect()),
            affinity: affinity.timeout(),
            inside: backends(inside),
            outside: backends(outside),
        };
        frontends.insert((key.addr.to_ip(), key.port.number(), key.proto), leads);
    }
    let restricted = maps.frontends.values();
    let restricted = restricted.filter(|value| value.flags & frontend::SOURCE_RANGES != 0);
    let restricted: BTreeSet<u32> = restricted.map(|value| value.service).collect();
    let ranged: BTreeSet<u32> = maps.source_ranges.iter().map(|(id, _)| *id).collect();
    assert_eq!(ranged, restricted, "ranges stand where they are asked for");
}

pub(crate) fn told(name: &ServiceName) -> PortName {
    let ServiceName {
        namespace,
        name,
        port,
        proto,
        ..
    } = name;
    let [namespace, name, port] = [namespace, name, port].map(|part| text(part).to_owned());
    (namespace, name, port, *proto)
}

fn resolve<A: Family>(service: u32, found: &Backend<A>) -> (SocketAddr, bool, bool) {
    assert_ne!(found.flags & backend::ALIVE, 0, "{found:?}");
    assert_eq!(found.service, service, "{found:?}");
    let has = |flag| found.flags & flag != 0;
    (
        socket(found),
        has(backend::LOCAL),
        has(backend::TERMINATING),
    )
}

pub(crate) fn socket<A: Family>(found: &Backend<A>) -> SocketAddr {
    SocketAddr::new(found.addr.to_ip(), found.port.number())
}

/// The session affinity of each service id, the same in all its frontends: timeout and term.
pub(crate) fn affinities<A: Family>(dump: &Dump) -> BTreeMap<u32, (u32, u32)> {
    let mut affinities = BTreeMap::new();
    for value in A::of(dump).frontends.values() {
        let told = (value.affinity.timeout(), value.affinity.term());
        let known = affinities.entry(value.service).or_insert(told);
        assert_eq!(*known, told, "affinity of service {}", value.service);
    }
    affinities
}

/// What load balancers are told: port, and ready endpoints of this node by family.
pub(crate) fn health_checks(world: &World) -> BTreeMap<ObjectName, HealthCheck> {
    let services = world.services.values();
    let asked = services.filter(|service| service.health_check_node_port != 0);
    let check = |service: &Service| HealthCheck {
        port: service.health_check_node_port,
        local_endpoints: ByFamily {
            v4: ready_here(world, service, false),
            v6: ready_here(world, service, true),
        },
    };
    asked
        .map(|service| (service.name.clone(), check(service)))
        .collect()
}

fn ready_here(world: &World, service: &Service, v6: bool) -> Option<usize> {
    let mut cluster_ips = service.cluster_ips.iter();
    cluster_ips.find(|ip| ip.is_ipv6() == v6)?;
    let ports = service.ports.iter();
    let all = ports.flat_map(|port| endpoints(world, service, port, v6));
    let here = all.filter(|(_, e)| e.ready && e.node.as_deref() == Some(NODE));
    let addresses: BTreeSet<IpAddr> = here.map(|(socket, _)| socket.ip()).collect();
    Some(addresses.len())
}

//! What the objects ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_userspace::{
    control::{ByFamily, HealthCheck},
    model::{Algorithm, Endpoint, EndpointSlice, ObjectName, Service, ServicePort, TrafficPolicy},
};

use super::{Frontends, Here, Key, Leads, Objects, PortName, common_divisor};

/// The slices of each Service, by its namespace and name.
pub(super) type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// What the objects ask for on a node.
pub fn expected(objects: &Objects, here: &Here) -> Frontends {
    let slices = by_service(objects);
    let mut services: Vec<_> = objects.services.values().collect();
    services.sort_by_key(|service| (service.created, &service.name));
    let mut frontends = Frontends::new();
    for service in services {
        for (key, row) in wishes(of(&slices, service), here, service) {
            frontends.entry(key).or_insert(row);
        }
    }
    frontends
}

/// The frontends a Service asks for on a node, whether or not an older one has them.
pub fn claims(service: &Service, here: &Here) -> BTreeSet<Key> {
    let wishes = wishes(&[], here, service);
    wishes.into_iter().map(|(key, _)| key).collect()
}

pub(super) fn by_service(objects: &Objects) -> Slices<'_> {
    let mut slices = Slices::new();
    for slice in objects.slices.values() {
        let owner = (&*slice.name.namespace, &*slice.service);
        slices.entry(owner).or_default().push(slice);
    }
    slices
}

pub(super) fn of<'s>(slices: &'s Slices<'s>, service: &'s Service) -> &'s [&'s EndpointSlice] {
    let owner = (&*service.name.namespace, &*service.name.name);
    slices.get(&owner).map_or(&[], |slices| slices)
}

fn wishes(slices: &[&EndpointSlice], here: &Here, service: &Service) -> Vec<(Key, Leads)> {
    let mut ports: Vec<_> = service.ports.iter().collect();
    ports.sort_by_key(|port| (&port.name, port.protocol));
    let mut wishes = Vec::new();
    for v6 in [false, true] {
        let cluster_ip = service.cluster_ips.iter().find(|ip| ip.is_ipv6() == v6);
        let Some(cluster_ip) = cluster_ip else {
            continue;
        };
        if let Some(first) = ports.first() {
            let mut row = leads(here, service, first, &[], &[], false);
            row.cluster_ip = true;
            row.hashed = false;
            wishes.push(((*cluster_ip, 0, 0), row));
        }
        for port in &ports {
            wishes.extend(rows(slices, here, service, port, *cluster_ip));
        }
    }
    wishes
}

fn rows(
    slices: &[&EndpointSlice],
    here: &Here,
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
) -> Vec<(Key, Leads)> {
    let all = endpoints(slices, port, cluster_ip.is_ipv6());
    let is_local =
        |endpoint: &&(SocketAddr, Endpoint)| endpoint.1.node.as_deref() == Some(&*here.name);
    let cluster = nearby(chosen(all.clone()), here);
    let local = chosen(all.iter().filter(is_local).cloned().collect());
    let pick = |policy| match policy {
        TrafficPolicy::Cluster => &cluster,
        TrafficPolicy::Local => &local,
    };
    let (internal, external) = (pick(service.internal_policy), pick(service.external_policy));
    let elsewhere = !cluster.is_empty();

    let proto = port.protocol.number();
    let mut inner = leads(here, service, port, internal, internal, elsewhere);
    inner.drop_inside = internal.is_empty() && elsewhere;
    inner.cluster_ip = true;
    inner.local_inside = service.internal_policy == TrafficPolicy::Local;
    inner.local_outside = inner.local_inside;
    let mut outer = leads(here, service, port, &cluster, external, elsewhere);
    outer.local_outside = service.external_policy == TrafficPolicy::Local;
    let mut rows = vec![((cluster_ip, port.port, proto), inner)];
    for ip in service.external_ips.iter().chain(&service.ingress_ips) {
        rows.push(((*ip, port.port, proto), outer.clone()));
    }
    for ip in here.node_ports.choose(here.addresses(), &here.own) {
        if port.node_port != 0 {
            rows.push(((ip, port.node_port, proto), outer.clone()));
        }
    }
    rows.retain(|((ip, ..), _)| ip.is_ipv6() == cluster_ip.is_ipv6());
    for ((ip, number, _), row) in &mut rows {
        if service.ingress_ips.contains(ip) && *number == port.port {
            row.open_to = open_to(here, service, ip.is_ipv6());
        }
    }
    rows
}

/// Networks whose clients may use the load balancer addresses of a family; none if all may.
fn open_to(here: &Here, service: &Service, v6: bool) -> Option<BTreeSet<IpNet>> {
    let family = |ip: &&IpAddr| ip.is_ipv6() == v6;
    let ranges = service.source_ranges.iter();
    let mut ranges: BTreeSet<IpNet> = ranges
        .filter(|range| family(&&range.addr()))
        .copied()
        .collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    let mut known = here.addresses().iter().chain(&here.own).filter(family);
    let primary = known.find(|ip| !ip.is_loopback());
    if primary.is_some_and(|ip| ranges.iter().any(|range| range.contains(ip))) {
        let own = service.ingress_ips.iter().filter(family);
        ranges.extend(own.map(|ip| IpNet::from(*ip)));
    }
    Some(ranges)
}

fn leads(
    here: &Here,
    service: &Service,
    port: &ServicePort,
    inside: &[(SocketAddr, Endpoint)],
    outside: &[(SocketAddr, Endpoint)],
    elsewhere: bool,
) -> Leads {
    let hashed = service.algorithm == Some(Algorithm::Maglev);
    let backends = |list: &[(SocketAddr, Endpoint)]| {
        let local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(&*here.name);
        let weight = |endpoint: &Endpoint| u32::from(endpoint.weight.number());
        let unit = common_divisor(list.iter().map(|(_, endpoint)| weight(endpoint)));
        let share = |endpoint| if hashed { 0 } else { weight(endpoint) / unit };
        list.iter()
            .map(|(socket, e)| (*socket, local(e), e.terminating, share(e)))
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
        hashed,
        affinity: service.affinity.unwrap_or(0),
        inside: backends(inside),
        outside: backends(outside),
    }
}

pub(super) fn port_name(service: &Service, port: &ServicePort) -> PortName {
    let ObjectName { namespace, name } = service.name.clone();
    (namespace, name, port.name.clone(), port.protocol.number())
}

/// The endpoints of a Service port in a family, each once.
pub(super) fn endpoints(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    v6: bool,
) -> Vec<(SocketAddr, Endpoint)> {
    let mut found: Vec<(SocketAddr, Endpoint)> = Vec::new();
    for slice in slices {
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
fn nearby(chosen: Vec<(SocketAddr, Endpoint)>, here: &Here) -> Vec<(SocketAddr, Endpoint)> {
    type Hints = fn(&Endpoint) -> &Vec<String>;
    let zone = here.node.as_ref().and_then(|node| node.zone.as_deref());
    let levels: [(Hints, Option<&str>); 2] = [
        (|endpoint| &endpoint.for_nodes, Some(&here.name)),
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

/// What load balancers are told: port, and ready endpoints of this node by family.
pub fn health_checks(objects: &Objects, here: &Here) -> BTreeMap<ObjectName, HealthCheck> {
    let slices = by_service(objects);
    let services = objects.services.values();
    let asked = services.filter(|service| service.health_check_node_port != 0);
    let check = |service: &Service| HealthCheck {
        port: service.health_check_node_port,
        local_endpoints: ByFamily {
            v4: ready_here(of(&slices, service), here, service, false),
            v6: ready_here(of(&slices, service), here, service, true),
        },
    };
    asked
        .map(|service| (service.name.clone(), check(service)))
        .collect()
}

fn ready_here(
    slices: &[&EndpointSlice],
    here: &Here,
    service: &Service,
    v6: bool,
) -> Option<usize> {
    let mut cluster_ips = service.cluster_ips.iter();
    cluster_ips.find(|ip| ip.is_ipv6() == v6)?;
    let ports = service.ports.iter();
    let all = ports.flat_map(|port| endpoints(slices, port, v6));
    let ready = all.filter(|(_, e)| e.ready && e.node.as_deref() == Some(&*here.name));
    let addresses: BTreeSet<IpAddr> = ready.map(|(socket, _)| socket.ip()).collect();
    Some(addresses.len())
}

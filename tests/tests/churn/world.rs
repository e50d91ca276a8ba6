//! Objects that change at random, drawn from so few names, addresses and ports that they often
//! collide.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_userspace::{
    control::NodePortAddresses,
    model::{
        Algorithm, Batch, Change, Endpoint, EndpointPort, EndpointSlice, Node, ObjectName,
        Protocol, Service, ServicePort, ServiceType, TrafficPolicy, Weight,
    },
};
use tests::{
    frontends::{Here, Objects},
    random::Random,
};

pub(crate) const NODE: &str = "here";

/// The objects as they stand, and the node.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) objects: Objects,
    pub(crate) here: Here,
}

/// A Service name.
fn service_name(random: &mut Random) -> ObjectName {
    let names = ["a", "b", "c", "d", "e", "f"];
    ObjectName::new(random.pick(&["default", "other"]), random.pick(&names))
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

impl World {
    /// No objects yet; node ports are served on these addresses.
    pub(crate) fn new(node_ports: NodePortAddresses) -> Self {
        Self {
            objects: Objects::default(),
            here: Here {
                node_ports,
                ..Here::new(NODE)
            },
        }
    }

    /// Changes one to three objects.
    pub(crate) fn change(&mut self, random: &mut Random) -> Batch {
        let changes = (0..=random.below(3))
            .map(|_| self.change_one(random))
            .collect();
        Batch {
            changes,
            ..Batch::default()
        }
    }

    fn change_one(&mut self, random: &mut Random) -> Change {
        let change = match random.below(20) {
            0..5 => self.change_service(random),
            5..7 => Change::Service(service_name(random), None),
            7..13 => replace_slice(random),
            13..15 => Change::Slice(slice_name(random).0, None),
            15..19 => self.change_endpoint(random),
            _ => {
                let addresses = random.some(&ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
                let zone = random.pick(&[None, Some("a"), Some("b")]);
                Change::Node((!random.one_in(4)).then_some(Node {
                    addresses,
                    zone: zone.map(str::to_owned),
                    ..Node::default()
                }))
            }
        };
        self.record(&change);
        change
    }

    /// New addresses on the node's interfaces.
    pub(crate) fn change_addresses(&mut self, random: &mut Random) {
        self.here.own = random.some(&ips(&[
            "127.0.0.1",
            "192.0.2.2",
            "192.0.2.3",
            "2001:db8::2",
        ]));
    }

    /// Everything, as one batch.
    pub(crate) fn whole(&self) -> Batch {
        let services = self.objects.services.values().cloned();
        let slices = self.objects.slices.values().cloned();
        let services = services.map(|service| Change::Service(service.name.clone(), Some(service)));
        let slices = slices.map(|slice| Change::Slice(slice.name.clone(), Some(slice)));
        let node = std::iter::once(Change::Node(self.here.node.clone()));
        Batch {
            changes: slices.chain(services).chain(node).collect(),
            ..Batch::default()
        }
    }

    /// Removes everything.
    pub(crate) fn end(&mut self) -> Batch {
        let services = std::mem::take(&mut self.objects.services).into_keys();
        let slices = std::mem::take(&mut self.objects.slices).into_keys();
        let services = services.map(|name| Change::Service(name, None));
        Batch {
            changes: services
                .chain(slices.map(|name| Change::Slice(name, None)))
                .collect(),
            ..Batch::default()
        }
    }

    /// Every address a Service's slices hold.
    pub(crate) fn endpoints(&self) -> BTreeMap<ObjectName, BTreeSet<SocketAddr>> {
        let mut all: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for slice in self.objects.slices.values() {
            let owner = ObjectName::new(&slice.name.namespace, &slice.service);
            let sockets = slice.endpoints.iter().flat_map(|endpoint| {
                let ports = slice.ports.iter();
                ports.map(|port| SocketAddr::new(endpoint.addr, port.port))
            });
            all.entry(owner).or_default().extend(sockets);
        }
        all
    }

    fn record(&mut self, change: &Change) {
        match change.clone() {
            Change::Service(name, Some(service)) => {
                drop(self.objects.services.insert(name, service));
            }
            Change::Service(name, None) => drop(self.objects.services.remove(&name)),
            Change::Slice(name, Some(slice)) => drop(self.objects.slices.insert(name, slice)),
            Change::Slice(name, None) => drop(self.objects.slices.remove(&name)),
            Change::Node(node) => self.here.node = node,
            // The programs' business, not a service's.
            Change::ServiceNetworks(_) | Change::Pod(..) => {}
        }
    }

    fn change_service(&mut self, random: &mut Random) -> Change {
        let name = service_name(random);
        let mut service = match self.objects.services.get(&name) {
            Some(service) if !random.one_in(4) => service.clone(),
            _ => new_service(name.clone(), random),
        };
        match random.below(9) {
            0 => service.internal_policy = policy(random),
            1 => service.external_policy = policy(random),
            2 => {
                service.external_ips =
                    random.some(&ips(&["192.0.2.9", "192.0.2.3", "2001:db8::9"]));
            }
            3 => {
                service.ingress_ips =
                    random.some(&ips(&["198.51.100.1", "192.0.2.9", "2001:db8::a"]));
            }
            4 => service.affinity = random.pick(&[None, Some(60), Some(10_800)]),
            5 => service.source_ranges = source_ranges(random),
            6 => service.health_check_node_port = random.pick(&[0, 0, 31_000, 31_001]),
            7 => service.algorithm = random.pick(ALGORITHMS),
            _ => service.ports = ports(random),
        }
        Change::Service(name, Some(service))
    }

    fn change_endpoint(&mut self, random: &mut Random) -> Change {
        let (name, v6) = slice_name(random);
        let Some(mut slice) = self.objects.slices.get(&name).cloned() else {
            return replace_slice(random);
        };
        if let Some(last) = slice.endpoints.last_mut() {
            *last = Endpoint {
                addr: last.addr,
                ..endpoint(v6, random.pick(HINTS), random)
            };
        }
        Change::Slice(name, Some(slice))
    }
}

fn replace_slice(random: &mut Random) -> Change {
    let (name, v6) = slice_name(random);
    // Now and then a slice changes hands.
    let service = if random.one_in(20) {
        "a"
    } else {
        &name.name[..1]
    };
    let port_numbers = [8080, 8081];
    let port = |name: &str, protocol, random: &mut Random| EndpointPort {
        name: name.to_owned(),
        protocol,
        port: random.pick(&port_numbers),
    };
    let hints = random.pick(HINTS);
    let ports = [
        ("", Protocol::Tcp),
        ("dns", Protocol::Udp),
        ("web", Protocol::Tcp),
    ];
    let slice = EndpointSlice {
        name: name.clone(),
        service: service.to_owned(),
        ports: ports
            .into_iter()
            .map(|(name, proto)| port(name, proto, random))
            .collect(),
        endpoints: (0..random.below(6))
            .map(|_| endpoint(v6, hints, random))
            .collect(),
    };
    Change::Slice(name, Some(slice))
}

/// The name of a slice, and whether it is an IPv6 one.
fn slice_name(random: &mut Random) -> (ObjectName, bool) {
    let ObjectName { namespace, name } = service_name(random);
    let kind = random.pick(&["4a", "4b", "6a"]);
    (
        ObjectName::new(namespace, format!("{name}-{kind}")),
        kind == "6a",
    )
}

/// Tables are large, and followed slot by slot: a few are enough.
const ALGORITHMS: &[Option<Algorithm>] =
    &[None, None, Some(Algorithm::Random), Some(Algorithm::Maglev)];

/// Zones and nodes that endpoints of a slice are for.
type Hints = (&'static [&'static str], &'static [&'static str]);
const HINTS: &[Hints] = &[
    (&[], &[]),
    (&[], &[]),
    (&["a", "b"], &[]),
    (&["a"], &["there", NODE]),
];

/// Some of the hints; mostly one of each kind, for a single endpoint without any voids all.
fn hints(of: &[&str], random: &mut Random) -> Vec<String> {
    let few = usize::from(!of.is_empty() && !random.one_in(12));
    (0..few).map(|_| random.pick(of).to_owned()).collect()
}

fn source_ranges(random: &mut Random) -> Vec<IpNet> {
    let ranges = [
        "10.0.0.0/8",
        "10.0.0.0/8",
        "192.0.2.0/24",
        "198.51.100.0/24",
        "2001:db8::/32",
        "2001:db8:1::/48",
        if random.one_in(4) {
            "0.0.0.0/0"
        } else {
            "192.0.2.0/24"
        },
    ];
    let some = random.some(&ranges);
    some.iter().map(|range| range.parse().unwrap()).collect()
}

fn endpoint(v6: bool, (zones, nodes): Hints, random: &mut Random) -> Endpoint {
    let host = random.below(12);
    let addr = if v6 {
        format!("2001:db8:1::{host:x}")
    } else {
        format!("10.0.0.{host}")
    };
    let terminating = random.one_in(4);
    Endpoint {
        addr: addr.parse().unwrap(),
        node: random
            .pick(&[None, Some(NODE), Some("there"), Some("there")])
            .map(str::to_owned),
        ready: if terminating {
            random.one_in(8)
        } else {
            !random.one_in(4)
        },
        serving: !random.one_in(4),
        terminating,
        weight: Weight::try_from(random.pick(&[1, 1, 1, 2, 6])).unwrap(),
        for_zones: hints(zones, random),
        for_nodes: hints(nodes, random),
    }
}

fn policy(random: &mut Random) -> TrafficPolicy {
    random.pick(&[TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn ports(random: &mut Random) -> Vec<ServicePort> {
    let port = |name: &str, protocol, random: &mut Random| ServicePort {
        name: name.to_owned(),
        protocol,
        port: random.pick(&[80, 443]),
        node_port: random.pick(&[0, 30_000, 30_001, 30_002]),
    };
    if random.one_in(3) {
        return vec![port("", Protocol::Tcp, random)];
    }
    let mut ports = vec![
        port("web", Protocol::Tcp, random),
        port("dns", Protocol::Udp, random),
    ];
    ports.truncate(1 + random.below(2));
    if random.one_in(4) {
        ports.push(port("s", Protocol::Sctp, random));
    }
    ports
}

fn new_service(name: ObjectName, random: &mut Random) -> Service {
    let number = random.below(10);
    let mut cluster_ips = ips(&[
        &format!("10.96.0.{number}"),
        &format!("2001:db8:96::{number}"),
    ]);
    if random.one_in(4) {
        cluster_ips.remove(random.below(2));
    }
    Service {
        name,
        created: i64::try_from(random.below(4)).unwrap(),
        kind: ServiceType::NodePort,
        cluster_ips,
        external_ips: Vec::new(),
        ingress_ips: Vec::new(),
        ports: ports(random),
        internal_policy: policy(random),
        external_policy: policy(random),
        affinity: None,
        algorithm: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
    }
}

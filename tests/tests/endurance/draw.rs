//! Changes at random, such as the API takes.
//!
//! A step changes each object once at most, and what a Service gives up, one that comes later in the
//! step may take. A Service is made without external addresses: until it is known when it was created,
//! it is not known either whether it is older than another one that has them.

mod slices;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use lb_userspace::model::{Protocol, ServicePort, TrafficPolicy};
use tests::{random::Random, topology::Addresses};

use crate::{
    setup::SERVICES,
    stock::Stock,
    unit::{self, Kind, Unit, named},
    writes::Change,
};

/// How many cluster IPs of a family there are for all Services.
const CLUSTER_IPS: u16 = 220;
/// How many node ports there are for all Services.
const NODE_PORTS: u16 = 600;
const FIRST_NODE_PORT: u16 = 30_000;
/// Where the health check node ports are; each Service has its own.
const FIRST_HEALTH_CHECK: u16 = 31_000;
/// How many external addresses of a family there are, and as many of load balancers.
const EXTERNAL_IPS: usize = 24;

const KINDS: [Kind; 8] = [
    Kind::ClusterIp,
    Kind::ClusterIp,
    Kind::NodePort,
    Kind::NodePort,
    Kind::LoadBalancer,
    Kind::LoadBalancer,
    Kind::Headless,
    Kind::ExternalName,
];

/// A pod: its addresses and its node.
#[derive(Clone, Copy)]
pub(crate) struct Pod {
    pub(crate) addresses: Addresses,
    pub(crate) node: &'static str,
}

/// Where changes come from.
pub(crate) struct Draw {
    pub(crate) random: Random,
    pub(crate) pods: Vec<Pod>,
}

impl Draw {
    /// All Services.
    pub(crate) fn all(&mut self, stock: &Stock) -> Vec<Change> {
        self.changes((0..SERVICES).collect(), stock)
    }

    /// The changes of a step.
    pub(crate) fn step(&mut self, stock: &Stock) -> Vec<Change> {
        let count = self.random.pick(&[1, 1, 1, 2, 3, 5, 8, 16]);
        let services = (0..count).map(|_| self.random.below(usize::from(SERVICES)) as u16);
        let services = services.collect();
        self.changes(services, stock)
    }

    fn changes(&mut self, services: BTreeSet<u16>, stock: &Stock) -> Vec<Change> {
        let mut stock = stock.clone();
        let mut changes = Vec::new();
        for number in services {
            for change in self.change(number, &stock) {
                stock.take(change.clone());
                changes.push(change);
            }
        }
        changes
    }

    /// Changes a Service, its slices, or both.
    fn change(&mut self, number: u16, stock: &Stock) -> Vec<Change> {
        let name = named(format!("s-{number}"));
        let unit = stock.units.get(&name);
        let Some(unit) = unit else {
            let unit = self.new_unit(number, stock);
            let mut changes = self.slices(number, stock);
            changes.push(Change::Service(name, Some(unit)));
            return changes;
        };
        match self.random.below(20) {
            0..2 => {
                let mut changes = vec![Change::Service(name.clone(), None)];
                // Slices of a Service that is gone stay until somebody has seen to them.
                if !self.random.one_in(3) {
                    let slices = stock.slices(&name).map(|slice| slice.name.clone());
                    changes.extend(slices.map(|slice| Change::Slice(slice, None)));
                }
                changes
            }
            2..10 => vec![self.slice(number, stock)],
            10..12 => {
                let slice = self.slice(number, stock);
                let unit = self.changed(number, unit.clone(), stock);
                vec![slice, Change::Service(name, Some(unit))]
            }
            _ => {
                let unit = self.changed(number, unit.clone(), stock);
                vec![Change::Service(name, Some(unit))]
            }
        }
    }

    fn new_unit(&mut self, number: u16, stock: &Stock) -> Unit {
        let kind = self.random.pick(&KINDS);
        let cluster_ips = self.cluster_ips(stock);
        let ports = self.ports();
        let mut unit = Unit::new(&format!("s-{number}"), kind, &cluster_ips, &ports);
        self.policies(&mut unit);
        self.affinity(&mut unit);
        self.fit(number, unit, stock)
    }

    /// A Service with something else than before.
    fn changed(&mut self, number: u16, mut unit: Unit, stock: &Stock) -> Unit {
        match self.random.below(12) {
            0..3 => self.kind(&mut unit, stock),
            3..5 => unit.service.ports = self.ports(),
            5..7 => unit.service.external_ips = self.external_ips("192.0.2", "2001:db8:1:"),
            7 => self.policies(&mut unit),
            8 => self.affinity(&mut unit),
            9 => unit.service.source_ranges = self.source_ranges(),
            10 => Self::families(&mut unit),
            // A status is written by itself: what there was before it is known.
            _ if unit.kind == Kind::LoadBalancer => {
                unit.service.ingress_ips = self.external_ips("198.51.100", "2001:db8:2:");
                unit.proxied = self.external_ips("198.51.100", "2001:db8:2:");
                let told = unit.service.ingress_ips.clone();
                unit.proxied.retain(|ip| !told.contains(ip));
                return unit;
            }
            _ => self.policies(&mut unit),
        }
        self.fit(number, unit, stock)
    }

    /// Every type may follow every other, but for headless Services: their having no cluster IP is
    /// for good, unless they become an ExternalName in between.
    fn kind(&mut self, unit: &mut Unit, stock: &Stock) {
        let was = unit.kind;
        unit.kind = match was {
            Kind::Headless => Kind::ExternalName,
            Kind::ExternalName => self.random.pick(&KINDS),
            Kind::ClusterIp | Kind::NodePort | Kind::LoadBalancer => {
                let kind = self.random.pick(&KINDS);
                if kind == Kind::Headless {
                    Kind::ExternalName
                } else {
                    kind
                }
            }
        };
        if !was.is_programmed() && unit.kind.is_programmed() {
            unit.service.cluster_ips = self.cluster_ips(stock);
        }
    }

    /// One or two cluster IPs that no other Service has.
    fn cluster_ips(&mut self, stock: &Stock) -> Vec<IpAddr> {
        let services = stock.objects.services.values();
        let taken: BTreeSet<IpAddr> = services
            .flat_map(|service| &service.cluster_ips)
            .copied()
            .collect();
        let pair = |number: u16| {
            let v4 = IpAddr::from([10, 96, 8, number as u8]);
            let v6 = IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x800 + number]);
            [v4, v6]
        };
        let free: Vec<u16> = (1..=CLUSTER_IPS)
            .filter(|number| pair(*number).iter().all(|ip| !taken.contains(ip)))
            .collect();
        let mut ips = pair(self.random.pick(&free)).to_vec();
        if self.random.one_in(2) {
            ips.reverse();
        }
        ips.truncate(self.random.pick(&[1, 2, 2]));
        ips
    }

    /// From one family to both, and back to the one.
    fn families(unit: &mut Unit) {
        let [first, second @ ..] = &unit.service.cluster_ips[..] else {
            return;
        };
        if second.is_empty() {
            let other = match first {
                IpAddr::V4(ip) => {
                    let number = u16::from(ip.octets()[3]);
                    IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x800 + number])
                }
                IpAddr::V6(ip) => {
                    let number = ip.segments()[7] - 0x800;
                    IpAddr::from([10, 96, 8, number as u8])
                }
            };
            unit.service.cluster_ips.push(other);
        } else {
            unit.service.cluster_ips.truncate(1);
        }
    }

    fn ports(&mut self) -> Vec<ServicePort> {
        let [mut tcp, mut udp] = [(); 2].map(|()| vec![53, 80, 443, 8080]);
        let random = &mut self.random;
        let mut port = |name: &str, protocol: Protocol| {
            let numbers = if protocol == Protocol::Udp {
                &mut udp
            } else {
                &mut tcp
            };
            let number = numbers.swap_remove(random.below(numbers.len()));
            unit::port(name, protocol, number)
        };
        let (web, alt, dns) = (
            port("web", Protocol::Tcp),
            port("alt", Protocol::Tcp),
            port("dns", Protocol::Udp),
        );
        let only = port("", Protocol::Tcp);
        let choices = [
            vec![only],
            vec![dns.clone()],
            vec![web.clone(), dns.clone()],
            vec![web, alt, dns],
        ];
        self.random.pick(&choices)
    }

    /// Gives ports node ports that no other Service has.
    fn node_ports(&mut self, ports: &mut [ServicePort], stock: &Stock) {
        let services = stock.objects.services.values();
        let taken: BTreeSet<u16> = services
            .flat_map(|service| service.ports.iter().map(|port| port.node_port))
            .collect();
        let mut free: Vec<u16> = (FIRST_NODE_PORT..FIRST_NODE_PORT + NODE_PORTS)
            .filter(|number| !taken.contains(number))
            .collect();
        for port in ports {
            port.node_port = free.swap_remove(self.random.below(free.len()));
        }
    }

    fn external_ips(&mut self, v4: &str, v6: &str) -> Vec<IpAddr> {
        let count = self.random.pick(&[0, 1, 1, 2]);
        let numbers: BTreeSet<usize> = (0..count)
            .map(|_| 1 + self.random.below(EXTERNAL_IPS))
            .collect();
        let mut ips = Vec::new();
        for number in numbers {
            ips.extend(format!("{v4}.{number}").parse::<IpAddr>());
            ips.extend(format!("{v6}:{number:x}").parse::<IpAddr>());
        }
        ips
    }

    fn policies(&mut self, unit: &mut Unit) {
        let policies = [TrafficPolicy::Cluster, TrafficPolicy::Local];
        unit.service.internal_policy = self.random.pick(&policies);
        unit.service.external_policy = self.random.pick(&policies);
    }

    fn affinity(&mut self, unit: &mut Unit) {
        unit.service.affinity = self.random.pick(&[None, Some(900), Some(10_800)]);
    }

    fn source_ranges(&mut self) -> Vec<IpNet> {
        let ranges = [
            "10.10.0.0/24",
            "10.1.1.0/24",
            "10.0.0.0/8",
            "192.0.2.0/24",
            "fd00:10::/64",
            "fd00:1::/32",
        ];
        let some = self.random.some(&ranges);
        some.iter().filter_map(|range| range.parse().ok()).collect()
    }

    /// Takes away what the API would not take of such a Service, or takes away itself.
    fn fit(&mut self, number: u16, mut unit: Unit, stock: &Stock) -> Unit {
        let service = &mut unit.service;
        let kind = unit.kind;
        let accessible = matches!(kind, Kind::NodePort | Kind::LoadBalancer);
        let without = !accessible || kind == Kind::LoadBalancer && self.random.one_in(6);
        if without {
            for port in &mut service.ports {
                port.node_port = 0;
            }
        } else if service.ports.iter().any(|port| port.node_port == 0) {
            self.node_ports(&mut service.ports, stock);
        }
        if kind != Kind::LoadBalancer {
            service.ingress_ips.clear();
            service.source_ranges.clear();
            unit.proxied.clear();
        }
        if !accessible && service.external_ips.is_empty() {
            service.external_policy = TrafficPolicy::Cluster;
        }
        let checked = kind == Kind::LoadBalancer && service.external_policy == TrafficPolicy::Local;
        service.health_check_node_port = if checked {
            FIRST_HEALTH_CHECK + number
        } else {
            0
        };
        if !kind.is_programmed() {
            service.affinity = None;
        }
        unit
    }
}

//! What a single change does to the maps, operation by operation.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use insta::{assert_debug_snapshot, assert_snapshot};
use lb_common::{V4, V6};
use lb_userspace::{
    control::{ByFamily, Controller, HealthCheck, NoLocalEndpoints, Settings},
    maps::{Capacities, Dump, FamilyOp, LbMaps, Memory, Op, ReadError, WriteError, show_key},
    model::{Change, EndpointSlice, Node, Protocol, Service, ServiceType, TrafficPolicy},
};

use crate::objects::{CAPACITIES, batch, name, service, slice};

/// Maps that keep a record of what is done to them.
struct Recorded {
    maps: Memory,
    record: Vec<String>,
}

impl LbMaps for Recorded {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        self.record.push(line(op));
        self.maps.apply(op)
    }

    fn dump(&self) -> Result<Dump, ReadError> {
        self.maps.dump()
    }

    fn capacities(&self) -> Capacities {
        self.maps.capacities()
    }
}

fn line(op: &Op) -> String {
    match op {
        Op::V4(op) => family_line::<V4>(op),
        Op::V6(op) => family_line::<V6>(op),
        Op::PutName(id, _) => format!("put name {id}"),
        Op::DeleteName(id) => format!("delete name {id}"),
    }
}

fn family_line<A: lb_common::Addr>(op: &FamilyOp<A>) -> String {
    match op {
        FamilyOp::PutFrontend(key, value) => {
            let (timeout, term) = (value.affinity.timeout(), value.affinity.term());
            let flags = value.flags;
            let key = show_key(key);
            format!("put frontend {key} flags {flags:#04x} affinity {timeout} term {term}")
        }
        FamilyOp::DeleteFrontend(key) => format!("delete frontend {}", show_key(key)),
        FamilyOp::WriteSlots(offset, content) => format!("write slots {offset} {content:?}"),
        FamilyOp::PutBackend(index, backend) => {
            let (ip, flags) = (backend.addr.to_ip(), backend.flags);
            format!("put backend {index} {ip} flags {flags:#04x}")
        }
        FamilyOp::PutSourceRange(id, network) => format!("put range {id} {network}"),
        FamilyOp::DeleteSourceRange(id, network) => format!("delete range {id} {network}"),
    }
}

struct Bench {
    controller: Controller<Recorded>,
    now: Instant,
}

impl Bench {
    fn new(changes: impl IntoIterator<Item = Change>) -> Self {
        let maps = Recorded {
            maps: Memory::new(CAPACITIES),
            record: Vec::new(),
        };
        let mut bench = Self {
            controller: Controller::new(maps, Settings::new("here")),
            now: Instant::now(),
        };
        bench.apply(changes);
        bench
    }

    /// What a batch does to the maps, a line an operation.
    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> String {
        self.controller.apply(batch(changes), self.now);
        std::mem::take(&mut self.controller.maps_mut().record).join("\n")
    }

    /// A new agent takes over.
    fn restart(self) -> Self {
        let maps = self.controller.into_maps();
        let mut controller = Controller::new(maps, Settings::new("here"));
        controller.adopt().unwrap();
        Self { controller, ..self }
    }
}

/// A Service like those of [`service`], further changed.
fn changed(of: &str, cluster_ip: &str, change: impl FnOnce(&mut Service)) -> Change {
    let Change::Service(name, Some(mut object)) = service(of, cluster_ip) else {
        panic!("service() makes a Service");
    };
    change(&mut object);
    Change::Service(name, Some(object))
}

/// A slice of `dns` like those of [`slice`], further changed.
fn changed_slice<const N: usize>(
    hosts: [u8; N],
    change: impl FnOnce(&mut EndpointSlice),
) -> Change {
    let Change::Slice(of, Some(mut object)) = slice("dns", hosts) else {
        panic!("slice() makes a slice");
    };
    change(&mut object);
    Change::Slice(of, Some(object))
}

fn with_affinity(seconds: Option<u32>) -> Change {
    changed("dns", "10.96.0.1", |service| service.affinity = seconds)
}

#[test]
fn affinity_switched_on_again_remembers_nobody_from_before() {
    let mut bench = Bench::new([with_affinity(Some(60)), slice("dns", [1])]);
    let mut record = bench.apply([with_affinity(None)]);
    record += "\n\n";
    let mut bench = bench.restart();
    record += &bench.apply([with_affinity(Some(60)), slice("dns", [1])]);
    record += "\n\n";
    record += &bench.apply([with_affinity(Some(120))]);
    assert_snapshot!(record);
}

fn load_balancer(ranges: &[&str]) -> Change {
    changed("dns", "10.96.0.1", |service| {
        service.kind = ServiceType::LoadBalancer;
        service.ingress_ips = vec!["203.0.113.1".parse().unwrap()];
        service.source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    })
}

#[test]
fn source_ranges_stand_before_a_frontend_asks_for_them_and_until_none_does() {
    let mut bench = Bench::new([load_balancer(&[]), slice("dns", [1])]);
    let restricted = bench.apply([load_balancer(&["10.0.0.0/8", "192.0.2.0/24"])]);
    let exchanged = bench.apply([load_balancer(&["10.0.0.0/8", "198.51.100.0/24"])]);
    let open = bench.apply([load_balancer(&[])]);
    assert_snapshot!(format!("{restricted}\n\n{exchanged}\n\n{open}"));
}

#[test]
fn a_policy_changes_with_its_frontends() {
    let local = |policy| {
        changed("dns", "10.96.0.1", |service| {
            service.internal_policy = policy;
        })
    };
    let mut bench = Bench::new([local(TrafficPolicy::Cluster), slice("dns", [1, 2])]);
    let one_here = changed_slice([1, 2], |slice| {
        slice.endpoints[0].node = Some("here".to_owned());
    });
    let mut record = bench.apply([one_here]);
    for policy in [TrafficPolicy::Local, TrafficPolicy::Cluster] {
        let operations = bench.apply([local(policy)]);
        write!(record, "\n\n{policy:?}\n{operations}").unwrap();
    }
    assert_snapshot!(record);
}

#[test]
fn only_the_service_that_changed_is_written() {
    let all = || {
        let services = (1..=9).map(|n| (format!("s{n}"), format!("10.96.0.{n}")));
        services.flat_map(|(name, ip)| [service(&name, &ip), slice(&name, [1, 2])])
    };
    let mut bench = Bench::new(all());
    assert_eq!(bench.apply(all()), "", "the same again");
    assert_eq!(bench.apply([Change::Node(Some(Node::default()))]), "");
    let outcome = bench.controller.apply(batch(all()), bench.now);
    assert_eq!((outcome.service_changes, outcome.slice_changes), (0, 0));
    assert_snapshot!(bench.apply([slice("s5", [2])]));
    let mut bench = bench.restart();
    assert_eq!(
        bench.apply(all().chain([slice("s5", [2])])),
        "",
        "a restart"
    );
}

#[test]
fn a_node_that_moves_to_another_zone_changes_what_has_hints() {
    let zone = |zone: &str| {
        Change::Node(Some(Node {
            zone: Some(zone.to_owned()),
            ..Node::default()
        }))
    };
    let hinted = changed_slice([1, 2], |slice| {
        slice.endpoints[0].for_zones = vec!["a".to_owned()];
        slice.endpoints[1].for_zones = vec!["b".to_owned()];
    });
    let objects = [service("dns", "10.96.0.1"), hinted, zone("a")];
    let mut bench = Bench::new(
        objects
            .into_iter()
            .chain([service("other", "10.96.0.2"), slice("other", [1, 2])]),
    );
    assert_snapshot!(bench.apply([zone("b")]));
}

/// A slice with two endpoints, the first of which drains.
fn draining(protocol: Protocol, serving: bool) -> Change {
    changed_slice([1, 2], |slice| {
        slice.ports[0].protocol = protocol;
        let first = &mut slice.endpoints[0];
        (first.ready, first.serving, first.terminating) = (false, serving, true);
    })
}

#[test]
fn a_backend_that_drains_keeps_its_udp_flows_for_as_long_as_it_serves() {
    let dns = || service("dns", "10.96.0.1");
    let mut bench = Bench::new([dns(), slice("dns", [1, 2])]);
    let drains = bench.apply([draining(Protocol::Udp, true)]);
    let mut bench = bench.restart();
    let restart = bench.apply([dns(), draining(Protocol::Udp, true)]);
    assert_eq!(restart, "");
    let ends = bench.apply([draining(Protocol::Udp, false)]);
    let flows_of_none = bench.apply([draining(Protocol::Udp, true)]);
    assert_eq!(flows_of_none, "");
    assert_snapshot!(format!("{drains}\n\n{ends}"));
}

#[test]
fn a_backend_that_drains_ends_with_its_service() {
    let gone = Change::Service(name("dns"), None);
    let mut bench = Bench::new([service("dns", "10.96.0.1"), slice("dns", [1, 2])]);
    bench.apply([draining(Protocol::Udp, true)]);
    assert_snapshot!(bench.apply([gone]));
}

#[test]
fn a_backend_that_drains_gets_no_segment_that_opens_a_connection() {
    let over_tcp = |service: &mut Service| service.ports[0].protocol = Protocol::Tcp;
    let ready = changed_slice([1, 2], |slice| slice.ports[0].protocol = Protocol::Tcp);
    let mut bench = Bench::new([changed("dns", "10.96.0.1", over_tcp), ready]);
    assert_snapshot!(bench.apply([draining(Protocol::Tcp, true)]));
}

#[test]
fn a_service_that_loses_an_address_has_its_flows_look_before_it_does() {
    let at = |name: &str, cluster_ip: &str, external_ips: &[&str]| {
        changed(name, cluster_ip, |service| {
            let ips = external_ips.iter().map(|ip| ip.parse().unwrap());
            service.external_ips = ips.collect();
        })
    };
    let passing = ["198.51.100.1", "198.51.100.2"];
    let mut bench = Bench::new([
        at("dns", "10.96.0.1", &passing),
        slice("dns", [1]),
        at("heir", "10.96.0.2", &[]),
        slice("heir", [2]),
    ]);
    let passes = bench.apply([
        at("dns", "10.96.0.1", &passing[1..]),
        at("heir", "10.96.0.2", &passing[..1]),
    ]);
    let told_already = bench.apply([at("dns", "10.96.0.1", &[])]);
    let of_nobody = bench.apply([at("heir", "10.96.0.2", &[])]);
    let mut bench = bench.restart();
    let restart = bench.apply([
        at("dns", "10.96.0.1", &[]),
        slice("dns", [1]),
        at("heir", "10.96.0.2", &[]),
        slice("heir", [2]),
    ]);
    assert_eq!(restart, "");
    assert_snapshot!(format!("{passes}\n\n{told_already}\n\n{of_nobody}"));
}

#[test]
fn load_balancers_are_told_of_ready_endpoints_here() {
    let asked = |port| {
        changed("dns", "10.96.0.1", |service| {
            service.kind = ServiceType::LoadBalancer;
            service.external_policy = TrafficPolicy::Local;
            service.health_check_node_port = port;
            service.ports[0].node_port = 30053;
        })
    };
    let two_here = changed_slice([1, 2, 3], |slice| {
        for endpoint in &mut slice.endpoints[1..] {
            endpoint.node = Some("here".to_owned());
        }
        slice.endpoints[2].ready = false;
        slice.endpoints[2].terminating = true;
    });
    let mut bench = Bench::new([asked(31000), two_here]);
    bench
        .controller
        .set_node_addresses(vec!["192.0.2.1".parse().unwrap()], bench.now);
    let check = |endpoints| HealthCheck {
        port: 31000,
        local_endpoints: ByFamily {
            v4: Some(endpoints),
            v6: None,
        },
    };
    assert_eq!(bench.controller.health_checks()[&name("dns")], check(1));
    assert_eq!(bench.controller.no_local_endpoints(), ByFamily::default());

    bench.apply([slice("dns", [1])]);
    assert_eq!(bench.controller.health_checks()[&name("dns")], check(0));
    let missing = NoLocalEndpoints {
        internal: 0,
        external: 1,
    };
    assert_eq!(bench.controller.no_local_endpoints().v4, missing);

    bench.apply([slice("dns", []), asked(0)]);
    assert!(bench.controller.health_checks().is_empty());
    assert_eq!(bench.controller.no_local_endpoints(), ByFamily::default());
}

#[test]
fn what_is_left_to_do_is_told_by_family() {
    let capacities = Capacities {
        services: 1,
        ..CAPACITIES
    };
    let mut controller = Controller::new(Memory::new(capacities), Settings::new("here"));
    let now = Instant::now();
    let outcome = controller.apply(batch([service("a", "10.96.0.1")]), now);
    assert_debug_snapshot!(outcome.unfinished);
    let gone = [Change::Service(name("a"), None)];
    let outcome = controller.apply(batch(gone), now + Duration::from_secs(1));
    assert_eq!(outcome.unfinished, ByFamily::default());
}

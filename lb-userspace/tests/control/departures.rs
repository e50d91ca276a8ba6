//! Which backends are told to be gone, and which of them with their pods.

use std::{fmt::Write as _, net::IpAddr, time::Instant};

use lb_common::{Addr as _, V4};
use lb_userspace::{
    control::{Controller, Departed, Departures, Settings},
    maps::Memory,
    model::{Change, Endpoint, EndpointSlice, Protocol},
};

use crate::objects::{CAPACITIES, batch, name, service, slice};

/// The Service `app` over one protocol.
struct Site {
    controller: Controller<Memory>,
    protocol: Protocol,
    now: Instant,
}

impl Site {
    /// With these ready endpoints.
    fn new(protocol: Protocol, hosts: impl IntoIterator<Item = u8>) -> Self {
        let controller = Controller::new(Memory::new(CAPACITIES), Settings::new("here"));
        let now = Instant::now();
        let mut site = Self {
            controller,
            protocol,
            now,
        };
        let changes = [site.service(), site.slice(hosts, |_| {})];
        assert_eq!(site.apply(changes), "");
        site
    }

    fn service(&self) -> Change {
        let Change::Service(name, Some(mut object)) = service("app", "10.96.0.1") else {
            panic!("service() makes a Service");
        };
        object.ports[0].protocol = self.protocol;
        Change::Service(name, Some(object))
    }

    /// The slice of these endpoints, each further changed.
    fn slice(
        &self,
        hosts: impl IntoIterator<Item = u8>,
        change: impl FnMut(&mut Endpoint),
    ) -> Change {
        let Change::Slice(name, Some(mut object)) = slice("app", hosts) else {
            panic!("slice() makes a slice");
        };
        object.ports[0].protocol = self.protocol;
        object.endpoints.iter_mut().for_each(change);
        Change::Slice(name, Some(object))
    }

    /// What a batch has depart, a line a backend.
    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> String {
        let outcome = self.controller.apply(batch(changes), self.now);
        show(&outcome.departures)
    }

    /// What a slice of these endpoints has depart.
    fn becomes(
        &mut self,
        hosts: impl IntoIterator<Item = u8>,
        change: impl FnMut(&mut Endpoint),
    ) -> String {
        let slice = self.slice(hosts, change);
        self.apply([slice])
    }

    /// A new agent takes over.
    fn restart(self) -> Self {
        let mut controller = Controller::new(self.controller.into_maps(), Settings::new("here"));
        controller.adopt().unwrap();
        Self { controller, ..self }
    }
}

fn show(departures: &Departures) -> String {
    let Departures { v4, v6 } = departures;
    assert!(v6.is_empty());
    let mut lines = String::new();
    for departed in v4 {
        let Departed {
            protocol,
            addr,
            port,
            service,
            backend,
            generation,
            pod_deleted,
        } = departed;
        let pod = if *pod_deleted { ", pod deleted" } else { "" };
        let addr = addr.to_ip();
        writeln!(
            lines,
            "{protocol} {addr} {port} of {service}: {backend} generation {generation}{pod}"
        )
        .unwrap();
    }
    lines
}

fn host(endpoint: &Endpoint) -> u8 {
    match endpoint.addr {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(_) => panic!("endpoints are IPv4"),
    }
}

fn not_ready(endpoint: &mut Endpoint) {
    (endpoint.ready, endpoint.serving) = (false, false);
}

/// Has the endpoint of this number drain.
fn drains(number: u8) -> impl Fn(&mut Endpoint) {
    move |endpoint| {
        if host(endpoint) == number {
            (endpoint.ready, endpoint.terminating) = (false, true);
        }
    }
}

#[test]
fn a_udp_backend_departs_when_it_serves_no_longer() {
    let mut site = Site::new(Protocol::Udp, [1, 2]);
    assert_eq!(site.becomes([1, 2], drains(1)), "", "it still serves");
    let stops = site.becomes([1, 2], |endpoint| {
        drains(1)(endpoint);
        endpoint.serving = host(endpoint) != 1;
    });
    assert_eq!(stops, "UDP 10.0.0.1 5353 of 1: 1 generation 1\n");
    assert_eq!(site.becomes([2], |_| {}), "", "nothing outlives it");
}

#[test]
fn a_udp_backend_departs_with_its_pod_or_without() {
    let mut site = Site::new(Protocol::Udp, [1, 2]);
    let relabelled = site.becomes([1], |_| {});
    assert_eq!(relabelled, "UDP 10.0.0.2 5353 of 1: 2 generation 2\n");
    assert_eq!(site.becomes([1], drains(1)), "");
    let deleted = site.becomes([], |_| {});
    let told = "UDP 10.0.0.1 5353 of 1: 1 generation 1, pod deleted\n";
    assert_eq!(deleted, told);
}

#[test]
fn a_tcp_backend_that_drains_departs_at_once_and_its_pod_later() {
    let mut site = Site::new(Protocol::Tcp, [1, 2]);
    let drains_first = site.becomes([1, 2], drains(1));
    assert_eq!(drains_first, "TCP 10.0.0.1 5353 of 1: 1 generation 1\n");
    let deleted = site.becomes([2], |_| {});
    let told = "TCP 10.0.0.1 5353 of 1: 1 generation 1, pod deleted\n";
    assert_eq!(deleted, told);
    assert_eq!(site.becomes([2, 3], |_| {}), "", "it is told once");
}

#[test]
fn the_last_tcp_backend_departs_with_its_pod() {
    let mut site = Site::new(Protocol::Tcp, [1]);
    assert_eq!(site.becomes([1], drains(1)), "", "there is no other");
    let deleted = site.becomes([], |_| {});
    let told = "TCP 10.0.0.1 5353 of 1: 1 generation 1, pod deleted\n";
    assert_eq!(deleted, told);
}

#[test]
fn a_pod_that_leaves_without_terminating_is_not_deleted() {
    let mut site = Site::new(Protocol::Tcp, [1, 2]);
    let not_ready = site.becomes([1], not_ready);
    assert_eq!(
        not_ready,
        "TCP 10.0.0.1 5353 of 1: 1 generation 1\nTCP 10.0.0.2 5353 of 1: 2 generation 2\n"
    );
    assert_eq!(
        site.becomes([], |_| {}),
        "",
        "nobody says that it is deleted"
    );
}

#[test]
fn a_pod_that_was_long_not_ready_is_deleted() {
    let mut site = Site::new(Protocol::Tcp, [1, 2]);
    site.becomes([1, 2], |endpoint| {
        if host(endpoint) == 1 {
            not_ready(endpoint);
        }
    });
    site.becomes([1, 2], drains(1));
    let told = "TCP 10.0.0.1 5353 of 1: 1 generation 1, pod deleted\n";
    assert_eq!(site.becomes([2], |_| {}), told);
}

#[test]
fn a_pod_whose_end_comes_in_one_batch_is_deleted() {
    let mut site = Site::new(Protocol::Tcp, [1, 2]);
    let changes = [site.slice([1, 2], drains(1)), site.slice([2], |_| {})];
    let told = "TCP 10.0.0.1 5353 of 1: 1 generation 1, pod deleted\n";
    assert_eq!(site.apply(changes), told);
}

#[test]
fn a_pod_that_moves_to_another_slice_is_not_deleted() {
    let mut site = Site::new(Protocol::Tcp, [1, 2]);
    site.becomes([1, 2], drains(1));
    let Change::Slice(_, Some(moved)) = site.slice([1], drains(1)) else {
        panic!("slice() makes a slice");
    };
    let moved = EndpointSlice {
        name: name("app-2"),
        ..moved
    };
    let changes = [
        site.slice([2], |_| {}),
        Change::Slice(moved.name.clone(), Some(moved)),
    ];
    assert_eq!(site.apply(changes), "");
    let told = "TCP 10.0.0.1 5353 of 1: 1 generation 1, pod deleted\n";
    let gone = Change::Slice(name("app-2"), None);
    assert_eq!(site.apply([gone]), told);
}

#[test]
fn a_new_pod_at_the_address_is_not_the_one_that_was_deleted() {
    let mut site = Site::new(Protocol::Tcp, [1, 2]);
    site.becomes([1, 2], drains(1));
    assert_eq!(site.becomes([1, 2], |_| {}), "", "another pod has it");
    let left = site.becomes([2], |_| {});
    assert_eq!(left, "TCP 10.0.0.1 5353 of 1: 3 generation 4\n");
}

#[test]
fn what_was_led_to_earlier_generations_of_an_endpoint_is_covered() {
    let departed = Departed {
        protocol: Protocol::Tcp,
        addr: V4::from_ip([10, 0, 0, 1].into()).unwrap(),
        port: 80,
        service: 7,
        backend: 1,
        generation: 2,
        pod_deleted: true,
    };
    let at = (departed.addr, 80);
    assert!(departed.covers(at, 7, 2));
    assert!(departed.covers(at, 7, 1));
    assert!(departed.covers(at, 7, u32::MAX), "generations wrap around");
    assert!(!departed.covers(at, 7, 3), "the endpoint has come back");
    assert!(
        !departed.covers(at, 8, 2),
        "another Service port leads there"
    );
    assert!(!departed.covers((departed.addr, 81), 7, 2));
}

#[test]
fn a_backend_departs_with_its_service() {
    let mut site = Site::new(Protocol::Udp, [1]);
    let gone = [Change::Service(name("app"), None)];
    assert_eq!(site.apply(gone), "UDP 10.0.0.1 5353 of 1: 1 generation 1\n");
}

/// What a new agent has depart that finds these objects.
fn found(site: Site, hosts: &[u8], change: impl FnMut(&mut Endpoint)) -> String {
    let mut site = site.restart();
    let changes = [site.service(), site.slice(hosts.iter().copied(), change)];
    site.apply(changes)
}

#[test]
fn a_new_agent_knows_who_was_terminating() {
    let mut site = Site::new(Protocol::Tcp, [1]);
    site.becomes([1], drains(1));
    let told = "TCP 10.0.0.1 5353 of 1: 1 generation 1, pod deleted\n";
    assert_eq!(found(site, &[], |_| {}), told);
}

#[test]
fn a_new_agent_knows_of_connections_to_a_pod_that_drains() {
    let mut site = Site::new(Protocol::Tcp, [1, 2]);
    site.becomes([1, 2], drains(1));
    let mut site = site.restart();
    let changes = [site.service(), site.slice([1, 2], drains(1))];
    assert_eq!(site.apply(changes), "");
    // Dead, a backend has the generation after its last one.
    let told = "TCP 10.0.0.1 5353 of 1: 1 generation 3, pod deleted\n";
    assert_eq!(site.becomes([2], |_| {}), told);
}

#[test]
fn a_new_agent_tells_again_of_udp_backends_that_are_dead() {
    let mut site = Site::new(Protocol::Udp, [1, 2]);
    site.becomes([2], |_| {});
    let told = "UDP 10.0.0.1 5353 of 1: 1 generation 3\n";
    assert_eq!(found(site, &[2], |_| {}), told);
}

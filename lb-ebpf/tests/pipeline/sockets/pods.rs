//! Sockets of pods: which of them are led, and which client each of them is.

use std::collections::BTreeSet;

use lb_common::{
    Addr,
    config::{Config, flags},
    service::{Affinity, frontend},
    socket::{Cookie, PodAddresses},
};
use lb_ebpf::{Answer, Operation};

use super::{OPERATIONS, World, worlds};
use crate::support::family::{Family, at};

/// The network namespace of a pod.
const POD: Cookie = Cookie::new(0x2_0000_0009);

impl World {
    /// Has the socket be one of a pod whose sockets are led.
    fn in_pod(mut self) -> Self {
        let addresses = PodAddresses {
            v4: Addr::from_ip(Family::V4.local_pod(700)).unwrap(),
            v6: Addr::from_ip(Family::V6.local_pod(700)).unwrap(),
        };
        self.socket.netns = POD;
        self.node.sockets.pods.insert(POD, addresses);
        self.config().flags |= flags::POD_SOCKETS;
        self
    }

    fn config(&mut self) -> &mut Config {
        self.node.tables.config.as_mut().unwrap()
    }

    /// What becomes of connecting to the service.
    fn answer(&mut self) -> Answer {
        let to = self.cluster_ip();
        self.socket.connect(&mut self.node, to).0
    }
}

#[test]
fn sockets_of_pods_are_led_and_told_of_the_service() {
    for mut world in worlds().map(World::in_pod) {
        let to = world.cluster_ip();
        for operation in OPERATIONS {
            let backend = world.led(operation, to);
            assert!(world.is_backend(backend), "{backend}");
            assert_eq!(world.socket.told(&world.node, backend), to);
        }
    }
}

/// What nobody has looked at is tc's, and nobody counts it twice.
#[test]
fn pods_are_left_to_tc_until_the_agent_says_otherwise() {
    type Change = fn(&mut World);
    let changes: [Change; 4] = [
        |world| world.config().flags &= !flags::POD_SOCKETS,
        |world| world.config().netns = Cookie::NONE,
        |world| world.node.sockets.pods.clear(),
        |world| {
            let nameless = PodAddresses::default();
            world.node.sockets.pods.insert(POD, nameless);
        },
    ];
    for change in changes {
        for mut world in worlds().map(World::in_pod) {
            change(&mut world);
            let counted = world.node.counted();
            assert_eq!(world.answer(), Answer::Pass);
            assert_eq!(world.node.counted(), counted);
        }
    }
}

/// A socket that was led before its pod was left to tc is still told of the service.
#[test]
fn pods_that_are_not_led_any_more_are_told_of_what_they_were_led_to() {
    for mut world in worlds().map(World::in_pod) {
        let to = world.cluster_ip();
        let backend = world.led(Operation::Send, to);
        world.node.sockets.pods.clear();
        assert_eq!(world.socket.told(&world.node, backend), to);
    }
}

#[test]
fn loopback_addresses_of_pods_are_their_own() {
    for mut world in worlds().map(World::in_pod) {
        let host = match world.family {
            Family::V4 => "127.0.0.1",
            Family::V6 => "::1",
        };
        let to = at(host.parse().unwrap(), 30_080);
        let seen = world.socket.connect(&mut world.node, to);
        assert_eq!(seen, (Answer::Pass, to));
    }
}

/// To source ranges and affinity a pod is its own address, not the node.
#[test]
fn pods_are_clients_by_their_own_addresses() {
    for mut world in worlds().map(World::in_pod) {
        let (to, protocol) = (world.cluster_ip(), world.socket.protocol);
        let affinity = Affinity::new(60, 1);
        world.node.affine(to, protocol, affinity);
        let led: BTreeSet<_> = (0..32).map(|_| world.led(Operation::Connect, to)).collect();
        assert_eq!(led.len(), 1, "{led:?}");
        world.node.flag(to, protocol, frontend::SOURCE_RANGES);
        assert_eq!(world.answer(), Answer::Forbid);
        let (family, whole) = match world.family {
            Family::V4 => (Family::V4, "255.255.255.255"),
            Family::V6 => (Family::V6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        };
        let whole = whole.parse().unwrap();
        world.node.let_in(1, family.local_pod(700), whole);
        assert_eq!(world.answer(), Answer::Lead);
    }
}

/// Where pods are told by their addresses, one of another network is a client outside.
#[test]
fn pods_are_on_the_side_that_their_addresses_say() {
    for mut world in worlds().map(World::in_pod) {
        world.config().flags |= flags::PODS_BY_ADDRESS;
        let to = world.cluster_ip();
        let other = at(world.family.local_pod(900), 9999);
        assert_eq!(world.led(Operation::Connect, to), other);
    }
}

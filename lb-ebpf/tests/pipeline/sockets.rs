//! Sockets of the node's own processes: where their calls are led, and what they are told.

mod pods;

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{
    counters::Reason,
    proto,
    service::{Affinity, Backend, frontend},
    socket::Cookie,
};
use lb_ebpf::{Answer, Operation};

use crate::support::{
    family::{Family, at},
    node::Node,
    sockets::{Socket, node},
};

const OPERATIONS: [Operation; 2] = [Operation::Connect, Operation::Send];
const BACKENDS: u16 = 16;

/// A node with a service of many backends for clients inside, at each kind of address.
struct World {
    family: Family,
    node: Node,
    socket: Socket,
}

impl World {
    fn new(family: Family, protocol: u8) -> Self {
        let mut node = node();
        let indices: Vec<u32> = (0..BACKENDS)
            .map(|number| node.local(backend(family, number)))
            .collect();
        let other = node.local(at(family.local_pod(900), 9999));
        for addr in [cluster_ip(family), node_port(family)] {
            node.serve(addr, protocol, &indices, &[other]);
            node.frontend(addr, protocol).service = 1;
        }
        node.flag(node_port(family), protocol, frontend::NODE_PORT);
        node.allocate(cluster_ip(family).ip());
        Self {
            family,
            node,
            socket: Socket::new(1, protocol),
        }
    }

    fn cluster_ip(&self) -> SocketAddr {
        cluster_ip(self.family)
    }

    /// Where a call is led to.
    fn led(&mut self, operation: Operation, to: SocketAddr) -> SocketAddr {
        let (answer, peer) = self.socket.call(&mut self.node, operation, to);
        assert_eq!(answer, Answer::Lead, "{operation:?} to {to}");
        peer
    }

    fn is_backend(&self, addr: SocketAddr) -> bool {
        (0..BACKENDS).any(|number| backend(self.family, number) == addr)
    }

    /// The index of a backend by its address.
    fn index(&self, addr: SocketAddr) -> u32 {
        let found = (0..BACKENDS).find(|number| backend(self.family, *number) == addr);
        found.unwrap().into()
    }
}

fn cluster_ip(family: Family) -> SocketAddr {
    at(family.service(1), 80)
}

fn node_port(family: Family) -> SocketAddr {
    at(family.node(), 30_080)
}

fn backend(family: Family, number: u16) -> SocketAddr {
    at(family.local_pod(10 + number), 8080)
}

/// Worlds of both families and protocols, with sockets of the family and, for IPv4, with IPv6
/// sockets too.
fn worlds() -> impl Iterator<Item = World> {
    let kinds = [(Family::V4, false), (Family::V6, false), (Family::V4, true)];
    kinds.into_iter().flat_map(|(family, mapped)| {
        [proto::TCP, proto::UDP].map(|protocol| {
            let mut world = World::new(family, protocol);
            world.socket.mapped = mapped;
            world
        })
    })
}

#[test]
fn calls_are_led_to_backends_for_clients_inside_and_told_of_the_service() {
    for mut world in worlds() {
        for to in [world.cluster_ip(), node_port(world.family)] {
            for operation in OPERATIONS {
                let backend = world.led(operation, to);
                assert!(world.is_backend(backend), "{backend}");
                assert_eq!(world.socket.told(&world.node, backend), to);
            }
        }
        assert_eq!(world.node.counters(1).flows, 4);
    }
}

#[test]
fn what_is_for_no_service_goes_on_untouched() {
    for mut world in worlds() {
        let to = at(world.family.client(1), 80);
        for (number, operation) in (1..).zip(OPERATIONS) {
            let seen = world.socket.call(&mut world.node, operation, to);
            assert_eq!(seen, (Answer::Pass, to));
            assert_eq!(world.node.count(Reason::NotService), number);
        }
        assert_eq!(world.socket.told(&world.node, to), to);
        assert_eq!(world.node.sockets.len(), 0);
    }
}

/// Every other call is somebody else's: it is not even counted.
#[test]
fn other_namespaces_and_protocols_are_left_alone() {
    type Change = fn(&mut World);
    let changes: [Change; 4] = [
        |world| world.socket.netns = Cookie::new(8),
        |world| world.socket.protocol = proto::SCTP,
        |world| world.socket.protocol = 0,
        |world| world.node.tables.config.as_mut().unwrap().netns = Cookie::NONE,
    ];
    for change in changes {
        for mut world in worlds() {
            let to = world.cluster_ip();
            let backend = world.led(Operation::Connect, to);
            let counted = world.node.counted();
            change(&mut world);
            for operation in OPERATIONS {
                let seen = world.socket.call(&mut world.node, operation, to);
                assert_eq!(seen, (Answer::Pass, to));
            }
            assert_eq!(world.socket.told(&world.node, backend), backend);
            assert_eq!(world.node.counted(), counted);
        }
    }
}

/// A namespace's cookie that was never told is no namespace's.
#[test]
fn sockets_without_a_namespace_are_not_those_of_a_node_without_one() {
    let mut world = World::new(Family::V4, proto::TCP);
    world.node.tables.config.as_mut().unwrap().netns = Cookie::NONE;
    world.socket.netns = Cookie::NONE;
    let to = world.cluster_ip();
    assert_eq!(world.socket.connect(&mut world.node, to).0, Answer::Pass);
}

#[test]
fn connections_choose_anew_and_datagrams_stay() {
    for mut world in worlds() {
        let to = world.cluster_ip();
        let connected: BTreeSet<_> = (0..64).map(|_| world.led(Operation::Connect, to)).collect();
        assert!(connected.len() > 1, "chance keeps to {connected:?}");
        let sent: BTreeSet<_> = (0..64).map(|_| world.led(Operation::Send, to)).collect();
        assert_eq!(sent.len(), 1, "{sent:?}");
        let flows = world.node.counters(1).flows;
        assert_eq!(flows, 65, "a flow per connection, one for all datagrams");
    }
}

/// Established, a datagram costs lookups only.
#[test]
fn datagrams_that_stay_write_nothing() {
    for mut world in worlds() {
        let to = world.cluster_ip();
        world.led(Operation::Send, to);
        let writes = world.node.sockets.writes;
        world.led(Operation::Send, to);
        assert_eq!(world.node.sockets.writes, writes);
    }
}

#[test]
fn datagrams_move_when_their_backend_goes() {
    for mut world in worlds() {
        let to = world.cluster_ip();
        for _ in 0..8 {
            let before = world.led(Operation::Send, to);
            let index = world.index(before);
            let family = world.family;
            world.node.retire(family, index);
            // What is drawn next is another: the agent takes the slot away first.
            let slots = match family {
                Family::V4 => &mut world.node.tables.v4.slots,
                Family::V6 => &mut world.node.tables.v6.slots,
            };
            let rest = slots.iter().copied().find(|slot| *slot > index);
            for slot in slots.iter_mut().filter(|slot| **slot == index) {
                *slot = rest.unwrap_or(0);
            }
            let after = world.led(Operation::Send, to);
            assert_ne!(before, after);
            assert_eq!(world.socket.told(&world.node, after), to);
            // Late answers of the old one are still the service's.
            assert_eq!(world.socket.told(&world.node, before), to);
        }
    }
}

/// A Service that takes over the address of another does not inherit its choices.
#[test]
fn datagrams_move_when_their_service_does() {
    let mut world = World::new(Family::V6, proto::UDP);
    let to = world.cluster_ip();
    world.led(Operation::Send, to);
    let index = world.node.local(at(world.family.local_pod(500), 53));
    world.node.serve(to, proto::UDP, &[index], &[]);
    let led = world.led(Operation::Send, to);
    assert_eq!(led, at(world.family.local_pod(500), 53));
}

#[test]
fn evicted_rows_come_back_with_the_next_datagram() {
    for mut world in worlds() {
        let to = world.cluster_ip();
        let backend = world.led(Operation::Send, to);
        world.node.sockets.evict_replies();
        assert_eq!(world.socket.told(&world.node, backend), backend);
        assert_eq!(world.led(Operation::Send, to), backend, "its choice stands");
        assert_eq!(world.socket.told(&world.node, backend), to);
        world.node.sockets.evict();
        let backend = world.led(Operation::Send, to);
        assert_eq!(world.socket.told(&world.node, backend), to);
    }
}

/// One backend behind two services: answers are the one's that was asked last.
#[test]
fn a_backend_stands_for_the_service_that_was_asked_last() {
    for family in Family::BOTH {
        let mut node = node();
        let index = node.local(backend(family, 0));
        let services = [1, 2].map(|number| at(family.service(number), 53));
        for service in services {
            node.serve(service, proto::UDP, &[index], &[]);
        }
        let socket = Socket::new(1, proto::UDP);
        for service in services.into_iter().chain(services) {
            let (_, peer) = socket.send(&mut node, service);
            assert_eq!(socket.told(&node, peer), service);
        }
    }
}

#[test]
fn sockets_are_told_of_their_own_services_only() {
    for mut world in worlds() {
        let to = world.cluster_ip();
        let backend = world.led(Operation::Connect, to);
        let other = Socket {
            number: 2,
            ..world.socket
        };
        assert_eq!(other.told(&world.node, backend), backend);
        let other = Socket {
            protocol: proto::TCP ^ proto::UDP ^ world.socket.protocol,
            ..world.socket
        };
        assert_eq!(other.told(&world.node, backend), backend);
    }
}

/// Loopback addresses, and the unspecified one, are those of node ports, and of nothing else.
#[test]
fn loopback_addresses_lead_to_node_ports() {
    for mut world in worlds() {
        let hosts: &[&str] = match world.family {
            Family::V4 => &["127.0.0.1", "127.255.255.254", "0.0.0.0"],
            Family::V6 => &["::1", "::"],
        };
        for host in hosts {
            let to = at(host.parse().unwrap(), 30_080);
            for operation in OPERATIONS {
                let backend = world.led(operation, to);
                assert!(world.is_backend(backend), "{backend}");
                assert_eq!(world.socket.told(&world.node, backend), to);
            }
            let elsewhere = at(to.ip(), 80);
            let seen = world.socket.connect(&mut world.node, elsewhere);
            assert_eq!(seen, (Answer::Pass, elsewhere));
        }
    }
}

#[test]
fn loopback_addresses_are_left_alone_where_nothing_is_to_be_served_there() {
    for mut world in worlds() {
        let host = match world.family {
            Family::V4 => "127.0.0.1",
            Family::V6 => "::1",
        };
        let to = at(host.parse().unwrap(), 30_080);
        let protocol = world.socket.protocol;
        // An external IP that is the node's own address is no node port.
        world.node.flag(node_port(world.family), protocol, 0);
        assert_eq!(
            world.socket.connect(&mut world.node, to),
            (Answer::Pass, to)
        );
        let flags = frontend::NODE_PORT;
        world.node.flag(node_port(world.family), protocol, flags);
        world.node.tables.config.as_mut().unwrap().flags = 0;
        assert_eq!(
            world.socket.connect(&mut world.node, to),
            (Answer::Pass, to)
        );
        assert_eq!(world.node.count(Reason::NotService), 2);
    }
}

/// What a process hears, and what is counted, when there is nobody it could be led to.
#[test]
fn refusals_fail_at_once_and_are_counted() {
    type Change = fn(&mut World) -> SocketAddr;
    let cases: [(Change, Answer, Reason); 7] = [
        (
            |world| {
                let (to, protocol) = (world.cluster_ip(), world.socket.protocol);
                world.node.serve(to, protocol, &[], &[]);
                to
            },
            Answer::Refuse,
            Reason::NoBackend,
        ),
        (
            |world| at(world.cluster_ip().ip(), 81),
            Answer::Refuse,
            Reason::NoSuchPort,
        ),
        (
            |world| at(world.family.service(99), 80),
            Answer::Refuse,
            Reason::Unallocated,
        ),
        (
            |world| {
                let (to, protocol) = (world.cluster_ip(), world.socket.protocol);
                world.node.serve(to, protocol, &[], &[0]);
                world.node.flag(to, protocol, frontend::DROP_INSIDE);
                to
            },
            Answer::Forbid,
            Reason::NoLocalBackend,
        ),
        (
            |world| {
                let (to, protocol) = (world.cluster_ip(), world.socket.protocol);
                world.node.flag(to, protocol, frontend::SOURCE_RANGES);
                to
            },
            Answer::Forbid,
            Reason::SourceRange,
        ),
        (
            |world| {
                world.node.sockets.busy = true;
                world.cluster_ip()
            },
            Answer::Forbid,
            Reason::TableBusy,
        ),
        (
            |world| {
                world.node.tables.v4.backends.fill(Backend::default());
                world.node.tables.v6.backends.fill(Backend::default());
                world.cluster_ip()
            },
            Answer::Forbid,
            Reason::Inconsistent,
        ),
    ];
    for (change, answer, reason) in cases {
        for operation in OPERATIONS {
            for mut world in worlds() {
                let to = change(&mut world);
                let seen = world.socket.call(&mut world.node, operation, to);
                assert_eq!(seen, (answer, to), "{reason:?}");
                assert_eq!(world.node.count(reason), 1, "{reason:?}");
                assert_eq!(world.node.sockets.len(), 0, "{reason:?}");
            }
        }
    }
}

/// The node is one client, whatever the socket: affinity keeps all its processes together.
#[test]
fn affinity_holds_for_the_node_as_a_whole() {
    for mut world in worlds() {
        let to = world.cluster_ip();
        let affinity = Affinity::new(60, 1);
        world.node.affine(to, world.socket.protocol, affinity);
        let mut led = BTreeSet::new();
        for number in 0..32 {
            world.socket.number = number;
            led.insert(world.led(Operation::Connect, to));
            led.insert(world.led(Operation::Send, to));
        }
        assert_eq!(led.len(), 1, "{led:?}");
    }
}

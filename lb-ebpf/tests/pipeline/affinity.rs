//! Session affinity: whose flows stay with one backend, and for how long.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lb_common::{
    proto,
    service::{Affinity, backend, frontend},
};
use lb_ebpf::Hook;

use crate::support::{
    family::{Family, at},
    frame::Frame,
    node::Node,
    wire,
};

/// So many backends that chance alone does not keep a client on one.
const BACKENDS: u16 = 64;
const TIMEOUT: u32 = 60;
const INSIDE: Hook = Hook::TC_POD_INGRESS;
const OUTSIDE: Hook = Hook::XDP_EXTERNAL;

/// A service with affinity and two addresses, of which each has local and remote backends.
struct World {
    family: Family,
    node: Node,
    protocol: u8,
    /// Port of the client's next flow.
    port: u16,
}

impl World {
    fn new(family: Family, protocol: u8) -> Self {
        let mut node = Node::new();
        let indices = (0..BACKENDS)
            .map(|number| node.local(at(family.local_pod(10 + number), 8080)))
            .collect::<Vec<_>>();
        let mut world = Self {
            family,
            node,
            protocol,
            port: 1000,
        };
        for addr in [world.cluster_ip(), world.node_port()] {
            world.node.serve(addr, protocol, &indices, &indices);
            world.node.frontend(addr, protocol).service = 1;
        }
        world.affine(Affinity::new(TIMEOUT, 1));
        world
    }

    fn cluster_ip(&self) -> SocketAddr {
        at(self.family.service(1), 80)
    }

    fn node_port(&self) -> SocketAddr {
        at(self.family.node(), 30_080)
    }

    fn affine(&mut self, affinity: Affinity) {
        for addr in [self.cluster_ip(), self.node_port()] {
            self.node.affine(addr, self.protocol, affinity);
        }
    }

    /// The backend a client's new flow gets.
    fn flow(&mut self, hook: Hook, client: u16, to: SocketAddr) -> SocketAddr {
        self.port += 1;
        let client = if hook == INSIDE {
            self.family.local_pod(client)
        } else {
            self.family.client(client)
        };
        let frame = Frame::first(self.protocol, at(client, self.port), to);
        let (_, bytes) = self.node.see(hook, &frame);
        wire::addresses(&bytes).1
    }

    /// The backend that a client from outside keeps for many flows.
    fn kept(&mut self, client: u16) -> SocketAddr {
        let to = self.cluster_ip();
        let all = self.spread(client);
        assert_eq!(all.len(), 1, "{all:?}");
        self.flow(OUTSIDE, client, to)
    }

    /// The backends of many flows of a client from outside.
    fn spread(&mut self, client: u16) -> BTreeSet<SocketAddr> {
        let to = self.cluster_ip();
        (0..8).map(|_| self.flow(OUTSIDE, client, to)).collect()
    }

    fn wait(&self, seconds: u64) {
        self.node.wait(Duration::from_secs(seconds));
    }

    /// Index of a backend by its address.
    fn index(&self, addr: SocketAddr) -> u32 {
        (0..BACKENDS)
            .find(|number| at(self.family.local_pod(10 + number), 8080) == addr)
            .map(u32::from)
            .unwrap()
    }
}

/// Worlds of both families and protocols.
fn worlds() -> impl Iterator<Item = World> {
    Family::BOTH.into_iter().flat_map(|family| {
        [proto::TCP, proto::UDP, proto::SCTP].map(|protocol| World::new(family, protocol))
    })
}

#[test]
fn a_client_keeps_its_backend_and_clients_differ() {
    for mut world in worlds() {
        let kept: BTreeSet<_> = (1..9).map(|client| world.kept(client)).collect();
        assert!(kept.len() > 1, "{kept:?}");
    }
}

#[test]
fn without_affinity_nothing_is_remembered() {
    for mut world in worlds() {
        world.affine(Affinity::NONE);
        assert!(world.spread(1).len() > 1);
        assert_eq!(world.node.tables.memories.get(), 0);
    }
}

#[test]
fn all_addresses_of_a_service_port_share_a_clients_memory() {
    for mut world in worlds() {
        let (cluster_ip, node_port) = (world.cluster_ip(), world.node_port());
        for client in 1..5 {
            let kept = world.flow(OUTSIDE, client, cluster_ip);
            assert_eq!(world.flow(OUTSIDE, client, node_port), kept);
        }
    }
}

#[test]
fn another_service_has_a_memory_of_its_own() {
    for mut world in worlds() {
        let node_port = world.node_port();
        world.node.frontend(node_port, world.protocol).service = 2;
        let differ = (1..9).any(|client| {
            let kept = world.kept(client);
            world.flow(OUTSIDE, client, node_port) != kept
        });
        assert!(differ);
    }
}

/// Every new flow prolongs the memory; it is never shorter than the timeout, and at most a second
/// longer.
#[test]
fn the_timeout_runs_from_the_last_new_flow() {
    for mut world in worlds() {
        let kept = world.kept(1);
        for _ in 0..10 {
            world.wait(u64::from(TIMEOUT));
            assert_eq!(world.kept(1), kept);
        }
        let differ = (0..8).any(|_| {
            world.wait(u64::from(TIMEOUT) + 2);
            let to = world.cluster_ip();
            world.flow(OUTSIDE, 1, to) != kept
        });
        assert!(differ, "forgotten in time");
    }
}

#[test]
fn a_client_is_written_down_at_most_once_a_second() {
    for mut world in worlds() {
        for _ in 0..5 {
            world.kept(1);
        }
        assert_eq!(world.node.tables.memories.get(), 1);
        world.wait(2);
        world.kept(1);
        assert_eq!(world.node.tables.memories.get(), 2);
    }
}

#[test]
fn a_backend_that_goes_is_forgotten_and_others_are_not() {
    for mut world in worlds() {
        let (one, other) = (world.kept(1), world.kept(2));
        assert_ne!(one, other, "the dice fall so");
        let index = world.index(one);
        world.node.retire(world.family, index);
        // Its index goes to another endpoint.
        world
            .node
            .flag_backend(world.family, index, backend::ALIVE | backend::IN_CLUSTER);
        let anew = (0..8).any(|_| {
            let memories = world.node.tables.memories.get();
            world.spread(1);
            world.node.tables.memories.get() > memories
        });
        assert!(anew);
        assert_eq!(world.kept(2), other);
    }
}

#[test]
fn affinity_switched_off_and_on_has_forgotten() {
    for mut world in worlds() {
        let before: Vec<_> = (1..9).map(|client| world.kept(client)).collect();
        world.affine(Affinity::NONE);
        assert!(world.spread(1).len() > 1, "forgotten at once");
        world.affine(Affinity::new(TIMEOUT, 2));
        let after: Vec<_> = (1..9).map(|client| world.kept(client)).collect();
        assert_ne!(before, after);
    }
}

/// A client is kept on a backend only while that is in the list for its side.
#[test]
fn a_backend_out_of_the_sides_list_is_not_kept() {
    const ALIVE: u16 = backend::ALIVE | backend::LOCAL;
    for (hook, flag) in [
        (INSIDE, frontend::LOCAL_INSIDE),
        (OUTSIDE, frontend::LOCAL_OUTSIDE),
    ] {
        for mut world in worlds() {
            let to = world.cluster_ip();
            let kept = world.flow(hook, 1, to);
            let index = world.index(kept);
            let mut written_for = |lists: u16, flags: u32| {
                world.node.flag_backend(world.family, index, ALIVE | lists);
                world.node.flag(to, world.protocol, flags);
                let before = world.node.tables.memories.get();
                world.flow(hook, 1, to);
                world.node.tables.memories.get() - before
            };
            assert_eq!(written_for(backend::IN_CLUSTER, 0), 0);
            assert_eq!(written_for(backend::IN_LOCAL, flag), 0);
            assert_eq!(written_for(backend::IN_LOCAL, 0), 1, "chosen anew");
        }
        for mut world in worlds() {
            let to = world.cluster_ip();
            let kept = world.flow(hook, 1, to);
            let index = world.index(kept);
            let lists = ALIVE | backend::IN_CLUSTER;
            world.node.flag_backend(world.family, index, lists);
            world.node.flag(to, world.protocol, flag);
            let before = world.node.tables.memories.get();
            world.flow(hook, 1, to);
            assert_eq!(world.node.tables.memories.get(), before + 1, "chosen anew");
        }
    }
}

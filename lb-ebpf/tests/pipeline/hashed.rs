//! A hashed frontend's flows have their backends wherever and whenever they begin.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{
    counters::Reason,
    proto,
    service::{Affinity, Slots, frontend},
};
use lb_ebpf::{Hook, Verdict};

use crate::support::{
    OPENING,
    family::{Family, at},
    frame::Frame,
    node::Node,
    wire,
};

/// The backend of a flow's first packet through a hashed frontend, on a node that knows nothing of
/// the flow and whose dice are its own.
fn hashed(hook: Hook, protocol: u8, from: SocketAddr, to: SocketAddr, seed: u64) -> SocketAddr {
    const SLOTS: u16 = 251;
    let family = Family::of(from.ip());
    let mut node = Node::new();
    let slots: Vec<_> = (0..SLOTS)
        .map(|number| node.local(at(family.local_pod(number), 8080)))
        .collect();
    node.serve(to, protocol, &slots, &slots);
    node.flag(to, protocol, frontend::HASHED);
    node.tables.seed.set(seed);
    let (_, bytes) = node.see(hook, &Frame::first(protocol, from, to));
    wire::addresses(&bytes).1
}

#[test]
fn a_hashed_flow_has_one_backend_on_every_node_and_at_every_hook() {
    for family in Family::BOTH {
        for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
            let (from, to) = (at(family.client(1), 4000), at(family.service(1), 80));
            let nodes = OPENING.into_iter().zip(1..);
            let chosen = nodes.map(|(hook, seed)| hashed(hook, protocol, from, to, seed));
            let chosen: BTreeSet<_> = chosen.collect();
            assert_eq!(chosen.len(), 1, "{chosen:?}");
        }
    }
}

/// Every part of the tuple counts: flows that differ in one spread over the slots like any others.
#[test]
fn flows_that_differ_in_one_part_spread_over_the_slots() {
    const FLOWS: u16 = 64;
    for family in Family::BOTH {
        let flow = |client: u16, client_port: u16, service: u16, port: u16| {
            let from = at(family.client(client), client_port);
            let to = at(family.service(service), port);
            hashed(Hook::XDP_EXTERNAL, proto::TCP, from, to, 1)
        };
        let each = |chosen: &dyn Fn(u16) -> SocketAddr| {
            let chosen: BTreeSet<_> = (1..=FLOWS).map(chosen).collect();
            // Of 251 slots, 64 throws meet 57 on average, and with fair dice never so few.
            assert!(chosen.len() > 40, "{} of {FLOWS}", chosen.len());
        };
        each(&|n| flow(n, 4000, 1, 80));
        each(&|n| flow(1, n, 1, 80));
        each(&|n| flow(1, 4000, n, 80));
        each(&|n| flow(1, 4000, 1, n));
        // What is added here and taken away there is not the same.
        each(&|n| flow(n, 4000 - n, 1, 80));
        each(&|n| flow(1, 4000 + n, 1, 80 + n));
        let protocols = [proto::TCP, proto::UDP, proto::SCTP];
        let (from, to) = (at(family.client(1), 4000), at(family.service(1), 80));
        let chosen = protocols.map(|protocol| hashed(OPENING[0], protocol, from, to, 1));
        assert_eq!(BTreeSet::from(chosen).len(), protocols.len(), "{chosen:?}");
    }
}

/// A node with two hashed services of three backends each.
fn hashed_pair(family: Family) -> (Node, [SocketAddr; 2]) {
    let mut node = Node::new();
    for number in 0..6 {
        node.local(at(family.local_pod(number), 8080));
    }
    let services = [1, 2].map(|number| at(family.service(number), 80));
    for (service, indices) in services.iter().zip([[0, 1, 2], [3, 4, 5]]) {
        node.serve(*service, proto::UDP, &indices, &indices);
        node.flag(*service, proto::UDP, frontend::HASHED);
    }
    (node, services)
}

fn slots(node: &mut Node, family: Family) -> &mut Vec<u32> {
    match family {
        Family::V4 => &mut node.tables.v4.slots,
        Family::V6 => &mut node.tables.v6.slots,
    }
}

/// Positions are shared, indices are not.
#[test]
fn services_that_share_a_table_have_their_own_backends() {
    for family in Family::BOTH {
        let (mut node, services) = hashed_pair(family);
        let lists = services.map(|at| node.frontend(at, proto::UDP).outside.offset as usize);
        let slots = slots(&mut node, family);
        let table = slots[lists[0]];
        slots[lists[1]] = table;
        for (service, own) in services.into_iter().zip([0..3, 3..6]) {
            let led = (1..200).map(|port| {
                let frame = Frame::udp(at(family.client(1), port), service);
                node.reached(Hook::XDP_EXTERNAL, &frame).unwrap()
            });
            let led: BTreeSet<_> = led.collect();
            let own = own.map(|number| at(family.local_pod(number), 8080));
            assert_eq!(led, own.collect());
        }
    }
}

#[test]
fn a_list_that_contradicts_its_table_drops_packets() {
    type Break = fn(&mut [u32], &mut Slots);
    let breakages: [(&str, Break); 7] = [
        ("the list is beyond the slots", |_, list| {
            list.offset = u32::MAX;
        }),
        ("it ends behind its header", |_, list| list.count = 2),
        ("it ends within its header", |_, list| list.count = 1),
        ("the table is beyond the slots", |slots, list| {
            slots[list.offset as usize] = 1 << 20;
        }),
        ("the table is larger than the slots", |slots, list| {
            slots[list.offset as usize + 1] = u32::MAX;
        }),
        ("a position is just beyond the list", |slots, list| {
            slots[..list.offset as usize].fill(3);
        }),
        ("a position comes round to the header", |slots, list| {
            slots[..list.offset as usize].fill(u32::MAX);
        }),
    ];
    for family in Family::BOTH {
        for (name, break_it) in breakages {
            let (mut node, [service, _]) = hashed_pair(family);
            let mut list = node.frontend(service, proto::UDP).outside;
            break_it(slots(&mut node, family), &mut list);
            node.frontend(service, proto::UDP).outside = list;
            let frame = Frame::udp(at(family.client(1), 4000), service);
            let seen = node.see(Hook::XDP_EXTERNAL, &frame);
            assert_eq!(seen, (Verdict::Drop, frame.build()), "{name}");
            assert_eq!(node.count(Reason::Inconsistent), 1, "{name}");
        }
    }
}

/// Affinity comes first: a client keeps what its first flow's hash gave it.
#[test]
fn a_client_that_is_remembered_is_not_hashed() {
    for family in Family::BOTH {
        let mut node = Node::new();
        let slots: Vec<_> = (0..64)
            .map(|number| node.local(at(family.local_pod(number), 8080)))
            .collect();
        let to = at(family.service(1), 80);
        node.serve(to, proto::UDP, &[], &slots);
        node.flag(to, proto::UDP, frontend::HASHED);
        let mut spread = |ports: std::ops::Range<u16>, affinity| {
            node.affine(to, proto::UDP, affinity);
            let led = ports.map(|port| {
                let frame = Frame::udp(at(family.client(1), port), to);
                wire::addresses(&node.see(Hook::XDP_EXTERNAL, &frame).1).1
            });
            led.collect::<BTreeSet<_>>().len()
        };
        assert!(spread(1000..1032, Affinity::NONE) > 8);
        assert_eq!(spread(2000..2032, Affinity::new(60, 1)), 1);
    }
}

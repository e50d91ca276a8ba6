//! Rows of the flow table: what they cost, and how they are kept.

use std::time::Duration;

use lb_common::{counters::Reason, flow::Half, proto};
use lb_ebpf::{Hook, Verdict};

use crate::support::{
    ends::{PROTOCOLS, client, local as backend, service},
    family::{Family, at},
    frame::Frame,
    node::Node,
    packet::HostPacket,
    wire,
};

const HOOK: Hook = Hook::TC_EXTERNAL_INGRESS;
/// Comfortably more than the second after which rows are renewed.
const A_WHILE: Duration = Duration::from_millis(1100);

/// A node with a service and its backend.
fn node(family: Family) -> Node {
    let mut node = Node::new();
    let index = node.local(backend(family));
    for protocol in PROTOCOLS {
        node.serve(service(family), protocol, &[index], &[index]);
    }
    node
}

/// The promise of the flow table: one lookup finishes a packet, and nothing is written.
#[test]
fn an_established_flow_costs_one_lookup_and_no_write() {
    for family in Family::BOTH {
        let (client, service) = (client(family), service(family));
        for protocol in PROTOCOLS {
            let mut node = node(family);
            node.see(HOOK, &Frame::first(protocol, client, service));
            let reply = Frame::next(protocol, backend(family), client);
            node.see(Hook::TC_EXTERNAL_EGRESS, &reply);
            node.see(HOOK, &Frame::next(protocol, client, service));
            let packets = [
                (HOOK, Frame::next(protocol, client, service)),
                (Hook::TC_EXTERNAL_EGRESS, reply),
            ];
            for (hook, frame) in packets {
                let before = node.clone();
                assert_eq!(node.see(hook, &frame).0, Verdict::Deliver);
                assert_eq!(node.flows.lookups, before.flows.lookups + 1);
                assert_eq!(node.flows.writes, before.flows.writes);
                assert!(node.flows.same_rows(&before.flows), "rows are left alone");
                let frontends = &node.tables.frontend_lookups;
                assert_eq!(frontends, &before.tables.frontend_lookups);
            }
        }
    }
}

#[test]
fn a_packet_that_is_for_no_service_costs_one_lookup() {
    for family in Family::BOTH {
        let mut node = node(family);
        let frame = Frame::udp(client(family), at(family.client(9), 80));
        assert_eq!(node.see(HOOK, &frame).0, Verdict::Pass);
        assert_eq!(node.count(Reason::NotService), 1);
        let lookups = node.flows.lookups + node.tables.frontend_lookups.get();
        assert_eq!(lookups, 1);
    }
}

/// The table evicts what is not looked up: the reply's row of a flow without replies. It holds
/// the flow's tuple, and is put back.
#[test]
fn a_request_renews_the_row_of_its_reply() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let (client, service) = (client(family), service(family));
            let mut node = node(family);
            node.see(HOOK, &Frame::first(protocol, client, service));
            evict_replies(&mut node);
            let next = Frame::next(protocol, client, service);
            node.see(HOOK, &next);
            assert_eq!(node.flows.len(), 1, "not with every packet");
            node.wait(A_WHILE);
            assert_eq!(node.reached(HOOK, &next), Some(backend(family)));
            assert_eq!(node.flows.len(), 2);
            let writes = node.flows.writes;
            node.see(HOOK, &next);
            assert_eq!(node.flows.writes, writes, "once a second");
            let reply = Frame::next(protocol, backend(family), client);
            let (_, bytes) = node.see(Hook::TC_EXTERNAL_EGRESS, &reply);
            assert_eq!(wire::addresses(&bytes), (service, client));
        }
    }
}

fn evict_replies(node: &mut Node) {
    node.flows
        .v4
        .rows
        .retain(|_, row| row.half() == Half::Request);
    node.flows
        .v6
        .rows
        .retain(|_, row| row.half() == Half::Request);
}

fn evict_requests(node: &mut Node) {
    node.flows
        .v4
        .rows
        .retain(|_, row| row.half() == Half::Reply);
    node.flows
        .v6
        .rows
        .retain(|_, row| row.half() == Half::Reply);
}

/// Its tuple went to another flow while it was idle: it must not answer to that flow's replies.
#[test]
fn a_flow_that_lost_its_tuple_ends() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let client = client(family);
            let [one, two] = [1, 2].map(|number| at(family.service(number), 80));
            let mut node = node(family);
            node.serve(two, protocol, &[0], &[0]);
            node.see(HOOK, &Frame::first(protocol, client, one));
            evict_replies(&mut node);
            node.see(HOOK, &Frame::first(protocol, client, two));

            node.wait(A_WHILE);
            node.see(HOOK, &Frame::next(protocol, client, one));
            let reply = Frame::next(protocol, backend(family), client);
            let (_, bytes) = node.see(Hook::TC_EXTERNAL_EGRESS, &reply);
            assert_eq!(wire::addresses(&bytes).0, two);

            let (verdict, bytes) = node.see(HOOK, &Frame::next(protocol, client, one));
            if protocol == proto::UDP {
                assert_ne!(wire::source(&bytes), client, "a tuple of its own");
            } else {
                assert_eq!(verdict, Verdict::Drop);
                assert_eq!(node.count(Reason::NoFlow), 1);
            }
        }
    }
}

/// A datagram flow whose request row was evicted takes up the tuple it had.
#[test]
fn a_flow_that_is_opened_again_gets_its_own_tuple_back() {
    for family in Family::BOTH {
        let frame = Frame::udp(client(family), service(family));
        let mut node = node(family);
        let (_, before) = node.see(HOOK, &frame);
        evict_requests(&mut node);
        let (_, after) = node.see(HOOK, &frame);
        assert_eq!(after, before);
        assert_eq!(node.flows.len(), 2);
    }
}

/// A table that takes no row leaves nothing half done.
#[test]
fn a_full_table_drops_what_is_new_and_keeps_no_half_of_it() {
    for family in Family::BOTH {
        for rows in [0, 1] {
            let mut node = node(family);
            node.flows.limit(rows);
            let frame = Frame::udp(client(family), service(family));
            assert_eq!(node.see(HOOK, &frame), (Verdict::Drop, frame.build()));
            assert_eq!(node.count(Reason::TableBusy), 1);
            assert_eq!(node.flows.len(), 0);
        }
    }
}

/// A reply row that can't be renewed for want of room ends nothing.
#[test]
fn a_full_table_ends_no_flow() {
    for family in Family::BOTH {
        let mut node = node(family);
        let frame = Frame::udp(client(family), service(family));
        node.see(HOOK, &frame);
        evict_replies(&mut node);
        node.flows.limit(1);
        node.wait(A_WHILE);
        assert!(node.reached(HOOK, &frame).is_some());
        assert_eq!(node.flows.len(), 1);
        assert!(node.reached(HOOK, &frame).is_some());
    }
}

/// Services count what they translate, by what arrived.
#[test]
fn services_count_flows_packets_and_bytes() {
    let family = Family::V6;
    let mut node = Node::new();
    let index = node.local(backend(family));
    let id = node.serve(service(family), proto::UDP, &[index], &[index]);
    let request = HostPacket::from(&Frame::udp(client(family), service(family)));
    let reply = HostPacket::from(&Frame::udp(backend(family), client(family)));
    let bytes = (2 * request.bytes().len() + reply.bytes().len()) as u64;
    node.see(HOOK, request.clone());
    node.see(HOOK, request);
    node.see(Hook::TC_EXTERNAL_EGRESS, reply);
    let counters = node.counters(id);
    assert_eq!((counters.flows, counters.packets), (1, 3));
    assert_eq!((counters.bytes, counters.rejects), (bytes, 0));
}

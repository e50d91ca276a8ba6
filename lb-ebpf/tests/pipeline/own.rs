//! What this node's own stack sends to services, by sockets that nothing has led there.

use std::{net::SocketAddr, time::Duration};

use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Notice, Reach, Verdict};

use crate::support::{
    ends::{PROTOCOLS, remote as backend, service},
    family::{Family, at},
    frame::{Frame, flag},
    node::Node,
    packet::HostPacket,
    tables::{EXTERNAL, Way},
    wire,
};

const OUT: Hook = Hook::TC_EXTERNAL_EGRESS;
/// The interface of a pod.
const VETH: u32 = 7;

fn own(family: Family) -> SocketAddr {
    at(family.node(), 40_000)
}

fn node(family: Family) -> Node {
    let mut node = Node::new();
    let index = node.remote(backend(family));
    for protocol in PROTOCOLS {
        node.serve(service(family), protocol, &[index], &[]);
    }
    node.allocate(service(family).ip());
    node
}

fn sent(frame: &Frame) -> HostPacket {
    HostPacket::from(frame).of_this_node()
}

/// The request goes to its next hop, none the older; the reply enters as the service's.
#[test]
fn the_node_reaches_services_as_itself() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let mut node = node(family);
            let last_hop = Frame {
                ttl: 1,
                ..Frame::next(protocol, own(family), service(family))
            };
            for frame in [
                Frame::first(protocol, own(family), service(family)),
                Frame::next(protocol, own(family), service(family)),
                last_hop,
            ] {
                let (verdict, bytes) = node.see(OUT, sent(&frame));
                assert_eq!(verdict, Verdict::Transmit { ifindex: EXTERNAL });
                assert_eq!(wire::addresses(&bytes), (own(family), backend(family)));
                let at = if own(family).is_ipv4() { 8 } else { 7 };
                assert_eq!(bytes[14 + at], frame.ttl);
                for hook in [Hook::XDP_EXTERNAL, Hook::TC_EXTERNAL_INGRESS] {
                    let reply = Frame::next(protocol, backend(family), own(family));
                    let (verdict, bytes) = node.see(hook, &reply);
                    assert_eq!(verdict, Verdict::Deliver);
                    assert_eq!(wire::addresses(&bytes), (service(family), own(family)));
                }
            }
            assert_eq!(node.flows.len(), 2);
        }
    }
}

/// A pod's reply comes by another interface than the one the service's address is routed by. It enters by
/// that, with its MAC, for as long as there are any.
#[test]
fn a_reply_enters_where_the_request_left() {
    for family in Family::BOTH {
        let mut node = node(family);
        let syn = Frame::tcp(own(family), service(family), flag::SYN);
        node.see(OUT, sent(&syn));
        for _ in 0..3 {
            node.tables.ifindex = VETH;
            let reply = Frame::tcp(backend(family), own(family), flag::SYN | flag::ACK);
            let (verdict, bytes) = node.see(Hook::TC_POD_INGRESS, &reply);
            assert_eq!(verdict, Verdict::Enter { ifindex: EXTERNAL });
            assert_eq!(wire::addresses(&bytes), (service(family), own(family)));
            assert_eq!(bytes[..6], syn.macs[6..]);
            node.tables.ifindex = EXTERNAL;
            node.wait(Duration::from_millis(1100));
            node.see(
                OUT,
                sent(&Frame::tcp(own(family), service(family), flag::ACK)),
            );
        }
    }
}

/// What others send by way of this node was looked at when it entered.
#[test]
fn what_merely_passes_opens_nothing() {
    for family in Family::BOTH {
        let mut node = node(family);
        let frame = Frame::udp(at(family.client(1), 4000), service(family));
        assert_eq!(node.see(OUT, &frame), (Verdict::Pass, frame.build()));
        let frame = Frame::udp(own(family), service(family));
        let pod = node.see(Hook::TC_POD_EGRESS, sent(&frame));
        assert_eq!(pod, (Verdict::Pass, frame.build()));
        assert_eq!(node.flows.len(), 0);
    }
}

#[test]
fn the_node_is_refused_like_anybody_inside() {
    for family in Family::BOTH {
        let mut node = node(family);
        node.serve(service(family), proto::TCP, &[], &[]);
        let cases = [
            (
                service(family),
                Verdict::Reject(Notice::NOBODY),
                Reason::NoBackend,
            ),
            (
                at(family.service(1), 81),
                Verdict::Reject(Notice::NOBODY),
                Reason::NoSuchPort,
            ),
            (
                at(family.service(2), 80),
                Verdict::Drop,
                Reason::Unallocated,
            ),
        ];
        for (to, verdict, reason) in cases {
            let frame = Frame::tcp(own(family), to, flag::SYN);
            assert_eq!(node.see(OUT, sent(&frame)), (verdict, frame.build()));
            assert_eq!(node.count(reason), 1);
        }
        let before = node.flows.len();
        // An address of the node itself cannot be sent to from here.
        node.serve(service(family), proto::TCP, &[0], &[]);
        node.route(backend(family).ip(), Way::reaching(Reach::NotForwarded));
        let frame = Frame::tcp(own(family), service(family), flag::SYN);
        assert_eq!(node.see(OUT, sent(&frame)), (Verdict::Drop, frame.build()));
        assert_eq!((node.count(Reason::NoRoute), node.flows.len()), (1, before));
    }
}

/// The node asks a backend itself, from the port of a connection that has not been used for a while.
#[test]
fn a_connection_that_is_not_used_leaves_its_port_to_the_node() {
    for family in Family::BOTH {
        let mut node = node(family);
        node.see(
            OUT,
            sent(&Frame::tcp(own(family), service(family), flag::SYN)),
        );
        node.wait(Duration::from_millis(1100));
        let direct = Frame::tcp(own(family), backend(family), flag::SYN);
        assert_eq!(
            node.see(OUT, sent(&direct)),
            (Verdict::Pass, direct.build())
        );
        let answer = Frame::tcp(backend(family), own(family), flag::SYN | flag::ACK);
        let (verdict, bytes) = node.see(Hook::XDP_EXTERNAL, &answer);
        assert_eq!((verdict, bytes), (Verdict::Pass, answer.build()));
    }
}

//! What a flow's packets tell of it, and what follows: how far it has got, when it begins anew, where a
//! packet without a row belongs.

use std::net::SocketAddr;

use lb_common::{
    Addr,
    counters::Reason,
    flow::{Half, Stage},
    proto,
    service::{Affinity, frontend},
};
use lb_ebpf::{Hook, Notice, Verdict};
use lb_model::flows::Table;

use crate::support::{
    ends::{PROTOCOLS, client, service},
    family::{Family, at},
    frame::{Frame, chunk, flag},
    node::Node,
    packet::HostPacket,
    wire,
};

const THERE: Hook = Hook::TC_EXTERNAL_INGRESS;
const BACK: Hook = Hook::TC_EXTERNAL_EGRESS;

fn backend(family: Family, number: u16) -> SocketAddr {
    at(family.local_pod(number), 8080)
}

/// A node with backends 0 to 2 of this node and 3 of another, of which the service has these.
fn node(family: Family, slots: &[u32]) -> Node {
    let mut node = Node::new();
    for number in 0..3 {
        node.local(backend(family, number));
    }
    node.remote(at(family.remote_pod(1), 8080));
    serve(&mut node, family, slots);
    node
}

fn serve(node: &mut Node, family: Family, slots: &[u32]) {
    for protocol in PROTOCOLS {
        node.serve(service(family), protocol, slots, slots);
    }
}

/// Who sends a packet of a flow, and the TCP flags or SCTP chunk it has.
#[derive(Clone, Copy, Debug)]
enum Said {
    Client(u8),
    Backend(u8),
}

fn frame(family: Family, protocol: u8, said: Said) -> (Hook, Frame) {
    let (hook, src, dst, kind) = match said {
        Said::Client(kind) => (THERE, client(family), service(family), kind),
        Said::Backend(kind) => (BACK, backend(family, 0), client(family), kind),
    };
    let frame = match protocol {
        proto::TCP => Frame::tcp(src, dst, kind),
        proto::SCTP => Frame::sctp(src, dst, kind),
        _ => Frame::udp(src, dst),
    };
    (hook, frame)
}

/// The stage that each of a node's rows is in.
fn stages(node: &Node) -> Vec<Stage> {
    fn of<A: Addr>(table: &Table<A>) -> impl Iterator<Item = Stage> {
        table.rows.values().map(lb_common::flow::Flow::stage)
    }
    of(&node.flows.v4).chain(of(&node.flows.v6)).collect()
}

/// Sequences of packets, and the stage that both rows of their flow are in after each.
#[test]
fn a_flow_s_packets_tell_how_far_it_has_got() {
    use Said::{Backend, Client};
    use Stage::{Closed, Closing, Established, Opening, Reset};
    const SYN: u8 = flag::SYN;
    const ACK: u8 = flag::ACK;
    const FIN: u8 = flag::FIN | flag::ACK;
    const RST: u8 = flag::RST;
    let lives: [(u8, &[(Said, Stage)]); 8] = [
        (
            proto::TCP,
            &[
                (Client(SYN), Opening),
                (Client(SYN), Opening),
                (Backend(SYN | ACK), Opening),
                (Client(SYN), Opening),
                (Client(ACK), Established),
                (Client(FIN), Closing),
                (Backend(ACK), Closing),
                (Backend(FIN), Closed),
                (Client(ACK), Closed),
                (Backend(FIN), Closed),
            ],
        ),
        (
            proto::TCP,
            &[
                (Client(SYN), Opening),
                (Backend(SYN | ACK), Opening),
                (Backend(FIN), Closing),
                (Client(ACK), Closing),
                (Client(FIN), Closed),
            ],
        ),
        (
            proto::TCP,
            &[
                (Client(SYN), Opening),
                (Backend(SYN | ACK), Opening),
                (Client(RST), Reset),
                (Backend(ACK), Reset),
            ],
        ),
        (
            proto::TCP,
            &[
                (Client(SYN), Opening),
                (Backend(SYN | ACK), Opening),
                (Client(ACK), Established),
                (Backend(RST), Reset),
                (Client(ACK), Reset),
            ],
        ),
        (proto::TCP, &[(Client(SYN), Opening), (Client(RST), Reset)]),
        (
            proto::UDP,
            &[
                (Client(0), Opening),
                (Client(0), Opening),
                (Backend(0), Established),
                (Client(0), Established),
            ],
        ),
        (
            proto::SCTP,
            &[
                (Client(chunk::INIT), Opening),
                (Backend(chunk::DATA), Opening),
                (Client(chunk::DATA), Established),
                (Client(chunk::SHUTDOWN), Closing),
                (Backend(chunk::SHUTDOWN_ACK), Closed),
                (Client(chunk::SHUTDOWN_COMPLETE), Closed),
            ],
        ),
        (
            proto::SCTP,
            &[
                (Client(chunk::INIT), Opening),
                (Backend(chunk::DATA), Opening),
                (Client(chunk::DATA), Established),
                (Client(chunk::ABORT), Reset),
            ],
        ),
    ];
    for family in Family::BOTH {
        for (protocol, life) in lives {
            let mut node = node(family, &[0]);
            for (from, stage) in life {
                let (hook, frame) = frame(family, protocol, *from);
                let (verdict, _) = node.see(hook, &frame);
                assert_eq!(verdict, Verdict::Deliver, "{from:?} of {life:?}");
                assert_eq!(stages(&node), [*stage; 2], "{from:?} of {life:?}");
            }
        }
    }
}

/// Nobody has known of the connection but its client, which has just heard.
#[test]
fn a_refused_connection_leaves_no_rows() {
    for family in Family::BOTH {
        for (protocol, no) in [(proto::TCP, flag::RST), (proto::SCTP, chunk::ABORT)] {
            let mut node = node(family, &[0]);
            node.see(
                THERE,
                &Frame::first(protocol, client(family), service(family)),
            );
            let (hook, refusal) = frame(family, protocol, Said::Backend(no));
            let (verdict, bytes) = node.see(hook, &refusal);
            assert_eq!(verdict, Verdict::Deliver);
            let translated = (service(family), client(family));
            assert_eq!(wire::addresses(&bytes), translated);
            assert_eq!(node.flows.len(), 0);
        }
    }
}

#[test]
fn a_client_begins_anew_once_its_connection_is_over() {
    const FIN: u8 = flag::FIN | flag::ACK;
    let ends: [(&[Said], bool); 5] = [
        (&[], false),
        (&[Said::Client(FIN)], false),
        (&[Said::Backend(FIN)], false),
        (&[Said::Backend(FIN), Said::Client(FIN)], true),
        (&[Said::Client(flag::RST)], true),
    ];
    for family in Family::BOTH {
        for (end, is_over) in ends {
            let mut node = node(family, &[0]);
            let syn = Frame::tcp(client(family), service(family), flag::SYN);
            assert_eq!(node.reached(THERE, &syn), Some(backend(family, 0)));
            let answer = Said::Backend(flag::SYN | flag::ACK);
            for from in [&[answer], end].concat() {
                let (hook, frame) = frame(family, proto::TCP, from);
                node.see(hook, &frame);
            }
            serve(&mut node, family, &[1]);
            let expected = backend(family, u16::from(is_over));
            assert_eq!(node.reached(THERE, &syn), Some(expected), "{end:?}");
            // The backend it had may have to say its last again, which is no news of the new one.
            let (hook, late) = frame(family, proto::TCP, Said::Backend(FIN));
            let (_, bytes) = node.see(hook, &late);
            assert_eq!(wire::addresses(&bytes).0, service(family));
            let opening = stages(&node).contains(&Stage::Opening);
            assert_eq!(opening, is_over, "{end:?}");
        }
    }
}

#[test]
fn a_client_whose_backend_is_gone_is_reset_until_it_begins_anew() {
    for family in Family::BOTH {
        for hook in [THERE, Hook::XDP_EXTERNAL, Hook::TC_POD_INGRESS] {
            let mut node = node(family, &[0]);
            let (client, service) = (client(family), service(family));
            let syn = Frame::tcp(client, service, flag::SYN);
            node.see(hook, &syn);
            node.abandon_flows();
            serve(&mut node, family, &[1]);
            for flags in [flag::ACK, flag::FIN | flag::ACK] {
                let mut segment = HostPacket::from(&Frame::tcp(client, service, flags));
                assert_eq!(
                    node.process(hook, &mut segment),
                    Verdict::Reject(Notice::NOBODY)
                );
                assert_eq!(node.reject(Notice::NOBODY, &mut segment), Verdict::Reflect);
                assert_eq!(wire::addresses(&segment.on_wire()), (service, client));
            }
            assert_eq!(node.count(Reason::BackendGone), 2);
            let (verdict, bytes) = node.see(hook, &syn);
            assert_eq!(verdict, Verdict::Deliver);
            assert_eq!(wire::addresses(&bytes).1, backend(family, 1));
        }
    }
}

/// The row of a flow was evicted: where the hash leads, it is made again.
#[test]
fn a_segment_without_a_row_goes_where_its_hash_leads_it() {
    const SLOTS: [u32; 8] = [0, 1, 2, 0, 1, 2, 0, 1];
    for family in Family::BOTH {
        for protocol in [proto::TCP, proto::SCTP] {
            let mut node = node(family, &SLOTS);
            node.flag(service(family), protocol, frontend::HASHED);
            for port in 4000..4016 {
                let from = at(family.client(1), port);
                let first = Frame::first(protocol, from, service(family));
                let chosen = node.reached(THERE, &first).unwrap();
                node.flows.v4.rows.clear();
                node.flows.v6.rows.clear();
                let next = Frame::next(protocol, from, service(family));
                assert_eq!(node.reached(THERE, &next), Some(chosen));
                assert_eq!(stages(&node), [Stage::Established; 2]);
                let reply = Frame::next(protocol, chosen, from);
                let (_, bytes) = node.see(BACK, &reply);
                assert_eq!(wire::addresses(&bytes), (service(family), from));
            }
        }
    }
}

/// And where it does not say all, nothing is guessed.
#[test]
fn a_segment_without_a_row_is_dropped_where_nobody_knows_its_backend() {
    type Change = fn(&mut Node, Family);
    type Segment<'s> = &'s dyn Fn(Family) -> Frame;
    let hashed = |node: &mut Node, family, slots: &[u32]| {
        serve(node, family, slots);
        node.flag(service(family), proto::TCP, frontend::HASHED);
    };
    let next = |flags| move |family| Frame::tcp(client(family), service(family), flags);
    let ack = next(flag::ACK);
    let cases: [(&str, Change, Segment<'_>); 4] = [
        ("by chance", |_, _| {}, &ack),
        (
            "affinity chose",
            |node, family| {
                node.flag(service(family), proto::TCP, frontend::HASHED);
                node.affine(service(family), proto::TCP, Affinity::new(60, 1));
            },
            &ack,
        ),
        (
            "the node's port was drawn",
            |node, family| {
                serve(node, family, &[3]);
                node.flag(service(family), proto::TCP, frontend::HASHED);
            },
            &ack,
        ),
        (
            "no client's",
            |node, family| node.flag(service(family), proto::TCP, frontend::HASHED),
            &next(flag::SYN | flag::ACK),
        ),
    ];
    for family in Family::BOTH {
        for (name, change, segment) in &cases {
            let mut node = node(family, &[0]);
            change(&mut node, family);
            let frame = segment(family);
            let seen = node.see(THERE, &frame);
            assert_eq!(seen, (Verdict::Drop, frame.build()), "{name}");
            assert_eq!(node.count(Reason::NoFlow), 1, "{name}");
            assert_eq!(node.flows.len(), 0, "{name}");
        }
        // The client's own port, in the range of the node's, is no secret.
        let mut node = node(family, &[]);
        hashed(&mut node, family, &[3]);
        let port = node.tables.config.unwrap().snat_first;
        let from = at(family.client(1), port);
        let segment = Frame::tcp(from, service(family), flag::ACK);
        let elsewhere = Some(at(family.remote_pod(1), 8080));
        assert_eq!(node.reached(THERE, &segment), elsewhere);
        // Unless another flow has it.
        let other = Frame::tcp(at(family.client(2), port), service(family), flag::ACK);
        assert_eq!(node.reached(THERE, &other), None);
    }
}

/// A table that has no room at once is asked again.
#[test]
fn l12_a_row_that_was_not_taken_is_tried_once_more() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let first = Frame::first(protocol, client(family), service(family));
            let mut node = node(family, &[0]);
            node.flows.busy = 1;
            assert_eq!(node.reached(THERE, &first), Some(backend(family, 0)));
            assert_eq!((node.flows.len(), node.count(Reason::TableBusy)), (2, 0));

            let mut node = self::node(family, &[0]);
            node.flows.busy = 2;
            assert_eq!(node.reached(THERE, &first), None);
            assert_eq!((node.flows.len(), node.count(Reason::TableBusy)), (0, 1));
        }
    }
}

/// A hash leads the next packet where it led this one, so it takes no row of the request: that of the
/// reply is enough.
#[test]
fn l12_a_hashed_flow_goes_on_without_the_row_of_its_requests() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let mut node = node(family, &[0, 1, 2]);
            node.flag(service(family), protocol, frontend::HASHED);
            node.flows.limit(1);
            let first = Frame::first(protocol, client(family), service(family));
            let chosen = node.reached(THERE, &first).unwrap();
            assert_eq!((node.flows.len(), node.count(Reason::Stateless)), (1, 1));
            let next = Frame::next(protocol, client(family), service(family));
            assert_eq!(node.reached(THERE, &next), Some(chosen));
            let reply = Frame::next(protocol, chosen, client(family));
            let (_, bytes) = node.see(BACK, &reply);
            assert_eq!(wire::addresses(&bytes).0, service(family));
        }
        // Of a reply without a row nobody would know whose it is.
        let mut node = node(family, &[0]);
        node.flag(service(family), proto::UDP, frontend::HASHED);
        node.flows.limit(0);
        let first = Frame::udp(client(family), service(family));
        assert_eq!(node.reached(THERE, &first), None);
        assert_eq!(node.count(Reason::TableBusy), 1);
    }
}

/// Half of what is known, each direction writes: neither overwrites what the other tells.
#[test]
fn an_end_is_written_by_what_comes_from_it_alone() {
    for family in Family::BOTH {
        let mut node = node(family, &[0]);
        let (client, service) = (client(family), service(family));
        node.see(THERE, &Frame::tcp(client, service, flag::SYN));
        let ends = |node: &Node| {
            let rows = node.flows.v4.rows.values();
            let v4 = rows.map(|row| (row.end(Half::Request), row.end(Half::Reply)));
            let rows = node.flows.v6.rows.values();
            let v6 = rows.map(|row| (row.end(Half::Request), row.end(Half::Reply)));
            v4.chain(v6).collect::<Vec<_>>()
        };
        let before = ends(&node);
        node.see(THERE, &Frame::tcp(client, service, flag::FIN | flag::ACK));
        let after = ends(&node);
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(old, new)| old.1 == new.1 && old.0 != new.0)
        );
        node.see(
            BACK,
            &Frame::tcp(backend(family, 0), client, flag::SYN | flag::ACK),
        );
        assert!(
            after
                .iter()
                .zip(ends(&node))
                .all(|(old, new)| old.0 == new.0 && old.1 != new.1)
        );
    }
}

/// A bulk of SCTP's is its common header and a list of chunks, none of which can be read: it is translated as data of its
/// flow, and asks for nothing.
#[test]
fn r7_many_sctp_packets_at_once_need_no_chunk_to_be_read() {
    for family in Family::BOTH {
        let mut node = node(family, &[0]);
        let see = |node: &mut Node, segment| {
            let data = Frame::sctp(client(family), service(family), chunk::DATA);
            let packet = HostPacket::with_partial_checksum(&data);
            let common = packet.bytes().len() - data.payload.len() - 4;
            node.see(THERE, packet.in_segments_of(segment).readable_to(common))
                .0
        };
        node.see(
            THERE,
            &Frame::sctp(client(family), service(family), chunk::INIT),
        );
        assert_eq!(see(&mut node, lb_ebpf::OF_ANY_LENGTH), Verdict::Deliver);
        assert_eq!(node.count(Reason::Malformed), 0);
        // Of a packet of its own there has to be a chunk.
        assert_eq!(see(&mut node, 0), Verdict::Pass);
        assert_eq!(node.count(Reason::Malformed), 1);
    }
}

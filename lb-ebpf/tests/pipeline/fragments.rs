//! Fragments of packets to services, and of their replies.

use std::{net::SocketAddr, time::Duration};

use lb_common::{
    counters::Reason,
    flow::{Flow, Stage},
    proto,
    service::frontend,
};
use lb_ebpf::{Hook, Notice, Verdict};
use proptest::{prelude::*, sample};

use crate::support::{
    ends::{client, local, remote, service},
    family::{Family, at},
    fragment::{join, payload, split},
    frame::{Frame, flag},
    node::Node,
    packet::HostPacket,
    wire,
};

const THERE: Hook = Hook::TC_EXTERNAL_INGRESS;
const BACK: Hook = Hook::TC_EXTERNAL_EGRESS;

/// A node with a service of this backend.
fn node(family: Family, backend: SocketAddr) -> Node {
    let mut node = Node::new();
    let index = if backend == remote(family) {
        node.remote(backend)
    } else {
        node.local(backend)
    };
    for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
        node.serve(service(family), protocol, &[index], &[index]);
    }
    node.allocate(service(family).ip());
    node
}

fn long(frame: Frame, length: usize) -> Frame {
    Frame {
        payload: (0..length).map(|i| (i * 7) as u8).collect(),
        ..frame
    }
}

/// What becomes of these packets, seen one after the other.
fn see_all(node: &mut Node, hook: Hook, parts: &[Vec<u8>]) -> Vec<(Verdict, Vec<u8>)> {
    let packets = parts.iter().map(|part| HostPacket::new(part.clone()));
    packets.map(|packet| node.see(hook, packet)).collect()
}

proptest! {
    /// The first fragment goes first, all others in any order.
    #[test]
    fn fragments_put_together_are_the_packet_translated_whole(
        family in sample::select(&Family::BOTH),
        hook in sample::select(&[Hook::XDP_EXTERNAL, THERE, Hook::TC_POD_INGRESS][..]),
        is_remote: bool,
        protocol in sample::select(&[proto::TCP, proto::UDP][..]),
        length in 200..400_usize,
        size in (3..20_usize).prop_map(|words| words * 8),
        seed: u64,
    ) {
        let backend = if is_remote { remote(family) } else { local(family) };
        let mut whole = node(family, backend);
        let frame = long(Frame::first(protocol, client(family), service(family)), length);
        let (verdict, expected) = whole.see(hook, &frame);
        let mut parts = split(&frame.build(), size);
        let later = parts.len() - 1;
        parts[1..].rotate_left(usize::try_from(seed).unwrap() % later);

        // The same port is drawn.
        let mut node = node(family, backend);
        let seen = see_all(&mut node, hook, &parts);
        prop_assert!(seen.iter().all(|(met, _)| *met == verdict), "{seen:?}");
        let ends = wire::addresses(&expected);
        for (_, part) in &seen {
            let headers = wire::Headers::find(part).unwrap();
            prop_assert_eq!((headers.src, headers.dst), (ends.0.ip(), ends.1.ip()));
        }
        let parts = seen.into_iter().map(|(_, part)| part).collect();
        prop_assert_eq!(join(parts), payload(&expected));
        prop_assert_eq!(node.flows.len(), 2);
    }
}

#[test]
fn fragments_of_a_reply_come_from_the_service() {
    for family in Family::BOTH {
        let ways = [
            (local(family), THERE, BACK),
            (remote(family), Hook::XDP_EXTERNAL, Hook::XDP_EXTERNAL),
            (local(family), Hook::TC_POD_INGRESS, Hook::TC_POD_EGRESS),
        ];
        for (backend, there, back) in ways {
            let mut node = node(family, backend);
            let (_, request) = node.see(there, &Frame::udp(client(family), service(family)));
            let (src, dst) = wire::addresses(&request);
            let reply = long(Frame::udp(dst, src), 100);
            let (verdict, expected) = node.see(back, &reply);
            let seen = see_all(&mut node, back, &split(&reply.build(), 24));
            assert!(seen.iter().all(|(met, _)| *met == verdict), "{seen:?}");
            let parts = seen.into_iter().map(|(_, part)| part).collect();
            assert_eq!(join(parts), payload(&expected));
        }
    }
}

/// A fragment that comes before its first is lost where nobody else may have it, and goes on as it came
/// elsewhere; the first and what comes behind it are translated all the same.
#[test]
fn a_fragment_before_its_first_reaches_nobody() {
    for family in Family::BOTH {
        let mut node = node(family, local(family));
        let elsewhere = at(family.client(2), 80);
        node.serve(elsewhere, proto::UDP, &[0], &[0]);
        let cases = [
            (service(family), Verdict::Drop, Reason::LostFragment),
            (elsewhere, Verdict::Pass, Reason::Fragment),
        ];
        for (to, verdict, reason) in cases {
            let frame = long(Frame::udp(client(family), to), 100);
            let parts = split(&frame.build(), 48);
            let [first, second, third] = &parts[..] else {
                panic!("{} parts", parts.len())
            };
            let seen = see_all(&mut node, THERE, std::slice::from_ref(third));
            assert_eq!(seen, [(verdict, third.clone())]);
            assert_eq!(node.count(reason), 1);
            let seen = see_all(&mut node, THERE, &[first.clone(), second.clone()]);
            assert!(seen.iter().all(|(met, _)| *met == Verdict::Deliver));
        }
    }
}

/// Identifications come round: what a first fragment has told is no longer true once its packet can't be
/// put together any more.
#[test]
fn n5_a_first_fragment_is_forgotten_in_time() {
    for family in Family::BOTH {
        for (seconds, verdict) in [(29, Verdict::Deliver), (32, Verdict::Drop)] {
            let mut node = node(family, local(family));
            let frame = long(Frame::udp(client(family), service(family)), 100);
            let parts = split(&frame.build(), 48);
            see_all(&mut node, THERE, &parts[..1]);
            node.wait(Duration::from_secs(seconds));
            let seen = see_all(&mut node, THERE, &parts[1..2]);
            assert_eq!(seen[0].0, verdict, "after {seconds} s");
        }
    }
}

/// Identifications come round: a packet that is nobody's is not led by what an earlier one has told.
#[test]
fn a_first_fragment_that_is_left_alone_leaves_the_others_alone() {
    for family in Family::BOTH {
        let elsewhere = at(family.client(2), 80);
        let mut node = node(family, local(family));
        node.serve(elsewhere, proto::UDP, &[0], &[0]);
        let parts = |to| split(&long(Frame::udp(client(family), to), 100).build(), 48);
        see_all(&mut node, THERE, &parts(elsewhere));
        let others = parts(at(elsewhere.ip(), 81));
        for (seen, part) in see_all(&mut node, THERE, &others).iter().zip(&others) {
            assert_eq!(seen, &(Verdict::Pass, part.clone()));
        }
    }
}

/// Fragments of others: with another identification, protocol or address.
#[test]
fn a_first_fragment_speaks_for_its_own_packet_only() {
    let id = |family, part: &mut Vec<u8>| match family {
        Family::V4 => part[14 + 5] ^= 1,
        Family::V6 => part[14 + 40 + 7] ^= 1,
    };
    let protocol = |family, part: &mut Vec<u8>| match family {
        Family::V4 => part[14 + 9] = proto::TCP,
        Family::V6 => part[14 + 40] = proto::TCP,
    };
    let source = |family, part: &mut Vec<u8>| match family {
        Family::V4 => part[14 + 15] ^= 1,
        Family::V6 => part[14 + 23] ^= 1,
    };
    for family in Family::BOTH {
        for change in [id, protocol, source] as [fn(Family, &mut Vec<u8>); 3] {
            let mut node = node(family, local(family));
            let frame = long(Frame::udp(client(family), service(family)), 100);
            let mut parts = split(&frame.build(), 48);
            change(family, &mut parts[1]);
            let seen = see_all(&mut node, THERE, &parts[..2]);
            assert_eq!(seen[1], (Verdict::Drop, parts[1].clone()));
        }
    }
}

/// An SCTP checksum covers the ports and all fragments: where they change it can't be brought into line.
#[test]
fn fragments_of_sctp_pass_where_the_port_stays() {
    for family in Family::BOTH {
        let same = at(family.local_pod(1), 80);
        for (backend, verdict) in [(same, Verdict::Deliver), (local(family), Verdict::Drop)] {
            let mut node = node(family, backend);
            let frame = long(
                Frame::first(proto::SCTP, client(family), service(family)),
                100,
            );
            let seen = see_all(&mut node, THERE, &split(&frame.build(), 48)[..1]);
            assert_eq!(seen[0].0, verdict);
            let dropped = u64::from(verdict == Verdict::Drop);
            assert_eq!(node.count(Reason::LostFragment), dropped);
        }
    }
}

/// A later fragment opens no flow, and nobody is told anything in answer to one.
#[test]
fn a_later_fragment_begins_nothing() {
    for family in Family::BOTH {
        for backends in [&[][..], &[0]] {
            let mut node = node(family, local(family));
            let frame = long(Frame::udp(client(family), service(family)), 100);
            let parts = split(&frame.build(), 48);
            see_all(&mut node, THERE, &parts[..1]);
            node.flows.v4.rows.clear();
            node.flows.v6.rows.clear();
            node.serve(service(family), proto::UDP, backends, backends);
            let mut later = HostPacket::new(parts[1].clone());
            let mut met = node.process(THERE, &mut later);
            if met == Verdict::Reject(Notice::NOBODY) {
                met = node.reject(Notice::NOBODY, &mut later);
            }
            assert_eq!((met, later.on_wire()), (Verdict::Drop, parts[1].clone()));
            assert_eq!(node.flows.len(), 0);
        }
        // Where a hash leads, it is known where the flow was.
        let mut node = node(family, local(family));
        node.flag(service(family), proto::UDP, frontend::HASHED);
        let frame = long(Frame::udp(client(family), service(family)), 100);
        let parts = split(&frame.build(), 48);
        see_all(&mut node, THERE, &parts[..1]);
        node.flows.v4.rows.clear();
        node.flows.v6.rows.clear();
        let seen = see_all(&mut node, THERE, &parts[1..2]);
        assert_eq!(seen[0].0, Verdict::Deliver);
    }
}

/// The same bytes that end a connection in a segment end none in a later fragment.
#[test]
fn what_lies_where_flags_would_be_tells_nothing() {
    for family in Family::BOTH {
        let mut node = node(family, local(family));
        let (client, service) = (client(family), service(family));
        node.see(THERE, &Frame::tcp(client, service, flag::SYN));
        node.see(
            BACK,
            &Frame::tcp(local(family), client, flag::SYN | flag::ACK),
        );
        let frame = Frame {
            payload: vec![0xff; 200],
            ..Frame::tcp(client, service, flag::ACK)
        };
        see_all(&mut node, THERE, &split(&frame.build(), 48));
        let rows = (node.flows.v4.rows.values().map(Flow::stage))
            .chain(node.flows.v6.rows.values().map(Flow::stage));
        for stage in rows {
            assert_eq!(stage, Stage::Established);
        }
    }
}

/// One fragment that is all of the packet is a packet (RFC 6946).
#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let family = Family::V6;
    let mut node = node(family, local(family));
    let mut frame = Frame::udp(client(family), service(family));
    frame.extensions.fragment = Some(etherparse::Ipv6FragmentHeader::new(
        etherparse::IpNumber(0),
        etherparse::IpFragOffset::ZERO,
        false,
        0x4711,
    ));
    let (verdict, bytes) = node.see(Hook::XDP_EXTERNAL, &frame);
    assert_eq!(verdict, Verdict::Deliver);
    assert_eq!(wire::addresses(&bytes).1, local(family));
    assert!(node.tables.v6.fragments.borrow().is_empty());
}

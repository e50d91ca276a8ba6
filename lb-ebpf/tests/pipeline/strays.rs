//! What is sent to cluster IPs by protocols that services do not have.

use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Notice, Verdict};

use crate::support::{
    family::{Family, at},
    frame::Frame,
    node::Node,
    packet::HostPacket,
    wire::{self, Headers},
};

const INGRESS: [Hook; 3] = [
    Hook::XDP_EXTERNAL,
    Hook::TC_EXTERNAL_INGRESS,
    Hook::TC_POD_INGRESS,
];
const EGRESS: [Hook; 2] = [Hook::TC_EXTERNAL_EGRESS, Hook::TC_POD_EGRESS];
const L3: usize = 14;

/// A node with a service at the first cluster IP.
fn node(family: Family) -> Node {
    let mut node = Node::new();
    let index = node.local(at(family.local_pod(1), 8080));
    let service = at(family.service(1), 80);
    node.serve(service, proto::TCP, &[index], &[index]);
    node.allocate(service.ip());
    node
}

/// A packet of another protocol, whose first byte behind the IP header this is.
fn stray(family: Family, to: std::net::IpAddr, protocol: u8, first: u8) -> HostPacket {
    let mut bytes = Frame::udp(at(family.client(1), 4000), at(to, 80)).build();
    let (next, l4) = match family {
        Family::V4 => (L3 + 9, L3 + 20),
        Family::V6 => (L3 + 6, L3 + 40),
    };
    bytes[next] = protocol;
    bytes[l4] = first;
    HostPacket::new(bytes)
}

fn echo(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (proto::ICMP, 8),
        Family::V6 => (proto::ICMPV6, 128),
    }
}

/// What becomes of a packet that is to be left as it is, and why.
fn fate(family: Family, hook: Hook, packet: &HostPacket) -> (Verdict, Reason) {
    let mut node = node(family);
    let mut after = packet.clone();
    let verdict = node.process(hook, &mut after);
    assert_eq!(&after, packet, "left as it was");
    let reasons = node.tables.reasons.borrow();
    assert_eq!(reasons.values().sum::<u64>(), 1);
    (verdict, *reasons.keys().next().unwrap())
}

#[test]
fn pings_and_other_protocols_are_told_that_nobody_is_there() {
    const GRE: u8 = 47;
    for family in Family::BOTH {
        for hook in INGRESS {
            for (protocol, first) in [echo(family), (GRE, 0)] {
                let used = stray(family, family.service(1), protocol, first);
                let expected = (Verdict::Reject(Notice::NOBODY), Reason::NoSuchPort);
                assert_eq!(fate(family, hook, &used), expected);

                let unused = stray(family, family.service(2), protocol, first);
                let expected = (Verdict::Drop, Reason::Unallocated);
                assert_eq!(fate(family, hook, &unused), expected);
            }
        }
    }
}

#[test]
fn a_ping_is_answered_with_port_unreachable_that_quotes_it() {
    for family in Family::BOTH {
        let (protocol, first) = echo(family);
        let mut packet = stray(family, family.service(1), protocol, first);
        let asked = packet.bytes().to_vec();
        let mut node = node(family);
        assert_eq!(
            node.process(Hook::TC_POD_INGRESS, &mut packet),
            Verdict::Reject(Notice::NOBODY)
        );
        assert_eq!(node.reject(Notice::NOBODY, &mut packet), Verdict::Reflect);
        let reply = packet.on_wire();
        assert!(wire::is_sound(&reply), "{reply:02x?}");
        let answer = Headers::find(&reply).unwrap();
        assert_eq!(
            (answer.src, answer.dst),
            (family.service(1), family.client(1))
        );
        assert_eq!(answer.proto, protocol);
        let kind = match family {
            Family::V4 => [3, 3],
            Family::V6 => [1, 4],
        };
        assert_eq!(reply[answer.l4..answer.l4 + 2], kind);
        let quote = &reply[answer.l4 + 8..];
        let headers = Headers::find(&asked).unwrap();
        let quoted_transport = &quote[headers.l4 - headers.l3..];
        assert_eq!(quoted_transport, &asked[headers.l4..headers.l4 + 8]);
    }
}

/// An ICMP error is never answered by another, and the rest of ICMP is a network's own affair.
#[test]
fn icmp_other_than_pings_passes() {
    let passed = (Verdict::Pass, Reason::OtherProtocol);
    for hook in INGRESS {
        for kind in (0..=255_u8).filter(|kind| *kind != 8) {
            let family = Family::V4;
            let packet = stray(family, family.service(1), proto::ICMP, kind);
            assert_eq!(fate(family, hook, &packet), passed);
        }
        for kind in (0..=255_u8).filter(|kind| *kind != 128) {
            let family = Family::V6;
            let packet = stray(family, family.service(1), proto::ICMPV6, kind);
            assert_eq!(fate(family, hook, &packet), passed);
        }
    }
}

#[test]
fn pings_to_the_node_and_to_everybody_else_pass() {
    for family in Family::BOTH {
        let (protocol, first) = echo(family);
        let others = [family.node(), family.client(2), family.local_pod(1)];
        for (hook, to) in INGRESS
            .into_iter()
            .flat_map(|hook| others.map(|to| (hook, to)))
        {
            let packet = stray(family, to, protocol, first);
            let passed = (Verdict::Pass, Reason::OtherProtocol);
            assert_eq!(fate(family, hook, &packet), passed);
        }
    }
}

#[test]
fn what_leaves_the_node_passes() {
    for family in Family::BOTH {
        for hook in EGRESS {
            let (protocol, first) = echo(family);
            let packet = stray(family, family.service(1), protocol, first);
            let passed = (Verdict::Pass, Reason::OtherProtocol);
            assert_eq!(fate(family, hook, &packet), passed);
        }
    }
}

/// Protocol 0 is what a cluster IP as a whole is kept under: it is no way to get at that row.
#[test]
fn protocol_zero_is_no_service() {
    let family = Family::V4;
    for hook in INGRESS {
        let packet = stray(family, family.service(1), 0, 0);
        let passed = (Verdict::Pass, Reason::OtherProtocol);
        assert_eq!(fate(family, hook, &packet), passed);
    }
}

/// More than a CPU's share of rejects are dropped instead, and counted as that.
#[test]
fn a_flood_of_pings_is_not_answered_to_the_last() {
    let family = Family::V4;
    let node = node(family);
    let (protocol, first) = echo(family);
    let packet = stray(family, family.service(1), protocol, first);
    let answered = (0..20_000)
        .filter(|_| node.reject(Notice::NOBODY, &mut packet.clone()) == Verdict::Reflect)
        .count();
    assert!((1..20_000).contains(&answered), "{answered}");
    assert_eq!(node.count(Reason::TooManyRejects), 20_000 - answered as u64);
}

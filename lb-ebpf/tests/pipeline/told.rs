//! Who sends what this node cannot send on is told why.

use std::net::SocketAddr;

use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Notice, Verdict};
use proptest::prelude::*;

use crate::support::{
    answer::{EXPIRED, assert_is_error, assert_says, too_long},
    ends::{PROTOCOLS, client, remote as backend, remote_node as node, service},
    family::Family,
    fragment,
    frame::{Frame, Segment, flag},
    layout::layouts,
    node::Node,
    packet::HostPacket,
    tables::{EXTERNAL, Way},
    wire,
};

const XDP: Hook = Hook::XDP_EXTERNAL;
const TC: Hook = Hook::TC_EXTERNAL_INGRESS;
const OUT: Verdict = Verdict::Transmit { ifindex: EXTERNAL };
/// Of the ways that are too narrow.
const MTU: u16 = 1400;
const ETHERNET: usize = 14;

/// Such a node with a narrow way to this address.
fn narrow(family: Family, to: SocketAddr) -> Node {
    let mut node = node(family);
    node.route(to.ip(), Way::taking(MTU));
    node
}

/// A datagram that is so many bytes long, IP header included.
fn datagram(from: SocketAddr, to: SocketAddr, length: usize) -> Frame {
    let mut frame = Frame::udp(from, to);
    frame.payload.clear();
    let headers = frame.build().len() - ETHERNET;
    frame.payload = vec![0x5a; length - headers];
    frame
}

/// What a node tells the sender of a packet that gets this notice.
fn answer(node: &mut Node, hook: Hook, packet: HostPacket, notice: Notice) -> Option<HostPacket> {
    let mut packet = packet;
    let verdict = node.process(hook, &mut packet);
    assert_eq!(verdict, Verdict::Reject(notice));
    match node.reject(notice, &mut packet) {
        Verdict::Reflect => Some(packet),
        Verdict::Drop => None,
        other => panic!("{other:?} of a reject"),
    }
}

/// A router's duty where the stack does not do it: of requests and of replies, and only for as long as the
/// route takes no more.
#[test]
fn a_packet_that_is_too_long_for_its_way_is_not_sent_on() {
    let longest = usize::from(MTU);
    for family in Family::BOTH {
        for hook in [XDP, TC] {
            for way in [backend(family), client(family)] {
                let mut node = narrow(family, way);
                let fits = datagram(client(family), service(family), longest);
                let (verdict, bytes) = node.see(hook, &fits);
                assert_eq!(verdict, OUT, "as long as it may be");
                let (from, to) = if way == backend(family) {
                    (client(family), service(family))
                } else {
                    (backend(family), wire::source(&bytes))
                };
                let frame = datagram(from, to, longest + 1);
                let told = (Verdict::Reject(Notice::too_long(MTU)), frame.build());
                assert_eq!(node.see(hook, &frame), told);
                assert_eq!(node.count(Reason::TooLong), 1);
                let asked = node.fib_lookups();
                node.route(way.ip(), Way::OUT);
                assert_eq!(node.see(hook, &frame), told);
                assert_eq!(node.fib_lookups(), asked, "what is known is not asked for");
                node.move_epoch();
                assert_eq!(node.see(hook, &frame).0, OUT, "the route takes more by now");
            }
        }
    }
}

/// What is cut up when it leaves is as long as its longest segment.
#[test]
fn segments_are_measured_one_by_one() {
    for family in Family::BOTH {
        let mut frame = Frame::tcp(client(family), service(family), flag::ACK);
        if let Segment::Tcp(header) = &mut frame.segment {
            header.set_options_raw(&[1; 12]).unwrap();
        }
        frame.payload.clear();
        let room = usize::from(MTU) + ETHERNET - frame.build().len();
        for (payload, fits) in [(room, true), (room + 1, false)] {
            let mut node = narrow(family, backend(family));
            let syn = Frame::tcp(client(family), service(family), flag::SYN);
            assert_eq!(node.see(TC, &syn).0, OUT);
            frame.payload = vec![0x5a; 3 * payload];
            let packet = HostPacket::with_partial_checksum(&frame).in_segments_of(payload);
            let verdict = node.see(TC, packet).0;
            assert_eq!(verdict == OUT, fits, "{verdict:?}");
            assert_eq!(node.count(Reason::TooLong), u64::from(!fits));
        }
    }
}

/// A route that does not say how much it takes, takes everything.
#[test]
fn an_unknown_mtu_keeps_nothing_back() {
    for family in Family::BOTH {
        for mtu in [0, 1, 67] {
            let mut node = node(family);
            node.route(backend(family).ip(), Way::taking(mtu));
            let frame = datagram(client(family), service(family), 1500);
            assert_eq!(node.see(XDP, &frame).0, OUT);
        }
    }
}

proptest! {
    #[test]
    fn a_packet_that_expires_is_answered_with_time_exceeded(
        family in prop::sample::select(&Family::BOTH),
        hook in prop::sample::select(&[XDP, TC]),
        protocol in prop::sample::select(&PROTOCOLS),
        layout in layouts(),
        ttl in 0..2_u8,
    ) {
        let mut frame = layout.apply(Frame::first(protocol, client(family), service(family)));
        frame.ttl = ttl;
        let packet = HostPacket::from(&frame);
        let answer = answer(&mut node(family), hook, packet, Notice::EXPIRED).unwrap();
        assert_is_error(&answer.on_wire(), &frame, EXPIRED);
    }

    #[test]
    fn a_packet_that_is_too_long_is_answered_with_the_mtu(
        family in prop::sample::select(&Family::BOTH),
        hook in prop::sample::select(&[XDP, TC]),
        protocol in prop::sample::select(&PROTOCOLS),
        layout in layouts(),
    ) {
        let mut frame = layout.apply(Frame::first(protocol, client(family), service(family)));
        frame.payload = vec![0x5a; MTU.into()];
        let packet = HostPacket::from(&frame);
        let mut node = narrow(family, backend(family));
        let answer = answer(&mut node, hook, packet, Notice::too_long(MTU)).unwrap();
        assert_is_error(&answer.on_wire(), &frame, too_long(MTU));
    }
}

/// Where devices are to complete the checksum, what is said is the same whether one does (a NIC) or none does
/// (a veth, whose other end takes the packet for good).
#[test]
fn errors_about_packets_with_partial_checksums_are_right() {
    for family in Family::BOTH {
        for protocol in [proto::TCP, proto::UDP] {
            let mut expired = Frame::first(protocol, client(family), service(family));
            expired.ttl = 1;
            let mut long = Frame::first(protocol, client(family), service(family));
            long.payload = vec![0x5a; 3 * usize::from(MTU)];
            for (frame, notice, error) in [
                (expired, Notice::EXPIRED, EXPIRED),
                (long, Notice::too_long(MTU), too_long(MTU)),
            ] {
                let packet = HostPacket::with_partial_checksum(&frame);
                let mut node = narrow(family, backend(family));
                let answer = answer(&mut node, TC, packet, notice).unwrap();
                assert_says(answer.bytes(), &frame, error);
                assert_is_error(&answer.on_wire(), &frame, error);
            }
        }
    }
}

/// RFC 1122, 3.2.2: of a packet in fragments its sender hears once.
#[test]
fn later_fragments_are_dropped_in_silence() {
    for family in Family::BOTH {
        let whole = datagram(client(family), service(family), 1400);
        let mut parts = fragment::split(&whole.build(), 800);
        let (later, first) = (parts.pop().unwrap(), parts.pop().unwrap());
        let mut node = node(family);
        assert_eq!(node.see(XDP, HostPacket::new(first)).0, OUT);
        let mtu = 200;
        node.route(backend(family).ip(), Way::taking(mtu));
        node.move_epoch();
        let later = HostPacket::new(later);
        assert_eq!(answer(&mut node, XDP, later, Notice::too_long(mtu)), None);
    }
}

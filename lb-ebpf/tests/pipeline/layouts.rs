//! Frames in all shapes: what is understood is translated, everything else passes untouched.

use etherparse::{IpAuthHeader, IpNumber, Ipv6Extensions, Ipv6RawExtHeader, Ipv6RoutingExtensions};
use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Verdict};

use crate::support::{
    ends::{client, local as backend, service},
    family::{Family, at},
    frame::{Frame, flag},
    layout::{extension, padding},
    node::Node,
    packet::HostPacket,
};

const HOOK: Hook = Hook::XDP_EXTERNAL;
const L3: usize = 14;

fn datagram(family: Family) -> Frame {
    Frame::udp(client(family), service(family))
}

/// For nobody's cluster IP.
fn elsewhere(family: Family) -> Frame {
    Frame::udp(client(family), at(family.client(2), 80))
}

fn segment(family: Family) -> Frame {
    Frame::tcp(client(family), service(family), flag::SYN)
}

fn node() -> Node {
    let mut node = Node::new();
    for family in Family::BOTH {
        let index = node.local(backend(family));
        for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
            node.serve(service(family), protocol, &[index], &[index]);
        }
    }
    node
}

/// Checks that a frame is translated and otherwise left as it is.
fn assert_translated(name: &str, frame: &Frame) {
    let family = Family::of(frame.dst.ip());
    let expected = Frame {
        dst: backend(family),
        ..frame.clone()
    };
    let seen = node().see(HOOK, frame);
    assert_eq!(seen, (Verdict::Deliver, expected.build()), "{name}");
}

/// Checks that a packet is passed as it came, for this reason.
fn assert_passed(name: &str, packet: impl Into<HostPacket>, reason: Reason) {
    let packet = packet.into();
    let bytes = packet.bytes().to_vec();
    let mut node = node();
    assert_eq!(node.see(HOOK, packet), (Verdict::Pass, bytes), "{name}");
    assert_eq!(node.count(reason), 1, "{name} is {:?}", node.tables.reasons);
}

/// A frame with some bytes overwritten.
fn patched(frame: &Frame, patches: &[(usize, u8)]) -> HostPacket {
    let mut bytes = frame.build();
    for (at, byte) in patches {
        bytes[*at] = *byte;
    }
    HostPacket::new(bytes)
}

#[test]
fn priority_tags_change_nothing() {
    for family in Family::BOTH {
        for frame in [datagram(family), segment(family)] {
            for tci in [0x0000, 0x1000, 0x6000, 0xf000] {
                let tag = Some(tci);
                assert_translated(
                    "tagged",
                    &Frame {
                        tag,
                        ..frame.clone()
                    },
                );
                let stripped = HostPacket::from(&frame).with_stripped_vlan(tci);
                assert_eq!(node().see(HOOK, stripped).0, Verdict::Deliver);
            }
        }
    }
}

#[test]
fn vlans_are_other_interfaces_affair() {
    for family in Family::BOTH {
        let frame = datagram(family);
        for tci in [0x0001, 0x0800, 0x0fff, 0xe064] {
            let tag = Some(tci);
            let tagged = Frame {
                tag,
                ..frame.clone()
            };
            assert_passed("tagged", &tagged, Reason::Vlan);
            let stripped = HostPacket::from(&frame).with_stripped_vlan(tci);
            assert_passed("stripped", stripped, Reason::Vlan);
        }
        let tagged = Frame {
            tag: Some(0),
            ..frame
        };
        // A tag within the tag, of either kind; a service tag outside.
        assert_passed(
            "Q in Q",
            patched(&tagged, &[(16, 0x81), (17, 0x00)]),
            Reason::Vlan,
        );
        assert_passed(
            "S in Q",
            patched(&tagged, &[(16, 0x88), (17, 0xa8)]),
            Reason::Vlan,
        );
        assert_passed(
            "S",
            patched(&tagged, &[(12, 0x88), (13, 0xa8)]),
            Reason::Vlan,
        );
    }
}

#[test]
fn ipv4_options_are_stepped_over() {
    for frame in [datagram(Family::V4), segment(Family::V4)] {
        for length in [4, 20, 36, 40] {
            for tag in [None, Some(0)] {
                let frame = Frame {
                    options: [1; 40][..length].try_into().unwrap(),
                    tag,
                    ..frame.clone()
                };
                assert_translated("options", &frame);
            }
        }
    }
}

/// A frame with some extension headers.
fn extended(frame: Frame, change: impl FnOnce(&mut Ipv6Extensions)) -> Frame {
    let mut frame = frame;
    change(&mut frame.extensions);
    frame
}

/// A routing header, of a type that says nothing, with this many segments left.
fn routing(segments_left: u8, last: Option<Ipv6RawExtHeader>) -> Ipv6RoutingExtensions {
    Ipv6RoutingExtensions {
        routing: extension(&[253, segments_left, 0, 0, 0, 0]),
        final_destination_options: last,
    }
}

#[test]
fn ipv6_extension_headers_are_stepped_over() {
    for frame in [datagram(Family::V6), segment(Family::V6)] {
        for tag in [None, Some(0x2000)] {
            let frame = Frame {
                tag,
                ..frame.clone()
            };
            let extended = |change: fn(&mut Ipv6Extensions)| extended(frame.clone(), change);
            for (name, frame) in [
                (
                    "hop by hop",
                    extended(|it| it.hop_by_hop_options = Some(padding(0))),
                ),
                (
                    "destination",
                    extended(|it| it.destination_options = Some(padding(3))),
                ),
                (
                    "routing, done",
                    extended(|it| it.routing = Some(routing(0, None))),
                ),
                (
                    "four",
                    extended(|it| {
                        it.hop_by_hop_options = Some(padding(1));
                        it.destination_options = Some(padding(0));
                        it.routing = Some(routing(0, Some(padding(2))));
                    }),
                ),
                (
                    "as deep as is looked",
                    extended(|it| it.destination_options = Some(padding(18))),
                ),
            ] {
                assert_translated(name, &frame);
            }
        }
    }
}

#[test]
fn ipv6_chains_that_hide_the_transport_are_passed() {
    let frame = datagram(Family::V6);
    let with = |change: fn(&mut Ipv6Extensions)| extended(frame.clone(), change);
    let too_deep = with(|it| it.destination_options = Some(padding(20)));
    assert_passed("too deep", &too_deep, Reason::HeaderChain);
    let on_its_way = with(|it| it.routing = Some(routing(1, None)));
    assert_passed("segments left", &on_its_way, Reason::HeaderChain);

    // The fourth of five says that it is followed by another.
    let four = with(|it| {
        it.hop_by_hop_options = Some(padding(0));
        it.destination_options = Some(padding(0));
        it.routing = Some(routing(0, Some(padding(0))));
    });
    let fourth = L3 + 40 + 3 * 8;
    for next in [0, 43, 60] {
        // What was the datagram is the fifth, and says that a datagram follows.
        let five = [(fourth, next), (fourth + 8, proto::UDP), (fourth + 9, 0)];
        assert_passed("five", patched(&four, &five), Reason::HeaderChain);
    }
    assert_passed(
        "four, then a fragment",
        patched(&four, &[(fourth, 44)]),
        Reason::HeaderChain,
    );

    let authenticated = extended(elsewhere(Family::V6), |it| {
        it.auth = Some(IpAuthHeader::new(IpNumber::default(), 1, 1, &[0; 4]).unwrap());
    });
    assert_passed("authenticated", &authenticated, Reason::OtherProtocol);
    for (name, next) in [("encrypted", 50), ("nothing", 59), ("mobility", 135)] {
        assert_passed(
            name,
            patched(&elsewhere(Family::V6), &[(L3 + 6, next)]),
            Reason::OtherProtocol,
        );
    }
}

/// Don't fragment, and the reserved bit.
#[test]
fn bits_beside_the_fragment_offset_change_nothing() {
    let v4 = datagram(Family::V4);
    for flags in [0x40, 0x80] {
        let whole = patched(&v4, &[(L3 + 6, flags), (L3 + 7, 0)]);
        assert_eq!(node().see(HOOK, whole).0, Verdict::Deliver);
    }
}

#[test]
fn other_protocols_are_passed() {
    for (name, ethertype) in [("ARP", 0x0806_u16), ("MPLS", 0x8847), ("IEEE 802.3", 60)] {
        let [high, low] = ethertype.to_be_bytes();
        let frame = datagram(Family::V4);
        assert_passed(
            name,
            patched(&frame, &[(12, high), (13, low)]),
            Reason::NotIp,
        );
        let tagged = Frame {
            tag: Some(0),
            ..frame
        };
        assert_passed(
            name,
            patched(&tagged, &[(16, high), (17, low)]),
            Reason::NotIp,
        );
    }
    for other in [proto::ICMP, 47, 50, 255] {
        let packet = patched(&elsewhere(Family::V4), &[(L3 + 9, other)]);
        assert_passed("IPv4", packet, Reason::OtherProtocol);
    }
    for other in [proto::ICMPV6, 4, 41, 255] {
        let packet = patched(&elsewhere(Family::V6), &[(L3 + 6, other)]);
        assert_passed("IPv6", packet, Reason::OtherProtocol);
    }
}

#[test]
fn headers_that_contradict_themselves_are_passed() {
    let (v4, v6) = (Family::V4, Family::V6);
    let tcp = L3 + 20;
    for (name, frame, patches) in [
        ("IPv4 of version 5", datagram(v4), &[(L3, 0x55)][..]),
        ("IPv4 of version 6", datagram(v4), &[(L3, 0x65)]),
        ("header of 16 bytes", datagram(v4), &[(L3, 0x44)]),
        ("header of none", datagram(v4), &[(L3, 0x40)]),
        ("header behind the end", datagram(v4), &[(L3, 0x4f)]),
        ("shorter than its header", datagram(v4), &[(L3 + 3, 19)]),
        ("shorter than UDP", datagram(v4), &[(L3 + 3, 27)]),
        ("shorter than TCP", segment(v4), &[(L3 + 3, 39)]),
        ("length of zero", datagram(v4), &[(L3 + 3, 0)]),
        ("longer than the frame", datagram(v4), &[(L3 + 3, 36)]),
        ("TCP header of 16 bytes", segment(v4), &[(tcp + 12, 0x40)]),
        ("IPv6 of version 4", datagram(v6), &[(L3, 0x46)]),
        ("payload shorter than UDP", datagram(v6), &[(L3 + 5, 7)]),
        ("payload shorter than TCP", segment(v6), &[(L3 + 5, 19)]),
        ("no payload (RFC 2675)", datagram(v6), &[(L3 + 5, 0)]),
        (
            "payload longer than the frame",
            datagram(v6),
            &[(L3 + 5, 16)],
        ),
        (
            "extension behind the end",
            datagram(v6),
            &[(L3 + 6, 0), (L3 + 40, proto::UDP), (L3 + 41, 1)],
        ),
    ] {
        assert_passed(name, patched(&frame, patches), Reason::Malformed);
    }
}

/// Ethernet fills frames up; what follows the packet is not its data.
#[test]
fn padding_is_left_alone() {
    for family in Family::BOTH {
        for frame in [datagram(family), segment(family)] {
            let padded = |frame: &Frame| [frame.build(), vec![0xee; 18]].concat();
            let expected = Frame {
                dst: backend(family),
                ..frame.clone()
            };
            let (verdict, bytes) = node().see(HOOK, HostPacket::new(padded(&frame)));
            assert_eq!(verdict, Verdict::Deliver);
            assert_eq!(bytes, padded(&expected));
        }
    }
}

/// Headers that begin within the packet and end in the padding behind it.
#[test]
fn headers_in_the_padding_are_passed() {
    let extension = [(L3 + 6, 0), (L3 + 40, proto::UDP), (L3 + 41, 1)];
    for (name, frame, patches) in [
        ("UDP", datagram(Family::V4), &[(L3 + 3, 27)][..]),
        ("TCP", segment(Family::V6), &[(L3 + 5, 19)]),
        ("extension", datagram(Family::V6), &extension),
    ] {
        let packet = patched(&frame, patches);
        let padded = [packet.bytes(), &[0; 40]].concat();
        assert_passed(name, HostPacket::new(padded), Reason::Malformed);
    }
}

//! Clients of services without backends are told so at once.

use std::net::IpAddr;

use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Notice, Verdict};
use proptest::prelude::*;

use crate::support::{
    OPENING,
    answer::{UNREACHABLE, assert_is_error, assert_is_sent_back},
    ends::{client, service},
    family::{Family, at},
    frame::{Frame, Segment, flag},
    layout::{self, layouts},
    node::Node,
    packet::HostPacket,
    wire::{self, Headers},
};

/// A node with a service that has no backends.
fn node(family: Family) -> Node {
    let mut node = Node::new();
    for protocol in [proto::TCP, proto::UDP] {
        node.serve(service(family), protocol, &[], &[]);
    }
    node
}

/// What such a node answers.
fn answer(hook: Hook, packet: impl Into<HostPacket>) -> Option<Vec<u8>> {
    let mut packet = packet.into();
    let family = Family::of(Headers::find(packet.bytes()).unwrap().dst);
    let mut node = node(family);
    assert_eq!(
        node.process(hook, &mut packet),
        Verdict::Reject(Notice::NOBODY)
    );
    assert_eq!(node.count(Reason::NoBackend), 1);
    match node.reject(Notice::NOBODY, &mut packet) {
        Verdict::Reflect => Some(packet.on_wire()),
        Verdict::Drop => None,
        other => panic!("{other:?} of a reject"),
    }
}

/// A segment and the reset it earns (RFC 9293, 3.10.7.1).
struct Reset {
    name: &'static str,
    flags: u8,
    seq: u32,
    ack: u32,
    payload: &'static [u8],
    /// The reset's sequence number.
    then_seq: u32,
    then_ack: u32,
    /// Whether the reset acknowledges.
    acks: bool,
}

const RESETS: [Reset; 8] = [
    Reset {
        name: "SYN",
        flags: flag::SYN,
        seq: 100,
        ack: 0,
        payload: b"",
        then_seq: 0,
        then_ack: 101,
        acks: true,
    },
    Reset {
        name: "SYN whose successor wraps around",
        flags: flag::SYN,
        seq: u32::MAX,
        ack: 0,
        payload: b"",
        then_seq: 0,
        then_ack: 0,
        acks: true,
    },
    Reset {
        name: "SYN with data (RFC 7413)",
        flags: flag::SYN,
        seq: 100,
        ack: 0,
        payload: b"early",
        then_seq: 0,
        then_ack: 106,
        acks: true,
    },
    Reset {
        name: "ACK",
        flags: flag::ACK,
        seq: 100,
        ack: 777,
        payload: b"",
        then_seq: 777,
        then_ack: 0,
        acks: false,
    },
    Reset {
        name: "data",
        flags: flag::ACK,
        seq: 100,
        ack: 777,
        payload: b"abc",
        then_seq: 777,
        then_ack: 0,
        acks: false,
    },
    Reset {
        name: "FIN",
        flags: flag::FIN | flag::ACK,
        seq: 100,
        ack: 777,
        payload: b"",
        then_seq: 777,
        then_ack: 0,
        acks: false,
    },
    Reset {
        name: "FIN with data and no ACK",
        flags: flag::FIN,
        seq: 100,
        ack: 0,
        payload: b"abc",
        then_seq: 0,
        then_ack: 104,
        acks: true,
    },
    Reset {
        name: "data without any flag",
        flags: 0,
        seq: 100,
        ack: 0,
        payload: b"abc",
        then_seq: 0,
        then_ack: 103,
        acks: true,
    },
];

impl Reset {
    fn segment(&self, family: Family) -> Frame {
        let mut frame = Frame::tcp(client(family), service(family), self.flags);
        if let Segment::Tcp(header) = &mut frame.segment {
            header.sequence_number = self.seq;
            header.acknowledgment_number = self.ack;
        }
        frame.payload = self.payload.to_vec();
        frame
    }

    fn check(&self, frame: &Frame, reply: &[u8]) {
        let name = self.name;
        assert_is_sent_back(reply, frame);
        let reset = wire::tcp(reply);
        assert_eq!(reset.source_port, frame.dst.port(), "{name}");
        assert_eq!(reset.destination_port, frame.src.port(), "{name}");
        assert!(reset.rst, "{name}");
        assert_eq!(reset.ack, self.acks, "{name}");
        assert!(
            !reset.syn && !reset.fin && !reset.psh && !reset.urg,
            "{name}"
        );
        assert_eq!(reset.sequence_number, self.then_seq, "{name}");
        assert_eq!(reset.acknowledgment_number, self.then_ack, "{name}");
        assert_eq!(reset.options.as_slice(), [], "{name}");
    }
}

#[test]
fn a_tcp_segment_is_reset() {
    for family in Family::BOTH {
        for hook in OPENING {
            for case in &RESETS {
                let frame = case.segment(family);
                case.check(&frame, &answer(hook, &frame).unwrap());
            }
        }
    }
}

/// Options, extensions, a tag and padding neither count as data nor come back, but for the tag.
#[test]
fn a_reset_counts_data_and_nothing_else() {
    for family in Family::BOTH {
        for case in &RESETS {
            let mut frame = case.segment(family);
            frame.tag = Some(0xe000);
            frame.options = [1; 8].into();
            frame.extensions.hop_by_hop_options = Some(layout::padding(1));
            if let Segment::Tcp(header) = &mut frame.segment {
                header.set_options_raw(&[1; 12]).unwrap();
            }
            let mut bytes = frame.build();
            bytes.extend([0xff; 9]);
            let reply = answer(Hook::XDP_EXTERNAL, HostPacket::new(bytes)).unwrap();
            assert_eq!(reply[12..16], [0x81, 0x00, 0xe0, 0x00], "the tag stays");
            case.check(&frame, &reply);
        }
    }
}

#[test]
fn a_reset_is_not_answered() {
    for family in Family::BOTH {
        for flags in [flag::RST, flag::RST | flag::ACK] {
            let frame = Frame::tcp(client(family), service(family), flags);
            assert_eq!(answer(Hook::XDP_EXTERNAL, &frame), None);
        }
    }
}

proptest! {
    #[test]
    fn a_datagram_is_answered_with_port_unreachable(
        family in prop::sample::select(&Family::BOTH),
        hook in prop::sample::select(&OPENING),
        layout in layouts(),
    ) {
        let frame = layout.apply(Frame::udp(client(family), service(family)));
        assert_is_error(&answer(hook, &frame).unwrap(), &frame, UNREACHABLE);
    }
}

/// Devices complete a checksum where the rejected packet had one.
#[test]
fn answers_to_packets_with_partial_checksums_are_right() {
    for family in Family::BOTH {
        let (client, service) = (client(family), service(family));
        let mut unsummed = Frame::udp(client, service);
        unsummed.payload = b"an odd length".to_vec();
        for frame in [Frame::udp(client, service), unsummed] {
            let packet = HostPacket::with_partial_checksum(&frame);
            let reply = answer(Hook::TC_POD_INGRESS, packet).unwrap();
            assert_is_error(&reply, &frame, UNREACHABLE);
        }
        for case in &RESETS {
            let frame = case.segment(family);
            let packet = HostPacket::with_partial_checksum(&frame);
            case.check(&frame, &answer(Hook::TC_POD_INGRESS, packet).unwrap());
        }
    }
}

/// The device completes the checksum at its old place, which in the answer is another field's.
#[test]
fn no_answer_is_spoilt_by_a_checksum_left_to_the_device() {
    for family in Family::BOTH {
        for protocol in [proto::TCP, proto::UDP] {
            let mut frame = Frame::first(protocol, client(family), service(family));
            frame.options = [1; 4].into();
            frame.extensions.destination_options = Some(layout::padding(0));
            let packet = HostPacket::with_partial_checksum(&frame);
            let reply = answer(Hook::TC_POD_INGRESS, packet);
            assert!(reply.as_deref().is_none_or(wire::is_sound), "{reply:02x?}");
        }
    }
}

/// RFC 1122, 3.2.2; RFC 4443, 2.4: neither addresses that are nobody's, nor everybody's.
#[test]
fn only_single_hosts_are_answered() {
    let not_hosts = [
        "0.0.0.0",
        "224.0.0.1",
        "239.1.2.3",
        "255.255.255.255",
        "::",
        "ff02::1",
        "ff0e::42",
    ];
    for ip in not_hosts.map(|ip| ip.parse::<IpAddr>().unwrap()) {
        for protocol in [proto::TCP, proto::UDP] {
            let frame = Frame::first(protocol, at(ip, 4000), service(Family::of(ip)));
            assert_eq!(answer(Hook::XDP_EXTERNAL, &frame), None, "from {ip}");
        }
    }
}

/// RFC 1122, 3.2.2; RFC 4443, 2.4: what was sent to everybody on the link has as many receivers
/// who would answer.
#[test]
fn link_layer_broadcasts_are_not_answered() {
    for family in Family::BOTH {
        for protocol in [proto::TCP, proto::UDP] {
            for group in [
                [0xff; 6],
                [0x01, 0x00, 0x5e, 0, 0, 1],
                [0x33, 0x33, 0, 0, 0, 1],
            ] {
                let mut frame = Frame::first(protocol, client(family), service(family));
                frame.macs[..6].copy_from_slice(&group);
                assert_eq!(answer(Hook::XDP_EXTERNAL, &frame), None, "to {group:02x?}");
            }
        }
    }
}

#[test]
fn an_answer_that_does_not_fit_is_dropped() {
    for family in Family::BOTH {
        let mut frame = Frame::udp(client(family), service(family));
        frame.payload.clear();
        let mut packet = HostPacket::from(&frame).without_room();
        let mut node = node(family);
        assert_eq!(
            node.process(Hook::XDP_EXTERNAL, &mut packet),
            Verdict::Reject(Notice::NOBODY)
        );
        assert_eq!(node.reject(Notice::NOBODY, &mut packet), Verdict::Drop);
        assert_eq!(node.count(Reason::NoRoom), 1);
    }
}

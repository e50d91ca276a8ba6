//! Whatever arrives: nothing is misread, nothing is lost without a count, nothing panics.

use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Notice, Verdict};
use proptest::{collection::vec, option, prelude::*, sample};

use crate::support::{
    family::{Family, at},
    frame::{Frame, chunk, flag},
    icmp::Error,
    layout::layouts,
    node::Node,
    packet::HostPacket,
    wire::{self, Headers},
};

const HOOKS: [Hook; 5] = [
    Hook::XDP_EXTERNAL,
    Hook::TC_EXTERNAL_INGRESS,
    Hook::TC_EXTERNAL_EGRESS,
    Hook::TC_POD_INGRESS,
    Hook::TC_POD_EGRESS,
];

/// A node where the packets below meet every kind of service.
fn node() -> Node {
    let mut node = Node::new();
    for family in Family::BOTH {
        let local = node.local(at(family.local_pod(1), 8080));
        let remote = node.remote(at(family.remote_pod(1), 8080));
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            let both = [local, remote];
            node.serve(at(family.service(1), 80), proto, &both, &both);
            node.serve(at(family.service(2), 80), proto, &[], &[]);
        }
        node.allocate(family.service(1));
    }
    node
}

fn protocols() -> impl Strategy<Value = u8> {
    sample::select(&[proto::TCP, proto::UDP, proto::SCTP])
}

/// Packets between anybody who matters, in any layout the pipeline understands.
fn frames() -> impl Strategy<Value = Frame> {
    let flags = sample::select(&[
        flag::SYN,
        flag::SYN | flag::ACK,
        flag::ACK,
        flag::FIN | flag::ACK,
        flag::RST,
        0,
    ]);
    let families = sample::select(&Family::BOTH);
    (
        families,
        0..6_usize,
        0..6_usize,
        protocols(),
        flags,
        layouts(),
    )
        .prop_map(|(family, from, to, protocol, flags, layout)| {
            let party = [
                at(family.client(1), 4000),
                at(family.local_pod(1), 8080),
                at(family.remote_pod(1), 8080),
                at(family.service(1), 80),
                at(family.service(2), 80),
                at(family.service(3), 80),
            ];
            let frame = match protocol {
                proto::TCP => Frame::tcp(party[from], party[to], flags),
                proto::SCTP if flags == flag::SYN => {
                    Frame::sctp(party[from], party[to], chunk::INIT)
                }
                proto::SCTP => Frame::sctp(party[from], party[to], chunk::DATA),
                _ => Frame::udp(party[from], party[to]),
            };
            layout.apply(frame)
        })
}

/// A packet, or an ICMP error that quotes so much of it.
fn arrivals() -> impl Strategy<Value = Vec<u8>> {
    (frames(), option::weighted(0.3, 0..100_usize)).prop_map(|(frame, quotes)| {
        let bytes = frame.build();
        match quotes {
            Some(quotes) => Error::new(frame.dst.ip(), quotes).about(&bytes),
            None => bytes,
        }
    })
}

/// What goes wrong with packets.
#[derive(Clone, Debug)]
struct Damage {
    /// Bytes written where headers are.
    bytes: Vec<(sample::Index, u8)>,
    /// Where the packet ends.
    cut: Option<sample::Index>,
    /// What follows it.
    padding: Vec<u8>,
    /// How much can be read at once.
    readable: Option<sample::Index>,
    stripped_vlan: Option<u16>,
    no_room: bool,
}

fn damages() -> impl Strategy<Value = Damage> {
    let bytes = prop_oneof![
        2 => Just(Vec::new()),
        1 => vec((any::<sample::Index>(), any::<u8>()), 1..4),
    ];
    let seldom = || option::weighted(0.2, any::<sample::Index>());
    let padding = prop_oneof![3 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..40)];
    let vlan = option::weighted(0.1, any::<u16>());
    (
        bytes,
        seldom(),
        padding,
        seldom(),
        vlan,
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(bytes, cut, padding, readable, stripped_vlan, no_room)| Damage {
                bytes,
                cut,
                padding,
                readable,
                stripped_vlan,
                no_room,
            },
        )
}

impl Damage {
    fn apply(&self, mut bytes: Vec<u8>) -> HostPacket {
        for (at, byte) in &self.bytes {
            let headers = bytes.len().min(120);
            bytes[at.index(headers)] = *byte;
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.extend(&self.padding);
        let length = bytes.len();
        let mut packet = HostPacket::new(bytes);
        if let Some(readable) = self.readable {
            packet = packet.readable_to(readable.index(length + 1));
        }
        if let Some(tci) = self.stripped_vlan {
            packet = packet.with_stripped_vlan(tci);
        }
        if self.no_room {
            packet = packet.without_room();
        }
        packet
    }
}

/// Has a node see a packet, and checks what may be said of any.
fn check(node: &mut Node, hook: Hook, packet: &HostPacket) {
    let before = packet.bytes();
    let mut after = packet.clone();
    let counted = node.counted();
    let (mut other, mut fully) = (node.clone(), packet.clone());
    let verdict = node.process(hook, &mut after);
    assert_eq!(node.counted(), counted + 1, "{verdict:?} is not counted");
    assert_eq!(other.process_fully(hook, &mut fully), verdict);
    assert_eq!(fully, after, "the fast path is the full one, cut short");
    assert!(other.agrees_with(node), "both leave the same behind");
    match verdict {
        Verdict::Pass => assert_eq!(&after, packet, "passed packets are left alone"),
        Verdict::Drop => {}
        Verdict::Deliver
        | Verdict::Transmit { .. }
        | Verdict::Resolve { .. }
        | Verdict::Enter { .. }
        | Verdict::Reflect => assert_translated(before, after.bytes()),
        Verdict::Reject(notice) => {
            assert_eq!(&after, packet, "rejects start from the packet as it came");
            assert_rejected(node, notice, before, after);
        }
    }
}

/// Only what translation is about differs, and what was right still is.
fn assert_translated(before: &[u8], after: &[u8]) {
    let headers = Headers::find(before).unwrap();
    let field = headers.checksum_field().unwrap();
    let (ttl, addresses) = if headers.src.is_ipv4() {
        (8, 10..20)
    } else {
        (7, 8..40)
    };
    let width = if headers.proto == proto::SCTP { 4 } else { 2 };
    let content = match headers.proto {
        proto::ICMP | proto::ICMPV6 => headers.l4 + 8..headers.end,
        _ => headers.l4..headers.l4 + 4,
    };
    let may_change = |at: usize| {
        at < 12
            || at == headers.l3 + ttl
            || (headers.l3 + addresses.start..headers.l3 + addresses.end).contains(&at)
            || content.contains(&at)
            || (field..field + width).contains(&at)
    };
    assert_eq!(before.len(), after.len());
    for (at, (old, new)) in before.iter().zip(after).enumerate() {
        assert!(old == new || may_change(at), "byte {at} was changed");
    }
    if wire::is_sound(before) {
        assert!(wire::is_sound(after), "{after:02x?} of {before:02x?}");
    }
}

/// A reject is silent, or a sound packet to the sender.
fn assert_rejected(node: &Node, notice: Notice, before: &[u8], mut packet: HostPacket) {
    let no_room = node.count(Reason::NoRoom);
    match node.reject(notice, &mut packet) {
        Verdict::Drop => {}
        Verdict::Reflect => {
            let asked = Headers::find(before).unwrap();
            let reply = packet.on_wire();
            assert!(wire::is_sound(&reply), "{reply:02x?} to {before:02x?}");
            let answer = Headers::find(&reply).unwrap();
            assert_eq!((answer.src, answer.dst), (asked.dst, asked.src));
            assert_eq!(answer.end, reply.len(), "nothing follows it");
            assert_eq!(node.count(Reason::NoRoom), no_room);
        }
        other => panic!("{other:?} of a reject"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// One node sees packet after packet, so most meet flows of others before them.
    #[test]
    fn of_any_packet_nothing_is_misread(
        arrivals in vec((sample::select(&HOOKS), arrivals(), damages()), 1..8),
    ) {
        let mut node = node();
        for (hook, bytes, damage) in arrivals {
            check(&mut node, hook, &damage.apply(bytes));
        }
    }

    #[test]
    fn noise_is_passed_untouched_or_at_least_counted(
        hook in sample::select(&HOOKS), bytes in vec(any::<u8>(), 0..200),
    ) {
        check(&mut node(), hook, &HostPacket::new(bytes));
    }
}

/// Each packet, cut at each place: what has no whole headers is passed.
#[test]
fn packets_cut_anywhere_are_passed() {
    for family in Family::BOTH {
        for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
            let client = at(family.client(1), 4000);
            let frame = Frame::first(protocol, client, at(family.service(1), 80));
            let whole = frame.build();
            for length in 0..whole.len() {
                for hook in HOOKS {
                    let packet = HostPacket::new(whole[..length].to_vec());
                    let (verdict, bytes) = node().see(hook, packet);
                    assert_eq!(
                        (verdict, bytes.as_slice()),
                        (Verdict::Pass, &whole[..length])
                    );
                }
            }
        }
    }
}

/// The same for a packet whose end lies in another page: its length is right.
#[test]
fn packets_unreadable_from_anywhere_in_their_headers_are_passed() {
    for family in Family::BOTH {
        let client = at(family.client(1), 4000);
        let frame = Frame::udp(client, at(family.service(1), 80));
        let headers = frame.build().len() - frame.payload.len();
        for length in 0..headers {
            let packet = HostPacket::from(&frame).readable_to(length);
            let mut node = node();
            assert_eq!(node.see(Hook::XDP_EXTERNAL, packet).0, Verdict::Pass);
            assert_eq!(node.count(Reason::Malformed), 1);
        }
    }
}

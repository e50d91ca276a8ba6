//! Each reason, and a packet that is passed, dropped or rejected for it.

use lb_common::{
    V4,
    config::link,
    counters::{Allowance, Reason},
    proto,
    service::{Backend, frontend},
};
use lb_ebpf::{Hook, Notice, Reach, Tables, Verdict};

use crate::support::{
    ends::{client, local, remote, service},
    family::{Family, at},
    fragment,
    frame::{Frame, flag},
    layout::padding,
    node::Node,
    packet::HostPacket,
    tables::{EXTERNAL, Way},
};

/// What a narrow way takes.
const MTU: u16 = 1400;
/// A protocol without ports.
const ESP: u8 = 50;

/// A packet on a node where something is the matter.
struct Case {
    node: Node,
    hook: Hook,
    packet: HostPacket,
}

impl Case {
    /// A datagram to a service with a backend elsewhere.
    fn new(family: Family) -> Self {
        let mut node = Node::new();
        let index = node.remote(remote(family));
        let service = service(family);
        node.serve(service, proto::UDP, &[index], &[index]);
        node.serve(service, proto::TCP, &[index], &[index]);
        node.allocate(service.ip());
        Self {
            node,
            hook: Hook::XDP_EXTERNAL,
            packet: HostPacket::from(&Frame::udp(client(family), service)),
        }
    }

    /// The same on a node that is different.
    fn node(mut self, change: impl FnOnce(&mut Node)) -> Self {
        change(&mut self.node);
        self
    }

    /// The same with another packet.
    fn packet(mut self, packet: impl Into<HostPacket>) -> Self {
        self.packet = packet.into();
        self
    }

    /// The same with a packet whose bytes are different.
    fn bytes(self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = self.packet.bytes().to_vec();
        change(&mut bytes);
        self.packet(HostPacket::new(bytes))
    }
}

/// A packet that meets this reason. A reason without one does not compile.
fn case(reason: Reason, family: Family) -> Case {
    let whole = Case::new(family);
    let service = service(family);
    let datagram = Frame::udp(client(family), service);
    match reason {
        Reason::NotIp => whole.bytes(|bytes| bytes[12..14].copy_from_slice(&[0x08, 0x06])),
        Reason::OtherProtocol => {
            let elsewhere = Frame::udp(client(family), at(family.client(2), 80));
            whole.packet(&elsewhere).bytes(|bytes| match family {
                Family::V4 => bytes[14 + 9] = ESP,
                Family::V6 => bytes[14 + 6] = ESP,
            })
        }
        Reason::Malformed => whole.bytes(|bytes| bytes.truncate(30)),
        Reason::Fragment => {
            let elsewhere = Frame::udp(client(family), at(family.client(2), 80));
            whole.packet(HostPacket::new(
                fragment::split(&elsewhere.build(), 8)[1].clone(),
            ))
        }
        Reason::LostFragment => whole.packet(HostPacket::new(
            fragment::split(&datagram.build(), 8)[1].clone(),
        )),
        Reason::Vlan => whole.packet(&Frame {
            tag: Some(5),
            ..datagram
        }),
        // IPv4 has no chains: there it is the other family's packet.
        Reason::HeaderChain => {
            let mut frame = Frame::udp(client(Family::V6), at(Family::V6.service(1), 80));
            frame.extensions.destination_options = Some(padding(20));
            whole.packet(&frame)
        }
        Reason::NotService => whole.packet(&Frame::udp(client(family), at(family.client(2), 80))),
        Reason::NeedsStack => whole.node(|node| node.link(EXTERNAL, link::DIRECT)),
        Reason::NoFullPath => whole.node(|node| node.has_full_path = false),
        Reason::NoBackend => whole.node(|node| {
            node.serve(service, proto::UDP, &[], &[]);
        }),
        Reason::BackendGone => abandoned(whole, family),
        Reason::NoSuchPort => whole.packet(&Frame::udp(client(family), at(service.ip(), 81))),
        Reason::Unallocated => whole.packet(&Frame::udp(client(family), at(family.service(2), 80))),
        Reason::NoLocalBackend => whole.node(|node| {
            node.serve(service, proto::UDP, &[], &[]);
            node.flag(service, proto::UDP, frontend::DROP_OUTSIDE);
        }),
        Reason::SourceRange => whole.node(|node| {
            node.flag(service, proto::UDP, frontend::SOURCE_RANGES);
        }),
        Reason::NoFlow => whole.packet(&Frame::tcp(client(family), service, flag::ACK)),
        Reason::PortsExhausted => whole.node(|node| {
            let config = node.tables.config.as_mut().unwrap();
            config.snat_last = config.snat_first;
            let other = at(family.client(2), 4000);
            node.see(Hook::XDP_EXTERNAL, &Frame::udp(other, service));
        }),
        Reason::Stateless => whole.node(|node| {
            let index = node.local(local(family));
            node.serve(service, proto::UDP, &[index], &[index]);
            node.flag(service, proto::UDP, frontend::HASHED);
            node.flows.limit(1);
        }),
        Reason::TableBusy => whole.node(|node| node.flows.limit(0)),
        Reason::NoRoute => whole.node(|node| {
            node.route(remote(family).ip(), Way::reaching(Reach::Unreachable));
        }),
        Reason::NoSource => whole.node(|node| {
            let config = node.tables.config.as_mut().unwrap();
            (config.v4.node, config.v6.node) = ([0; 1], [0; 4]);
        }),
        Reason::TooLong => {
            let mut long = datagram;
            long.payload = vec![0x5a; MTU.into()];
            let narrow = |node: &mut Node| node.route(remote(family).ip(), Way::taking(MTU));
            whole.node(narrow).packet(&long)
        }
        Reason::TimeToLive => whole.packet(&Frame { ttl: 1, ..datagram }),
        Reason::TooManyRejects => whole.node(|node| {
            node.serve(service, proto::UDP, &[], &[]);
            let now = Tables::<V4>::now(&node.tables);
            node.tables.allowance.set(Allowance {
                left: 0,
                granted: now,
            });
        }),
        Reason::NoRoom => {
            let bare = Frame {
                payload: Vec::new(),
                ..datagram
            };
            whole
                .node(|node| {
                    node.serve(service, proto::UDP, &[], &[]);
                })
                .packet(HostPacket::from(&bare).without_room())
        }
        Reason::Inconsistent => whole.node(|node| {
            node.tables.v4.slots.clear();
            node.tables.v6.slots.clear();
        }),
    }
}

/// A segment of a connection whose pod is deleted.
fn abandoned(whole: Case, family: Family) -> Case {
    let segment = |flags| Frame::tcp(client(family), service(family), flags);
    let deleted = whole.node(|node| {
        node.see(Hook::XDP_EXTERNAL, &segment(flag::SYN));
        node.abandon_flows();
    });
    deleted.packet(&segment(flag::ACK))
}

/// What a reason's name says becomes of its packets.
fn verdict(reason: Reason) -> Verdict {
    match reason.name().split_once('-') {
        Some(("pass", _)) => Verdict::Pass,
        Some(("drop", _)) => Verdict::Drop,
        Some(("reject", _)) => Verdict::Reject(match reason {
            Reason::TimeToLive => Notice::EXPIRED,
            Reason::TooLong => Notice::too_long(MTU),
            _ => Notice::NOBODY,
        }),
        Some(("translate", _)) => Verdict::Deliver,
        other => panic!("{other:?} is nothing that becomes of packets"),
    }
}

#[test]
fn each_reason_is_counted_for_what_its_name_says() {
    for family in Family::BOTH {
        for reason in Reason::ALL.iter().copied() {
            let Case {
                mut node,
                hook,
                mut packet,
            } = case(reason, family);
            let before = packet.clone();
            let counted = node.count(reason);
            let mut met = node.process(hook, &mut packet);
            // A reject that can't be made is a drop, with a reason of its own.
            if met == Verdict::Reject(Notice::NOBODY) && verdict(reason) == Verdict::Drop {
                met = node.reject(Notice::NOBODY, &mut packet);
            }
            assert_eq!(met, verdict(reason), "{reason:?}");
            assert_eq!(node.count(reason), counted + 1, "{reason:?}");
            let is_left_alone = packet == before;
            assert_eq!(is_left_alone, met != Verdict::Deliver, "{reason:?}");
        }
    }
}

/// Every way maps can contradict each other, and what is done about it: the packet goes.
#[test]
fn maps_that_contradict_each_other_drop_packets() {
    let breakages: [fn(&mut Node); 5] = [
        |node| {
            node.tables.v4.slots.clear();
            node.tables.v6.slots.clear();
        },
        |node| {
            node.tables.v4.slots.fill(u32::MAX);
            node.tables.v6.slots.fill(u32::MAX);
        },
        |node| {
            node.tables.v4.backends.fill(Backend::default());
            node.tables.v6.backends.fill(Backend::default());
        },
        |node| node.tables.config = None,
        |node| node.flows.unstageable = true,
    ];
    for (number, break_maps) in breakages.into_iter().enumerate() {
        for family in Family::BOTH {
            let mut node = Node::new();
            for family in Family::BOTH {
                let index = node.local(local(family));
                node.serve(service(family), proto::UDP, &[index], &[index]);
            }
            break_maps(&mut node);
            let frame = Frame::udp(client(family), service(family));
            let seen = node.see(Hook::XDP_EXTERNAL, &frame);
            assert_eq!(seen, (Verdict::Drop, frame.build()), "case {number}");
            assert_eq!(node.count(Reason::Inconsistent), 1, "case {number}");
            assert_eq!(node.flows.len(), 0, "case {number}");
        }
    }
}

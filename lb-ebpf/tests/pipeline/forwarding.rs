//! Where packets go that Fairlead sends on itself.

use std::time::Duration;

use lb_common::{Tick, config::link, counters::Reason, proto};
use lb_ebpf::{Hook, Notice, Reach, Verdict};

use crate::support::{
    ends::{client, remote as backend, remote_node as node, service},
    family::{Family, at},
    frame::{Frame, flag},
    node::Node,
    tables::{EXTERNAL, Way, macs_toward},
    wire,
};

const XDP: Hook = Hook::XDP_EXTERNAL;
const TC: Hook = Hook::TC_EXTERNAL_INGRESS;
const A_TICK: Duration = Duration::from_nanos(Tick::NANOS);

fn syn(family: Family) -> Frame {
    Frame::tcp(client(family), service(family), flag::SYN)
}

fn ack(family: Family) -> Frame {
    Frame::tcp(client(family), service(family), flag::ACK)
}

/// Checks that a hook passes a packet on as it came, for this reason.
fn assert_passed(node: &mut Node, hook: Hook, frame: &Frame, reason: Reason) {
    let before = node.count(reason);
    assert_eq!(node.see(hook, frame), (Verdict::Pass, frame.build()));
    assert_eq!(node.count(reason), before + 1);
}

/// How each hook sends, by what is known of the next hop and of the interface before it.
#[test]
fn xdp_and_tc_send_as_they_can() {
    let direct = link::DIRECT | link::XDP_TARGET;
    let neighbour = Reach::Neighbour;
    let transmit = Some(Verdict::Transmit { ifindex: EXTERNAL });
    let resolve = Some(Verdict::Resolve { ifindex: EXTERNAL });
    for (reach, flags, by_xdp, by_tc) in [
        (neighbour, direct, transmit, transmit),
        (neighbour, link::DIRECT, None, transmit),
        (neighbour, 0, None, resolve),
        (Reach::Route, direct, None, resolve),
    ] {
        for family in Family::BOTH {
            for frames in [vec![syn(family)], vec![syn(family), ack(family)]] {
                let mut node = node(family);
                node.link(EXTERNAL, flags);
                node.route(backend(family).ip(), Way::reaching(reach));
                let (last, begin) = frames.split_last().unwrap();
                for frame in begin {
                    node.see(TC, frame);
                }
                match by_xdp {
                    Some(verdict) => assert_eq!(node.clone().see(XDP, last).0, verdict),
                    None => assert_passed(&mut node, XDP, last, Reason::NeedsStack),
                }
                assert_eq!(Some(node.see(TC, last).0), by_tc);
            }
        }
    }
}

/// MACs are written where the next hop is known, and left alone where the kernel is asked.
#[test]
fn macs_are_the_next_hops_or_the_packets_own() {
    for family in Family::BOTH {
        let frame = syn(family);
        let toward = macs_toward(backend(family).ip());
        for (reach, macs) in [(Reach::Neighbour, toward), (Reach::Route, frame.macs)] {
            let mut node = node(family);
            node.route(backend(family).ip(), Way::reaching(reach));
            let (_, bytes) = node.see(TC, &frame);
            assert_eq!(bytes[..12], macs);
        }
    }
}

/// A flow that XDP leaves to tc has left nothing behind in XDP.
#[test]
fn xdp_opens_no_flow_it_cannot_send() {
    for family in Family::BOTH {
        let mut node = node(family);
        node.link(EXTERNAL, link::DIRECT);
        assert_passed(&mut node, XDP, &syn(family), Reason::NeedsStack);
        assert_eq!((node.flows.len(), node.flows.writes), (0, 0));
    }
}

/// What the FIB may say of a backend elsewhere when a flow begins, and when it goes on.
#[test]
fn without_a_route_packets_are_dropped() {
    for family in Family::BOTH {
        for hook in [XDP, TC] {
            let mut node = node(family);
            node.see(hook, &syn(family));
            node.move_epoch();
            for reach in [Reach::Unreachable, Reach::NotForwarded] {
                node.route(backend(family).ip(), Way::reaching(reach));
                assert_eq!(
                    node.see(hook, &ack(family)),
                    (Verdict::Drop, ack(family).build())
                );
            }
            assert_eq!(node.count(Reason::NoRoute), 2);

            let mut node = self::node(family);
            node.route(backend(family).ip(), Way::reaching(Reach::Unreachable));
            assert_eq!(
                node.see(hook, &syn(family)),
                (Verdict::Drop, syn(family).build())
            );
            assert_eq!(node.count(Reason::NoRoute), 1);
            assert_eq!(node.flows.len(), 0);
        }
    }
}

/// An endpoint that does not name its node may be on this one.
#[test]
fn a_backend_the_fib_says_is_here_is_delivered_to() {
    for family in Family::BOTH {
        for hook in [XDP, TC] {
            let mut node = node(family);
            node.route(backend(family).ip(), Way::reaching(Reach::NotForwarded));
            let (verdict, bytes) = node.see(hook, &syn(family));
            let expected = Frame {
                dst: backend(family),
                ..syn(family)
            };
            assert_eq!((verdict, bytes), (Verdict::Deliver, expected.build()));
        }
    }
}

#[test]
fn without_an_address_of_the_node_no_source_is_translated() {
    for family in Family::BOTH {
        let pod = at(family.local_pod(1), 8080);
        let mut node = node(family);
        let index = node.local(pod);
        let own = at(family.service(2), 80);
        node.serve(own, proto::TCP, &[index], &[]);
        let config = node.tables.config.as_mut().unwrap();
        config.v4.node = [0; 1];
        config.v6.node = [0; 4];
        let hairpin = Frame::tcp(at(pod.ip(), 4000), own, flag::SYN);
        for (hook, frame) in [(TC, syn(family)), (Hook::TC_POD_INGRESS, hairpin)] {
            assert_eq!(node.see(hook, &frame), (Verdict::Drop, frame.build()));
        }
        assert_eq!(node.count(Reason::NoSource), 2);
        assert_eq!(node.flows.len(), 0);
    }
}

/// The FIB is asked when a flow begins, when the epoch has moved, and once a second.
#[test]
fn a_next_hop_is_kept_for_a_second_or_until_the_epoch_moves() {
    for family in Family::BOTH {
        let mut node = node(family);
        let lookups = |node: &mut Node, frame: &Frame| {
            let before = node.fib_lookups();
            let (verdict, _) = node.see(XDP, frame);
            assert_eq!(verdict, Verdict::Transmit { ifindex: EXTERNAL });
            node.fib_lookups() - before
        };
        assert_eq!(lookups(&mut node, &syn(family)), 1);
        for _ in 1..Tick::PER_SECOND {
            node.wait(A_TICK);
            assert_eq!(lookups(&mut node, &ack(family)), 0);
        }
        node.wait(A_TICK);
        assert_eq!(lookups(&mut node, &ack(family)), 1, "a second has passed");
        assert_eq!(lookups(&mut node, &ack(family)), 0);
        node.move_epoch();
        assert_eq!(lookups(&mut node, &ack(family)), 1, "the epoch has moved");
        assert_eq!(lookups(&mut node, &ack(family)), 0);
    }
}

#[test]
fn a_changed_route_is_followed_once_the_epoch_moves() {
    for family in Family::BOTH {
        let other = EXTERNAL + 1;
        let mut node = node(family);
        node.link(other, link::DIRECT | link::XDP_TARGET);
        node.see(XDP, &syn(family));
        let way = Way {
            ifindex: other,
            ..Way::OUT
        };
        node.route(backend(family).ip(), way);
        for expected in [EXTERNAL, other] {
            let (verdict, _) = node.see(XDP, &ack(family));
            assert_eq!(verdict, Verdict::Transmit { ifindex: expected });
            node.move_epoch();
        }
    }
}

/// A reply's next hop is unknown at first, and zero is no interface: not in the first second after
/// boot either, when zero is the time and the epoch.
#[test]
fn a_hop_that_was_never_asked_for_is_not_fresh() {
    for family in Family::BOTH {
        let mut node = node(family);
        node.tables.clock.set(0);
        node.tables.config.as_mut().unwrap().epoch = 0;
        let (_, bytes) = node.see(XDP, &syn(family));
        let reply = Frame::tcp(backend(family), wire::source(&bytes), flag::ACK);
        let (verdict, _) = node.see(XDP, &reply);
        assert_eq!(verdict, Verdict::Transmit { ifindex: EXTERNAL });
    }
}

/// Replies of translated flows have a next hop of their own: the client's.
#[test]
fn replies_are_sent_toward_the_client() {
    for family in Family::BOTH {
        let other = EXTERNAL + 1;
        let mut node = node(family);
        node.link(other, link::DIRECT | link::XDP_TARGET);
        let way = Way {
            ifindex: other,
            ..Way::OUT
        };
        node.route(client(family).ip(), way);
        let (_, bytes) = node.see(XDP, &syn(family));
        let source = wire::source(&bytes);
        let reply = Frame::tcp(backend(family), source, flag::SYN | flag::ACK);
        let (verdict, bytes) = node.see(XDP, &reply);
        assert_eq!(verdict, Verdict::Transmit { ifindex: other });
        assert_eq!(bytes[..12], macs_toward(client(family).ip()));
    }
}

/// A router's duty where the stack does not do it.
#[test]
fn a_packet_at_the_end_of_its_life_is_not_forwarded() {
    let expired = Verdict::Reject(Notice::EXPIRED);
    for family in Family::BOTH {
        for hook in [XDP, TC] {
            for ttl in [0, 1] {
                let mut node = node(family);
                let frame = Frame { ttl, ..syn(family) };
                assert_eq!(node.see(hook, &frame), (expired, frame.build()));
                assert_eq!(node.count(Reason::TimeToLive), 1);
            }
        }
    }
}

/// What the stack routes, or never leaves its link, is as old as before.
#[test]
fn only_what_is_forwarded_ages() {
    for family in Family::BOTH {
        let pod = at(family.local_pod(1), 8080);
        for ttl in [1, 2, 255] {
            for (hook, from) in [
                (XDP, family.client(1)),
                (Hook::TC_POD_INGRESS, family.local_pod(2)),
                (Hook::TC_POD_INGRESS, pod.ip()),
            ] {
                let mut node = Node::new();
                let index = node.local(pod);
                node.serve(service(family), proto::TCP, &[index], &[index]);
                let frame = Frame::tcp(at(from, 4000), service(family), flag::SYN);
                let (_, bytes) = node.see(hook, &Frame { ttl, ..frame });
                let at = if family == Family::V4 { 14 + 8 } else { 14 + 7 };
                assert_eq!(bytes[at], ttl);
            }
        }
    }
}

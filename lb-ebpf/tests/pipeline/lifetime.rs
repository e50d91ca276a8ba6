//! How long a flow keeps what was decided for it, and what that costs.

use std::{net::SocketAddr, time::Duration};

use lb_common::{counters::Reason, proto, service::backend};
use lb_ebpf::{Hook, Verdict};
use proptest::{collection::vec, prelude::*, sample};

use crate::support::{
    ends::{PROTOCOLS, client, service},
    family::{Family, at},
    frame::{Frame, flag},
    node::Node,
    wire,
};

const HOOK: Hook = Hook::TC_EXTERNAL_INGRESS;
/// Comfortably more than the second after which rows are renewed.
const A_WHILE: Duration = Duration::from_millis(1100);

fn backend(family: Family, number: u16) -> SocketAddr {
    at(family.local_pod(number), 8080)
}

/// A node with backends 0 and up, of which the service has the first.
fn node(family: Family, backends: u16) -> Node {
    let mut node = Node::new();
    for number in 0..backends {
        node.local(backend(family, number));
    }
    serve(&mut node, family, &[0]);
    node
}

fn serve(node: &mut Node, family: Family, backends: &[u32]) {
    for protocol in PROTOCOLS {
        node.serve(service(family), protocol, backends, backends);
    }
}

/// What may happen around a flow.
#[derive(Clone, Debug)]
enum Change {
    /// The service gets these backends.
    Serve(Vec<u32>),
    /// A backend other than the flow's goes.
    Retire(u32),
    /// Another client opens a flow.
    Crowd(u16),
    Wait(Duration),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        vec(0_u32..6, 0..6).prop_map(Change::Serve),
        (1_u32..6).prop_map(Change::Retire),
        (1_u16..).prop_map(Change::Crowd),
        (0_u64..3000).prop_map(|millis| Change::Wait(Duration::from_millis(millis))),
    ]
}

proptest! {
    #[test]
    fn a_flow_keeps_its_backend_while_others_come_and_go(
        family in sample::select(&Family::BOTH),
        protocol in sample::select(&PROTOCOLS),
        changes in vec(changes(), 1..20),
    ) {
        let mut node = node(family, 6);
        let (client, service) = (client(family), service(family));
        let chosen = node.reached(HOOK, &Frame::first(protocol, client, service));
        prop_assert_eq!(chosen, Some(backend(family, 0)));
        for change in changes {
            match change {
                Change::Serve(backends) => serve(&mut node, family, &backends),
                Change::Retire(index) => node.retire(family, index),
                Change::Crowd(port) => {
                    let other = at(family.client(2), port);
                    node.see(HOOK, &Frame::first(protocol, other, service));
                }
                Change::Wait(time) => node.wait(time),
            }
            let next = Frame::next(protocol, client, service);
            prop_assert_eq!(node.reached(HOOK, &next), chosen);
            let reply = Frame::next(protocol, backend(family, 0), client);
            let (_, bytes) = node.see(Hook::TC_EXTERNAL_EGRESS, &reply);
            prop_assert_eq!(wire::addresses(&bytes), (service, client));
        }
    }
}

/// A backend goes: what drains, what moves.
#[test]
fn flows_whose_backend_is_gone_drain_or_move() {
    for family in Family::BOTH {
        let (client, service) = (client(family), service(family));
        let syn = Frame::tcp(client, service, flag::SYN);
        let datagram = Frame::udp(client, service);
        let old = Some(backend(family, 1));
        let new = Some(backend(family, 2));
        let after = |first: &Frame, next: &Frame| {
            let mut node = node(family, 3);
            serve(&mut node, family, &[1]);
            assert_eq!(node.reached(HOOK, first), old);
            serve(&mut node, family, &[2]);
            node.retire(family, 0);
            assert_eq!(node.reached(HOOK, next), old, "another backend is gone");
            node.retire(family, 1);
            node.reached(HOOK, next)
        };
        for flags in [
            flag::ACK,
            flag::SYN | flag::ACK,
            flag::FIN | flag::ACK,
            flag::RST,
            0,
        ] {
            let mid_stream = Frame::tcp(client, service, flags);
            assert_eq!(after(&syn, &mid_stream), old, "flags {flags:02x}");
        }
        assert_eq!(after(&syn, &syn), new, "a connection that begins anew");
        assert_eq!(after(&datagram, &datagram), new, "a datagram");
    }
}

/// A service has lost a frontend: its flows go along with those that pass to another service.
#[test]
fn flows_follow_a_frontend_that_passes_to_another_service() {
    for family in Family::BOTH {
        let (client, service) = (client(family), service(family));
        let other = at(family.service(2), 80);
        let (old, new) = (Some(backend(family, 0)), Some(backend(family, 1)));
        for protocol in PROTOCOLS {
            let mut node = node(family, 2);
            node.serve(other, protocol, &[0], &[0]);
            let another = at(family.client(1), 4001);
            let client = |to| if to == service { client } else { another };
            let first = |to| Frame::first(protocol, client(to), to);
            assert_eq!(node.reached(HOOK, &first(service)), old);
            assert_eq!(node.reached(HOOK, &first(other)), old);

            let flags = backend::ALIVE | backend::LOCAL | backend::LOST_FRONTEND;
            node.flag_backend(family, 0, flags);
            node.withdraw(other, protocol);
            assert_eq!(node.reached(HOOK, &first(other)), old, "it is nobody's");
            node.serve(other, protocol, &[1], &[1]);
            let next = Frame::next(protocol, client(other), other);
            let drains = protocol != proto::UDP;
            let expected = if drains { old } else { new };
            assert_eq!(node.reached(HOOK, &next), expected);
            assert_eq!(node.reached(HOOK, &first(other)), new);
            assert_eq!(node.reached(HOOK, &first(service)), old, "it is as it was");
        }
    }
}

/// A client of a service addresses the backend itself, from the port of a connection that has ended:
/// it is answered by whom it asked. Which have ended is not known, but which are in use.
#[test]
fn a_connection_that_is_not_used_leaves_its_backend_to_those_who_address_that() {
    let ways = [
        (Hook::TC_EXTERNAL_INGRESS, Hook::TC_EXTERNAL_EGRESS),
        (Hook::TC_POD_INGRESS, Hook::TC_POD_EGRESS),
    ];
    for family in Family::BOTH {
        for protocol in [proto::TCP, proto::SCTP] {
            for (there, back) in ways {
                let after = |time, frame: fn(u8, SocketAddr, SocketAddr) -> Frame| {
                    let mut node = node(family, 1);
                    let (client, backend) = (client(family), backend(family, 0));
                    node.see(there, &Frame::first(protocol, client, service(family)));
                    node.wait(time);
                    let direct = frame(protocol, client, backend);
                    for hook in [Hook::XDP_EXTERNAL, there] {
                        assert_eq!(node.see(hook, &direct), (Verdict::Pass, direct.build()));
                    }
                    let answer = Frame::next(protocol, backend, client);
                    let (_, bytes) = node.see(back, &answer);
                    wire::addresses(&bytes).0
                };
                let (service, backend) = (service(family), backend(family, 0));
                assert_eq!(after(A_WHILE, Frame::first), backend);
                assert_eq!(after(Duration::ZERO, Frame::first), service, "one in use");
                assert_eq!(after(A_WHILE, Frame::next), service, "it begins nothing");
            }
        }
    }
}

/// A retransmitted SYN goes where the first one went, whatever is drawn.
#[test]
fn a_repeated_syn_keeps_its_backend() {
    for family in Family::BOTH {
        let mut node = node(family, 6);
        serve(&mut node, family, &[0, 1, 2, 3, 4, 5]);
        let syn = Frame::tcp(client(family), service(family), flag::SYN);
        let chosen = node.reached(HOOK, &syn);
        for _ in 0..20 {
            assert_eq!(node.reached(HOOK, &syn), chosen);
        }
        assert_eq!(node.flows.len(), 2);
    }
}

#[test]
fn a_segment_in_mid_stream_opens_no_flow() {
    for family in Family::BOTH {
        for hook in [Hook::XDP_EXTERNAL, HOOK, Hook::TC_POD_INGRESS] {
            for flags in [
                flag::ACK,
                flag::SYN | flag::ACK,
                flag::FIN | flag::ACK,
                flag::RST,
                0,
            ] {
                let frame = Frame::tcp(client(family), service(family), flags);
                let mut node = node(family, 1);
                assert_eq!(node.see(hook, &frame), (Verdict::Drop, frame.build()));
                assert_eq!(node.count(Reason::NoFlow), 1);
                assert_eq!(node.flows.len(), 0);
            }
        }
    }
}

/// What leaves the node has been decided on when it entered.
#[test]
fn egress_opens_no_flow() {
    for family in Family::BOTH {
        for hook in [Hook::TC_EXTERNAL_EGRESS, Hook::TC_POD_EGRESS] {
            for protocol in PROTOCOLS {
                for number in [1, 2] {
                    let to = at(family.service(number), 80);
                    let frame = Frame::first(protocol, client(family), to);
                    let mut node = node(family, 1);
                    assert_eq!(node.see(hook, &frame), (Verdict::Pass, frame.build()));
                    assert_eq!(node.count(Reason::NotService), 1);
                    assert_eq!((node.flows.len(), node.flows.writes), (0, 0));
                }
            }
        }
    }
}

/// A backend that talks on, or whose last words arrive after it has gone: each of its packets is
/// still the service's to its client, and none begins anything.
#[test]
fn replies_are_translated_as_long_as_there_are_any() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let (client, service) = (client(family), service(family));
            let mut node = node(family, 2);
            node.see(HOOK, &Frame::first(protocol, client, service));
            serve(&mut node, family, &[1]);
            node.retire(family, 0);
            let writes = node.flows.writes;
            for _ in 0..5 {
                node.wait(A_WHILE);
                let reply = Frame::next(protocol, backend(family, 0), client);
                let (_, bytes) = node.see(Hook::TC_EXTERNAL_EGRESS, &reply);
                assert_eq!(wire::addresses(&bytes), (service, client));
            }
            assert_eq!((node.flows.len(), node.flows.writes), (2, writes));
        }
    }
}

/// A packet that found the frontend a moment before it lost its backend.
#[test]
fn who_meets_a_backend_that_has_just_gone_is_sent_on_and_chooses_anew() {
    for family in Family::BOTH {
        let mut node = node(family, 2);
        node.retire(family, 0);
        let frame = Frame::udp(client(family), service(family));
        assert_eq!(node.reached(HOOK, &frame), Some(backend(family, 0)));
        serve(&mut node, family, &[1]);
        assert_eq!(node.reached(HOOK, &frame), Some(backend(family, 1)));
        assert_eq!(node.reached(HOOK, &frame), Some(backend(family, 1)));
    }
}

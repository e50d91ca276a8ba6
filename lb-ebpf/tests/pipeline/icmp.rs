//! ICMP errors about packets of flows: who sent such a packet is told of the one they sent.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Notice, Verdict};
use proptest::{prelude::*, sample};

use crate::support::{
    ends::PROTOCOLS,
    family::{Family, at},
    frame::{Frame, MACS, MACS_BACK, Segment},
    icmp::Error,
    layout::layouts,
    node::Node,
    packet::HostPacket,
    tables::{EXTERNAL, macs_toward},
    wire,
};

const L3: usize = 14;

/// A path of a flow through the node.
#[derive(Clone, Copy, Debug)]
struct Path {
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
    /// Where requests are seen, and errors about replies.
    requests: Hook,
    /// Where replies are seen, and errors about requests.
    replies: Hook,
    /// What becomes of both.
    verdict: Verdict,
}

/// Each way packets take, by each hook it can begin at.
fn paths(family: Family) -> Vec<Path> {
    let path = |client, backend, requests, replies, verdict| Path {
        client: at(client, 4000),
        service: at(family.service(1), 80),
        backend: at(backend, 8080),
        requests,
        replies,
        verdict,
    };
    let (client, here, there) = (family.client(1), family.local_pod(1), family.remote_pod(1));
    let (pod_sends, pod_gets) = (Hook::TC_POD_INGRESS, Hook::TC_POD_EGRESS);
    let mut paths = vec![
        path(
            family.local_pod(2),
            here,
            pod_sends,
            pod_gets,
            Verdict::Deliver,
        ),
        path(
            family.local_pod(2),
            there,
            pod_sends,
            pod_gets,
            Verdict::Deliver,
        ),
        path(here, here, pod_sends, pod_sends, Verdict::Reflect),
    ];
    for enters in [Hook::XDP_EXTERNAL, Hook::TC_EXTERNAL_INGRESS] {
        let leaves = Hook::TC_EXTERNAL_EGRESS;
        let transmit = Verdict::Transmit { ifindex: EXTERNAL };
        paths.push(path(client, here, enters, leaves, Verdict::Deliver));
        paths.push(path(client, there, enters, enters, transmit));
    }
    paths
}

impl Path {
    fn is_forwarded(&self) -> bool {
        matches!(self.verdict, Verdict::Transmit { .. })
    }

    /// What the node sends on has lost a hop.
    fn ttl(&self) -> u8 {
        if self.is_forwarded() { 63 } else { 64 }
    }
}

/// A packet of a flow as its sender made it, and as it went on.
struct Sent {
    frame: Frame,
    seen: Vec<u8>,
}

impl Sent {
    fn through(node: &mut Node, hook: Hook, frame: Frame) -> Self {
        let (_, seen) = node.see(hook, &frame);
        Self { frame, seen }
    }
}

/// A node with a flow: its request, and the reply.
fn talked(path: &Path, request: Frame) -> (Node, Sent, Sent) {
    let protocol = request.protocol();
    let mut node = Node::new();
    let index = if path.backend.ip() == Family::of(path.backend.ip()).local_pod(1) {
        node.local(path.backend)
    } else {
        node.remote(path.backend)
    };
    node.serve(path.service, protocol, &[index], &[index]);
    let request = Sent::through(&mut node, path.requests, request);
    let source = wire::source(&request.seen);
    let reply = Frame::next(protocol, path.backend, source);
    let reply = Sent::through(&mut node, path.replies, reply);
    (node, request, reply)
}

/// Has an error about a packet of a flow seen by the node, and checks that it is then one about the
/// packet as its sender made it, from `comes_from`.
fn assert_told(
    node: &mut Node,
    path: &Path,
    hook: Hook,
    sent: &Sent,
    error: Error,
    comes_from: IpAddr,
) {
    let (verdict, bytes) = node.see(hook, HostPacket::new(error.about(&sent.seen)));
    let original = Frame {
        ttl: path.ttl(),
        ..sent.frame.clone()
    };
    let macs = match verdict {
        Verdict::Transmit { .. } => macs_toward(sent.frame.src.ip()),
        Verdict::Reflect => MACS_BACK,
        _ => MACS,
    };
    let expected = Error {
        macs,
        ttl: path.ttl(),
        from: comes_from,
        ..error
    };
    assert_eq!(verdict, path.verdict, "{path:?} {error:?}");
    wire::assert_same(&bytes, &expected.about(&original.build()));
    assert!(wire::is_sound(&bytes), "{path:?} {error:?}: {bytes:02x?}");
}

/// Every path, both directions, each error, with as little as has to be quoted and with more.
#[test]
fn an_error_reaches_the_sender_of_what_it_is_about() {
    for (family, path) in each_path() {
        for protocol in PROTOCOLS {
            let request = Frame::first(protocol, path.client, path.service);
            let (mut node, request, reply) = talked(&path, request);
            // An SCTP checksum stays as it is.
            let lengths: &[usize] = match protocol {
                proto::SCTP => &[8],
                _ => &[8, 20, 1000],
            };
            for (kind, quotes) in
                kinds(family).flat_map(|kind| lengths.iter().map(move |n| (kind, *n)))
            {
                let error = |from| Error {
                    kind,
                    ..Error::new(from, quotes)
                };
                let source = wire::source(&request.seen).ip();
                let (backend, service) = (path.backend.ip(), path.service.ip());
                assert_told(
                    &mut node,
                    &path,
                    path.replies,
                    &request,
                    error(backend),
                    service,
                );
                assert_told(
                    &mut node,
                    &path,
                    path.requests,
                    &reply,
                    error(path.client.ip()),
                    source,
                );
            }
        }
    }
}

/// A router goes by its own address, but a backend elsewhere knows of no address behind this node.
#[test]
fn a_router_is_shown_to_who_may_know_it() {
    for (family, path) in each_path() {
        let router = family.client(99);
        let request = Frame::first(proto::TCP, path.client, path.service);
        let (mut node, request, reply) = talked(&path, request);
        let error = Error::new(router, 8);
        let shown = if path.is_forwarded() {
            family.node()
        } else {
            router
        };
        assert_told(&mut node, &path, path.replies, &request, error, router);
        assert_told(&mut node, &path, path.requests, &reply, error, shown);
    }
}

fn each_path() -> impl Iterator<Item = (Family, Path)> {
    let families = Family::BOTH.into_iter();
    families.flat_map(|family| paths(family).into_iter().map(move |path| (family, path)))
}

/// Types and codes of errors.
fn kinds(family: Family) -> impl Iterator<Item = (u8, u8)> {
    let kinds: &[(u8, u8)] = match family {
        Family::V4 => &[(3, 0), (3, 3), (3, 4), (11, 0), (11, 1), (12, 0)],
        Family::V6 => &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)],
    };
    kinds.iter().copied()
}

/// Errors are counted for the service, and nothing else is left behind.
#[test]
fn an_error_is_counted_and_keeps_no_flow_alive() {
    for (_, path) in each_path() {
        let request = Frame::first(proto::UDP, path.client, path.service);
        let (mut node, request, _) = talked(&path, request);
        node.wait(Duration::from_secs(2));
        let (before, packets) = (node.clone(), node.counters(1).packets);
        let error = Error::new(path.backend.ip(), 8).about(&request.seen);
        node.see(path.replies, HostPacket::new(error));
        assert_eq!(node.counters(1).packets, packets + 1);
        assert_eq!(node.flows.writes, before.flows.writes);
        // A next hop is asked for anew by whatever needs it.
        assert!(path.is_forwarded() || node.flows.same_rows(&before.flows));
    }
}

/// Checks that a packet is left as it came, for this reason.
fn assert_passed(node: &Node, hook: Hook, bytes: Vec<u8>, reason: Reason) {
    let mut node = node.clone();
    let counted = node.count(reason);
    let seen = node.see(hook, HostPacket::new(bytes.clone()));
    assert_eq!(seen, (Verdict::Pass, bytes));
    assert_eq!(node.count(reason), counted + 1);
}

#[test]
fn errors_about_other_packets_pass() {
    for (_, path) in each_path() {
        let request = Frame::first(proto::UDP, path.client, path.service);
        let (node, request, _) = talked(&path, request);
        let source = wire::source(&request.seen);
        for about in [
            Frame::udp(at(source.ip(), source.port() ^ 1), path.backend),
            Frame::udp(source, at(path.backend.ip(), 8081)),
            Frame::first(proto::TCP, source, path.backend),
        ] {
            let error = Error::new(path.backend.ip(), 8).about(&about.build());
            assert_passed(&node, path.replies, error, Reason::NotService);
        }
    }
}

/// What can be wrong with an error about a packet of a flow.
#[test]
fn errors_that_do_not_say_what_they_are_about_pass() {
    for (family, path) in each_path() {
        let request = Frame::first(proto::UDP, path.client, path.service);
        let (node, request, _) = talked(&path, request);
        let other = Reason::OtherProtocol;
        let passed = |bytes, reason| assert_passed(&node, path.replies, bytes, reason);
        let (header, quoted_proto, destination) = match family {
            Family::V4 => (20, 9, L3 + 16..L3 + 20),
            Family::V6 => (40, 6, L3 + 24..L3 + 40),
        };
        let error = Error::new(path.backend.ip(), 8);
        let whole = error.about(&request.seen);
        let (icmp, quote) = (L3 + header, L3 + header + 8);

        for quotes in 0..8 {
            let mut short = Error { quotes, ..error }.about(&request.seen);
            passed(short.clone(), other);
            // Padding is no part of it.
            short.resize(whole.len() + 8, 0);
            passed(short, other);
        }
        let patched = |patches: &[(usize, u8)]| {
            let mut bytes = whole.clone();
            for (at, byte) in patches {
                bytes[*at] = *byte;
            }
            bytes
        };
        passed(patched(&[(quote, 0x55)]), other);
        passed(patched(&[(quote + quoted_proto, 50)]), other);
        let mut to_another = whole.clone();
        to_another[destination.clone()].rotate_left(1);
        passed(to_another, other);
        // Redirects, and what is yet to be invented.
        for kind in [0, 5, 127] {
            passed(patched(&[(icmp, kind)]), other);
        }
        // The other family's protocol, with an error of that one's.
        let (stranger, kind) = match family {
            Family::V4 => (proto::ICMPV6, 1),
            Family::V6 => (proto::ICMP, 3),
        };
        passed(
            patched(&[(L3 + quoted_proto, stranger), (icmp, kind)]),
            other,
        );
        if family == Family::V4 {
            // A later fragment, of the quoted packet or of the error.
            passed(patched(&[(quote + 7, 1)]), other);
            passed(patched(&[(L3 + 7, 1)]), Reason::Fragment);
        }
    }
}

/// A first fragment has the ports. A packet that was cut up on its way had been translated whole.
#[test]
fn an_error_about_a_first_fragment_is_translated() {
    for path in paths(Family::V4) {
        let request = Frame::first(proto::UDP, path.client, path.service);
        let (mut node, mut request, _) = talked(&path, request);
        request.seen[L3 + 6] = 0x20;
        let error = Error::new(path.backend.ip(), 8).about(&request.seen);
        let (verdict, _) = node.see(path.replies, HostPacket::new(error));
        assert_eq!(verdict, path.verdict);
    }
}

/// Zero in a quoted datagram says that there is no checksum, and still does.
#[test]
fn a_quoted_datagram_without_checksum_gets_none() {
    for path in paths(Family::V4) {
        let mut request = Frame::udp(path.client, path.service);
        request.segment = Segment::Udp { checksum: false };
        let (mut node, request, _) = talked(&path, request);
        let error = Error::new(path.backend.ip(), 100);
        let service = path.service.ip();
        assert_told(&mut node, &path, path.replies, &request, error, service);
    }
}

/// An error in its last hop goes no further, and nobody is told of it.
#[test]
fn an_error_at_the_end_of_its_life_is_dropped() {
    for (_, path) in each_path().filter(|(_, path)| path.is_forwarded()) {
        let request = Frame::first(proto::UDP, path.client, path.service);
        let (mut node, request, _) = talked(&path, request);
        let error = Error {
            ttl: 1,
            ..Error::new(path.backend.ip(), 8)
        };
        let mut packet = HostPacket::new(error.about(&request.seen));
        let expired = Verdict::Reject(Notice::EXPIRED);
        assert_eq!(node.process(path.replies, &mut packet), expired);
        assert_eq!(node.reject(Notice::EXPIRED, &mut packet), Verdict::Drop);
        assert_eq!(node.count(Reason::TimeToLive), 1);
    }
}

proptest! {
    /// Whatever the quoted packet looks like and however much of it is quoted: an error that is
    /// translated is sound, and about the same packet.
    #[test]
    fn checksums_hold_whatever_is_quoted(
        family in sample::select(&Family::BOTH),
        path in any::<sample::Index>(),
        protocol in sample::select(&PROTOCOLS),
        layout in layouts(),
        quotes in 8_usize..100,
    ) {
        let paths = paths(family);
        let path = path.get(&paths);
        let request = Frame::first(protocol, path.client, path.service);
        let (mut node, request, _) = talked(path, layout.apply(request));
        let error = Error::new(path.backend.ip(), quotes).about(&request.seen);
        let (verdict, bytes) = node.see(path.replies, HostPacket::new(error.clone()));
        prop_assert_eq!(bytes.len(), error.len());
        prop_assert!(wire::is_sound(&bytes), "{:02x?} of {:02x?}", bytes, error);
        // A chain of extensions may lie too deep when it is quoted.
        prop_assert!(verdict == path.verdict || family == Family::V6 && bytes == error);
    }
}

//! When there is nobody to send a packet to: what is told apart, and what goes on regardless.

use std::net::SocketAddr;

use lb_common::{counters::Reason, proto, service::frontend};
use lb_ebpf::{Hook, Verdict};

use crate::support::{
    family::{Family, at},
    frame::{Frame, flag},
    node::Node,
};

const HOOKS: [Hook; 3] = [
    Hook::XDP_EXTERNAL,
    Hook::TC_EXTERNAL_INGRESS,
    Hook::TC_POD_INGRESS,
];

fn client(family: Family) -> SocketAddr {
    at(family.client(1), 4000)
}

fn service(family: Family) -> SocketAddr {
    at(family.service(1), 80)
}

/// A node with a service that has no backends.
fn node(family: Family) -> Node {
    let mut node = Node::new();
    for protocol in [proto::TCP, proto::UDP] {
        node.serve(service(family), protocol, &[], &[]);
    }
    node
}

/// What a client is told, by what is known of the address it asked for.
#[test]
fn rejects_and_drops_are_told_apart() {
    const OTHER_PORT: u16 = 81;
    for family in Family::BOTH {
        for hook in HOOKS {
            for protocol in [proto::TCP, proto::UDP] {
                let inside = hook == Hook::TC_POD_INGRESS;
                let elsewhere = if inside {
                    frontend::DROP_INSIDE
                } else {
                    frontend::DROP_OUTSIDE
                };
                let both = frontend::DROP_INSIDE | frontend::DROP_OUTSIDE;
                let see = |port: u16, number: u16, prepare: &dyn Fn(&mut Node)| {
                    let mut node = node(family);
                    prepare(&mut node);
                    let to = at(family.service(number), port);
                    let frame = Frame::first(protocol, client(family), to);
                    let (verdict, bytes) = node.see(hook, &frame);
                    assert_eq!(bytes, frame.build());
                    let reasons = node.tables.reasons.borrow();
                    assert_eq!(reasons.values().sum::<u64>(), 1);
                    (verdict, *reasons.keys().next().unwrap())
                };
                let flagged = |flags| {
                    see(80, 1, &move |node| {
                        node.flag(service(family), protocol, flags)
                    })
                };
                let reject = (Verdict::Reject, Reason::NoBackend);
                let drop = (Verdict::Drop, Reason::NoLocalBackend);
                assert_eq!(flagged(0), reject);
                assert_eq!(flagged(elsewhere), drop);
                assert_eq!(flagged(both & !elsewhere), reject, "for the other side");
                let allocate = |node: &mut Node| node.allocate(family.service(1));
                assert_eq!(
                    see(OTHER_PORT, 1, &allocate),
                    (Verdict::Reject, Reason::NoSuchPort)
                );
                assert_eq!(see(80, 2, &allocate), (Verdict::Drop, Reason::Unallocated));
            }
        }
    }
}

/// With no network of cluster IPs configured, no address is taken for one.
#[test]
fn without_a_cluster_network_nothing_is_dropped_as_unallocated() {
    for family in Family::BOTH {
        let destinations = [family.service(1), family.client(2), family.unspecified()];
        for (ip, mask) in destinations
            .into_iter()
            .flat_map(|ip| [(ip, 0), (ip, u32::MAX)])
        {
            let mut node = node(family);
            let config = node.tables.config.as_mut().unwrap();
            (config.v4.cluster_net, config.v4.cluster_mask) = ([0; 1], [mask; 1]);
            (config.v6.cluster_net, config.v6.cluster_mask) = ([0; 4], [mask; 4]);
            let frame = Frame::udp(client(family), at(ip, 81));
            let (verdict, _) = node.see(Hook::XDP_EXTERNAL, &frame);
            assert_eq!(verdict, Verdict::Pass, "{ip} with mask {mask:x}");
            assert_eq!(node.count(Reason::NotService), 1);
        }
    }
}

/// A flow that began when there were backends goes on.
#[test]
fn established_connections_outlive_the_last_backend() {
    for family in Family::BOTH {
        let (client, service) = (client(family), service(family));
        let mut node = Node::new();
        let backend = node.local(at(family.local_pod(1), 8080));
        node.serve(service, proto::TCP, &[backend], &[backend]);
        let hook = Hook::XDP_EXTERNAL;
        node.see(hook, &Frame::tcp(client, service, flag::SYN));
        node.serve(service, proto::TCP, &[], &[]);
        node.retire(family, backend);
        let (verdict, _) = node.see(hook, &Frame::tcp(client, service, flag::ACK));
        assert_eq!(verdict, Verdict::Deliver);
        let (verdict, _) = node.see(hook, &Frame::tcp(client, service, flag::SYN));
        assert_eq!(verdict, Verdict::Reject, "a new connection");
    }
}

#[test]
fn rejects_are_counted_for_their_service() {
    let mut node = node(Family::V4);
    let frame = Frame::udp(client(Family::V4), service(Family::V4));
    node.see(Hook::XDP_EXTERNAL, &frame);
    // The second service is UDP's.
    assert_eq!((node.counters(1).rejects, node.counters(2).rejects), (0, 1));
}

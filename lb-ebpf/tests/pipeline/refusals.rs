//! When there is nobody to send a packet to: what is told apart, and what goes on regardless.

use std::net::SocketAddr;

use lb_common::{
    Addr,
    config::{CLUSTER_NETS_MAX, FamilyConfig, Network},
    counters::Reason,
    proto,
    service::frontend,
};
use lb_ebpf::{Hook, Notice, Verdict};

use crate::support::{
    OPENING,
    ends::{client, service},
    family::{Family, at},
    frame::{Frame, flag},
    node::Node,
};

/// A node with a service that has no backends.
fn node(family: Family) -> Node {
    let mut node = Node::new();
    for protocol in [proto::TCP, proto::UDP] {
        node.serve(service(family), protocol, &[], &[]);
    }
    node
}

/// What becomes of a packet to an address, on a node where the service's frontends have these
/// flags; and why.
fn fate(hook: Hook, protocol: u8, to: SocketAddr, flags: u32) -> (Verdict, Reason) {
    let family = Family::of(to.ip());
    let mut node = node(family);
    node.flag(service(family), protocol, flags);
    node.allocate(service(family).ip());
    let frame = Frame::first(protocol, client(family), to);
    let (verdict, bytes) = node.see(hook, &frame);
    assert_eq!(bytes, frame.build(), "left as it was");
    let reasons = node.tables.reasons.borrow();
    assert_eq!(reasons.values().sum::<u64>(), 1);
    (verdict, *reasons.keys().next().unwrap())
}

/// What a client is told, by what is known of the address it asked for.
#[test]
fn rejects_and_drops_are_told_apart() {
    const INSIDE: u32 = frontend::DROP_INSIDE;
    const OUTSIDE: u32 = frontend::DROP_OUTSIDE;
    let nobody = (Verdict::Reject(Notice::NOBODY), Reason::NoBackend);
    let elsewhere = (Verdict::Drop, Reason::NoLocalBackend);
    for (family, protocol) in [
        (Family::V4, proto::TCP),
        (Family::V4, proto::UDP),
        (Family::V6, proto::TCP),
        (Family::V6, proto::UDP),
    ] {
        let to = service(family);
        for hook in OPENING {
            let (this_side, other_side) = if hook == Hook::TC_POD_INGRESS {
                (INSIDE, OUTSIDE)
            } else {
                (OUTSIDE, INSIDE)
            };
            assert_eq!(fate(hook, protocol, to, 0), nobody);
            assert_eq!(fate(hook, protocol, to, other_side), nobody);
            assert_eq!(fate(hook, protocol, to, this_side), elsewhere);
            assert_eq!(fate(hook, protocol, to, INSIDE | OUTSIDE), elsewhere);

            let other_port = at(to.ip(), 81);
            let no_such_port = (Verdict::Reject(Notice::NOBODY), Reason::NoSuchPort);
            assert_eq!(fate(hook, protocol, other_port, 0), no_such_port);

            let other_address = at(family.service(2), 80);
            let unallocated = (Verdict::Drop, Reason::Unallocated);
            assert_eq!(fate(hook, protocol, other_address, 0), unallocated);
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
            config.v4.cluster_nets = [Network::default(); CLUSTER_NETS_MAX];
            config.v6.cluster_nets = [Network::default(); CLUSTER_NETS_MAX];
            config.v4.cluster_cover.mask = [mask; 1];
            config.v6.cluster_cover.mask = [mask; 4];
            (config.v4.cluster_cover.net, config.v6.cluster_cover.net) = ([0; 1], [0; 4]);
            let frame = Frame::udp(client(family), at(ip, 81));
            let (verdict, _) = node.see(Hook::XDP_EXTERNAL, &frame);
            assert_eq!(verdict, Verdict::Pass, "{ip} with mask {mask:x}");
            assert_eq!(node.count(Reason::NotService), 1);
        }
    }
}

/// Of several networks each counts, and what lies between them does not.
#[test]
fn every_cluster_network_counts_and_nothing_between_them() {
    for family in Family::BOTH {
        let mut node = node(family);
        let config = node.tables.config.as_mut().unwrap();
        cover_all(family, &mut config.v4);
        cover_all(family, &mut config.v6);
        let fates = [
            (family.service(9), Reason::Unallocated),
            (family.client(9), Reason::Unallocated),
            (family.local_pod(9), Reason::NotService),
        ];
        for (number, (ip, reason)) in fates.into_iter().enumerate() {
            node.see(Hook::XDP_EXTERNAL, &Frame::udp(client(family), at(ip, 81)));
            assert_eq!(node.counted(), number as u64 + 1);
            assert!(node.count(reason) > 0, "{ip}");
        }
    }
}

/// The clients' network is one of cluster IPs too, in the last place there is.
fn cover_all<A: Addr>(family: Family, config: &mut FamilyConfig<A>) {
    let Some(net) = A::from_ip(family.client(0)) else {
        return;
    };
    config.cluster_cover = Network::default();
    config.cluster_nets[CLUSTER_NETS_MAX - 1] = Network {
        net,
        mask: config.cluster_nets[0].mask,
    };
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
        assert_eq!(verdict, Verdict::Reject(Notice::NOBODY), "a new connection");
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

//! Who counts as a client inside, and whose address a backend sees.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    Addr,
    config::{Network, flags},
    counters::Reason,
    proto,
    service::{backend, frontend},
};
use lb_ebpf::{Hook, Reach, Side, Verdict};

use crate::support::{
    OPENING,
    ends::service,
    family::{Family, at, words},
    frame::{Frame, flag},
    node::Node,
    tables::{EXTERNAL, Way},
    wire,
};

/// A node that tells pods by their network, if there is any.
fn node_with_pods(net: Option<fn(Family) -> IpAddr>) -> Node {
    let mut node = Node::new();
    let config = node.tables.config.as_mut().unwrap();
    config.flags = flags::PODS_BY_ADDRESS;
    if let Some(net) = net {
        config.v4.pods = network(Family::V4, net(Family::V4));
        config.v6.pods = network(Family::V6, net(Family::V6));
    }
    node
}

fn network<A: Addr>(family: Family, net: IpAddr) -> Network<A> {
    let (_, mask) = family.cluster_net();
    Network {
        net: words(net),
        mask: words(mask),
    }
}

/// Which of a frontend's lists a client gets.
fn list_of(mut node: Node, hook: Hook, client: IpAddr) -> Side {
    let family = Family::of(client);
    let inside = node.local(at(family.local_pod(70), 8080));
    let outside = node.local(at(family.local_pod(71), 8080));
    node.serve(service(family), proto::TCP, &[inside], &[outside]);
    let frame = Frame::tcp(at(client, 4000), service(family), flag::SYN);
    let (verdict, bytes) = node.see(hook, &frame);
    assert_eq!(verdict, Verdict::Deliver);
    if wire::addresses(&bytes).1.ip() == family.local_pod(70) {
        Side::Inside
    } else {
        Side::Outside
    }
}

#[test]
fn the_interface_decides_unless_the_node_goes_by_addresses() {
    for family in Family::BOTH {
        for hook in OPENING {
            for client in [family.local_pod(1), family.client(1)] {
                assert_eq!(list_of(Node::new(), hook, client), hook.side);
            }
        }
    }
}

#[test]
fn by_address_the_pods_network_is_inside_on_every_interface() {
    for family in Family::BOTH {
        for hook in OPENING {
            let node = || node_with_pods(Some(|family| family.local_pod(0)));
            let side = list_of(node(), hook, family.local_pod(1));
            assert_eq!(side, Side::Inside);
            let side = list_of(node(), hook, family.client(1));
            assert_eq!(side, Side::Outside);
        }
    }
}

/// No detector: pods are treated like everybody else.
#[test]
fn by_address_without_a_network_nobody_is_inside() {
    for family in Family::BOTH {
        for hook in OPENING {
            for client in [family.local_pod(1), family.client(1)] {
                let side = list_of(node_with_pods(None), hook, client);
                assert_eq!(side, Side::Outside);
            }
        }
    }
}

/// The list goes by the address, the way by the interface: what comes from outside gets its
/// answers by way of this node even if it is a pod's.
#[test]
fn a_pod_from_outside_is_answered_through_this_node() {
    for family in Family::BOTH {
        let mut node = node_with_pods(Some(|family| family.remote_pod(0)));
        let index = node.remote(at(family.remote_pod(9), 8080));
        node.serve(service(family), proto::UDP, &[index], &[]);
        let client = at(family.remote_pod(1), 4000);
        let (verdict, bytes) = node.see(
            Hook::TC_EXTERNAL_INGRESS,
            &Frame::udp(client, service(family)),
        );
        assert_eq!(verdict, Verdict::Transmit { ifindex: EXTERNAL });
        assert_eq!(wire::source(&bytes).ip(), family.node());
    }
}

/// A node that masquerades clients of cluster IPs, with a service that is one or is not.
fn masquerading(family: Family, flags: u32, backend: SocketAddr, place: u16) -> Node {
    let mut node = Node::new();
    node.tables.config.as_mut().unwrap().flags = flags::MASQUERADE_ALL;
    let index = node.local(backend);
    node.flag_backend(family, index, backend::ALIVE | place);
    node.serve(service(family), proto::TCP, &[index], &[index]);
    node.flag(service(family), proto::TCP, flags);
    node
}

#[test]
fn masquerade_all_shows_backends_of_cluster_ips_the_node() {
    for family in Family::BOTH {
        for (hook, client) in [
            (Hook::TC_POD_INGRESS, family.local_pod(1)),
            (Hook::TC_EXTERNAL_INGRESS, family.client(1)),
        ] {
            for place in [backend::LOCAL, 0] {
                let backend = at(family.local_pod(2), 8080);
                let mut node = masquerading(family, frontend::CLUSTER_IP, backend, place);
                let client = at(client, 4000);
                let syn = Frame::tcp(client, service(family), flag::SYN);
                let (verdict, bytes) = node.see(hook, &syn);
                assert_eq!(verdict, Verdict::Transmit { ifindex: EXTERNAL });
                let source = wire::source(&bytes);
                assert_eq!(source.ip(), family.node());
                // The answer is for the node, and enters by the backend's interface.
                let reply = Frame::tcp(backend, source, flag::SYN | flag::ACK);
                for hook in [Hook::TC_POD_INGRESS, Hook::TC_EXTERNAL_INGRESS] {
                    let (_, bytes) = node.clone().see(hook, &reply);
                    assert_eq!(wire::addresses(&bytes), (service(family), client));
                }
            }
        }
    }
}

/// A node port's clients keep their address where it is not in the way.
#[test]
fn masquerade_all_is_for_cluster_ips() {
    for family in Family::BOTH {
        let backend = at(family.local_pod(2), 8080);
        for hook in [Hook::TC_POD_INGRESS, Hook::TC_EXTERNAL_INGRESS] {
            let mut node = masquerading(family, 0, backend, backend::LOCAL);
            let client = at(family.local_pod(1), 4000);
            let syn = Frame::tcp(client, service(family), flag::SYN);
            let (verdict, bytes) = node.see(hook, &syn);
            assert_eq!(verdict, Verdict::Deliver);
            assert_eq!(wire::source(&bytes), client);
        }
    }
}

/// A packet of this node's own address would not be let in by this node's stack.
#[test]
fn an_endpoint_with_the_nodes_address_sees_its_clients() {
    for family in Family::BOTH {
        let backend = at(family.node(), 8080);
        let mut node = masquerading(family, frontend::CLUSTER_IP, backend, backend::LOCAL);
        node.route(family.node(), Way::reaching(Reach::NotForwarded));
        let client = at(family.local_pod(1), 4000);
        let syn = Frame::tcp(client, service(family), flag::SYN);
        let (verdict, bytes) = node.see(Hook::TC_POD_INGRESS, &syn);
        assert_eq!(verdict, Verdict::Deliver);
        assert_eq!(wire::addresses(&bytes), (client, backend));
        assert_eq!(node.count(Reason::NoRoute), 0);
    }
}

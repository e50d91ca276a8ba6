//! Source ranges: whom a frontend lets in.

use std::net::{IpAddr, SocketAddr};

use lb_common::{counters::Reason, proto, service::frontend};
use lb_ebpf::{Hook, Notice, Verdict};

use crate::support::{
    OPENING,
    ends::{client, service},
    family::{Family, at},
    frame::{Frame, flag},
    node::Node,
};

/// The mask of one address.
fn whole(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([0xff; 4]),
        Family::V6 => IpAddr::from([0xff; 16]),
    }
}

/// A node whose service has backends if it should, and is open to these clients.
fn node(family: Family, backends: bool, open_to: &[IpAddr]) -> Node {
    let mut node = Node::new();
    let index = node.local(at(family.local_pod(1), 8080));
    let backends = if backends { vec![index] } else { Vec::new() };
    let id = node.serve(service(family), proto::TCP, &backends, &backends);
    node.flag(service(family), proto::TCP, frontend::SOURCE_RANGES);
    for ip in open_to {
        node.let_in(id, *ip, whole(family));
        node.let_in(id + 1, family.client(2), whole(family));
    }
    node
}

fn syn(node: &mut Node, hook: Hook, from: SocketAddr) -> Verdict {
    let to = service(Family::of(from.ip()));
    node.see(hook, &Frame::tcp(from, to, flag::SYN)).0
}

#[test]
fn clients_outside_the_ranges_are_dropped_whoever_they_are() {
    for family in Family::BOTH {
        for hook in OPENING {
            let mut node = node(family, true, &[client(family).ip()]);
            assert_eq!(syn(&mut node, hook, client(family)), Verdict::Deliver);
            let other = at(family.client(2), 4000);
            assert_eq!(syn(&mut node, hook, other), Verdict::Drop);
            assert_eq!(node.count(Reason::SourceRange), 1);
        }
    }
}

/// A client that is kept out does not learn whether there are backends.
#[test]
fn the_ranges_come_before_the_question_whether_there_are_backends() {
    for family in Family::BOTH {
        for hook in OPENING {
            let mut node = node(family, false, &[client(family).ip()]);
            assert_eq!(
                syn(&mut node, hook, client(family)),
                Verdict::Reject(Notice::NOBODY)
            );
            let other = at(family.client(2), 4000);
            assert_eq!(syn(&mut node, hook, other), Verdict::Drop);
            assert_eq!(node.count(Reason::SourceRange), 1);
            assert_eq!(node.counters(1).rejects, 1);
        }
    }
}

/// Ranges hold for new flows: what was let in goes on.
#[test]
fn established_connections_outlive_a_change_of_the_ranges() {
    for family in Family::BOTH {
        let mut node = node(family, true, &[client(family).ip()]);
        let hook = Hook::XDP_EXTERNAL;
        syn(&mut node, hook, client(family));
        (node.tables.v4.ranges, node.tables.v6.ranges) = (Vec::new(), Vec::new());
        let ack = Frame::tcp(client(family), service(family), flag::ACK);
        assert_eq!(node.see(hook, &ack).0, Verdict::Deliver);
    }
}

#[test]
fn without_the_flag_ranges_are_not_looked_at() {
    for family in Family::BOTH {
        let mut node = node(family, true, &[]);
        node.flag(service(family), proto::TCP, 0);
        let verdict = syn(&mut node, Hook::XDP_EXTERNAL, client(family));
        assert_eq!(verdict, Verdict::Deliver);
    }
}

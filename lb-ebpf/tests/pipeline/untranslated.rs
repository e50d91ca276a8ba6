//! What a client never sees: a segment of its connection with its backend's address as source.

use std::net::SocketAddr;

use lb_common::{flow::Half, proto};
use lb_ebpf::{Hook, Verdict};

use crate::support::{
    ends::{client, service},
    family::{Family, at},
    frame::{Frame, Segment, flag},
    node::Node,
    wire,
};

/// A node with a connection to a service whose only backend this is; yields its source there too.
fn connected(family: Family, backend: SocketAddr) -> (Node, SocketAddr) {
    let mut node = Node::new();
    let index = if backend.ip() == family.local_pod(1) {
        node.local(backend)
    } else {
        node.remote(backend)
    };
    node.serve(service(family), proto::TCP, &[index], &[index]);
    let syn = Frame::tcp(client(family), service(family), flag::SYN);
    let (_, bytes) = node.see(Hook::TC_EXTERNAL_INGRESS, &syn);
    (node, wire::source(&bytes))
}

/// A segment a connection tracker would take for invalid: far outside every window.
fn far_off(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32) -> Frame {
    let mut frame = Frame::tcp(from, to, flags);
    if let Segment::Tcp(header) = &mut frame.segment {
        header.sequence_number = seq;
        header.acknowledgment_number = !seq;
    }
    frame
}

/// Rows know tuples, not windows: whatever a backend sends is translated, or it could make the
/// client reset the connection.
#[test]
fn segments_outside_the_window_are_translated_too() {
    for family in Family::BOTH {
        for (backend, hook) in [
            (at(family.local_pod(1), 8080), Hook::TC_EXTERNAL_EGRESS),
            (at(family.remote_pod(1), 8080), Hook::TC_EXTERNAL_INGRESS),
        ] {
            let (mut node, source) = connected(family, backend);
            for flags in [0, flag::ACK, flag::SYN | flag::ACK, flag::FIN, flag::RST] {
                for seq in [0, 1 << 31, u32::MAX] {
                    let reply = far_off(backend, source, flags, seq);
                    let (_, bytes) = node.see(hook, &reply);
                    let seen = wire::addresses(&bytes);
                    assert_eq!(seen, (service(family), client(family)));
                }
            }
        }
    }
}

/// A backend elsewhere knows this node only: without its row an answer ends here.
#[test]
fn answers_without_a_row_reach_this_node_and_no_client() {
    for family in Family::BOTH {
        let backend = at(family.remote_pod(1), 8080);
        let (mut node, source) = connected(family, backend);
        evict_replies(&mut node);
        let reply = Frame::tcp(backend, source, flag::ACK);
        let seen = node.see(Hook::TC_EXTERNAL_INGRESS, &reply);
        assert_eq!(seen, (Verdict::Pass, reply.build()));
        assert_eq!(reply.dst.ip(), family.node());
    }
}

/// A backend here answers the client itself, so its row must be there. The client's next segment
/// puts it back if it is not, within a second of the last time.
#[test]
fn a_lost_reply_row_is_back_with_the_clients_next_segment() {
    for family in Family::BOTH {
        let backend = at(family.local_pod(1), 8080);
        let (mut node, source) = connected(family, backend);
        evict_replies(&mut node);
        node.wait(std::time::Duration::from_secs(2));
        let ack = Frame::tcp(client(family), service(family), flag::ACK);
        node.see(Hook::TC_EXTERNAL_INGRESS, &ack);
        let reply = Frame::tcp(backend, source, flag::ACK);
        let (_, bytes) = node.see(Hook::TC_EXTERNAL_EGRESS, &reply);
        assert_eq!(wire::addresses(&bytes).0, service(family));
    }
}

fn evict_replies(node: &mut Node) {
    node.flows
        .v4
        .rows
        .retain(|_, row| row.half() == Half::Request);
    node.flows
        .v6
        .rows
        .retain(|_, row| row.half() == Half::Request);
}

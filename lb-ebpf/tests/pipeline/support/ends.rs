//! Who talks to whom where it does not matter, and a node between them.

use std::net::SocketAddr;

use lb_common::proto;

use super::{
    family::{Family, at},
    node::Node,
};

/// Every protocol that has ports.
pub(crate) const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

/// A client outside.
pub(crate) fn client(family: Family) -> SocketAddr {
    at(family.client(1), 4000)
}

/// A service's address.
pub(crate) fn service(family: Family) -> SocketAddr {
    at(family.service(1), 80)
}

/// A backend on this node.
pub(crate) fn local(family: Family) -> SocketAddr {
    at(family.local_pod(1), 8080)
}

/// A backend on another node.
pub(crate) fn remote(family: Family) -> SocketAddr {
    at(family.remote_pod(1), 8080)
}

/// A node with that service over each protocol, and its backend on another node.
pub(crate) fn remote_node(family: Family) -> Node {
    let mut node = Node::new();
    let index = node.remote(remote(family));
    for protocol in PROTOCOLS {
        node.serve(service(family), protocol, &[index], &[index]);
    }
    node
}

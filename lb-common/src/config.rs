//! What the agent tells the programs about the node.

use crate::{V4, V6, assert_layout, socket::Cookie};

/// Facts about the node, the only entry of `CONFIG`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Moves when a route, neighbour or link changes, which voids every cached [`crate::flow::Hop`].
    pub epoch: u32,
    /// First port source translation may take.
    pub snat_first: u16,
    /// Last one, inclusive.
    pub snat_last: u16,
    /// [`flags`].
    pub flags: u32,
    /// Network namespace of the node, whose sockets are led. None while all are left alone.
    pub netns: Cookie,
    /// This node's IPv4 facts.
    pub v4: FamilyConfig<V4>,
    /// This node's IPv6 facts.
    pub v6: FamilyConfig<V6>,
}

assert_layout!(Config = 20 + 52 + 208);

/// Flags of a [`Config`].
pub mod flags {
    /// Traffic to cluster IPs gets the node's address as source, whoever the client
    /// (`masqueradeAll`).
    pub const MASQUERADE_ALL: u32 = 1 << 0;
    /// Only clients in [`FamilyConfig::pods`](super::FamilyConfig::pods) are inside the
    /// cluster, on whatever interface they are seen; else those on pod interfaces are.
    pub const PODS_BY_ADDRESS: u32 = 1 << 1;
    /// Node ports are served on the node's loopback addresses too, to its own processes.
    pub const LOCALHOST_NODE_PORTS: u32 = 1 << 2;
    /// Sockets of the pods in `NETNS` are led too, beside those of the node.
    pub const POD_SOCKETS: u32 = 1 << 3;
}

/// A network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Network<A> {
    /// Its address; zero if there is none.
    pub net: A,
    /// Its mask.
    pub mask: A,
}

assert_layout!(Network<V4> = 8, Network<V6> = 32);

/// Most networks of cluster IPs in one family.
pub const CLUSTER_NETS_MAX: usize = 4;

/// Facts of one address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FamilyConfig<A> {
    /// The node's own address, source of hairpinned packets; zero when it has none.
    pub node: A,
    /// Holds all of `cluster_nets`: what is not of it is no cluster IP, and that is all most
    /// packets ask.
    pub cluster_cover: Network<A>,
    /// Networks of the service cluster IPs, without gaps; the first is zero when there is none.
    pub cluster_nets: [Network<A>; CLUSTER_NETS_MAX],
    /// Network of the pods that are inside; only with [`flags::PODS_BY_ADDRESS`].
    pub pods: Network<A>,
}

assert_layout!(FamilyConfig<V4> = 52, FamilyConfig<V6> = 208);

/// What the programs may do with an interface: the value of `LINKS`, keyed by interface index.
pub mod link {
    /// Ethernet, and ours: next hops behind it can be cached and MACs written directly.
    pub const DIRECT: u32 = 1 << 0;
    /// XDP can transmit to it.
    pub const XDP_TARGET: u32 = 1 << 1;
}

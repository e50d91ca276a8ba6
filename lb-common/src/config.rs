//! What the agent tells the programs about the node.

use crate::{V4, V6, assert_layout};

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
    /// This node's IPv4 facts.
    pub v4: FamilyConfig<V4>,
    /// This node's IPv6 facts.
    pub v6: FamilyConfig<V6>,
}

assert_layout!(Config = 8 + 12 + 48);

/// Facts of one address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FamilyConfig<A> {
    /// The node's own address, source of hairpinned packets; zero when it has none.
    pub node: A,
    /// Network of the service cluster IPs; zero when there is none.
    pub cluster_net: A,
    /// Its mask.
    pub cluster_mask: A,
}

assert_layout!(FamilyConfig<V4> = 12, FamilyConfig<V6> = 48);

/// What the programs may do with an interface: the value of `LINKS`, keyed by interface index.
pub mod link {
    /// Ethernet, and ours: next hops behind it can be cached and MACs written directly.
    pub const DIRECT: u32 = 1 << 0;
    /// XDP can transmit to it.
    pub const XDP_TARGET: u32 = 1 << 1;
}

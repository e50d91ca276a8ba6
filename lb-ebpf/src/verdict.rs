//! Where the pipeline runs, and what it answers.

use lb_common::flow::Direction;

/// Which clients are behind an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Pods of this node.
    Inside,
    /// Everybody else.
    Outside,
}

/// The place in the kernel the pipeline runs at. A constant in each entry point, so what does
/// not apply there is not even compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    /// Entering or leaving the node.
    pub direction: Direction,
    /// Who is behind the interface.
    pub side: Side,
    /// XDP, which cannot send everywhere and leaves the rest to tc.
    pub xdp: bool,
}

impl Hook {
    /// XDP on external interfaces.
    pub const XDP_EXTERNAL: Self = Self {
        direction: Direction::Ingress,
        side: Side::Outside,
        xdp: true,
    };
    /// tc ingress on external interfaces.
    pub const TC_EXTERNAL_INGRESS: Self = Self {
        xdp: false,
        ..Self::XDP_EXTERNAL
    };
    /// tc egress on external interfaces.
    pub const TC_EXTERNAL_EGRESS: Self = Self {
        direction: Direction::Egress,
        ..Self::TC_EXTERNAL_INGRESS
    };
    /// tc ingress on pod interfaces: what a pod sends.
    pub const TC_POD_INGRESS: Self = Self {
        direction: Direction::Ingress,
        side: Side::Inside,
        xdp: false,
    };
    /// tc egress on pod interfaces: what a pod receives.
    pub const TC_POD_EGRESS: Self = Self {
        direction: Direction::Egress,
        ..Self::TC_POD_INGRESS
    };
}

/// What becomes of a packet. The pipeline has already rewritten and counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: goes on untouched.
    Pass,
    /// Translated: the host stack takes it from here.
    Deliver,
    /// Translated, MACs written: send it out of this interface.
    Transmit {
        /// Interface to leave by.
        ifindex: u32,
    },
    /// Translated: send it out of this interface once the kernel has found the neighbour.
    Resolve {
        /// Interface to leave by.
        ifindex: u32,
    },
    /// Send it back out of the interface it came from, MACs exchanged.
    Reflect,
    /// Nobody is there: tell the sender, with [`reject`](fn@crate::reject).
    Reject,
    /// Discard it.
    Drop,
}

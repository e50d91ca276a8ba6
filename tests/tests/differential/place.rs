//! Where packets are seen, and what the programs there answer.

use lb_common::maps::programs;
use lb_ebpf::{Hook, Verdict};
use tests::fixture::action;

/// Which program sees what enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// XDP, and tc what that passes.
    Xdp,
    /// tc alone.
    Tc,
}

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Enters,
    Leaves,
    PodSends,
    PodGets,
}

impl Place {
    pub(crate) const ALL: [Self; 4] = [Self::Enters, Self::Leaves, Self::PodSends, Self::PodGets];

    /// The hook, its program and an interface to see a packet on.
    pub(crate) const fn at(self, way: Way) -> (Hook, &'static str, &'static str) {
        match (self, way) {
            (Self::Enters, Way::Xdp) => (Hook::XDP_EXTERNAL, programs::XDP_EXTERNAL, "eth0"),
            (Self::Enters, Way::Tc) => (
                Hook::TC_EXTERNAL_INGRESS,
                programs::TC_EXTERNAL_INGRESS,
                "eth0",
            ),
            (Self::Leaves, _) => (
                Hook::TC_EXTERNAL_EGRESS,
                programs::TC_EXTERNAL_EGRESS,
                "eth0",
            ),
            (Self::PodSends, _) => (Hook::TC_POD_INGRESS, programs::TC_POD_INGRESS, "pod0"),
            (Self::PodGets, _) => (Hook::TC_POD_EGRESS, programs::TC_POD_EGRESS, "pod0"),
        }
    }
}

/// What an entry point answers to a verdict.
pub(crate) const fn expected_action(verdict: Verdict, hook: Hook, ingress: u32) -> u32 {
    if hook.xdp {
        return match verdict {
            Verdict::Pass | Verdict::Deliver => action::XDP_PASS,
            Verdict::Transmit { ifindex } if ifindex != ingress => action::XDP_REDIRECT,
            Verdict::Transmit { .. } | Verdict::Reflect => action::XDP_TX,
            Verdict::Resolve { .. }
            | Verdict::Enter { .. }
            | Verdict::Reject(_)
            | Verdict::Drop => action::XDP_DROP,
        };
    }
    match verdict {
        Verdict::Pass | Verdict::Deliver => action::TC_ACT_UNSPEC,
        Verdict::Transmit { .. }
        | Verdict::Resolve { .. }
        | Verdict::Enter { .. }
        | Verdict::Reflect => action::TC_ACT_REDIRECT,
        Verdict::Reject(_) | Verdict::Drop => action::TC_ACT_SHOT,
    }
}

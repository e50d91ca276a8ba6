//! Which combinations are measured.

use super::Family;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every combination.
    Full,
    /// Both families, one service, one flow and many: what a change to the programs changes.
    Pair,
    /// IPv4, one service: enough for a look.
    Quick,
}

impl Extent {
    pub(super) const fn families(self) -> &'static [Family] {
        match self {
            Self::Full | Self::Pair => &Family::ALL,
            Self::Quick => &[Family::V4],
        }
    }

    pub(super) const fn services(self) -> &'static [u32] {
        match self {
            Self::Full => &[1, 1_000, 10_000],
            Self::Pair | Self::Quick => &[1],
        }
    }

    /// To how many of the services traffic goes: to one, which shows what it costs that there are
    /// others; and to all, which shows what it costs that all are in use.
    pub(super) fn drawn(self, services: u32) -> Vec<u32> {
        match (self, services) {
            (Self::Full, 10_000) => vec![1, services],
            (Self::Full | Self::Pair | Self::Quick, _) => vec![services],
        }
    }

    pub(super) const fn flows(self) -> &'static [u32] {
        match self {
            Self::Full => &[1, 4_096, 131_072],
            Self::Pair => &[1, 131_072],
            Self::Quick => &[1],
        }
    }
}

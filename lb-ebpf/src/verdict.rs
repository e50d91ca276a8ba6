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
    /// Translated, MACs written: let it enter by this interface, as if it had come from there.
    Enter {
        /// Interface to enter by.
        ifindex: u32,
    },
    /// Send it back out of the interface it came from, MACs exchanged.
    Reflect,
    /// Goes no further: tell the sender, with [`reject`](fn@crate::reject).
    Reject(Notice),
    /// Discard it.
    Drop,
}

/// What the sender of a rejected packet is told. A number and no enum, for the reason that [`Fate`] is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notice(u32);

impl Notice {
    /// Nobody is there: a TCP reset, or port unreachable.
    pub const NOBODY: Self = Self(0);
    /// Its time to live ran out: time exceeded in transit.
    pub const EXPIRED: Self = Self(1);

    /// It is too long for the next hop, which takes IP packets of so many bytes, 68 at least (RFC 791):
    /// fragmentation needed, or packet too big.
    #[inline(always)]
    pub const fn too_long(mtu: u16) -> Self {
        Self(mtu as u32)
    }

    /// As a number, to be handed to a function that the verifier checks apart.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The notice of that number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// What becomes of a packet, as long as it is not settled: a [`Verdict`] taken apart.
///
/// The payload of an enum is undefined in its other variants. A verdict is merged from many paths,
/// and on the way from one to the end its interface would be whatever lies on the stack there; the
/// verifier refuses to have that read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) act: Act,
    /// The interface, or what a rejected packet's sender is told.
    number: u32,
}

/// A [`Fate`] in one number.
///
/// Functions out of line take and return numbers that decide something in registers, never by the stack. Before Linux
/// 6.8 the verifier does not follow a number through a pointer to the stack: it may merge states that differ in it,
/// and then removes the branch of one of them as dead. So programs that it accepts could do the wrong thing.
/// (kernel commit 41f6f64e6999, "bpf: support non-r10 register spill/fill to/from stack in precision tracking")
#[derive(Clone, Copy)]
pub(crate) struct PackedFate(u64);

impl PackedFate {
    #[inline(always)]
    pub(crate) const fn unpacked(self) -> Fate {
        let act = match self.0 as u32 {
            0 => Act::Pass,
            1 => Act::Deliver,
            2 => Act::Transmit,
            3 => Act::Resolve,
            4 => Act::Enter,
            5 => Act::Reflect,
            6 => Act::Reject,
            _ => Act::Drop,
        };
        let number = (self.0 >> 32) as u32;
        Fate { act, number }
    }
}

/// The variants of [`Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Act {
    Pass,
    Deliver,
    Transmit,
    Resolve,
    Enter,
    Reflect,
    Reject,
    Drop,
}

impl Fate {
    pub(crate) const PASS: Self = Self::here(Act::Pass);
    pub(crate) const DELIVER: Self = Self::here(Act::Deliver);
    pub(crate) const REFLECT: Self = Self::here(Act::Reflect);
    pub(crate) const NOBODY: Self = Self::reject(Notice::NOBODY);
    pub(crate) const DROP: Self = Self::here(Act::Drop);

    /// A fate that names no interface.
    #[inline(always)]
    pub(crate) const fn here(act: Act) -> Self {
        Self { act, number: 0 }
    }

    #[inline(always)]
    pub(crate) const fn reject(notice: Notice) -> Self {
        Self {
            act: Act::Reject,
            number: notice.0,
        }
    }

    #[inline(always)]
    pub(crate) const fn transmit(ifindex: u32) -> Self {
        Self {
            act: Act::Transmit,
            number: ifindex,
        }
    }

    #[inline(always)]
    pub(crate) const fn resolve(ifindex: u32) -> Self {
        Self {
            act: Act::Resolve,
            number: ifindex,
        }
    }

    #[inline(always)]
    pub(crate) const fn enter(ifindex: u32) -> Self {
        Self {
            act: Act::Enter,
            number: ifindex,
        }
    }

    /// The same in one number, to return it from a function out of line.
    #[inline(always)]
    pub(crate) const fn packed(self) -> PackedFate {
        PackedFate((self.number as u64) << 32 | self.act as u64)
    }

    #[inline(always)]
    pub(crate) const fn verdict(self) -> Verdict {
        let Self { act, number } = self;
        let ifindex = number;
        match act {
            Act::Pass => Verdict::Pass,
            Act::Deliver => Verdict::Deliver,
            Act::Transmit => Verdict::Transmit { ifindex },
            Act::Resolve => Verdict::Resolve { ifindex },
            Act::Enter => Verdict::Enter { ifindex },
            Act::Reflect => Verdict::Reflect,
            Act::Reject => Verdict::Reject(Notice(number)),
            Act::Drop => Verdict::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_fate_is_the_same_fate() {
        let fates = [
            Fate::PASS,
            Fate::DELIVER,
            Fate::transmit(7),
            Fate::resolve(u32::MAX),
            Fate::enter(3),
            Fate::REFLECT,
            Fate::reject(Notice::too_long(1280)),
            Fate::DROP,
        ];
        for fate in fates {
            assert_eq!(fate.packed().unpacked(), fate);
        }
    }
}

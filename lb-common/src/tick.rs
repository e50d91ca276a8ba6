//! Coarse time.

use crate::assert_layout;

/// Nanoseconds of the monotonic clock, shifted right, are ticks.
const SHIFT: u32 = 26;

/// A moment of `CLOCK_MONOTONIC` in units of 2^26 ns (67 ms), wrapping after nine years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Tick(u32);

impl Tick {
    /// Ticks in one second, rounded up (1.007 s).
    pub const PER_SECOND: u32 = 15;
    /// Nanoseconds in one tick.
    pub const NANOS: u64 = 1 << SHIFT;

    /// The tick that holds this moment, given in nanoseconds of the monotonic clock.
    #[inline(always)]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> SHIFT) as u32)
    }

    /// Ticks in so many seconds, of which there are at most 136 years.
    #[inline(always)]
    pub const fn in_seconds(seconds: u32) -> u32 {
        ((seconds as u64 * 1_000_000_000) >> SHIFT) as u32
    }

    /// Ticks since `earlier`, which lies at most nine years back.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// How the kernel's jiffies run. Programs read them for nothing, where a clock costs as much as
/// half a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Jiffy {
    /// Length of one, in nanoseconds.
    pub nanos: u64,
    /// Their count at boot.
    pub at_boot: u64,
}

assert_layout!(Jiffy = 16);

impl Jiffy {
    /// Name of the global the loader sets in the object.
    pub const GLOBAL: &str = "JIFFY";

    /// The kernel's with this tick length: the resolution of `CLOCK_MONOTONIC_COARSE`.
    ///
    /// The count starts so that its lower half wraps five minutes after boot (`INITIAL_JIFFIES`,
    /// linux/jiffies.h).
    pub const fn with_nanos(nanos: u64) -> Self {
        const FIVE_MINUTES: u64 = 300_000_000_000;
        Self {
            nanos,
            at_boot: (1 << 32) - FIVE_MINUTES / nanos,
        }
    }

    /// The tick that holds this count.
    #[inline(always)]
    pub const fn tick(self, jiffies: u64) -> Tick {
        Tick::from_nanos(jiffies.wrapping_sub(self.at_boot).wrapping_mul(self.nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_are_ticks_since_boot() {
        let jiffy = Jiffy::with_nanos(4_000_000);
        assert_eq!(jiffy.at_boot, u64::from(u32::MAX) + 1 - 300 * 250);
        let hour = jiffy.at_boot + 3600 * 250;
        assert_eq!(jiffy.tick(hour), Tick::from_nanos(3_600_000_000_000));
    }
}

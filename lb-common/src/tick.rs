//! Coarse time.

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

    /// Ticks since `earlier`, which lies at most nine years back.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

//! A point in time, on both clocks: one that never jumps, for durations, and one that people read.

use std::time::{Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;

/// A point in time.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Moment {
    /// By the clock that never jumps.
    pub(in crate::agent) instant: Instant,
    /// By the clock on the wall.
    pub(in crate::agent) wall: Timestamp,
}

impl Moment {
    /// This very moment.
    pub(in crate::agent) fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: Timestamp::now(),
        }
    }

    /// Seconds since the epoch, as Prometheus has timestamps.
    pub(super) fn seconds(self) -> f64 {
        self.wall.as_duration().as_secs_f64()
    }

    /// Seconds since `earlier`, by the wall; none are left of a time in the future, which is the
    /// clock of another machine being ahead.
    pub(super) fn seconds_since(self, earlier: SystemTime) -> f64 {
        let now = SystemTime::from(self.wall);
        now.duration_since(earlier)
            .unwrap_or_default()
            .as_secs_f64()
    }
}

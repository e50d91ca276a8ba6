//! When cached next hops become void.

use std::time::{Duration, Instant};

/// While routes churn, hops are voided at most once in this time.
const PAUSE: Duration = Duration::from_millis(10);

/// The number that moves whenever a route, neighbour, link or address changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    value: u32,
    moved: Option<Instant>,
    due: Option<Instant>,
}

impl Epoch {
    /// Goes on from the number that programs were told before.
    pub(super) const fn after(earlier: u32) -> Self {
        Self {
            value: earlier.wrapping_add(1),
            moved: None,
            due: None,
        }
    }

    /// The number.
    pub(super) const fn value(&self) -> u32 {
        self.value
    }

    /// When [`Self::poll`] will move the number, if it is to.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something changed: the number is to move, at once unless it just did.
    pub(super) fn touch(&mut self, now: Instant) {
        let earliest = self.moved.map_or(now, |moved| moved + PAUSE);
        self.due.get_or_insert(earliest.max(now));
    }

    /// Moves the number if it is due. Returns whether it moved.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.value = self.value.wrapping_add(1);
        self.moved = Some(now);
        self.due = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_counts_at_once_and_the_next_ones_together() {
        let start = Instant::now();
        let mut epoch = Epoch::after(u32::MAX - 1);
        assert!(!epoch.poll(start), "nothing has changed");
        epoch.touch(start);
        assert!(epoch.poll(start));
        assert_eq!(epoch.value(), 0);
        epoch.touch(start);
        epoch.touch(start + PAUSE / 2);
        assert!(!epoch.poll(start + PAUSE / 2));
        assert_eq!(epoch.due(), Some(start + PAUSE));
        assert!(epoch.poll(start + PAUSE));
        assert!(!epoch.poll(start + PAUSE * 2));
        assert_eq!(epoch.value(), 1);
    }
}

//! Which Events are worth telling.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use super::Event;

/// An Event is not told again for so long.
const REPEAT: Duration = Duration::from_secs(600);

/// As many can be told at once.
const BURST: u32 = 25;

/// After a burst, one can be told in this time.
const REFILL: Duration = Duration::from_secs(10);

/// Keeps back what was told lately, and what is too much.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    hasher: RandomState,
    /// When each was told; no more than were let through in [`REPEAT`].
    told: HashMap<u64, Instant>,
    /// When the allowance would be whole again.
    whole: Option<Instant>,
}

impl Sieve {
    /// Whether to tell it.
    pub(super) fn admits(&mut self, event: &Event, now: Instant) -> bool {
        self.told
            .retain(|_, told| now.duration_since(*told) < REPEAT);
        let mark = self.hasher.hash_one(event);
        if self.told.contains_key(&mark) {
            return false;
        }
        let whole = self.whole.map_or(now, |whole| whole.max(now)) + REFILL;
        if whole > now + REFILL * BURST {
            return false;
        }
        self.whole = Some(whole);
        self.told.insert(mark, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(note: u32) -> Event {
        Event::nearly_full("node-a", note.to_string())
    }

    #[test]
    fn an_event_is_told_once_in_a_while() {
        let (mut sieve, start) = (Sieve::default(), Instant::now());
        let told = [0, 1, 599, 600, 601]
            .map(|second| sieve.admits(&event(0), start + Duration::from_secs(second)));
        assert_eq!(told, [true, false, false, true, false]);
        assert!(sieve.admits(&event(1), start + Duration::from_secs(601)));
    }

    #[test]
    fn a_burst_is_told_then_one_at_a_time() {
        let (mut sieve, start) = (Sieve::default(), Instant::now());
        let admitted = |sieve: &mut Sieve, range: std::ops::Range<u32>, at| {
            range.filter(|n| sieve.admits(&event(*n), at)).count()
        };
        assert_eq!(admitted(&mut sieve, 0..100, start), 25);
        assert_eq!(admitted(&mut sieve, 100..110, start + REFILL), 1);
        assert_eq!(admitted(&mut sieve, 110..200, start + REFILL * 26), 25);
        assert!(sieve.told.len() <= 51);
    }
}

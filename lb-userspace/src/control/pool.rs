//! Allocation of slots, backend indices and service ids.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use lb_common::service::Slots;

/// The indices of an array map: which are free, in use, or given back and still waiting.
///
/// A range given back may be read by a packet in flight, so it waits before it is handed out
/// again. Ranges are taken best fit first and coalesce when freed; every operation is logarithmic.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    capacity: u32,
    used: u32,
    by_offset: BTreeMap<u32, u32>,
    by_count: BTreeSet<(u32, u32)>,
    waiting: VecDeque<(Instant, Slots)>,
}

impl Pool {
    /// Indices `first..capacity`, all free.
    pub(super) fn new(first: u32, capacity: u32) -> Self {
        let mut pool = Self {
            capacity: capacity.saturating_sub(first),
            used: 0,
            by_offset: BTreeMap::new(),
            by_count: BTreeSet::new(),
            waiting: VecDeque::new(),
        };
        pool.insert(first, pool.capacity);
        pool
    }

    /// How many indices there are.
    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many are not free, those that wait included.
    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    /// How many are not free at this time, those that wait then included.
    pub(super) fn used_at(&self, now: Instant) -> u32 {
        let waited = self.waiting.iter().take_while(|(due, _)| *due <= now);
        self.used - waited.map(|(_, range)| range.count).sum::<u32>()
    }

    /// Takes `count` adjacent indices; none if there is no such range.
    pub(super) fn allocate(&mut self, count: u32) -> Option<Slots> {
        let (free, offset) = *self.by_count.range((count, 0)..).next()?;
        self.remove(offset, free);
        self.insert(offset + count, free - count);
        self.used += count;
        Some(Slots { offset, count })
    }

    /// Takes one index.
    pub(super) fn allocate_one(&mut self) -> Option<u32> {
        self.allocate(1).map(|slots| slots.offset)
    }

    /// Takes exactly this range; false if some of it is taken or does not exist.
    pub(super) fn reserve(&mut self, range: Slots) -> bool {
        let Slots { offset, count } = range;
        let Some((&start, &free)) = self.by_offset.range(..=offset).next_back() else {
            return false;
        };
        let before = offset - start;
        if u64::from(before) + u64::from(count) > u64::from(free) {
            return false;
        }
        self.remove(start, free);
        self.insert(start, before);
        self.insert(offset + count, free - before - count);
        self.used += count;
        true
    }

    /// Takes exactly this index.
    pub(super) fn reserve_one(&mut self, index: u32) -> bool {
        self.reserve(Slots {
            offset: index,
            count: 1,
        })
    }

    /// Gives a range back, to be free from `due` on. Calls are in the order of `due`.
    pub(super) fn retire(&mut self, range: Slots, due: Instant) {
        self.waiting.push_back((due, range));
    }

    /// Gives an index back, to be free from `due` on.
    pub(super) fn retire_one(&mut self, index: u32, due: Instant) {
        let range = Slots {
            offset: index,
            count: 1,
        };
        self.retire(range, due);
    }

    /// Frees what has waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, range)) = self.waiting.pop_front_if(|(due, _)| *due <= now) {
            self.free(range);
        }
    }

    /// Frees a range that no packet can have read.
    pub(super) fn free(&mut self, range: Slots) {
        let Slots {
            mut offset,
            mut count,
        } = range;
        self.used -= count;
        let previous = self.by_offset.range(..offset).next_back();
        if let Some((&start, &length)) =
            previous.filter(|(start, length)| *start + *length == offset)
        {
            self.remove(start, length);
            (offset, count) = (start, count + length);
        }
        if let Some(&length) = self.by_offset.get(&(offset + count)) {
            self.remove(offset + count, length);
            count += length;
        }
        self.insert(offset, count);
    }

    fn insert(&mut self, offset: u32, count: u32) {
        if count > 0 {
            self.by_offset.insert(offset, count);
            self.by_count.insert((count, offset));
        }
    }

    fn remove(&mut self, offset: u32, count: u32) {
        self.by_offset.remove(&offset);
        self.by_count.remove(&(count, offset));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn range(offset: u32, count: u32) -> Slots {
        Slots { offset, count }
    }

    #[test]
    fn a_range_given_back_waits_before_it_is_taken_again() {
        let start = Instant::now();
        let due = start + Duration::from_secs(5);
        let mut pool = Pool::new(0, 8);
        let taken = pool.allocate(8).unwrap();
        pool.retire(taken, due);
        pool.expire(start + Duration::from_millis(4_999));
        assert_eq!((pool.allocate(1), pool.used()), (None, 8));
        assert_eq!((pool.used_at(start), pool.used_at(due)), (8, 0));
        pool.expire(due);
        assert_eq!(pool.allocate(8), Some(range(0, 8)));
    }

    #[test]
    fn only_a_wholly_free_range_can_be_reserved() {
        let mut pool = Pool::new(1, 10);
        assert!(!pool.reserve(range(0, 2)), "0 is outside");
        assert!(!pool.reserve(range(8, 3)), "10 is outside");
        assert!(pool.reserve(range(4, 3)));
        assert!(!pool.reserve(range(6, 1)));
        assert_eq!(pool.allocate(3), Some(range(1, 3)));
        assert_eq!(pool.allocate(4), None, "only 7, 8 and 9 are left");
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_all_come_back(
            steps in proptest::collection::vec((1_u32..9, any::<bool>()), 1..200)
        ) {
            let now = Instant::now();
            let mut pool = Pool::new(1, 64);
            let mut held: Vec<Slots> = Vec::new();
            for (count, take) in steps {
                if take {
                    let Some(new) = pool.allocate(count) else { continue };
                    let end = new.offset + new.count;
                    prop_assert!(new.offset >= 1 && end <= 64);
                    for old in &held {
                        prop_assert!(end <= old.offset || old.offset + old.count <= new.offset);
                    }
                    held.push(new);
                } else if !held.is_empty() {
                    let old = held.swap_remove(count as usize % held.len());
                    pool.retire(old, now);
                    pool.expire(now);
                }
                prop_assert_eq!(pool.used(), held.iter().map(|range| range.count).sum::<u32>());
            }
            for old in held {
                pool.retire(old, now);
            }
            pool.expire(now);
            prop_assert_eq!(pool.allocate(63), Some(range(1, 63)));
        }
    }
}

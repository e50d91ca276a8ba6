//! Slots and the backends they point to.

use std::collections::{HashMap, HashSet};

use aya::Pod;
use lb_common::service::{self, Slots};

use super::{
    Error,
    convert::{backend_ref, range},
    pinned::{Entries, MapFamily, PinnedMaps},
    snapshot::BackendRef,
};

/// The backends of each range of slots, once each.
pub(super) type Lists = HashMap<Slots, Vec<BackendRef>>;

/// The slots and backends of one family.
pub(super) struct Endpoints<A>
where
    service::Backend<A>: Pod,
{
    pub(super) slots: Entries<u32>,
    pub(super) backends: Entries<service::Backend<A>>,
}

impl<A: MapFamily> Endpoints<A>
where
    service::Backend<A>: Pod,
{
    pub(super) fn open(maps: &PinnedMaps) -> Result<Self, Error> {
        Ok(Self {
            slots: maps.array(A::SLOTS)?,
            backends: maps.array(A::BACKENDS)?,
        })
    }

    /// The lists that these ranges are, each read once: all frontends of a Service have the same, and
    /// a range may have thousands of slots.
    pub(super) fn lists(&self, ranges: impl Iterator<Item = Slots>) -> Result<Lists, Error> {
        let ranges: HashSet<_> = ranges.collect();
        let ranges = ranges.into_iter();
        ranges
            .map(|slots| Ok((slots, self.distinct(slots)?)))
            .collect()
    }

    /// The backends in these slots, once each, in the order of their first slots.
    fn distinct(&self, slots: Slots) -> Result<Vec<BackendRef>, Error> {
        let mut known = HashSet::new();
        let mut backends = Vec::new();
        for slot in range(slots, self.slots.capacity()) {
            let index = self.slots.get(slot)?.filter(|index| known.insert(*index));
            backends.extend(index.map(|index| self.backend(index)).transpose()?);
        }
        Ok(backends)
    }

    pub(super) fn at_slot(&self, slot: u32) -> Result<Option<BackendRef>, Error> {
        let Some(index) = self.slots.get(slot)? else {
            return Ok(None);
        };
        self.backend(index).map(Some)
    }

    pub(super) fn backend(&self, index: u32) -> Result<BackendRef, Error> {
        Ok(backend_ref(index, self.backends.get(index)?))
    }
}

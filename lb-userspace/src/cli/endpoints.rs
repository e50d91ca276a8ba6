//! Slots and the backends they point to.

use std::collections::HashSet;

use aya::Pod;
use lb_common::service::{self, Slots};

use super::{
    Error,
    convert::{backend_ref, range},
    pinned::{Entries, MapFamily, PinnedMaps},
    snapshot::{BackendRef, Choice, WithoutBackends},
};

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

    pub(super) fn choice(&self, slots: Slots, drop: bool) -> Result<Choice, Error> {
        Ok(Choice {
            first_slot: slots.offset,
            slot_count: slots.count,
            without_backends: if drop {
                WithoutBackends::Drop
            } else {
                WithoutBackends::Reject
            },
            backends: self.distinct(slots)?,
        })
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

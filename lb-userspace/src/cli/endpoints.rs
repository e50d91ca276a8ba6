//! Slots and the backends they point to.

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
        let mut backends = Vec::new();
        for index in range(slots, self.slots.capacity()) {
            backends.extend(self.at_slot(index)?);
        }
        Ok(Choice {
            first_slot: slots.offset,
            slot_count: slots.count,
            without_backends: if drop {
                WithoutBackends::Drop
            } else {
                WithoutBackends::Reject
            },
            backends,
        })
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

//! Slots and the backends they lead to.

use std::collections::{BTreeMap, HashMap, HashSet};

use aya::Pod;
use lb_common::service::{self, Frontend, Slots, frontend, list};

use super::{
    Error,
    convert::{backend_ref, range},
    pinned::{Entries, MapFamily, PinnedMaps},
    snapshot::{BackendRef, Held},
};

/// A range of slots that a frontend refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reference {
    pub(super) slots: Slots,
    /// Whether the range is a list with a table, not backends alone.
    pub(super) list: bool,
}

impl Reference {
    /// Those of a frontend: for clients inside and outside.
    pub(super) const fn of(frontend: &Frontend) -> [Self; 2] {
        let list = frontend.flags & frontend::HASHED != 0;
        let (inside, outside) = (frontend.inside, frontend.outside);
        [
            Self {
                slots: inside,
                list,
            },
            Self {
                slots: outside,
                list,
            },
        ]
    }

    /// The slots that hold indices of backends.
    const fn backends(self) -> Slots {
        if self.list {
            list::backends(self.slots)
        } else {
            self.slots
        }
    }
}

/// The backends of each range of slots, once each.
pub(super) type Lists = HashMap<Reference, Vec<BackendRef>>;

/// What can be chosen in a range of slots.
pub(super) struct Choices {
    /// How many choices there are, all with the same chance.
    pub(super) count: u32,
    /// Where each leads.
    pub(super) backends: Vec<BackendRef>,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Backend,
    TableOffset,
    TableSize,
    Position,
}

/// The Maglev tables there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TableUse {
    /// How many.
    pub(super) tables: u32,
    /// How many slots they have.
    pub(super) slots: u32,
}

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

    /// The backends that these ranges lead to, each range read once: all frontends of a Service have
    /// the same.
    pub(super) fn lists(&self, ranges: impl Iterator<Item = Reference>) -> Result<Lists, Error> {
        let ranges: HashSet<_> = ranges.collect();
        let ranges = ranges.into_iter();
        ranges
            .map(|range| Ok((range, self.distinct(range)?)))
            .collect()
    }

    /// The backends of a range, once each, in the order they stand there.
    fn distinct(&self, reference: Reference) -> Result<Vec<BackendRef>, Error> {
        let mut known = HashSet::new();
        let mut backends = Vec::new();
        for slot in range(reference.backends(), self.slots.capacity()) {
            let index = self.slots.get(slot)?.filter(|index| known.insert(*index));
            backends.extend(index.map(|index| self.backend(index)).transpose()?);
        }
        Ok(backends)
    }

    /// What can be chosen in a range, in the order of the numbers that lead there.
    pub(super) fn choices(&self, reference: Reference) -> Result<Choices, Error> {
        let mut listed = Vec::new();
        for slot in range(reference.backends(), self.slots.capacity()) {
            let index = self.slots.get(slot)?;
            listed.extend(index.map(|index| self.backend(index)).transpose()?);
        }
        if !reference.list {
            return Ok(Choices {
                count: reference.slots.count,
                backends: listed,
            });
        }
        let table = self.table(reference.slots)?;
        let mut backends = Vec::new();
        for slot in range(table, self.slots.capacity()) {
            let position = self.slots.get(slot)?;
            let backend = position.and_then(|position| listed.get(position as usize));
            backends.extend(backend.cloned());
        }
        Ok(Choices {
            count: table.count,
            backends,
        })
    }

    /// The table of a list; none is an empty one.
    pub(super) fn table(&self, list: Slots) -> Result<Slots, Error> {
        let word = |at| self.slots.get(list.offset.saturating_add(at));
        Ok(match (word(0)?, word(1)?) {
            (Some(offset), Some(count)) if list.count >= list::HEADER => Slots { offset, count },
            (_, _) => Slots::default(),
        })
    }

    /// What each slot is for that these ranges refer to.
    pub(super) fn purposes(
        &self,
        references: impl Iterator<Item = Reference>,
    ) -> Result<BTreeMap<u32, Purpose>, Error> {
        let capacity = self.slots.capacity();
        let all = |slots, purpose| range(slots, capacity).map(move |slot| (slot, purpose));
        let mut purposes = BTreeMap::new();
        let mut tables = HashSet::new();
        let references: HashSet<_> = references.collect();
        for reference in references {
            purposes.extend(all(reference.backends(), Purpose::Backend));
            if !reference.list || reference.slots.count == 0 {
                continue;
            }
            let table = self.table(reference.slots)?;
            if tables.insert(table) {
                purposes.extend(all(table, Purpose::Position));
            }
            let header = range(reference.slots, capacity);
            purposes.extend(header.zip([Purpose::TableOffset, Purpose::TableSize]));
        }
        Ok(purposes)
    }

    /// The tables that slots for these purposes refer to, each counted once.
    pub(super) fn table_use(&self, purposes: &BTreeMap<u32, Purpose>) -> Result<TableUse, Error> {
        let mut tables = HashSet::new();
        let mut slots = 0;
        for (slot, purpose) in purposes {
            match purpose {
                Purpose::TableOffset => tables.extend(self.slots.get(*slot)?),
                Purpose::Position => slots += 1,
                Purpose::Backend | Purpose::TableSize => {}
            }
        }
        Ok(TableUse {
            tables: tables.len() as u32,
            slots,
        })
    }

    /// What a slot holds; none beyond the end.
    pub(super) fn held(&self, slot: u32, purpose: Purpose) -> Result<Option<Held>, Error> {
        let Some(word) = self.slots.get(slot)? else {
            return Ok(None);
        };
        Ok(Some(match purpose {
            Purpose::Backend => Held::Backend(self.backend(word)?),
            Purpose::TableOffset => Held::TableOffset(word),
            Purpose::TableSize => Held::TableSize(word),
            Purpose::Position => Held::Position(word),
        }))
    }

    pub(super) fn backend(&self, index: u32) -> Result<BackendRef, Error> {
        Ok(backend_ref(index, self.backends.get(index)?))
    }
}

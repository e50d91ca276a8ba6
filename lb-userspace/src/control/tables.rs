//! Maglev tables in the maps: one for all lists of the same endpoints with the same weights.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use lb_common::service::Slots;

use super::{
    maglev::{self, TableSize},
    pool::Pool,
    spread::Share,
};

/// What a table follows from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TableKey {
    /// A list of one backend, whoever that is: it needs but one slot, whatever is hashed.
    Lone,
    /// A size, and the shares of a list, in its order.
    Shares(TableSize, Box<[Share]>),
}

impl TableKey {
    /// The key of the table of a list of these shares.
    pub(super) fn of(shares: impl ExactSizeIterator<Item = Share>, size: TableSize) -> Self {
        match shares.len() {
            1 => Self::Lone,
            _ => Self::Shares(size, shares.collect()),
        }
    }

    /// How many slots the table has.
    pub(super) const fn size(&self) -> u32 {
        match self {
            Self::Lone => 1,
            Self::Shares(size, _) => size.number(),
        }
    }

    /// The position in the list that each slot holds.
    fn positions(&self) -> Box<[u32]> {
        match self {
            Self::Lone => Box::new([0]),
            Self::Shares(size, shares) => maglev::table(shares, *size).into(),
        }
    }
}

/// A table in the maps.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Where.
    pub(super) slots: Slots,
    /// The positions in it.
    pub(super) content: Box<[u32]>,
    /// Whether the map surely holds them.
    pub(super) written: bool,
    /// How many lists refer to it.
    lists: usize,
}

/// The tables of a family, by their first slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    by_offset: BTreeMap<u32, Table>,
    by_key: HashMap<TableKey, u32>,
    /// Those that were found in the maps, and are known by their content alone.
    unnamed: BTreeSet<u32>,
}

impl Tables {
    /// The first slot of the table of this key, which may have to be written yet; none if there is
    /// no room for it. It is made only if there is none.
    pub(super) fn obtain(&mut self, key: &TableKey, pool: &mut Pool) -> Option<u32> {
        if let Some(offset) = self.by_key.get(key) {
            return Some(*offset);
        }
        let found = (!self.unnamed.is_empty()).then(|| key.positions());
        let known = found.as_ref().and_then(|content| self.find(content));
        let offset = if let Some(offset) = known {
            self.unnamed.remove(&offset);
            offset
        } else {
            let slots = pool.allocate(key.size())?;
            let content = found.unwrap_or_else(|| key.positions());
            self.insert(slots, content, false)
        };
        self.by_key.insert(key.clone(), offset);
        Some(offset)
    }

    /// One that was found in the maps and has this content.
    fn find(&self, content: &[u32]) -> Option<u32> {
        let mut unnamed = self.unnamed.iter();
        unnamed
            .find(|offset| *self.by_offset[offset].content == *content)
            .copied()
    }

    /// Takes over the table that a list in the maps refers to. Its first slot; none if there can be
    /// no such table.
    pub(super) fn adopt(&mut self, slots: Slots, map: &[u32], pool: &mut Pool) -> Option<u32> {
        if let Some(table) = self.by_offset.get(&slots.offset) {
            return (table.slots == slots).then_some(slots.offset);
        }
        let start = slots.offset as usize;
        let content = map.get(start..start.checked_add(slots.count as usize)?)?;
        if content.is_empty() || !pool.reserve(slots) {
            return None;
        }
        self.unnamed.insert(slots.offset);
        Some(self.insert(slots, content.into(), true))
    }

    fn insert(&mut self, slots: Slots, content: Box<[u32]>, written: bool) -> u32 {
        let table = Table {
            slots,
            content,
            written,
            lists: 0,
        };
        self.by_offset.insert(slots.offset, table);
        slots.offset
    }

    /// The table with this first slot.
    pub(super) fn get_mut(&mut self, offset: u32) -> Option<&mut Table> {
        self.by_offset.get_mut(&offset)
    }

    /// All of them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Table> {
        self.by_offset.values_mut()
    }

    /// Has another list refer to a table.
    pub(super) fn hold(&mut self, offset: u32) {
        if let Some(table) = self.by_offset.get_mut(&offset) {
            table.lists += 1;
        }
    }

    /// Has a list refer to a table no more.
    pub(super) fn let_go(&mut self, offset: u32, pool: &mut Pool, due: Instant) {
        if let Some(table) = self.by_offset.get_mut(&offset) {
            table.lists = table.lists.saturating_sub(1);
        }
        if let Some(slots) = self.remove_unheld(offset) {
            pool.retire(slots, due);
        }
    }

    /// Gives back a table that no list has come to refer to.
    pub(super) fn discard_unheld(&mut self, offset: u32, pool: &mut Pool) {
        if let Some(slots) = self.remove_unheld(offset) {
            pool.free(slots);
        }
    }

    /// Forgets a table, unless a list refers to it; where it was.
    fn remove_unheld(&mut self, offset: u32) -> Option<Slots> {
        self.by_offset
            .get(&offset)
            .filter(|table| table.lists == 0)?;
        self.by_key.retain(|_, known| *known != offset);
        self.unnamed.remove(&offset);
        self.by_offset.remove(&offset).map(|table| table.slots)
    }
}

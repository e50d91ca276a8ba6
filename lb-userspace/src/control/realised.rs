//! What the maps of one family hold, as far as we know.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::service::{Backend, Frontend, FrontendKey, Slots};

use super::{desired::PortId, pool::Pool, select::Endpoint};
use crate::maps::FamilyCapacities;

/// The realised state of a family.
///
/// A write that failed may have been carried out or not, so what is known of an entry can be more
/// than one value; nothing an entry may still lead to is ever given to another.
#[derive(Clone, Debug)]
pub(super) struct Realised<A> {
    /// Service ports, by identity.
    pub(super) ports: BTreeMap<PortId, Port<A>>,
    /// The port of each service id in use.
    pub(super) by_id: BTreeMap<u32, PortId>,
    /// Frontends.
    pub(super) frontends: BTreeMap<FrontendKey<A>, Known>,
    /// Slot indices.
    pub(super) slots: Pool,
    /// Backend indices.
    pub(super) backends: Pool,
    /// The last generation given to a backend.
    pub(super) generation: u32,
    /// Entries found in the maps that belong to no port.
    pub(super) strays: Strays<A>,
}

/// A service port's share of the maps.
#[derive(Clone, Debug)]
pub(super) struct Port<A> {
    /// Its service id.
    pub(super) id: u32,
    /// Whether the id surely has its name in the map.
    pub(super) named: bool,
    /// Its backends. An index belongs to one port: an endpoint that leaves a Service loses its
    /// flows of that Service at once, whoever else has it.
    pub(super) backends: BTreeMap<Endpoint<A>, Entry<A>>,
    /// Its slots.
    pub(super) ranges: Vec<Range>,
    /// Frontends that may lead to it.
    pub(super) keys: BTreeSet<FrontendKey<A>>,
}

/// A backend index in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<A> {
    /// The index.
    pub(super) index: u32,
    /// Its generation.
    pub(super) generation: u32,
    /// What the map surely holds there.
    pub(super) known: Option<Backend<A>>,
}

/// A range of slots in use.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// Where.
    pub(super) slots: Slots,
    /// The backend indices in it.
    pub(super) content: Vec<u32>,
    /// Whether the map surely holds them.
    pub(super) written: bool,
}

/// What a frontend's entry may hold.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The values it may have.
    pub(super) values: Vec<Frontend>,
    /// Whether it surely has the only one of them.
    pub(super) certain: bool,
}

/// Entries found in the maps that belong to no port; to be removed.
#[derive(Clone, Debug)]
pub(super) struct Strays<A> {
    /// Frontends.
    pub(super) frontends: BTreeSet<FrontendKey<A>>,
    /// Live backends.
    pub(super) backends: BTreeMap<u32, Backend<A>>,
}

impl<A> Default for Strays<A> {
    fn default() -> Self {
        Self {
            frontends: BTreeSet::new(),
            backends: BTreeMap::new(),
        }
    }
}

impl Known {
    pub(super) fn is(&self, value: &Frontend) -> bool {
        self.certain && self.values == [*value]
    }
}

impl<A> Port<A> {
    pub(super) const fn new(id: u32) -> Self {
        Self {
            id,
            named: false,
            backends: BTreeMap::new(),
            ranges: Vec::new(),
            keys: BTreeSet::new(),
        }
    }
}

impl<A: Ord> Realised<A> {
    /// Of empty maps. Index 0 of slots' values is left out: a slot never written leads to a
    /// backend that never lives.
    pub(super) fn empty(capacities: FamilyCapacities) -> Self {
        Self {
            ports: BTreeMap::new(),
            by_id: BTreeMap::new(),
            frontends: BTreeMap::new(),
            slots: Pool::new(0, capacities.slots),
            backends: Pool::new(1, capacities.backends),
            generation: 0,
            strays: Strays::default(),
        }
    }

    /// The slot ranges that packets of a port's clients may be led to.
    pub(super) fn referenced(&self, port: &Port<A>) -> BTreeSet<(u32, u32)> {
        let values = port
            .keys
            .iter()
            .filter_map(|key| self.frontends.get(key))
            .flat_map(|known| &known.values)
            .filter(|value| value.service == port.id);
        values
            .flat_map(|value| [value.inside, value.outside])
            .filter(|slots| slots.count > 0)
            .map(|slots| (slots.offset, slots.count))
            .collect()
    }
}

/// The generation after `last`; never 0, which an unused entry has.
pub(super) fn next(last: &mut u32) -> u32 {
    *last = last.wrapping_add(1).max(1);
    *last
}

//! What the maps of one family hold, as far as we know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    Port as WirePort,
    service::{Backend, Frontend, FrontendKey, Slots, backend, frontend, list},
};

use super::{departure::Departed, desired::PortId, pool::Pool, select::Endpoint, tables::Tables};
use crate::{
    maps::{FamilyCapacities, Network},
    model::Protocol,
};

/// The realised state of a family.
///
/// A write that failed may have been carried out or not, so what is known of an entry can be more
/// than one value; nothing an entry may still lead to is ever given to another.
#[derive(Clone, Debug)]
pub(super) struct Realised<A> {
    /// Service ports, by identity.
    pub(super) ports: BTreeMap<Arc<PortId>, Port<A>>,
    /// The port of each service id in use.
    pub(super) by_id: BTreeMap<u32, Arc<PortId>>,
    /// Frontends.
    pub(super) frontends: BTreeMap<FrontendKey<A>, Known>,
    /// Slot indices.
    pub(super) slots: Pool,
    /// Maglev tables, in slots that belong to no port.
    pub(super) tables: Tables,
    /// Backend indices.
    pub(super) backends: Pool,
    /// How many source ranges the ports may have.
    pub(super) source_ranges: usize,
    /// The last generation given to a backend.
    pub(super) generation: u32,
    /// Entries found in the maps that belong to no port.
    pub(super) strays: Strays<A>,
    /// Backends that are gone, until somebody is told.
    pub(super) departed: Vec<Departed<A>>,
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
    pub(super) backends: BTreeMap<Endpoint<A>, Entry>,
    /// Backends it had, whose pods may live and have connections, by address and port.
    pub(super) former: BTreeMap<(A, u16), Former>,
    /// Its slots.
    pub(super) ranges: Vec<Range>,
    /// Frontends that may lead to it.
    pub(super) keys: BTreeSet<FrontendKey<A>>,
    /// Its source ranges, and whether the map surely holds each.
    pub(super) source_ranges: BTreeMap<Network<A>, bool>,
    /// How often affinity has been switched on.
    pub(super) term: Term,
    /// Whether it has lost a frontend that its backends do not tell of.
    pub(super) untold_loss: bool,
}

/// The term of a port's session affinity. It is told in the port's frontends also while affinity
/// is off, so that it outlives the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Term {
    /// Its number.
    pub(super) number: u32,
    /// Whether affinity surely is on.
    pub(super) on: bool,
}

/// A backend index in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The index.
    pub(super) index: u32,
    /// Its generation.
    pub(super) generation: u32,
    /// Its [`backend`] flags.
    pub(super) flags: u16,
    /// Whether the map surely holds that.
    pub(super) certain: bool,
    /// Whether its pod is deleted, as far as the objects tell.
    pub(super) pod_deleted: bool,
}

/// A backend index that is not in use any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Former {
    /// The index.
    pub(super) index: u32,
    /// The last generation it had for the endpoint.
    pub(super) generation: u32,
}

/// A range of slots in use.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// Where.
    pub(super) slots: Slots,
    /// How its content is read.
    pub(super) form: Form,
    /// What is in it.
    pub(super) content: Box<[u32]>,
    /// Whether the map surely holds that.
    pub(super) written: bool,
}

/// How programs read a range of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// Backend indices, to be drawn from.
    Drawn,
    /// A [`list`] whose table has this first slot; none if it refers to what cannot be a table.
    List(Option<u32>),
}

/// What a frontend's entry may hold.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The value tried last.
    pub(super) value: Frontend,
    /// Earlier ones it may have instead.
    pub(super) others: Vec<Frontend>,
    /// Whether it surely has the value tried last.
    pub(super) certain: bool,
}

/// Entries found in the maps that belong to no port; to be removed.
#[derive(Clone, Debug)]
pub(super) struct Strays<A> {
    /// Frontends.
    pub(super) frontends: BTreeSet<FrontendKey<A>>,
    /// Live backends.
    pub(super) backends: BTreeMap<u32, Backend<A>>,
    /// Source ranges.
    pub(super) source_ranges: BTreeSet<(u32, Network<A>)>,
}

impl<A> Default for Strays<A> {
    fn default() -> Self {
        Self {
            frontends: BTreeSet::new(),
            backends: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
        }
    }
}

impl Known {
    /// An entry that has this value if `certain`, or perhaps none.
    pub(super) const fn new(value: Frontend, certain: bool) -> Self {
        Self {
            value,
            others: Vec::new(),
            certain,
        }
    }

    pub(super) fn is(&self, value: &Frontend) -> bool {
        self.certain && self.value == *value
    }

    /// Every value the entry may have.
    pub(super) fn values(&self) -> impl Iterator<Item = &Frontend> {
        self.others.iter().chain([&self.value])
    }
}

impl Range {
    /// The backend indices in it.
    pub(super) fn backends(&self) -> &[u32] {
        match self.form {
            Form::Drawn => &self.content,
            Form::List(_) => self
                .content
                .get(list::HEADER as usize..)
                .unwrap_or_default(),
        }
    }
}

impl Entry {
    /// Whether its endpoint is on its way out.
    pub(super) const fn is_terminating(&self) -> bool {
        self.flags & backend::TERMINATING != 0
    }

    /// The entry of an endpoint of this service that has this index.
    pub(super) const fn backend<A: Copy>(
        &self,
        service: u32,
        endpoint: &Endpoint<A>,
    ) -> Backend<A> {
        Backend {
            addr: endpoint.addr,
            port: WirePort::new(endpoint.port),
            flags: self.flags,
            generation: self.generation,
            service,
        }
    }

    /// That backend, once it is gone.
    pub(super) const fn departed<A: Copy>(
        &self,
        protocol: Protocol,
        service: u32,
        endpoint: &Endpoint<A>,
    ) -> Departed<A> {
        Departed {
            protocol,
            addr: endpoint.addr,
            port: endpoint.port,
            service,
            backend: self.index,
            generation: self.generation,
            pod_deleted: self.pod_deleted,
        }
    }
}

impl Former {
    /// What is remembered of a backend that is gone.
    pub(super) const fn of<A>(backend: &Departed<A>) -> Self {
        Self {
            index: backend.backend,
            generation: backend.generation,
        }
    }

    /// That backend.
    pub(super) const fn departed<A: Copy>(
        self,
        protocol: Protocol,
        service: u32,
        (addr, port): (A, u16),
        pod_deleted: bool,
    ) -> Departed<A> {
        Departed {
            protocol,
            addr,
            port,
            service,
            backend: self.index,
            generation: self.generation,
            pod_deleted,
        }
    }
}

/// The flags that say which lists a backend is in.
pub(super) const IN_LISTS: u16 = backend::IN_CLUSTER | backend::IN_LOCAL;

impl<A> Port<A> {
    pub(super) const fn new(id: u32) -> Self {
        Self {
            id,
            named: false,
            backends: BTreeMap::new(),
            former: BTreeMap::new(),
            ranges: Vec::new(),
            keys: BTreeSet::new(),
            source_ranges: BTreeMap::new(),
            term: Term {
                number: 0,
                on: false,
            },
            untold_loss: false,
        }
    }

    /// Whether nothing in the maps is its own but its name.
    pub(super) fn is_bare(&self) -> bool {
        self.keys.is_empty()
            && self.backends.is_empty()
            && self.ranges.is_empty()
            && self.source_ranges.is_empty()
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
            tables: Tables::default(),
            backends: Pool::new(1, capacities.backends),
            source_ranges: 0,
            generation: 0,
            strays: Strays::default(),
            departed: Vec::new(),
        }
    }

    /// The values that frontends leading to a port may have.
    pub(super) fn values(&self, port: &Port<A>) -> impl Iterator<Item = &Frontend> {
        port.keys
            .iter()
            .filter_map(|key| self.frontends.get(key))
            .flat_map(Known::values)
            .filter(|value| value.service == port.id)
    }

    /// The slot ranges that packets of a port's clients may be led to, each with the flag that
    /// its backends are kept by.
    pub(super) fn referenced(&self, port: &Port<A>) -> BTreeSet<(u32, u32, u16)> {
        let list = |local: u32, flags: u32| match flags & local {
            0 => backend::IN_CLUSTER,
            _ => backend::IN_LOCAL,
        };
        let ranges = self.values(port).flat_map(|value| {
            [
                (value.inside, list(frontend::LOCAL_INSIDE, value.flags)),
                (value.outside, list(frontend::LOCAL_OUTSIDE, value.flags)),
            ]
        });
        ranges
            .filter(|(slots, _)| slots.count > 0)
            .map(|(slots, flag)| (slots.offset, slots.count, flag))
            .collect()
    }
}

/// The generation after `last`; never 0, which an unused entry has.
pub(super) fn next(last: &mut u32) -> u32 {
    *last = last.wrapping_add(1).max(1);
    *last
}

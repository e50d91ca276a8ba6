//! Maps under watch: after every single operation a reader must find each frontend leading to
//! live backends of its own Service, and nothing reused before its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use lb_common::{
    V4, V6,
    service::{Backend, Frontend, FrontendKey, Slots, backend, frontend, list, text},
};
use lb_userspace::{
    maps::{
        Capacities, Dump, Family, FamilyCapacities, FamilyDump, FamilyOp, LbMaps, Memory, Op,
        ReadError, WriteError,
    },
    model::ObjectName,
};

/// Maps under watch.
pub(crate) struct Watched<M> {
    inner: M,
    /// What the inner maps hold.
    shadow: Memory,
    /// Endpoints each Service has or had since the maps last were in line.
    pub(crate) allowed: BTreeMap<ObjectName, BTreeSet<SocketAddr>>,
    /// The time.
    pub(crate) now: Instant,
    /// The grace period.
    pub(crate) grace: Duration,
    /// Whether a write that changes nothing is a fault.
    pub(crate) frugal: bool,
    pub(crate) v4: LastUse,
    pub(crate) v6: LastUse,
}

/// When a reader last could be led to an index.
pub(crate) struct LastUse {
    slots: Vec<Option<Instant>>,
    backends: Vec<Option<Instant>>,
    /// The highest generation each index has had.
    generations: BTreeMap<u32, u32>,
    /// Index and generation of the backends whose services have lost a frontend since the maps last
    /// were in line.
    losers: BTreeSet<(u32, u32)>,
}

impl<M: LbMaps> Watched<M> {
    pub(crate) fn new(inner: M, now: Instant, grace: Duration) -> Self {
        let capacities = inner.capacities();
        Self {
            shadow: Memory::new(capacities),
            inner,
            allowed: BTreeMap::new(),
            now,
            grace,
            frugal: true,
            v4: LastUse::new(capacities.v4),
            v6: LastUse::new(capacities.v6),
        }
    }
}

impl<M: LbMaps> LbMaps for Watched<M> {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        let before = self.shadow.content();
        let due = self.now.checked_sub(self.grace);
        match op {
            Op::V4(op) => self.v4.permit(op, &before.v4, due, self.frugal),
            Op::V6(op) => self.v6.permit(op, &before.v6, due, self.frugal),
            Op::PutName(id, _) => {
                let ranges = |maps: usize| assert_eq!(maps, 0, "{id} has another port's ranges");
                ranges(ranges_of(&before.v4, *id));
                ranges(ranges_of(&before.v6, *id));
            }
            Op::DeleteName(_) => {}
        }
        self.inner.apply(op)?;
        self.shadow.apply(op)?;
        let after = self.shadow.content();
        match op {
            Op::V4(_) => self.v4.read::<V4>(after, &self.allowed, self.now),
            Op::V6(_) => self.v6.read::<V6>(after, &self.allowed, self.now),
            Op::PutName(..) | Op::DeleteName(_) => {
                self.v4.read::<V4>(after, &self.allowed, self.now);
                self.v6.read::<V6>(after, &self.allowed, self.now);
            }
        }
        Ok(())
    }

    fn dump(&self) -> Result<Dump, ReadError> {
        let dump = self.inner.dump()?;
        let shadow = self.shadow.content();
        assert_eq!(dump.names, shadow.names);
        assert_eq!(dump.v4, shadow.v4);
        assert_eq!(dump.v6, shadow.v6);
        Ok(dump)
    }

    fn capacities(&self) -> Capacities {
        self.inner.capacities()
    }
}

impl LastUse {
    fn new(capacities: FamilyCapacities) -> Self {
        Self {
            slots: vec![None; capacities.slots as usize],
            backends: vec![None; capacities.backends as usize],
            generations: BTreeMap::new(),
            losers: BTreeSet::new(),
        }
    }

    /// Checks an operation before it is carried out.
    fn permit<A: Family>(
        &mut self,
        op: &FamilyOp<A>,
        maps: &FamilyDump<A>,
        due: Option<Instant>,
        frugal: bool,
    ) {
        let rested =
            |last: Option<Instant>| last.is_none_or(|last| due.is_some_and(|due| last <= due));
        match op {
            FamilyOp::PutFrontend(key, value) => {
                let open = value.flags & frontend::SOURCE_RANGES == 0;
                assert!(
                    open || ranges_of(maps, value.service) > 0,
                    "closed to everybody"
                );
                assert!(
                    !frugal || maps.frontends.get(key) != Some(value),
                    "written for nothing"
                );
                self.passes(key, Some(value.service), maps);
            }
            FamilyOp::DeleteFrontend(key) => {
                assert!(
                    !frugal || maps.frontends.contains_key(key),
                    "deleted for nothing"
                );
                self.passes(key, None, maps);
            }
            FamilyOp::WriteSlots(offset, content) => {
                let mut changed = (*offset..)
                    .zip(content)
                    .filter(|(slot, index)| maps.slots[*slot as usize] != **index);
                let busy = changed.find(|(slot, _)| !rested(self.slots[*slot as usize]));
                assert_eq!(busy, None, "a slot is reused too early");
            }
            FamilyOp::PutBackend(index, new) => {
                let old = maps.backends.get(index).copied().unwrap_or_default();
                assert!(!frugal || *new != old, "written for nothing");
                let alive = |backend: &Backend<A>| backend.flags & backend::ALIVE != 0;
                let highest = self.generations.entry(*index).or_default();
                let goes_on = new.generation == old.generation && new.generation == *highest;
                assert!(
                    new.generation > *highest || goes_on,
                    "a generation comes back"
                );
                *highest = new.generation;
                let of = |it: &Backend<A>| (it.addr, it.port, it.service);
                let same = of(&old) == of(new);
                assert!(same || (!alive(&old) && new.generation != old.generation));
                assert!(
                    same || rested(self.backends[*index as usize]),
                    "a backend is reused too early"
                );
            }
            FamilyOp::PutSourceRange(service, network) => {
                let there = maps.source_ranges.contains(&(*service, *network));
                assert!(!frugal || !there, "written for nothing");
            }
            FamilyOp::DeleteSourceRange(service, network) => {
                let there = maps.source_ranges.contains(&(*service, *network));
                assert!(!frugal || there, "deleted for nothing");
                let last = ranges_of(maps, *service) == 1 && there;
                let mut values = maps.frontends.values();
                let closed = |value: &Frontend| {
                    value.service == *service && value.flags & frontend::SOURCE_RANGES != 0
                };
                assert!(!last || !values.any(closed), "closed to everybody");
            }
        }
    }

    /// Has a frontend pass to another service, or to none: whoever goes on with flows of the one that
    /// had it is to look.
    fn passes<A: Family>(&mut self, key: &FrontendKey<A>, to: Option<u32>, maps: &FamilyDump<A>) {
        let loser = maps.frontends.get(key).map(|value| value.service);
        let loser = loser.filter(|loser| to != Some(*loser) && key.proto != 0);
        let had = |(_, backend): &(&u32, &Backend<A>)| loser == Some(backend.service);
        let backends = maps.backends.iter().filter(had);
        self.losers
            .extend(backends.map(|(index, backend)| (*index, backend.generation)));
    }

    /// No flow goes on with a service that has lost its frontend, without a look at whose that is.
    pub(crate) fn look<A: Family>(&mut self, maps: &FamilyDump<A>) {
        for (index, generation) in std::mem::take(&mut self.losers) {
            let backend = &maps.backends[&index];
            let looks = backend.flags & (backend::ALIVE | backend::LOST_FRONTEND) != backend::ALIVE;
            assert!(backend.generation != generation || looks, "{backend:?}");
        }
    }

    /// Follows every frontend as a packet would.
    fn read<A: Family>(
        &mut self,
        dump: &Dump,
        allowed: &BTreeMap<ObjectName, BTreeSet<SocketAddr>>,
        now: Instant,
    ) {
        let maps = A::of(dump);
        let none = BTreeSet::new();
        for value in maps.frontends.values() {
            let name = dump
                .names
                .get(&value.service)
                .expect("a frontend's service has a name");
            let owner = ObjectName::new(text(&name.namespace), text(&name.name));
            let own = allowed.get(&owner).unwrap_or(&none);
            let lists = [
                (value.inside, frontend::LOCAL_INSIDE),
                (value.outside, frontend::LOCAL_OUTSIDE),
            ];
            for (slots, local) in lists {
                let list = if value.flags & local == 0 {
                    backend::IN_CLUSTER
                } else {
                    backend::IN_LOCAL
                };
                for slot in self.follow(value, slots, maps, now) {
                    let index = maps.slots[slot] as usize;
                    self.backends[index] = Some(now);
                    let backend = &maps.backends[&maps.slots[slot]];
                    assert_ne!(
                        backend.flags & backend::ALIVE,
                        0,
                        "{owner} has a dead backend"
                    );
                    assert_eq!(backend.service, value.service, "{owner} has another's");
                    assert_ne!(backend.flags & list, 0, "{owner} would not keep a client");
                    let socket = SocketAddr::new(backend.addr.to_ip(), backend.port.number());
                    assert!(own.contains(&socket), "{owner} leads to {socket}");
                }
            }
        }
    }
}

impl LastUse {
    /// Goes through a range of slots, and through the table if it is a list. The slots that hold
    /// backends.
    fn follow<A>(
        &mut self,
        frontend: &Frontend,
        slots: Slots,
        maps: &FamilyDump<A>,
        now: Instant,
    ) -> Range<usize> {
        let mut read = |Slots { offset, count }: Slots| {
            let range = offset as usize..(offset + count) as usize;
            self.slots[range.clone()].fill(Some(now));
            range
        };
        let range = read(slots);
        if frontend.flags & frontend::HASHED == 0 || range.is_empty() {
            return range;
        }
        let [offset, count] = [range.start, range.start + 1].map(|slot| maps.slots[slot]);
        let positions = &maps.slots[read(Slots { offset, count })];
        let backends = list::backends(slots);
        assert!(count > 0, "a table without slots");
        let beyond = positions.iter().find(|it| **it >= backends.count);
        assert_eq!(beyond, None, "a table leads beyond a list");
        read(backends)
    }
}

fn ranges_of<A>(maps: &FamilyDump<A>, service: u32) -> usize {
    let ranges = maps.source_ranges.iter();
    ranges.filter(|(id, _)| *id == service).count()
}

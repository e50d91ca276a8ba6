//! The control plane's facade.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::{V4, V6, maps::SERVICE_NAMES};

use super::{
    Outcome, Settings, Usage,
    adopt::{adopt, identity},
    audit::audit,
    desired::{NodeView, plan},
    family::State,
    index::{Index, Touched},
    pool::Pool,
    program::Writer,
};
use crate::{
    maps::{Family, LbMaps, Op, ReadError},
    model::{Batch, ObjectName},
};

/// The time between attempts at what failed: doubled from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Keeps the maps true to the objects.
#[derive(Debug)]
pub struct Controller<M> {
    maps: M,
    settings: Settings,
    index: Index,
    own_addresses: Vec<IpAddr>,
    node: NodeView,
    v4: State<V4>,
    v6: State<V6>,
    ids: Pool,
    stray_names: BTreeSet<u32>,
    /// Whether the first batch, which is complete, has come.
    synced: bool,
    retry: Retry,
}

#[derive(Clone, Copy, Debug, Default)]
struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl<M: LbMaps> Controller<M> {
    /// A controller of empty maps. If they may be in use, call [`Controller::adopt`] next.
    pub fn new(maps: M, settings: Settings) -> Self {
        let capacities = maps.capacities();
        Self {
            node: NodeView {
                name: settings.node_name.clone(),
                node_port_addresses: BTreeSet::new(),
            },
            settings,
            index: Index::default(),
            own_addresses: Vec::new(),
            v4: State::empty(capacities.v4),
            v6: State::empty(capacities.v6),
            ids: Pool::new(1, capacities.services),
            stray_names: BTreeSet::new(),
            synced: false,
            retry: Retry::default(),
            maps,
        }
    }

    /// Takes over what is in the maps: service ids, backend indices and generations, slots. To be
    /// called before the first [`Controller::apply`]; writes nothing.
    pub fn adopt(&mut self) -> Result<(), ReadError> {
        let dump = self.maps.dump()?;
        let capacities = self.maps.capacities();
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        let mut seen = BTreeSet::new();
        for (id, name) in &dump.names {
            let known = identity(name).filter(|known| seen.insert(known.clone()));
            match known.filter(|_| self.ids.reserve_one(*id)) {
                Some((port, V4::NUMBER)) => drop(v4.insert(*id, port)),
                Some((port, _)) => drop(v6.insert(*id, port)),
                None => drop(self.stray_names.insert(*id)),
            }
        }
        self.v4.adopt(adopt(&dump.v4, v4, capacities.v4));
        self.v6.adopt(adopt(&dump.v6, v6, capacities.v6));
        Ok(())
    }

    /// Brings the maps into line with the changes, and with all that failed earlier. The first
    /// batch is complete: what it does not hold and the maps do is removed.
    pub fn apply(&mut self, batch: &Batch, now: Instant) -> Outcome {
        let mut touched = Touched::default();
        for change in &batch.changes {
            self.index.apply(change, &mut touched);
        }
        self.synced = true;
        if touched.node {
            touched.services.extend(self.choose_node_port_addresses());
        }
        self.replan(&touched.services);
        self.sync(now)
    }

    /// Sets the addresses on the node's interfaces, the primary one of each family first.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>, now: Instant) -> Outcome {
        self.own_addresses = addresses;
        let touched = self.choose_node_port_addresses();
        self.replan(&touched);
        self.sync(now)
    }

    /// Tries again what failed, if it is time to. To be called about every 100 ms while
    /// [`Controller::unfinished`]; at other times it does nothing.
    pub fn tick(&mut self, now: Instant) -> Outcome {
        if self.unfinished() && self.retry.at.is_none_or(|at| at <= now) {
            self.sync(now)
        } else {
            self.outcome(0)
        }
    }

    /// Whether something failed and is to be tried again.
    pub fn unfinished(&self) -> bool {
        self.synced
            && (self.v4.unfinished() || self.v6.unfinished() || !self.stray_names.is_empty())
    }

    /// Compares the maps with what they should hold and repairs what differs. Returns the number
    /// of entries that did. Before the first batch it does nothing.
    pub fn audit(&mut self, now: Instant) -> Result<(usize, Outcome), ReadError> {
        if !self.synced {
            return Ok((0, self.outcome(0)));
        }
        let dump = self.maps.dump()?;
        let v4 = audit(&mut self.v4.realised, &dump.v4, &dump.names);
        let v6 = audit(&mut self.v6.realised, &dump.v6, &dump.names);
        let strays = dump.names.keys().filter(|id| !self.has_id(**id));
        let strays: BTreeSet<u32> = strays.copied().collect();
        let drifted = v4.drifted + v6.drifted + strays.len();
        self.v4.doubt(v4.ports);
        self.v6.doubt(v6.ports);
        self.stray_names.extend(strays);
        Ok((drifted, self.sync(now)))
    }

    /// How full the maps are.
    pub fn usage(&self) -> Vec<Usage> {
        let mut usage = vec![Usage {
            map: SERVICE_NAMES,
            used: self.ids.used(),
            capacity: self.ids.capacity(),
        }];
        let capacities = self.maps.capacities();
        usage.extend(self.v4.usage(capacities.v4));
        usage.extend(self.v6.usage(capacities.v6));
        usage
    }

    /// The addresses node ports are served on.
    pub const fn node_port_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.node.node_port_addresses
    }

    /// The objects.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The maps.
    pub const fn maps(&self) -> &M {
        &self.maps
    }

    /// The maps.
    pub const fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// Ends the control of the maps and leaves them as they are.
    pub fn into_maps(self) -> M {
        self.maps
    }

    /// Returns the Services that are concerned.
    fn choose_node_port_addresses(&mut self) -> BTreeSet<ObjectName> {
        let setting = &self.settings.node_port_addresses;
        let chosen = setting.choose(&self.index.node().addresses, &self.own_addresses);
        if chosen == self.node.node_port_addresses {
            return BTreeSet::new();
        }
        self.node.node_port_addresses = chosen;
        let services = self.index.services();
        services
            .filter(|service| service.ports.iter().any(|port| port.node_port != 0))
            .map(|service| service.name.clone())
            .collect()
    }

    fn replan(&mut self, services: &BTreeSet<ObjectName>) {
        let Self {
            index,
            node,
            v4,
            v6,
            ..
        } = self;
        for name in services {
            let service = index.service(name);
            let slices = index.slices(name);
            v4.replan(name, service.map(|service| plan(service, &slices, node)));
            v6.replan(name, service.map(|service| plan(service, &slices, node)));
        }
    }

    fn sync(&mut self, now: Instant) -> Outcome {
        if !self.synced {
            return self.outcome(0);
        }
        self.ids.expire(now);
        let mut writer = Writer {
            maps: &mut self.maps,
            ids: &mut self.ids,
            due: now + self.settings.grace,
            operations: 0,
        };
        self.v4.sync(&mut writer, now);
        self.v6.sync(&mut writer, now);
        let operations = writer.operations + self.remove_stray_names();
        self.retry.next(self.unfinished(), now);
        self.outcome(operations)
    }

    fn remove_stray_names(&mut self) -> usize {
        let mut operations = 0;
        for id in std::mem::take(&mut self.stray_names) {
            if self.has_id(id) {
                continue;
            }
            operations += 1;
            if self.maps.apply(&Op::DeleteName(id)).is_err() {
                self.stray_names.insert(id);
            }
        }
        operations
    }

    fn has_id(&self, id: u32) -> bool {
        self.v4.realised.by_id.contains_key(&id) || self.v6.realised.by_id.contains_key(&id)
    }

    fn outcome(&self, operations: usize) -> Outcome {
        let setting = &self.settings.node_port_addresses;
        let mut problems = setting.warnings(&self.own_addresses);
        if self.synced {
            problems.extend(self.v4.problems());
            problems.extend(self.v6.problems());
        }
        Outcome {
            operations,
            problems,
        }
    }
}

impl Retry {
    fn next(&mut self, unfinished: bool, now: Instant) {
        if !unfinished {
            *self = Self::default();
            return;
        }
        let (first, longest) = RETRY;
        let delay = first.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.at = Some(now + delay.min(longest));
    }
}

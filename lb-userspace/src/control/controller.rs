//! The control plane's facade.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::{V4, V6, maps::SERVICE_NAMES};

use super::{
    ByFamily, HealthCheck, NoLocalEndpoints, Outcome, Settings, Usage,
    adopt::{adopt, identity},
    audit::audit,
    claims::Conflict,
    departure::{Departures, Terminating},
    desired::plan,
    family::State,
    index::{Index, Touched},
    node::NodeView,
    pool::Pool,
    program::Writer,
};
use crate::{
    maps::{Family, LbMaps, Op, ReadError},
    model::{Batch, Change, Node, ObjectName},
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
    health_checks: BTreeMap<ObjectName, HealthCheck>,
    v4: State<V4>,
    v6: State<V6>,
    ids: Pool,
    stray_names: BTreeSet<u32>,
    terminating: Terminating,
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
            node: NodeView::new(&settings, &Node::default(), &[]),
            health_checks: BTreeMap::new(),
            settings,
            index: Index::default(),
            own_addresses: Vec::new(),
            v4: State::empty(capacities.v4),
            v6: State::empty(capacities.v6),
            ids: Pool::new(1, capacities.services),
            stray_names: BTreeSet::new(),
            terminating: Terminating::default(),
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
        let v4 = self.v4.realised.terminating();
        for (service, addr) in v4.chain(self.v6.realised.terminating()) {
            self.terminating.insert(service, addr);
        }
        Ok(())
    }

    /// Brings the maps into line with the changes, and with all that failed earlier. The first
    /// batch is complete: what it does not hold and the maps do is removed.
    pub fn apply(&mut self, batch: Batch, now: Instant) -> Outcome {
        let mut touched = Touched::default();
        for change in batch.changes {
            if let Change::Slice(_, Some(slice)) = &change {
                self.terminating.see(slice);
            }
            self.index.apply(change, &mut touched);
        }
        self.synced = true;
        if touched.node {
            touched.services.extend(self.look_at_node());
        }
        self.replan(&touched.services);
        let Touched {
            service_changes,
            slice_changes,
            ..
        } = touched;
        Outcome {
            service_changes,
            slice_changes,
            ..self.sync(now)
        }
    }

    /// Sets the addresses on the node's interfaces, the primary one of each family first.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>, now: Instant) -> Outcome {
        self.own_addresses = addresses;
        let touched = self.look_at_node();
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

    /// How full the maps are: entries that cannot be given out now.
    pub fn usage(&self, now: Instant) -> Vec<Usage> {
        let mut usage = vec![Usage {
            map: SERVICE_NAMES,
            used: self.ids.used_at(now),
            capacity: self.ids.capacity(),
        }];
        let capacities = self.maps.capacities();
        usage.extend(self.v4.usage(capacities.v4, now));
        usage.extend(self.v6.usage(capacities.v6, now));
        usage
    }

    /// The addresses node ports are served on.
    pub const fn node_port_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.node.node_port_addresses
    }

    /// The Services that load balancers ask about, and what they are to be told once the maps are
    /// as the objects ask.
    pub const fn health_checks(&self) -> &BTreeMap<ObjectName, HealthCheck> {
        &self.health_checks
    }

    /// How many Service ports find no endpoint on this node.
    pub const fn no_local_endpoints(&self) -> ByFamily<NoLocalEndpoints> {
        ByFamily {
            v4: self.v4.no_local_endpoints(),
            v6: self.v6.no_local_endpoints(),
        }
    }

    /// Each frontend a Service port asks for that another one has.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.v4.conflicts().chain(self.v6.conflicts())
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

    /// Follows the Node object and the node's addresses. Returns the Services that are concerned.
    fn look_at_node(&mut self) -> BTreeSet<ObjectName> {
        let node = NodeView::new(&self.settings, self.index.node(), &self.own_addresses);
        let old = mem::replace(&mut self.node, node);
        if old == self.node {
            return BTreeSet::new();
        }
        let concerned = self.index.services().filter(|service| {
            let slices = self.index.slices(&service.name);
            old.concerns(&self.node, service, slices)
        });
        concerned.map(|service| service.name.clone()).collect()
    }

    fn replan(&mut self, services: &BTreeSet<ObjectName>) {
        let Self {
            index,
            node,
            health_checks,
            v4,
            v6,
            terminating,
            ..
        } = self;
        for name in services {
            let service = index.service(name);
            let slices = index.slices(name);
            let deleted = terminating.look(name, slices.clone());
            v4.realised.follow_pods(name, &deleted, slices.clone());
            v6.realised.follow_pods(name, &deleted, slices.clone());
            v4.replan(name, service.map(|service| plan(service, &slices, node)));
            v6.replan(name, service.map(|service| plan(service, &slices, node)));
            match service.map_or(0, |service| service.health_check_node_port) {
                0 => drop(health_checks.remove(name)),
                port => {
                    let local_endpoints = ByFamily {
                        v4: v4.local_endpoints(name),
                        v6: v6.local_endpoints(name),
                    };
                    let check = HealthCheck {
                        port,
                        local_endpoints,
                    };
                    health_checks.insert(name.clone(), check);
                }
            }
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
            failures: 0,
        };
        self.v4.sync(&mut writer, now);
        self.v6.sync(&mut writer, now);
        let (operations, failures) = (writer.operations, writer.failures);
        let operations = operations + self.remove_stray_names();
        self.retry.next(self.unfinished(), now);
        let departures = Departures {
            v4: mem::take(&mut self.v4.realised.departed),
            v6: mem::take(&mut self.v6.realised.departed),
        };
        Outcome {
            departures,
            failures: failures + self.stray_names.len(),
            ..self.outcome(operations)
        }
    }

    fn remove_stray_names(&mut self) -> usize {
        let mut operations = 0;
        for id in mem::take(&mut self.stray_names) {
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
            unfinished: ByFamily {
                v4: self.synced && self.v4.unfinished(),
                v6: self.synced && self.v6.unfinished(),
            },
            failing: ByFamily {
                v4: self.v4.failing(),
                v6: self.v6.failing(),
            },
            problems,
            ..Outcome::default()
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

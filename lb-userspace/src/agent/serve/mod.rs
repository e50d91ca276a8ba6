//! What the agent tells over HTTP: health on :10256, metrics on :10249, and the health check ports
//! of Services.
//!
//! [`Servers`] is the way in: the agent's loop tells it what happens and never waits for it. Answers
//! are made by pure functions ([`health`], [`service_health`]); [`http`] and [`socket`] do the I/O,
//! [`checks`] opens and closes ports, [`sites`] says which path is what.

mod answer;
mod checks;
mod door;
mod health;
mod http;
mod metrics;
mod moment;
mod problems;
mod service_health;
mod sites;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use self::{
    checks::{HealthChecks, Keeper},
    door::{Door, Purpose},
    health::Health,
    metrics::Metrics,
    problems::ServerProblems,
    sites::{HealthSite, MetricsSite},
};
use crate::{
    agent::{sockets::Destroyed, upkeep::Sweep},
    control::{ByFamily, HealthCheck, NoLocalEndpoints, Usage},
    model::{Batch, Change, ObjectName},
    pins::Pins,
    source::kubernetes::{Event, Requests},
    status::Interface,
};

pub(super) use self::{
    checks::Listen,
    door::ServeError,
    metrics::Pass,
    moment::Moment,
    socket::{Bind, Family},
};

/// What the servers are told at the start.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Where `/healthz` is; nowhere if none.
    pub(super) healthz: Option<Bind>,
    /// Where `/metrics` is; nowhere if none.
    pub(super) metrics: Option<Bind>,
    /// Whether an address that cannot be listened on ends the agent.
    pub(super) hard_fail: bool,
    /// How long a change may wait before the agent is not healthy: twice the sync period.
    pub(super) patience: Duration,
    /// Name of our Node.
    pub(super) node_name: String,
    /// The effective configuration, for `/configz`.
    pub(super) configz: Value,
    /// Flags and their values, for `/flagz`.
    pub(super) flags: Vec<(String, String)>,
    /// What the API server is asked.
    pub(super) requests: Requests,
}

/// Tells an Event. It must not block.
pub(super) type Notify = Box<dyn Fn(Event) + Send + Sync>;

/// A Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    service: ObjectName,
    family: Family,
}

impl Key {
    fn new(service: &ObjectName, family: Family) -> Self {
        Self {
            service: service.clone(),
            family,
        }
    }
}

/// What the agent's loop tells and the servers answer from. Locks are held for moments only.
struct Shared {
    started: Moment,
    node_name: String,
    configz: Value,
    flags: Vec<(String, String)>,
    notify: Notify,
    health: Mutex<Health>,
    metrics: Metrics,
    problems: ServerProblems,
    local_endpoints: Mutex<BTreeMap<Key, usize>>,
    checks_failed: AtomicBool,
}

impl Shared {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of local ready endpoints; none of a Service that has no health check port.
    fn local_endpoints(&self, key: &Key) -> usize {
        let counts = self.local_endpoints.lock();
        let counts = counts.unwrap_or_else(PoisonError::into_inner);
        counts.get(key).copied().unwrap_or_default()
    }

    /// Whether a health check port could not be opened.
    fn checks_failed(&self) -> bool {
        self.checks_failed.load(Ordering::Relaxed)
    }

    fn set_checks_failed(&self, failed: bool) {
        self.checks_failed.store(failed, Ordering::Relaxed);
    }

    fn set_local_endpoints(&self, new: BTreeMap<Key, usize>) {
        let counts = self.local_endpoints.lock();
        *counts.unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// All servers of the agent. They close when it is dropped.
pub(super) struct Servers {
    shared: Arc<Shared>,
    checks: watch::Sender<Arc<HealthChecks>>,
    tasks: Vec<AbortHandle>,
}

impl Servers {
    /// Starts what the options ask for. An address that cannot be listened on is tried again, or
    /// told to the receiver. To be called inside the runtime.
    pub(super) fn start(
        options: Options,
        pins: &Pins,
        notify: Notify,
    ) -> Result<(Self, mpsc::Receiver<ServeError>), ServeError> {
        let Options {
            healthz,
            metrics,
            hard_fail,
            patience,
            node_name,
            configz,
            flags,
            requests,
        } = options;
        let started = Moment::now();
        let shared = Arc::new(Shared {
            started,
            node_name,
            configz,
            flags,
            notify,
            health: Mutex::new(Health::new(patience)),
            metrics: Metrics::new(pins, started, requests)?,
            problems: ServerProblems::default(),
            local_endpoints: Mutex::default(),
            checks_failed: AtomicBool::new(false),
        });
        let (fatal, failures) = mpsc::channel(2);
        let door = |bind, purpose| Door {
            bind,
            purpose,
            shared: Arc::clone(&shared),
            fatal: hard_fail.then(|| fatal.clone()),
        };
        let (checks, wanted) = watch::channel(Arc::default());
        let keeper = Keeper::new(Arc::clone(&shared));
        let mut tasks = vec![tokio::spawn(keeper.follow(wanted)).abort_handle()];
        if let Some(bind) = healthz {
            let site = HealthSite(Arc::clone(&shared));
            let task = tokio::spawn(door(bind, Purpose::Health).keep_open(site));
            tasks.push(task.abort_handle());
        }
        if let Some(bind) = metrics {
            let site = MetricsSite::new(Arc::clone(&shared));
            let task = tokio::spawn(door(bind, Purpose::Metrics).keep_open(site));
            tasks.push(task.abort_handle());
        }
        let servers = Self {
            shared,
            checks,
            tasks,
        };
        Ok((servers, failures))
    }

    /// A batch has come and is about to be brought into force.
    pub(super) fn queued(&self, batch: &Batch, now: Moment) {
        self.shared.metrics.registered.queued(batch, now);
        let mut health = self.shared.health();
        for change in &batch.changes {
            if let Change::Node(node) = change {
                health.set_eligible(node.as_ref().is_some_and(|node| node.eligible));
            }
        }
        if !batch.changes.is_empty() {
            health.queued(now);
        }
    }

    /// The maps have been brought into line, as far as that could be.
    pub(super) fn applied(&self, pass: &Pass, now: Moment) {
        self.shared.metrics.registered.applied(pass, now);
        self.shared.health().applied(pass.in_force, now);
    }

    /// These are the health check ports there are to be, the maps being in line with them.
    pub(super) fn health_checks(
        &self,
        services: &BTreeMap<ObjectName, HealthCheck>,
        listen: ByFamily<Listen>,
    ) {
        let last = Arc::clone(&self.checks.borrow());
        let known = last.services == *services && last.listen == listen;
        if !known || self.shared.checks_failed() {
            let services = services.clone();
            self.checks
                .send_replace(Arc::new(HealthChecks { services, listen }));
        }
    }

    /// Service ports that a policy `Local` leaves without an endpoint, though there are some
    /// elsewhere.
    pub(super) fn no_local_endpoints(&self, counts: &ByFamily<NoLocalEndpoints>) {
        self.shared.metrics.registered.no_local_endpoints(counts);
    }

    /// The maps were compared with what they should hold: so many entries were repaired, or they
    /// could not be read.
    pub(super) fn audited(&self, repaired: Option<usize>) {
        self.shared.metrics.registered.audited(repaired);
    }

    /// The kernel's connection tracking of a family was looked through for stale entries.
    pub(super) fn conntrack(&self, family: Family, duration: Duration, deleted: usize) {
        let family = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let registered = &self.shared.metrics.registered;
        registered.conntrack(family, duration, deleted);
    }

    /// Sockets of processes were destroyed whose backends are gone.
    pub(super) fn sockets_destroyed(&self, destroyed: &Destroyed) {
        self.shared.metrics.registered.sockets_destroyed(destroyed);
    }

    /// All rows of flows were looked at.
    pub(super) fn swept(&self, sweep: &Sweep) {
        let Sweep { v4, v6 } = sweep;
        let registered = &self.shared.metrics.registered;
        registered.swept("IPv4", v4);
        registered.swept("IPv6", v6);
    }

    /// The kernel has told of events.
    pub(super) fn kernel_events(&self, count: usize) {
        self.shared.metrics.registered.kernel_events(count);
    }

    /// This is how things are: maps, contested frontends, interfaces, and the number of problems by
    /// where they belong.
    pub(super) fn observe(
        &self,
        usage: Vec<Usage>,
        conflicts: usize,
        interfaces: Vec<Interface>,
        problems: Vec<(&'static str, usize)>,
    ) {
        self.shared.metrics.observe(|state| {
            state.usage = usage;
            state.conflicts = conflicts;
            state.interfaces = interfaces;
            state.problems = problems;
        });
    }

    /// What is wrong with the servers.
    pub(super) fn problems(&self) -> BTreeSet<String> {
        self.shared.problems.lines()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

//! What is counted as it happens.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use lb_common::flow::Stage;
use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, Result, core::Collector,
};

use super::{
    definitions::{self as d, Definition, Kind},
    family::{Family, number},
    triggers::Waiting,
};
use crate::{
    agent::{serve::moment::Moment, sockets::Destroyed, upkeep::Found},
    control::{ByFamily, NoLocalEndpoints, Outcome},
    model::{Batch, Change},
};

/// One time that the maps were brought into line.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Pass {
    /// Where all that had come is in force.
    pub(in crate::agent) in_force: ByFamily<bool>,
    /// How long it took.
    pub(in crate::agent) duration: Duration,
    /// Whether everything was compared, not just what had changed.
    pub(in crate::agent) full: bool,
    /// Writes tried.
    pub(in crate::agent) operations: usize,
    /// Those that failed.
    pub(in crate::agent) failures: usize,
}

impl Pass {
    /// What became of a call of the control plane that took so long.
    pub(in crate::agent) fn new(outcome: &Outcome, duration: Duration, full: bool) -> Self {
        Self {
            in_force: ByFamily {
                v4: !outcome.failing.v4,
                v6: !outcome.failing.v6,
            },
            duration,
            full,
            operations: outcome.operations,
            failures: outcome.failures,
        }
    }
}

/// A question about health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent::serve) enum Probe {
    /// `/healthz`.
    Healthz,
    /// `/livez`.
    Livez,
}

/// What is counted as it happens.
pub(in crate::agent::serve) struct Registered {
    registry: Registry,
    sli_registry: Registry,
    started: SystemTime,
    waiting: Mutex<Waiting>,
    sync: HistogramVec,
    sync_full: HistogramVec,
    sync_partial: HistogramVec,
    last_sync: GaugeVec,
    last_queued: GaugeVec,
    programming: HistogramVec,
    endpoints_pending: GaugeVec,
    endpoints: CounterVec,
    services_pending: GaugeVec,
    services: CounterVec,
    no_local_endpoints: GaugeVec,
    healthz: CounterVec,
    livez: CounterVec,
    conntrack: HistogramVec,
    conntrack_deleted: CounterVec,
    operations: CounterVec,
    failures: CounterVec,
    audits: CounterVec,
    repairs: CounterVec,
    sockets_destroyed: CounterVec,
    flow_rows: GaugeVec,
    flows_expired: CounterVec,
    flows_abandoned: CounterVec,
    kernel_events: CounterVec,
    healthcheck: GaugeVec,
    healthchecks: CounterVec,
}

impl Registered {
    /// Nothing has happened since `started`.
    pub(super) fn new(started: Moment) -> Result<Self> {
        let registry = Registry::new();
        let sli_registry = Registry::new();
        let (all, slis) = (&registry, &sli_registry);
        let registered = Self {
            started: started.wall.into(),
            waiting: Mutex::default(),
            sync: histogram(all, &d::SYNC_DURATION)?,
            sync_full: histogram(all, &d::SYNC_FULL_DURATION)?,
            sync_partial: histogram(all, &d::SYNC_PARTIAL_DURATION)?,
            last_sync: gauge(all, &d::LAST_SYNC)?,
            last_queued: gauge(all, &d::LAST_QUEUED)?,
            programming: histogram(all, &d::NETWORK_PROGRAMMING)?,
            endpoints_pending: gauge(all, &d::ENDPOINTS_PENDING)?,
            endpoints: counter(all, &d::ENDPOINTS_TOTAL)?,
            services_pending: gauge(all, &d::SERVICES_PENDING)?,
            services: counter(all, &d::SERVICES_TOTAL)?,
            no_local_endpoints: gauge(all, &d::NO_LOCAL_ENDPOINTS)?,
            healthz: counter(all, &d::HEALTHZ)?,
            livez: counter(all, &d::LIVEZ)?,
            conntrack: histogram(all, &d::CONNTRACK_DURATION)?,
            conntrack_deleted: counter(all, &d::CONNTRACK_DELETED)?,
            operations: counter(all, &d::MAP_OPERATIONS)?,
            failures: counter(all, &d::MAP_FAILURES)?,
            audits: counter(all, &d::AUDITS)?,
            repairs: counter(all, &d::AUDIT_REPAIRS)?,
            sockets_destroyed: counter(all, &d::SOCKETS_DESTROYED)?,
            flow_rows: gauge(all, &d::FLOW_ROWS)?,
            flows_expired: counter(all, &d::FLOWS_EXPIRED)?,
            flows_abandoned: counter(all, &d::FLOWS_ABANDONED)?,
            kernel_events: counter(all, &d::KERNEL_EVENTS)?,
            healthcheck: gauge(slis, &d::HEALTHCHECK)?,
            healthchecks: counter(slis, &d::HEALTHCHECKS)?,
            registry,
            sli_registry,
        };
        registered.start_at_zero();
        Ok(registered)
    }

    /// So that a rate can be told from the first time on.
    fn start_at_zero(&self) {
        for counter in [
            &self.endpoints,
            &self.services,
            &self.operations,
            &self.failures,
            &self.repairs,
            &self.kernel_events,
        ] {
            counter.with_label_values::<&str>(&[]).reset();
        }
        for gauge in [&self.endpoints_pending, &self.services_pending] {
            gauge.with_label_values::<&str>(&[]).set(0.0);
        }
        for result in ["done", "failed"] {
            self.audits.with_label_values(&[result]).reset();
        }
        self.sockets_destroyed(&Destroyed::default());
        for (family, ()) in ByFamily::both(()).named() {
            self.swept(family, &Found::default());
        }
    }

    /// A batch has come and is about to be brought into force.
    pub(in crate::agent::serve) fn queued(&self, batch: &Batch, now: Moment) {
        let (mut services, mut slices) = (0_u32, 0_u32);
        for change in &batch.changes {
            match change {
                Change::Service(..) => services += 1,
                Change::Slice(..) => slices += 1,
                Change::Node(_) | Change::ServiceNetworks(_) | Change::Pod(..) => {}
            }
        }
        add(&self.services, &self.services_pending, services);
        add(&self.endpoints, &self.endpoints_pending, slices);
        for (family, ()) in ByFamily::both(()).named() {
            self.last_queued
                .with_label_values(&[family])
                .set(now.seconds());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.queued(batch, self.started);
    }

    /// The maps have been brought into line, as far as that could be.
    pub(in crate::agent::serve) fn applied(&self, pass: &Pass, now: Moment) {
        let Pass {
            in_force,
            duration,
            full,
            operations,
            failures,
        } = pass;
        let by_extent = if *full {
            &self.sync_full
        } else {
            &self.sync_partial
        };
        let seconds = duration.as_secs_f64();
        for (family, in_force) in in_force.named() {
            self.sync.with_label_values(&[family]).observe(seconds);
            by_extent.with_label_values(&[family]).observe(seconds);
            if *in_force {
                self.last_sync
                    .with_label_values(&[family])
                    .set(now.seconds());
            }
        }
        inc(&self.operations, number(*operations as u64));
        inc(&self.failures, number(*failures as u64));
        if in_force.v4 && in_force.v6 {
            for gauge in [&self.services_pending, &self.endpoints_pending] {
                gauge.with_label_values::<&str>(&[]).set(0.0);
            }
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (family, at) in waiting.take(*in_force) {
            let seconds = now.seconds_since(at);
            self.programming
                .with_label_values(&[family])
                .observe(seconds);
        }
    }

    /// Service ports that a policy `Local` leaves without an endpoint.
    pub(in crate::agent::serve) fn no_local_endpoints(&self, counts: &ByFamily<NoLocalEndpoints>) {
        for (family, NoLocalEndpoints { internal, external }) in counts.named() {
            for (policy, count) in [("internal", internal), ("external", external)] {
                let gauge = self.no_local_endpoints.with_label_values(&[policy, family]);
                gauge.set(number(*count as u64));
            }
        }
    }

    /// Health was asked for, and this was the status code of the answer.
    pub(in crate::agent::serve) fn probed(&self, probe: Probe, code: u16) {
        let counter = match probe {
            Probe::Healthz => &self.healthz,
            Probe::Livez => &self.livez,
        };
        counter.with_label_values(&[code.to_string()]).inc();
    }

    /// `/healthz` of the metrics server was asked for, which is fine whenever it can answer.
    pub(in crate::agent::serve) fn pinged(&self) {
        let labels = ["ping", "healthz"];
        self.healthcheck.with_label_values(&labels).set(1.0);
        let labels = ["ping", "healthz", "success"];
        self.healthchecks.with_label_values(&labels).inc();
    }

    /// Forgets all of `/metrics/slis`.
    pub(in crate::agent::serve) fn reset_slis(&self) {
        self.healthcheck.reset();
        self.healthchecks.reset();
    }

    /// The maps were compared with what they should hold: so many entries were repaired, or they
    /// could not be read.
    pub(in crate::agent::serve) fn audited(&self, repaired: Option<usize>) {
        let result = if repaired.is_some() { "done" } else { "failed" };
        self.audits.with_label_values(&[result]).inc();
        inc(&self.repairs, number(repaired.unwrap_or_default() as u64));
    }

    /// The kernel's connection tracking of a family was looked through for stale entries.
    pub(in crate::agent::serve) fn conntrack(
        &self,
        family: &'static str,
        duration: Duration,
        deleted: usize,
    ) {
        let histogram = self.conntrack.with_label_values(&[family]);
        histogram.observe(duration.as_secs_f64());
        let counter = self.conntrack_deleted.with_label_values(&[family]);
        counter.inc_by(number(deleted as u64));
    }

    /// Sockets of processes were destroyed.
    pub(in crate::agent::serve) fn sockets_destroyed(&self, destroyed: &Destroyed) {
        let Destroyed { tcp, udp } = destroyed;
        for (protocol, count) in [("TCP", tcp), ("UDP", udp)] {
            let counter = self.sockets_destroyed.with_label_values(&[protocol]);
            counter.inc_by(number(*count as u64));
        }
    }

    /// All rows of a family's flows were looked at.
    pub(in crate::agent::serve) fn swept(&self, family: &'static str, found: &Found) {
        let Found {
            rows,
            expired,
            abandoned,
        } = found;
        for (stage, (rows, expired)) in Stage::ALL.iter().zip(rows.iter().zip(expired)) {
            let labels = [family, stage.name()];
            self.flow_rows
                .with_label_values(&labels)
                .set((*rows).into());
            let counter = self.flows_expired.with_label_values(&labels);
            counter.inc_by((*expired).into());
        }
        let counter = self.flows_abandoned.with_label_values(&[family]);
        counter.inc_by((*abandoned).into());
    }

    /// The kernel has told of events.
    pub(in crate::agent::serve) fn kernel_events(&self, count: usize) {
        inc(&self.kernel_events, number(count as u64));
    }

    pub(super) fn families(&self) -> Vec<Family> {
        self.registry.gather()
    }

    pub(super) fn slis(&self) -> Vec<Family> {
        self.sli_registry.gather()
    }
}

fn inc(counter: &CounterVec, by: f64) {
    counter.with_label_values::<&str>(&[]).inc_by(by);
}

fn add(total: &CounterVec, pending: &GaugeVec, count: u32) {
    inc(total, count.into());
    pending.with_label_values::<&str>(&[]).add(count.into());
}

fn options(definition: &Definition) -> Opts {
    Opts::new(definition.name, definition.help)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, definition: &Definition) -> Result<CounterVec> {
    let counter = CounterVec::new(options(definition), definition.labels)?;
    register(registry, counter)
}

fn gauge(registry: &Registry, definition: &Definition) -> Result<GaugeVec> {
    let gauge = GaugeVec::new(options(definition), definition.labels)?;
    register(registry, gauge)
}

fn histogram(registry: &Registry, definition: &Definition) -> Result<HistogramVec> {
    let mut options = HistogramOpts::from(options(definition));
    if let Kind::Histogram(buckets) = definition.kind {
        options = options.buckets(buckets.bounds());
    }
    let histogram = HistogramVec::new(options, definition.labels)?;
    register(registry, histogram)
}

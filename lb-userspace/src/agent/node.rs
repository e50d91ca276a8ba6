//! The node as the agent runs it: everything that follows from a batch of changes, from an event
//! of the kernel, or from time.

mod events;
mod facts;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData};
use ipnet::IpNet;
use lb_common::config::Config;
use tracing::{info, warn};

use super::{
    account::Account,
    addresses::NodeAddresses,
    attach::Attacher,
    conntrack::{Cleaner, Services},
    dry_run::{DryRunError, DryRuns},
    epoch::Epoch,
    interface::{Found, Wanted},
    options::Options,
    probe::Features,
    problems::{Area, Problems},
    programs::{Loaded, chain},
    run::RunError,
    serve::{self, Listen, Moment, Pass, Servers},
    sockets::{Ends, Sockets},
    table::{Effects, Table},
    upkeep::{Upkeep, UpkeepError},
};
use crate::{
    control::{ByFamily, Controller, Outcome},
    maps::Kernel,
    model::{Batch, Change, ObjectName, Pod},
    pins::Pins,
    source::kubernetes::{Event, Recorder},
    status::{Mode, Role, TcWay},
    timestamp::now_text,
};

/// Longest time between two tries to attach.
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// Time between two looks at maps that could not be written.
const WRITE_RETRY: Duration = Duration::from_millis(100);

/// Time between two audits of the maps.
const AUDIT: Duration = Duration::from_secs(60);

/// State of the running agent.
pub(super) struct Node {
    /// What the kernel has.
    pub(super) table: Table,
    /// Who is told.
    pub(super) servers: Servers,
    recorder: Recorder,
    told: HashSet<Event>,
    options: Options,
    features: Features,
    attacher: Attacher,
    sockets: Sockets,
    upkeep: Upkeep,
    dry_runs: DryRuns,
    controller: Controller<Kernel>,
    config: Array<MapData, Config>,
    written: Option<Config>,
    account: Account,
    problems: Problems,
    epoch: Epoch,
    snat: (u16, u16),
    addresses: NodeAddresses,
    internal_ips: Vec<IpAddr>,
    cluster_networks: BTreeSet<IpNet>,
    pod_networks: Vec<IpNet>,
    /// Pods that ask to be left to tc.
    left_pods: BTreeMap<ObjectName, Pod>,
    /// Why the node has no IPv6.
    without_ipv6: Option<&'static str>,
    found: Found,
    conntrack: Cleaner,
    retry: Option<(Instant, Duration)>,
    audit: Instant,
    started: String,
    last_sync: Option<String>,
}

impl Node {
    /// Takes over what an earlier agent left in the maps. Changes nothing that is in force.
    pub(super) fn new(
        options: Options,
        (features, way): (Features, TcWay),
        pins: &Pins,
        loaded: Loaded,
        table: Table,
        servers: Servers,
        recorder: Recorder,
    ) -> Result<Self, RunError> {
        let Loaded {
            programs,
            config,
            links,
            account,
        } = loaded;
        let earlier = config
            .get(&0, 0)
            .map_err(|error| RunError::Maps(error.into()))?;
        let kernel = Kernel::open(pins).map_err(|error| RunError::Maps(error.into()))?;
        let mut controller = Controller::new(kernel, options.settings());
        controller
            .adopt()
            .map_err(|error| RunError::Maps(error.into()))?;
        let mut node = Self {
            table,
            servers,
            recorder,
            told: HashSet::new(),
            attacher: Attacher::new(pins.clone(), programs, links, way)?,
            dry_runs: DryRuns::new(pins.clone(), features.lacks()),
            features,
            upkeep: Upkeep::start(pins, options.lifetimes.clone())
                .map_err(|error| RunError::Maps(error.into()))?,
            sockets: Sockets::new(pins.clone(), &options.sockets, options.masquerade_all),
            controller,
            config,
            written: None,
            account,
            problems: Problems::default(),
            epoch: Epoch::after(earlier.epoch),
            snat: (0, 0),
            addresses: NodeAddresses::default(),
            internal_ips: options.bind_address.into_iter().collect(),
            cluster_networks: BTreeSet::new(),
            pod_networks: Vec::new(),
            left_pods: BTreeMap::new(),
            without_ipv6: None,
            found: Found::default(),
            conntrack: Cleaner::new(),
            retry: None,
            audit: Instant::now() + AUDIT,
            started: now_text(),
            last_sync: None,
            options,
        };
        node.choose_snat_ports();
        node.set_cluster_networks(&BTreeSet::new());
        node.set_addresses(Instant::now());
        node.write_config();
        Ok(node)
    }

    /// Brings a batch of changes into force. Programs are attached after the first one: not before
    /// every Service is known.
    pub(super) fn batch(&mut self, batch: Batch, now: Instant) {
        self.problems.set(Area::Source, batch.problems.clone());
        if batch.unseen {
            return;
        }
        let first = self.last_sync.is_none();
        if first {
            info!("all objects are known: {} of them", batch.changes.len());
        }
        self.servers.queued(&batch, Moment::now());
        for change in &batch.changes {
            match change {
                Change::Node(node) => self.set_node(node.as_ref(), now),
                Change::ServiceNetworks(networks) => {
                    self.set_cluster_networks(networks);
                    self.write_config();
                }
                Change::Pod(name, pod) => self.set_pod(name, pod.as_ref()),
                Change::Service(..) | Change::Slice(..) => {}
            }
        }
        let begun = Instant::now();
        let outcome = self.controller.apply(batch, now);
        self.last_sync = Some(now_text());
        self.take_outcome(outcome, begun, first);
        self.conntrack.services_changed();
        if first {
            self.attach(now);
            // Whoever waits for us to be ready may ask for the status next.
            self.publish();
            let attached = self.attacher.interfaces();
            let count = attached.iter().filter(|i| i.mode != Mode::None).count();
            info!("ready: attached to {count} interfaces");
            let begun = self.dry_runs.begin();
            self.take_dry_runs(begun);
        }
        self.clean_conntrack();
    }

    /// Does what follows from events of the kernel.
    pub(super) fn follow(&mut self, effects: &Effects, now: Instant) {
        if effects.hops {
            self.epoch.touch(now);
        }
        if effects.addresses || effects.links {
            let found = self.found.clone();
            self.set_addresses(now);
            if effects.links || found != self.found {
                self.attach(now);
            }
        }
        self.poll(now);
    }

    /// When [`Self::poll`] has something to do.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let attach = self.retry.map(|(due, _)| due);
        let write = self.controller.unfinished().then(|| now + WRITE_RETRY);
        [self.epoch.due(), attach, write, self.sockets.due(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(super) fn poll(&mut self, now: Instant) {
        self.epoch.poll(now);
        self.write_config();
        if self.controller.unfinished() {
            let begun = Instant::now();
            let outcome = self.controller.tick(now);
            // Without an operation it was not time to try, or there was still no room.
            if outcome.operations > 0 || !self.controller.unfinished() {
                self.take_outcome(outcome, begun, false);
            }
        }
        if self.retry.is_some_and(|(due, _)| due <= now) {
            self.attach(now);
        }
        if let Some(destroyed) = self.sockets.poll(now) {
            self.servers.sockets_destroyed(&destroyed);
        }
        self.problems.set(Area::Sockets, self.sockets.problems());
    }

    /// Looks after the maps now and then: repairs what someone else changed in them, warns before
    /// they are full.
    pub(super) fn look_after(&mut self, now: Instant) {
        if self.audit <= now {
            self.audit = now + AUDIT;
            self.audit_maps(now);
        }
        if let Some(ended) = self.dry_runs.ended() {
            self.take_dry_runs(ended);
        }
        if self.attacher.has_lost(now) {
            self.attach(now);
        }
        self.clean_conntrack();
        self.take_sweeps();
        let mut usage = self.controller.usage(now);
        usage.extend(self.upkeep.usage().iter().copied());
        let lines = usage.iter().filter_map(events::nearly_full).collect();
        self.problems.set(Area::Capacity, lines);
        self.problems.set(Area::Servers, self.servers.problems());
        self.tell_events(&usage);
        let (interfaces, problems) = (self.interfaces(), self.problems.counts());
        let conflicts = self.controller.conflicts().count();
        self.servers.observe(usage, conflicts, interfaces, problems);
    }

    /// Looks for entries of connection tracking that lead UDP clients astray, once services are in
    /// force.
    fn clean_conntrack(&mut self) {
        if self.conntrack.is_due() && self.last_sync.is_some() && !self.controller.unfinished() {
            let addresses = self.controller.node_port_addresses();
            let services = Services::of(self.controller.index(), addresses);
            self.conntrack.start(services);
        }
        if let Some(reports) = self.conntrack.poll() {
            let families = [serve::Family::V4, serve::Family::V6];
            for (family, report) in families.into_iter().zip(reports.iter().flatten()) {
                self.servers.conntrack(family, report.took, report.deleted);
            }
            let line = reports
                .err()
                .map(|error| format!("connection tracking: {error}"));
            self.problems
                .set(Area::Conntrack, line.into_iter().collect());
        }
    }

    /// Tells what became of the rows of flows.
    fn take_sweeps(&mut self) {
        while let Some(sweep) = self.upkeep.poll() {
            let problem = sweep.map(|sweep| self.servers.swept(&sweep)).err();
            let line = problem.as_ref().map(ToString::to_string);
            self.problems.set(Area::Flows, line.into_iter().collect());
            if matches!(problem, Some(UpkeepError::Ended)) {
                break;
            }
        }
    }

    fn audit_maps(&mut self, now: Instant) {
        let begun = Instant::now();
        let audit = self.controller.audit(now);
        self.servers
            .audited(audit.as_ref().ok().map(|(repaired, _)| *repaired));
        match audit {
            Ok((repaired, outcome)) => {
                if repaired > 0 {
                    warn!("audit: repaired {repaired} map entries that were not as written");
                }
                self.take_outcome(outcome, begun, true);
            }
            Err(error) => warn!("audit: {}", chain(&error)),
        }
    }

    /// The file of `--config` cannot be used as it is, or can be again.
    pub(super) fn config_problem(&mut self, line: Option<String>) {
        self.problems.set(Area::Config, line.into_iter().collect());
    }

    /// The kernel could not be asked, or can be again.
    pub(super) fn kernel_problem(&mut self, line: Option<String>) {
        self.problems.set(Area::Kernel, line.into_iter().collect());
    }

    /// Tells of itself in `STATUS`.
    pub(super) fn publish(&mut self) {
        let status = self.status();
        let problem = self.account.publish(status).err();
        let line = problem.map(|error| format!("cannot write map STATUS: {}", chain(&error)));
        self.problems.set(Area::Status, line.into_iter().collect());
    }

    /// Tells of a pass over the maps that was `begun` then.
    fn take_outcome(&mut self, outcome: Outcome, begun: Instant, full: bool) {
        // Before the first batch there is nothing to be in force.
        if self.last_sync.is_some() {
            let pass = Pass::new(&outcome, begun.elapsed(), full);
            self.servers.applied(&pass, Moment::now());
            self.tell_load_balancers(&outcome);
        }
        self.upkeep.departed(&outcome.departures);
        self.sockets.departed(outcome.departures, Instant::now());
        let lines = outcome.problems.into_iter().collect();
        self.problems.set(Area::Services, lines);
    }

    fn take_dry_runs(&mut self, loaded: Result<(), DryRunError>) {
        let problem = loaded.err();
        let line = problem.map(|error| format!("lbctl explain has no programs to run: {error}"));
        self.problems.set(Area::DryRuns, line.into_iter().collect());
    }

    /// Health check ports follow once traffic has (H7).
    fn tell_load_balancers(&self, outcome: &Outcome) {
        let counts = self.controller.no_local_endpoints();
        self.servers.no_local_endpoints(&counts);
        if outcome.failing == ByFamily::both(false) {
            let setting = &self.options.node_port_addresses;
            let mut listen = Listen::at(setting, self.controller.node_port_addresses());
            if self.without_ipv6.is_some() {
                listen.v6 = Listen::On(BTreeSet::new());
            }
            let checks = self.controller.health_checks();
            self.servers.health_checks(checks, listen);
        }
    }

    /// The other ends of the pods' interfaces among these.
    fn pod_ends(&self, wanted: &[Wanted]) -> Ends {
        let mut ends = Ends::new();
        let pods = wanted.iter().filter(|it| it.role == Role::Pod);
        let indices: BTreeSet<u32> = pods.map(|it| it.index).collect();
        let links = self.table.links().filter(|it| indices.contains(&it.index));
        for (netns, peer) in links.filter_map(|it| Some((it.peer_netns?, it.peer?))) {
            ends.entry(netns).or_default().insert(peer);
        }
        ends
    }

    /// Attaches to what there is, unless Services are not known yet.
    fn attach(&mut self, now: Instant) {
        if self.last_sync.is_none() {
            return;
        }
        let wanted: Vec<Wanted> = self
            .table
            .links()
            .filter_map(|link| self.options.selection.wanted(link, &self.found))
            .collect();
        self.attacher.reconcile(&wanted);
        self.sockets.follow_pods(self.pod_ends(&wanted), now);
        self.sockets.reconcile(self.attacher.programs());
        self.problems.set(Area::Sockets, self.sockets.problems());
        let failed = self.attacher.has_failed() || self.sockets.has_failed();
        self.retry = failed.then(|| {
            let pause = self.retry.map_or(Duration::from_secs(1), |(due, pause)| {
                if due <= now { pause * 2 } else { pause }
            });
            let pause = pause.min(LONGEST_PAUSE);
            (now + pause, pause)
        });
        let mut problems = self.attacher.problems();
        problems.extend(self.options.selection.missing(&self.found, &self.table));
        self.problems.set(Area::Interfaces, problems);
    }
}

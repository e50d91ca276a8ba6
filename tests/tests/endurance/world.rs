//! A control plane, two nodes with agents, pods with many servers, and what is known of it all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::Client as ApiClient;
use lb_userspace::{
    maps::{Kernel, LbMaps},
    model::ObjectName,
    pins::Pins,
};
use tests::{
    agent::status,
    cgroup::Member,
    cluster::{Cluster, NODES, eventually},
    echo::Servers,
    frontends::{Frontends, Here, Key, Leads, Maps, actual, expected, listed, live},
    kube::{ADDRESS, Account, Api, Options},
    random::Random,
    topology::{Links, pod_addresses},
};

use crate::{
    client::{Client, Place},
    setup::{MARKER, OWN, account, here, marker, own_service, renewed_account, servers},
    shared::Shared,
    stock::Stock,
    unit::named,
    writes::{self, Change, Write},
};

/// How soon what is written to the API has to be in force, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// See the [module](self). Fields are in the order they are to be dropped in.
pub(crate) struct World {
    _member: Member,
    _servers: Vec<Servers>,
    maps: [Maps; 2],
    pub(crate) cluster: Cluster<Api>,
    /// Who the agents are.
    account: Account,
    here: [Here; 2],
    pub(crate) stock: Stock,
    /// What the maps are to say.
    frontends: [Frontends; 2],
    /// Of that, what the last step changed.
    pending: [BTreeSet<Key>; 2],
    pub(crate) shared: Arc<Shared>,
    markers: u16,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let mut cluster = Cluster::with_api(Links::STANDARD, Options::default())?;
        cluster.add_pod("pod-4", "node-b", pod_addresses(2, 2))?;
        let servers = servers(&cluster)?;
        let account = account(&mut cluster)?;
        cluster.start_agents()?;
        let topology = &cluster.topology;
        let group = topology.node_a.cgroup.as_ref();
        let group = group.context("no cgroup2 hierarchy is mounted")?;
        let nodes = [&topology.node_a, &topology.node_b];
        let [a, b] = nodes.map(|node| Maps::open(&Pins::new(&node.bpffs())));
        let pods = topology.pods.iter();
        let pods = pods.map(|pod| (pod.name.clone(), pod.addresses));
        let shared = Shared::new(pods.collect(), nodes.map(|node| node.addresses));
        let [here_a, here_b] = NODES.map(|node| here(&cluster, node));
        let mut world = Self {
            _member: Member::enter(group)?,
            _servers: servers,
            maps: [a?, b?],
            here: [here_a?, here_b?],
            cluster,
            account,
            stock: Stock::default(),
            frontends: Default::default(),
            pending: Default::default(),
            shared: Arc::new(shared),
            markers: 0,
        };
        // The API server's own.
        world.begin(own_service());
        world.in_force(SOON)?;
        world.compare()?;
        Ok(world)
    }

    /// What is known when a check fails.
    pub(crate) fn explain(&self) -> String {
        self.cluster.logs() + &self.cluster.source.control.logs()
    }

    /// Writes changes and waits until they are in force; how long that took after the last write.
    pub(crate) fn step(&mut self, changes: Vec<Change>) -> Result<Duration> {
        let writes = self.announce(changes);
        self.write(self.cluster.source.control.client(), &writes)?;
        let written = Instant::now();
        self.in_force(SOON)?;
        Ok(written.elapsed())
    }

    /// Begins a step of these changes, and one that tells when they are in force; what is to be
    /// written. Each object changes once in it.
    pub(crate) fn announce(&mut self, mut changes: Vec<Change>) -> Vec<Write> {
        self.markers = self.markers % 40_000 + 1;
        changes.extend(marker(self.markers));
        self.begin(changes)
    }

    fn begin(&mut self, changes: Vec<Change>) -> Vec<Write> {
        let touched: BTreeSet<ObjectName> = changes.iter().map(Change::service).collect();
        let writes = changes.into_iter().map(|change| self.stock.take(change));
        let writes = writes.collect();
        let objects = &self.stock.objects;
        let after = self.here.each_ref().map(|here| expected(objects, here));
        let [before_a, before_b] = &self.frontends;
        let [after_a, after_b] = &after;
        let differences = [
            differences(before_a, after_a),
            differences(before_b, after_b),
        ];
        self.pending = differences
            .each_ref()
            .map(|changed| changed.keys().copied().collect());
        let part = |name: ObjectName| {
            let part = self.stock.part(&name, &self.here);
            (name, part)
        };
        let parts = touched.into_iter().map(part).collect();
        self.shared.begin(differences, parts, targets(&after));
        self.frontends = after;
        writes
    }

    /// Writes what was announced.
    pub(crate) fn write(&mut self, client: ApiClient, writes: &[Write]) -> Result<()> {
        let inside = self.cluster.source.control.inside();
        let created = inside.run(writes::all(client, writes))??;
        for (name, time) in created {
            self.stock.created(&name, time);
        }
        Ok(())
    }

    /// Waits until the maps of both nodes say what was announced.
    pub(crate) fn in_force(&mut self, limit: Duration) -> Result<()> {
        eventually(limit, || self.is_in_force())?;
        self.shared.settle();
        Ok(())
    }

    fn is_in_force(&self) -> Result<()> {
        let nodes = NODES.iter().zip(&self.maps);
        let expected = self.pending.iter().zip(&self.frontends);
        for ((node, maps), (pending, frontends)) in nodes.zip(expected) {
            for key in pending {
                let (found, wanted) = (maps.leads(key)?, frontends.get(key));
                ensure!(
                    found.as_ref() == wanted,
                    "{node}: {key:?} leads to {found:?} instead of {wanted:?}"
                );
            }
        }
        Ok(())
    }

    /// All frontends of both nodes are as they are to be.
    pub(crate) fn compare(&self) -> Result<()> {
        for ((node, maps), wanted) in NODES.iter().zip(&self.maps).zip(&self.frontends) {
            same(node, &maps.all()?, wanted)?;
        }
        Ok(())
    }

    /// The same, and there is nothing else in the service maps.
    pub(crate) fn nothing_else(&self) -> Result<()> {
        for ((node, maps), wanted) in NODES.iter().zip(&self.maps).zip(&self.frontends) {
            let pins = Pins::new(&self.cluster.topology.node(node)?.bpffs());
            let dump = Kernel::open(&pins)?.dump()?;
            let found = actual(&dump).with_context(|| format!("on {node}"))?;
            same(node, &found, wanted)?;
            let living: BTreeSet<_> = live(&dump)?.into_keys().collect();
            ensure!(
                living == listed(wanted),
                "{node} has the backends {living:?}"
            );
            let remembered = maps.remembered()?;
            ensure!(remembered == 0, "{node} remembers {remembered} clients");
        }
        Ok(())
    }

    /// Deletes everything and waits until it is gone.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let own = named(OWN);
        let slices = self
            .stock
            .objects
            .slices
            .keys()
            .filter(|name| **name != own);
        let slices = slices.map(|name| Change::Slice(name.clone(), None));
        let services = self.stock.units.keys().filter(|name| **name != own);
        let services = services.map(|name| Change::Service(name.clone(), None));
        let writes = self.begin(services.chain(slices).collect());
        self.write(self.cluster.source.control.client(), &writes)?;
        self.in_force(SOON)
    }

    /// Soon the agents of both nodes report none.
    pub(crate) fn no_problems(&self) -> Result<()> {
        NODES.iter().try_for_each(|node| {
            let host = self.cluster.topology.node(node)?;
            eventually(SOON, || {
                let problems = status(host)?.problems;
                ensure!(problems.is_empty(), "{node} reports {problems:?}");
                Ok(())
            })
        })
    }

    /// Whatever has become of the API server and the ways to it, they are as at first.
    pub(crate) fn recover(&mut self) -> Result<()> {
        self.cluster.source.control.start_api_server()?;
        self.renew_account()?;
        self.reach_by(ADDRESS)
    }

    /// Brings the files of the agents' account up to date, as a kubelet does.
    pub(crate) fn renew_account(&mut self) -> Result<()> {
        self.account = renewed_account(&self.cluster.source.control)?;
        Ok(())
    }

    /// Has the agents start again and reach the API server there.
    pub(crate) fn reach_by(&mut self, server: SocketAddr) -> Result<()> {
        let Cluster {
            source, topology, ..
        } = &mut self.cluster;
        for node in NODES {
            source.reach_with(&self.account, topology.node(node)?, server)?;
        }
        for agent in self.cluster.agents.values_mut() {
            agent.stop()?;
        }
        self.cluster.start_agents()
    }

    /// Clients outside, in pods of either node, and on a node.
    pub(crate) fn clients(&self, random: &mut Random) -> Result<Vec<Client>> {
        let mut client = |name: &str, place| -> Result<Client> {
            let netns = self.cluster.netns(name)?.try_clone()?;
            let addresses = self.cluster.addresses(name)?;
            Ok(Client::new(name, place, netns, addresses, random.fork()))
        };
        Ok(vec![
            client("client", Place::Outside)?,
            client("pod-1", Place::Pod(0))?,
            client("pod-3", Place::Pod(1))?,
            client("node-a", Place::Process(0))?,
        ])
    }
}

fn same(node: &str, found: &Frontends, wanted: &Frontends) -> Result<()> {
    for (key, leads) in wanted {
        let found = found.get(key);
        ensure!(
            found == Some(leads),
            "{node}: {key:?} leads to {found:?} instead of {leads:?}"
        );
    }
    let more = found.iter().find(|(key, _)| !wanted.contains_key(key));
    ensure!(more.is_none(), "{node} has {more:?}");
    Ok(())
}

fn differences(before: &Frontends, after: &Frontends) -> BTreeMap<Key, Option<Leads>> {
    let keys: BTreeSet<&Key> = before.keys().chain(after.keys()).collect();
    let differing = keys
        .into_iter()
        .filter(|key| before.get(key) != after.get(key));
    differing
        .map(|key| (*key, after.get(key).cloned()))
        .collect()
}

/// What clients may ask at: the frontends of Services that have servers.
fn targets(frontends: &[Frontends; 2]) -> BTreeSet<Key> {
    let all = frontends.iter().flatten();
    let served = all.filter(|((_, port, _), leads)| {
        *port != 0 && leads.port.1 != MARKER && leads.port.1 != OWN
    });
    served.map(|(key, _)| *key).collect()
}

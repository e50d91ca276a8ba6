//! The words rows are made of.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{
    agent::lbctl,
    cgroup::Member,
    checks::Check,
    cluster::{Cluster, NODES, eventually},
    echo::{Answer, Protocol},
    kube::{Api, Options},
    talk,
    topology::{Family, Links},
};

use crate::objects;

/// How soon what is written to the API has to show on the nodes, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How soon a refusal has to come: long before a client tries again (1 s over TCP).
const AT_ONCE: Duration = Duration::from_millis(500);
/// How long nobody may answer a packet that is to be dropped.
const SILENCE: Duration = Duration::from_millis(300);
/// How often a service is asked to know who serves it: of four endpoints one is missed by chance
/// once in a hundred million.
const QUESTIONS: usize = 64;

/// A control plane, two nodes with agents, a client and pods, and this process among those whose
/// sockets the agents see.
pub(crate) struct World {
    _member: Member,
    pub(crate) cluster: Cluster<Api>,
    made: Vec<Value>,
}

/// A row: its test, after which everything it made is removed.
pub(crate) fn row(name: &str, run: fn(&mut World) -> Result<()>) -> Check<World> {
    Check::new(name, move |world: &mut World| {
        let outcome = run(world);
        let cleared = world.clear();
        outcome.and(cleared)
    })
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let options = Options {
            controllers: true,
            ..Options::default()
        };
        let mut cluster = Cluster::with_api(Links::Standard, options)?;
        cluster.start_agents()?;
        let group = &cluster.topology.node_a.cgroup;
        let group = group.as_ref().context("no cgroup2 hierarchy is mounted")?;
        Ok(Self {
            _member: Member::enter(group)?,
            cluster,
            made: Vec::new(),
        })
    }

    /// What is known when a row fails.
    pub(crate) fn explain(&self) -> String {
        self.cluster.logs() + &self.cluster.source.control.logs()
    }

    /// Applies the documents of a manifest.
    pub(crate) fn given(&mut self, manifest: &str) -> Result<()> {
        let objects: Vec<Value> = tests::kube::documents(manifest)?;
        self.apply(objects)
    }

    /// Applies slices of both families with these [endpoints](objects::slice).
    pub(crate) fn endpoints(&mut self, service: &str, endpoints: &[&str]) -> Result<()> {
        let topology = &self.cluster.topology;
        let slices: Result<Vec<Value>> = Family::BOTH
            .into_iter()
            .map(|family| objects::slice(topology, service, family, endpoints))
            .collect();
        self.apply(slices?)
    }

    /// Applies objects, which are removed when the row is through.
    pub(crate) fn apply(&mut self, objects: Vec<Value>) -> Result<()> {
        self.cluster.source.control.apply(&objects)?;
        self.made.extend(objects);
        Ok(())
    }

    /// Deletes an object.
    pub(crate) fn delete(&mut self, kind: &str, name: &str) -> Result<()> {
        let control = &self.cluster.source.control;
        let args = ["delete", kind, name, "--ignore-not-found", "--wait=false"];
        control.kubectl(&args, "").map(drop)
    }

    /// Soon exactly these answer `from` at `to`.
    pub(crate) fn served(
        &self,
        from: &str,
        protocol: Protocol,
        to: &str,
        by: &[&str],
    ) -> Result<()> {
        let expected: BTreeSet<String> = by.iter().map(|&name| name.to_owned()).collect();
        let what = format!("{protocol:?} from {from} to {to} is to be served by {by:?}");
        eventually(SOON, || {
            let mut servers = BTreeSet::new();
            for _ in 0..QUESTIONS {
                servers.insert(self.ask(from, protocol, to)?.server);
                ensure!(servers.is_subset(&expected), "{servers:?} answer");
            }
            ensure!(servers == expected, "only {servers:?} answer");
            Ok(())
        })
        .context(what)
    }

    /// Asks once.
    pub(crate) fn ask(&self, from: &str, protocol: Protocol, to: &str) -> Result<Answer> {
        let netns = self.cluster.netns(from)?;
        talk::ask(netns, protocol, address(to)?)
            .with_context(|| format!("{from} asked {to} over {protocol:?}"))
    }

    /// Soon `from` is refused at `to`, at once.
    pub(crate) fn refused(&self, from: &str, protocol: Protocol, to: &str) -> Result<()> {
        let (netns, to) = (self.cluster.netns(from)?, address(to)?);
        eventually(SOON, || {
            let start = Instant::now();
            match talk::ask(netns, protocol, to) {
                Ok(answer) => bail!("{} answers {from} at {to}", answer.server),
                Err(error) if error.kind() != ErrorKind::ConnectionRefused => {
                    bail!("{from} is not refused at {to}: {error}")
                }
                Err(_) => {}
            }
            let took = start.elapsed();
            ensure!(took < AT_ONCE, "the refusal of {to} took {took:?}");
            Ok(())
        })
    }

    /// Soon what `from` sends to `to` is dropped, and a node counts it under this reason.
    pub(crate) fn dropped(&self, from: &str, to: &str, reason: &str) -> Result<()> {
        let (netns, to) = (self.cluster.netns(from)?, address(to)?);
        eventually(SOON, || {
            let before = self.counted(reason)?;
            match talk::ask_within(netns, Protocol::Udp, to, SILENCE) {
                Ok(answer) => bail!("{} answers {from} at {to}", answer.server),
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => bail!("{from} is not dropped at {to}: {error}"),
            }
            let counted = self.counted(reason)? - before;
            ensure!(counted > 0, "nothing at {to} is counted under {reason}");
            Ok(())
        })
    }

    /// How many packets the nodes have counted under a reason.
    fn counted(&self, reason: &str) -> Result<u64> {
        NODES.iter().try_fold(0, |sum, node| {
            let shown = self.lbctl(node, &["maps", "dump", "reasons"])?;
            let rows = shown["reasons"].as_array().context("no reasons")?;
            let row = rows.iter().find(|row| row["reason"] == reason);
            let row = row.with_context(|| format!("no reason {reason}"))?;
            Ok(sum + row["packets"].as_u64().unwrap_or(0))
        })
    }

    /// What `lbctl` prints on a node, as JSON.
    pub(crate) fn lbctl(&self, node: &str, args: &[&str]) -> Result<Value> {
        let args = [args, &["-o", "json"]].concat();
        let text = lbctl(self.cluster.topology.node(node)?, &args)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Removes what a row made, and waits until it is gone from the nodes.
    fn clear(&mut self) -> Result<()> {
        let made = std::mem::take(&mut self.made);
        self.cluster.source.control.delete(&made)?;
        eventually(SOON, || {
            for node in NODES {
                let shown = self.lbctl(node, &["service", "list", "-A"])?;
                let rest = shown["services"].as_array().map_or(0, Vec::len);
                // The API server's own is always there, in one family.
                ensure!(rest <= 1, "{node} still serves {rest} services");
            }
            Ok(())
        })
    }
}

/// The address in a text like `10.96.0.1:80` or `[fd00:96::1]:80`.
fn address(text: &str) -> Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{text} is no address and port"))
}

//! The words rows are made of.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::{
    agent::lbctl,
    cgroup::Member,
    checks::Check,
    cluster::{Cluster, NODES, eventually},
    echo::{Answer, Protocol},
    kube::{Api, Options, node_object},
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
/// How often it is when all have answered: one of three too many stays unseen once in 16,000 times.
const ENOUGH: usize = 24;

/// A control plane, two nodes with agents, a client and pods, and this process among those whose
/// sockets the agents see.
pub(crate) struct World {
    _member: Member,
    pub(crate) cluster: Cluster<Api>,
    /// How many [markers](Self::settled) there have been.
    pub(crate) markers: u16,
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
        Self::with_nodes(|_| Ok(()))
    }

    /// One whose nodes have no IPv6.
    pub(crate) fn without_ipv6() -> Result<Self> {
        Self::with_nodes(|cluster| {
            NODES.iter().try_for_each(|name| {
                let node = cluster.topology.node(name)?;
                node.netns
                    .sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1")])?;
                let mut object = node_object(node);
                let addresses = &mut object["status"]["addresses"];
                *addresses = json!([{ "type": "InternalIP", "address": node.addresses.v4 }]);
                cluster.source.control.apply(&[object])
            })
        })
    }

    fn with_nodes(prepare: impl FnOnce(&Cluster<Api>) -> Result<()>) -> Result<Self> {
        let options = Options {
            controllers: true,
            // What older API servers took is still in their stores (A19).
            api_server_flags: vec!["--feature-gates=StrictIPCIDRValidation=false".into()],
            ..Options::default()
        };
        let mut cluster = Cluster::with_api(Links::STANDARD, options)?;
        prepare(&cluster)?;
        cluster.start_agents()?;
        let group = &cluster.topology.node_a.cgroup;
        let group = group.as_ref().context("no cgroup2 hierarchy is mounted")?;
        Ok(Self {
            _member: Member::enter(group)?,
            cluster,
            markers: 0,
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

    /// Does `then` while the agent of a node runs with these options beside the usual ones.
    pub(crate) fn with_options(
        &mut self,
        node: &'static str,
        options: &[&str],
        then: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.with_agent(node, |world| world.cluster.launch(node, options), then)
    }

    /// Ends the agent of a node, and starts one with more options than usual.
    pub(crate) fn restart(&mut self, node: &'static str, options: &[&str]) -> Result<()> {
        self.cluster.agent(node)?.stop()?;
        let mut agent = self.cluster.launch(node, options)?;
        let ready = agent.wait_ready();
        self.cluster.agents.insert(node, agent);
        ready
    }

    /// Does `then` while the agent of a node stands still, and hears of all of it at once.
    pub(crate) fn with_agent_stopped(
        &mut self,
        node: &str,
        then: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let pid = self.status(node)?["pid"].as_i64().context("no pid")?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
        kill_process(pid, Signal::STOP)?;
        let outcome = then(self);
        kill_process(pid, Signal::CONT)?;
        outcome
    }

    /// Does `then` while a node's interface has an address beside its own, like `10.10.0.77/24`.
    pub(crate) fn with_address(
        &mut self,
        node: &'static str,
        address: &str,
        then: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        let netns = self.cluster.netns(node)?;
        netns.ip(&format!("addr add {address} dev eth0{nodad}"))?;
        let outcome = then(self);
        let netns = self.cluster.netns(node)?;
        let removed = netns.ip(&format!("addr del {address} dev eth0"));
        outcome.and(removed)
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
            for asked in 0..QUESTIONS {
                if servers == expected && asked >= ENOUGH {
                    break;
                }
                servers.insert(self.ask(from, protocol, to)?.server);
                ensure!(servers.is_subset(&expected), "{servers:?} answer");
            }
            ensure!(servers == expected, "only {servers:?} answer");
            Ok(())
        })
        .context(what)
    }

    /// Soon one of these, and always the same, answers `from` at `to`.
    pub(crate) fn served_by_one(
        &self,
        from: &str,
        protocol: Protocol,
        to: &str,
        among: &[&str],
    ) -> Result<String> {
        eventually(SOON, || {
            let first = self.ask(from, protocol, to)?.server;
            ensure!(among.contains(&&*first), "{first} answers");
            for _ in 0..QUESTIONS {
                let server = self.ask(from, protocol, to)?.server;
                ensure!(
                    server == first,
                    "{first} and {server} answer {from} at {to}"
                );
            }
            Ok(first)
        })
    }

    /// Asks once.
    pub(crate) fn ask(&self, from: &str, protocol: Protocol, to: &str) -> Result<Answer> {
        let netns = self.cluster.netns(from)?;
        talk::ask(netns, protocol, address(to)?)
            .with_context(|| format!("{from} asked {to} over {protocol:?}"))
    }

    /// Soon `from` is refused at `to`, at once.
    pub(crate) fn refused(&self, from: &str, protocol: Protocol, to: &str) -> Result<()> {
        let (netns, at) = (self.cluster.netns(from)?, address(to)?);
        let ask = || talk::ask(netns, protocol, at).map(|answer| answer.server);
        refused_at_once(ask).with_context(|| format!("{from} at {to} over {protocol:?}"))
    }

    /// Soon `from` is refused when it pings `to`, at once.
    pub(crate) fn ping_refused(&self, from: &str, to: &str) -> Result<()> {
        let (netns, at) = (self.cluster.netns(from)?, to.parse()?);
        let ask = || talk::ping(netns, at).map(|()| to.to_owned());
        refused_at_once(ask).with_context(|| format!("{from} pings {to}"))
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

    /// Soon nobody answers `from` at `to`, over TCP, nor refuses it.
    pub(crate) fn unanswered(&self, from: &str, to: &str) -> Result<()> {
        let (netns, to) = (self.cluster.netns(from)?, address(to)?);
        eventually(SOON, || {
            match talk::ask_within(netns, Protocol::Tcp, to, SILENCE) {
                Ok(answer) => bail!("{} answers {from} at {to}", answer.server),
                Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
                Err(error) => bail!("{from} is not left without an answer at {to}: {error}"),
            }
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

/// Soon whoever asks like this is refused, at once. An answer is somebody's name.
fn refused_at_once(mut ask: impl FnMut() -> io::Result<String>) -> Result<()> {
    eventually(SOON, || {
        let start = Instant::now();
        match ask() {
            Ok(server) => bail!("{server} answers"),
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => {
                bail!("it is not refused: {error}")
            }
            Err(_) => {}
        }
        let took = start.elapsed();
        ensure!(took < AT_ONCE, "the refusal took {took:?}");
        Ok(())
    })
}

/// The address in a text like `10.96.0.1:80` or `[fd00:96::1]:80`.
pub(crate) fn address(text: &str) -> Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{text} is no address and port"))
}

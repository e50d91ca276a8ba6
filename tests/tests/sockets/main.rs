//! The node's own processes and services: whom their sockets are led to, what they are told of it,
//! and what they are refused, with real sockets of a process in the node's network namespace.

mod change;
mod destroyed;
mod paths;
mod pods;
mod refusals;

use std::{net::SocketAddr, path::Path, process::ExitCode};

use anyhow::{Context, Result, ensure};
use tests::{
    agent::lbctl,
    cgroup::Member,
    checks::{Check, Checks},
    cluster::Cluster,
    echo::{Answer, Protocol},
    manifests::examples,
    site::Site,
    talk::{Conversation, Loose},
    topology::Links,
};

/// A cluster, and this process among those whose sockets its agents see.
struct World {
    _member: Member,
    cluster: Cluster,
}

impl World {
    fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// A cluster whose agents lead their pods' sockets too.
    fn start_with_pods() -> Result<Self> {
        Self::start_with(&["--socket-lb", "all"])
    }

    fn start_with(options: &[&str]) -> Result<Self> {
        let site = Site::new()?;
        let group = site.cgroup().context("no cgroup2 hierarchy is mounted")?;
        let mut cluster = Cluster::build(site, Links::STANDARD, &examples())?;
        cluster
            .source
            .add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"))?;
        cluster.start_agents_with(options)?;
        let member = Member::enter(&group)?;
        Ok(Self {
            _member: member,
            cluster,
        })
    }

    /// A flow from a process on a node.
    fn open(&self, node: &str, protocol: Protocol, to: SocketAddr) -> Result<Conversation> {
        Conversation::open(self.cluster.netns(node)?, protocol, to, 0)
            .with_context(|| format!("{node} cannot open {protocol:?} to {to}"))
    }

    /// A question of a process on a node.
    fn ask(&self, node: &str, protocol: Protocol, to: SocketAddr) -> Result<Answer> {
        self.open(node, protocol, to)?
            .ask()
            .with_context(|| format!("{node} asked {to} over {protocol:?}"))
    }

    /// A UDP socket of a process on a node, connected to nobody, that may send to `to`.
    fn loose(&self, node: &str, to: SocketAddr) -> Result<Loose> {
        Loose::open(self.cluster.netns(node)?, to)
    }

    /// How many rows there are of led sockets on a node.
    fn led(&self, node: &str) -> Result<usize> {
        self.rows(node, "sockets")
    }

    /// How many rows a table of a node's maps has.
    fn rows(&self, node: &str, table: &str) -> Result<usize> {
        let arguments = ["maps", "dump", table, "-o", "json"];
        let text = lbctl(self.cluster.topology.node(node)?, &arguments)?;
        let shown: serde_json::Value = serde_json::from_str(&text)?;
        Ok(shown[table].as_array().context("no rows")?.len())
    }
}

/// `lbctl status` says which hooks there are.
fn status(world: &mut World) -> Result<()> {
    let node = world.cluster.topology.node("node-a")?;
    let text = lbctl(node, &["status"])?;
    let group = node.cgroup.as_ref().context("no cgroup")?;
    let line = format!(
        "of the node's processes are led to services (cgroup {})",
        group.display()
    );
    ensure!(text.contains(&line), "{text}");
    Ok(())
}

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    let mut list = vec![Check::new("sockets::status", status)];
    list.extend(paths::checks());
    list.extend(refusals::checks());
    list.extend(change::checks());
    list.extend(destroyed::checks());
    checks.group(list, World::start, |world| world.cluster.logs());
    let logs = |world: &World| world.cluster.logs();
    checks.group(pods::checks(), World::start_with_pods, logs);
    checks.finish()
}

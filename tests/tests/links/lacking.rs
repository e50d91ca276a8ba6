//! Agents on a kernel that lacks this and that.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_userspace::status::{FeatureState, SocketMode, Status, TcWay};
use tests::{
    agent::{lbctl, status},
    cgroup::Member,
    checks::Check,
    cluster::{Cluster, Target},
    echo::Protocol,
    manifests::examples,
    old_kernel::{Lack, without},
    site::Site,
    talk::{Conversation, ask},
    topology::{Family, Links},
};

/// How soon an agent that refuses has to have ended.
const END: Duration = Duration::from_secs(10);
/// `web` of the examples, at node-a.
const WEB: Target = Target::new("10.10.0.1", "fd00:10::1", 30080);

/// A cluster whose agents are started by each check, and this process among those whose sockets they see.
pub(crate) struct World {
    _member: Member,
    cluster: Cluster,
}

pub(crate) fn checks() -> Vec<Check<World>> {
    vec![
        Check::new("k13_a_kernel_without_programs_is_refused", refused),
        Check::new("k13_without_links_filters_are_used", no_links),
        Check::new(
            "k13_without_cookie_and_batches_sockets_are_led_and_maps_read",
            no_cookie,
        ),
        Check::new("k13_what_is_lacked_and_insisted_on_is_refused", insisted),
    ]
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let site = Site::new()?;
        let group = site.cgroup().context("no cgroup2 hierarchy is mounted")?;
        let cluster = Cluster::build(site, Links::STANDARD, &examples())?;
        let member = Member::enter(&group)?;
        Ok(Self {
            _member: member,
            cluster,
        })
    }

    pub(crate) fn logs(&self) -> String {
        self.cluster.logs()
    }

    /// Starts the agent of node-a on a kernel that lacks these.
    fn start_without(&mut self, lacks: &[Lack]) -> Result<Status> {
        self.cluster.agents.remove("node-a");
        let by = without(lacks)?;
        let by: Vec<_> = by.iter().map(String::as_str).collect();
        let options = ["--node-name", "node-a"];
        let mut agent = self.cluster.launch_by(&by, "node-a", &options)?;
        agent.wait_ready()?;
        self.cluster.agents.insert("node-a", agent);
        status(&self.cluster.topology.node_a)
    }

    /// What the agent says that ends instead.
    fn refused(&mut self, lacks: &[Lack], options: &[&str]) -> Result<String> {
        self.cluster.agents.remove("node-a");
        let by = without(lacks)?;
        let by: Vec<_> = by.iter().map(String::as_str).collect();
        let options = [&["--node-name", "node-a"], options].concat();
        let mut agent = self.cluster.launch_by(&by, "node-a", &options)?;
        let ended = agent.process().ended(END)?;
        let log = agent.log();
        ensure!(!ended.success(), "it ended well:\n{log}");
        Ok(log)
    }

    fn serves_clients(&self) -> Result<()> {
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                ask(self.cluster.netns("client")?, protocol, WEB.of(family)?)?;
            }
        }
        Ok(())
    }
}

fn lacks(status: &Status, feature: &str) -> Result<()> {
    let found = status.kernel.iter().find(|it| it.feature == feature);
    let found = found.with_context(|| format!("no {feature} in {:?}", status.kernel))?;
    ensure!(found.state == FeatureState::Lacks, "{found:?}");
    ensure!(found.without.is_some(), "{found:?}");
    Ok(())
}

fn refused(world: &mut World) -> Result<()> {
    let said = world.refused(&[Lack::Programs], &[])?;
    for words in [
        "the kernel cannot serve",
        "bpf_redirect_neigh",
        "--check-kernel=false",
    ] {
        ensure!(said.contains(words), "it does not say {words}: {said}");
    }
    Ok(())
}

fn insisted(world: &mut World) -> Result<()> {
    let said = world.refused(&[Lack::Links], &["--tc-attach", "tcx"])?;
    let line = "--tc-attach tcx: the kernel has no tcx links";
    ensure!(said.contains(line), "{said}");
    Ok(())
}

/// Neither do hooks of XDP and of sockets have any, which is said.
fn no_links(world: &mut World) -> Result<()> {
    let status = world.start_without(&[Lack::Links])?;
    ensure!(status.tc_attach == TcWay::Clsact, "{status:?}");
    lacks(&status, "tcx links")?;
    let text = lbctl(&world.cluster.topology.node_a, &["status"])?;
    for words in ["tcx links", "lacks", "by filters of the clsact qdisc"] {
        ensure!(text.contains(words), "{words} is not in {text}");
    }
    world.serves_clients()
}

fn no_cookie(world: &mut World) -> Result<()> {
    let lacked = [Lack::NetnsCookie, Lack::Batches];
    // The second one reads what the first one has written.
    for _ in 0..2 {
        let status = world.start_without(&lacked)?;
        lacks(&status, "SO_NETNS_COOKIE")?;
        lacks(&status, "batches of LPM tries")?;
        ensure!(
            status.sockets.mode == SocketMode::Host,
            "{:?}",
            status.sockets
        );
        ensure!(status.problems.is_empty(), "{:?}", status.problems);
    }
    let to = Target::new("10.96.0.10", "fd00:96::10", 80);
    for family in Family::BOTH {
        let (netns, to) = (world.cluster.netns("node-a")?, to.of(family)?);
        let mut led = Conversation::open(netns, Protocol::Tcp, to, 0)?;
        led.ask()?;
    }
    let text = lbctl(
        &world.cluster.topology.node_a,
        &["maps", "dump", "sockets", "-o", "json"],
    )?;
    let shown: serde_json::Value = serde_json::from_str(&text)?;
    let rows = shown["sockets"].as_array().context("no rows")?.len();
    ensure!(rows > 0, "no socket was led: {text}");
    world.serves_clients()
}

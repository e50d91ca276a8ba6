//! Programs of tc as filters of the clsact qdisc, beside those of others: `--tc-attach clsact` has every kernel do
//! what one without tcx links does.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lb_common::maps::programs;
use lb_userspace::{
    pins::Pins,
    status::{Mode, TcWay},
};
use tests::{
    agent::{clean_up, lbctl, status},
    checks::Check,
    cluster::{Cluster, Target, eventually},
    echo::Protocol,
    manifests::examples,
    raw,
    site::Site,
    talk::{Conversation, ask},
    topology::{Family, Host, Links},
};

/// How soon the agent has to notice, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// `web` of the examples: at node-a, and its cluster IP.
const WEB: Target = Target::new("10.10.0.1", "fd00:10::1", 30080);
const WEB_CLUSTER: Target = Target::new("10.96.0.10", "fd00:96::10", 80);

const BY_FILTERS: [&str; 2] = ["--tc-attach", "clsact"];
const HANDLE: &str = "0xfa11ead";
const DIRECTIONS: [&str; 2] = ["ingress", "egress"];
/// Whom somebody else's filter is on, as Cilium has them.
const SHARED: &str = "eth0";
const OTHER: (&str, &str) = ("1", "0x1");
/// Where nobody else has any.
const POD: &str = "veth-pod-1";

/// Two nodes, on one of which somebody else has a filter already.
pub(crate) struct World {
    cluster: Cluster,
}

/// A filter as `tc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    priority: String,
    handle: String,
    name: String,
    program: String,
}

pub(crate) fn checks() -> Vec<Check<World>> {
    let check = |name: &str, run: fn(&World) -> Result<()>| {
        Check::new(format!("clsact::{name}"), move |world: &mut World| {
            run(world)
        })
    };
    let change =
        |name: &str, run: fn(&mut World) -> Result<()>| Check::new(format!("clsact::{name}"), run);
    vec![
        check(
            "filters_are_on_every_interface_and_no_links",
            on_every_interface,
        ),
        check("ours_come_before_others", before_others),
        check("connections_go", connections),
        change("take_over_replaces_in_place", take_over),
        check("what_somebody_removes_is_put_back", put_back),
        check("a_renamed_interface_keeps_them", renamed),
        change("an_ingress_qdisc_is_named_as_an_obstacle", obstacle),
        change("with_links_again_no_filter_is_left", back_to_links),
        change("with_filters_again_no_link_is_left", back_to_filters),
        change("cleanup_leaves_nothing_of_ours", cleanup),
    ]
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let mut cluster = Cluster::build(Site::new()?, Links::Standard, &examples())?;
        add_other(&cluster.topology.node_a)?;
        cluster.start_agents_with(&BY_FILTERS)?;
        Ok(Self { cluster })
    }

    pub(crate) fn logs(&self) -> String {
        self.cluster.logs()
    }

    fn node(&self) -> &Host {
        &self.cluster.topology.node_a
    }

    /// Starts the agent of the node again, with these options.
    fn restart(&mut self, options: &[&str]) -> Result<()> {
        let mut agent = self.cluster.launch("node-a", options)?;
        agent.wait_ready()?;
        self.cluster.agents.insert("node-a", agent);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(agent) = self.cluster.agents.get_mut("node-a") {
            agent.kill();
        }
    }

    /// The filters of an interface, in the order packets meet them.
    fn filters(&self, interface: &str, direction: &str) -> Result<Vec<Shown>> {
        let text = self.tc(&["filter", "show", "dev", interface, direction])?;
        let lines = text.lines().filter(|line| line.contains(" handle "));
        lines
            .map(|line| shown(line).with_context(|| format!("{line:?}")))
            .collect()
    }

    fn ours(&self, interface: &str, direction: &str) -> Result<Vec<Shown>> {
        let filters = self.filters(interface, direction)?.into_iter();
        Ok(filters.filter(|it| it.handle == HANDLE).collect())
    }

    /// The filters of ours on both interfaces and in both directions, of which there is one each.
    fn all_ours(&self) -> Result<Vec<Shown>> {
        let mut all = Vec::new();
        for interface in [SHARED, POD] {
            for direction in DIRECTIONS {
                let mut ours = self.ours(interface, direction)?;
                ensure!(ours.len() == 1, "{interface} {direction}: {ours:?}");
                all.append(&mut ours);
            }
        }
        Ok(all)
    }

    fn no_filters(&self) -> Result<()> {
        for interface in [SHARED, POD, "veth-pod-2"] {
            for direction in DIRECTIONS {
                let ours = self.ours(interface, direction)?;
                ensure!(ours.is_empty(), "{interface} {direction}: {ours:?}");
            }
        }
        Ok(())
    }

    /// The filter of somebody else.
    fn other(&self) -> Result<Shown> {
        let filters = self.filters(SHARED, "ingress")?;
        let of_other = |it: &Shown| (&*it.priority, &*it.handle) == OTHER;
        filters.into_iter().find(of_other).context("it is gone")
    }

    fn has_qdisc(&self, interface: &str) -> Result<bool> {
        Ok(self
            .tc(&["qdisc", "show", "dev", interface])?
            .contains("clsact"))
    }

    fn tc(&self, args: &[&str]) -> Result<String> {
        let output = self.node().netns.output(Command::new("tc").args(args))?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Programs of tc that links are pinned of.
    fn links(&self) -> Result<Vec<String>> {
        let dir = Pins::new(&self.node().bpffs()).links();
        let entries = fs::read_dir(&dir)?.map(|entry| Ok(entry?.file_name()));
        let names = entries.map(|name: Result<_>| Ok(name?.to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names
            .into_iter()
            .filter(|name| name.starts_with("tc_"))
            .collect())
    }

    /// Everybody is served: clients outside by backends on either node, and pods.
    fn serves(&self) -> Result<()> {
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let mut servers = [false; 3];
                for (from, to) in [
                    ("client", WEB),
                    ("client", WEB_CLUSTER),
                    ("pod-2", WEB_CLUSTER),
                ] {
                    for _ in 0..12 {
                        let netns = self.cluster.netns(from)?;
                        let answer = ask(netns, protocol, to.of(family)?)
                            .with_context(|| format!("{from} asked {to:?} over {protocol:?}"))?;
                        let number = answer.server.strip_prefix("pod-").context("no pod")?;
                        servers[number.parse::<usize>()? - 1] = true;
                    }
                }
                ensure!(servers == [true; 3], "not all served: {servers:?}");
            }
        }
        Ok(())
    }

    /// Does something while clients ask without a pause; none of them may go without an answer.
    fn while_asked(&self, what: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = AtomicBool::new(false);
        let client = self.cluster.netns("client")?;
        thread::scope(|scope| {
            let asking = Family::BOTH.map(|family| {
                let done = &done;
                scope.spawn(move || -> Result<usize> {
                    let mut asked = 0;
                    while !done.load(Ordering::Relaxed) {
                        ask(client, Protocol::Tcp, WEB.of(family)?)
                            .with_context(|| format!("{family:?}, after {asked} answers"))?;
                        asked += 1;
                    }
                    Ok(asked)
                })
            });
            let happened = what();
            done.store(true, Ordering::Relaxed);
            for asking in asking {
                let asked = asking
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??;
                ensure!(asked > 10, "a client asked {asked} times only");
            }
            happened
        })
    }
}

/// Reads a line such as `filter protocol all pref 1 bpf chain 0 handle 0x1 nop_tc direct-action not_in_hw id 7 …`.
fn shown(line: &str) -> Option<Shown> {
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|it| *it == word)?;
        words.get(at + 1).map(|it| (*it).to_owned())
    };
    let named = words.iter().position(|it| *it == "handle")? + 2;
    Some(Shown {
        priority: after("pref")?,
        handle: after("handle")?,
        name: (*words.get(named)?).to_owned(),
        program: after("id")?,
    })
}

/// Puts somebody else's filter on an interface, where Cilium has its own.
fn add_other(node: &Host) -> Result<()> {
    let program = node.bpffs().join("other");
    raw::pin_accept(&program)?;
    let program = program.display().to_string();
    let filter = [
        "filter",
        "add",
        "dev",
        SHARED,
        "ingress",
        "pref",
        OTHER.0,
        "handle",
        OTHER.1,
        "bpf",
        "da",
        "object-pinned",
        &program,
    ];
    for args in [&["qdisc", "add", "dev", SHARED, "clsact"][..], &filter] {
        node.netns.output(Command::new("tc").args(args))?;
    }
    Ok(())
}

fn on_every_interface(world: &World) -> Result<()> {
    let names = world.all_ours()?.into_iter().map(|it| it.name);
    let expected = [
        programs::TC_EXTERNAL_INGRESS,
        programs::TC_EXTERNAL_EGRESS,
        programs::TC_POD_INGRESS,
        programs::TC_POD_EGRESS,
    ];
    let expected = expected.map(|program| format!("fairlead/{program}"));
    let names: Vec<_> = names.collect();
    ensure!(names == expected, "{names:?}");
    let links = world.links()?;
    ensure!(links.is_empty(), "{links:?}");
    let status = status(world.node())?;
    ensure!(status.tc_attach == TcWay::Clsact, "{status:?}");
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    let unattached = status.interfaces.iter().find(|it| it.mode == Mode::None);
    ensure!(unattached.is_none(), "{unattached:?}");
    let text = lbctl(world.node(), &["status"])?;
    ensure!(text.contains("by filters of the clsact qdisc"), "{text}");
    Ok(())
}

fn before_others(world: &World) -> Result<()> {
    let filters = world.filters(SHARED, "ingress")?;
    let order: Vec<_> = filters
        .iter()
        .map(|it| (&*it.priority, &*it.handle))
        .collect();
    ensure!(order == [("1", HANDLE), OTHER], "{order:?}");
    Ok(())
}

fn connections(world: &World) -> Result<()> {
    world.serves()
}

/// Only the programs are others afterwards, and no packet meets none.
fn take_over(world: &mut World) -> Result<()> {
    let (before, other) = (world.all_ours()?, world.other()?);
    let client = world.cluster.netns("client")?.try_clone()?;
    let mut open = Conversation::open(&client, Protocol::Tcp, WEB.of(Family::V4)?, 0)?;
    open.ask()?;
    world.kill();
    open.ask().context("the agent's death cut a connection")?;
    let mut agent = None;
    world.while_asked(|| {
        let mut next = world.cluster.launch("node-a", &BY_FILTERS)?;
        next.wait_ready()?;
        agent = Some(next);
        Ok(())
    })?;
    let agent = agent.context("no agent")?;
    world.cluster.agents.insert("node-a", agent);
    open.ask().context("the next agent cut a connection")?;
    let after = world.all_ours()?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(before.program != after.program, "not replaced: {before:?}");
        let program = before.program.clone();
        let as_before = Shown {
            program,
            ..after.clone()
        };
        ensure!(*before == as_before, "{before:?} became {after:?}");
    }
    let now = world.other()?;
    ensure!(now == other, "somebody else's {other:?} became {now:?}");
    world.serves()
}

fn put_back(world: &World) -> Result<()> {
    world.tc(&["qdisc", "del", "dev", POD, "clsact"])?;
    ensure!(
        world.ours(POD, "ingress")?.is_empty(),
        "nothing was removed"
    );
    eventually(SOON, || world.all_ours())?;
    world.serves()
}

fn renamed(world: &World) -> Result<()> {
    let before = world.ours(POD, "ingress")?;
    let netns = &world.node().netns;
    netns.ip(&format!("link set {POD} name veth-other"))?;
    eventually(SOON, || {
        let interfaces = status(world.node())?.interfaces;
        let renamed = interfaces.iter().find(|it| it.name == "veth-other");
        let renamed = renamed.context("it is not known by its new name")?;
        ensure!(renamed.mode == Mode::Tc, "{renamed:?}");
        let after = world.ours("veth-other", "ingress")?;
        ensure!(
            after.len() == 1 && after[0].handle == before[0].handle,
            "{after:?}"
        );
        Ok(())
    })?;
    netns.ip(&format!("link set veth-other name {POD}"))?;
    eventually(SOON, || world.all_ours())?;
    world.serves()
}

/// As the CNI's bandwidth plugin makes them.
fn obstacle(world: &mut World) -> Result<()> {
    let pod = "veth-pod-2";
    world.kill();
    world.tc(&["qdisc", "del", "dev", pod, "clsact"])?;
    world.tc(&["qdisc", "add", "dev", pod, "ingress"])?;
    world.restart(&BY_FILTERS)?;
    let problems = eventually(SOON, || {
        let problems = status(world.node())?.problems;
        ensure!(!problems.is_empty(), "no problem");
        Ok(problems)
    })?;
    let named = problems
        .iter()
        .any(|line| line.contains(pod) && line.contains("ingress qdisc"));
    ensure!(named, "{problems:?}");
    world.tc(&["qdisc", "del", "dev", pod, "ingress"])?;
    eventually(SOON, || {
        let ours = world.ours(pod, "egress")?;
        ensure!(ours.len() == 1, "{ours:?}");
        let problems = status(world.node())?.problems;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })?;
    world.serves()
}

fn back_to_links(world: &mut World) -> Result<()> {
    let other = world.other()?;
    world.kill();
    let mut agent = None;
    world.while_asked(|| {
        let mut next = world.cluster.launch("node-a", &[])?;
        next.wait_ready()?;
        agent = Some(next);
        Ok(())
    })?;
    world
        .cluster
        .agents
        .insert("node-a", agent.context("no agent")?);
    world.no_filters()?;
    ensure!(world.other()? == other, "somebody else's is another");
    ensure!(!world.has_qdisc(POD)?, "our own qdisc stays");
    ensure!(world.has_qdisc(SHARED)?, "somebody else's qdisc is gone");
    ensure!(world.links()?.len() == 6, "{:?}", world.links()?);
    ensure!(status(world.node())?.tc_attach == TcWay::Tcx);
    world.serves()
}

fn back_to_filters(world: &mut World) -> Result<()> {
    world.kill();
    let mut agent = None;
    world.while_asked(|| {
        let mut next = world.cluster.launch("node-a", &BY_FILTERS)?;
        next.wait_ready()?;
        agent = Some(next);
        Ok(())
    })?;
    world
        .cluster
        .agents
        .insert("node-a", agent.context("no agent")?);
    world.all_ours()?;
    let links = world.links()?;
    ensure!(links.is_empty(), "{links:?}");
    world.serves()
}

fn cleanup(world: &mut World) -> Result<()> {
    let other = world.other()?;
    match clean_up(world.node()) {
        Ok(()) => bail!("it cleaned up beneath a running agent"),
        Err(_) => drop(world.all_ours()?),
    }
    world.cluster.agent("node-a")?.stop()?;
    clean_up(world.node())?;
    world.no_filters()?;
    ensure!(world.other()? == other, "somebody else's is another");
    ensure!(!world.has_qdisc(POD)?, "our own qdisc stays");
    ensure!(world.has_qdisc(SHARED)?, "somebody else's qdisc is gone");
    // Once more, with nothing there.
    clean_up(world.node())
}

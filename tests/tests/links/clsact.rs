//! Programs of tc as filters of the clsact qdisc, beside those of others: `--tc-attach clsact` has every kernel do
//! what one without tcx links does.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lb_common::maps::programs;
use lb_userspace::status::{FeatureState, Mode, Status, TcWay};
use tests::{
    agent::{clean_up, lbctl, status},
    checks::Check,
    cluster::eventually,
    echo::Protocol,
    talk::Conversation,
    topology::Family,
};

use crate::world::{BY_FILTERS, HANDLE, OTHER, POD, SHARED, Shown, WEB, World};

/// How soon the agent has to notice, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

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
            "r3_filters_are_on_every_interface_and_no_links",
            on_every_interface,
        ),
        check("r3_ours_come_before_others", before_others),
        check("r3_connections_go", connections),
        change("r4_take_over_replaces_in_place", take_over),
        check("r5_what_somebody_removes_is_put_back", put_back),
        check("a_renamed_interface_keeps_them", renamed),
        change("r5_an_ingress_qdisc_is_named_as_an_obstacle", obstacle),
        change("r4_by_default_links_replace_filters", back_to_links),
        change("r4_with_filters_again_no_link_is_left", back_to_filters),
        change("k5_cleanup_leaves_nothing_of_ours", cleanup),
    ]
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
    // The agent says so, however soon it has put them back.
    eventually(SOON, || {
        let line = format!("interface {POD}: somebody has removed our filters");
        let noticed = world.logs().contains(&line);
        noticed.then_some(()).context("the agent has not noticed")
    })?;
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

/// Told nothing, the agent takes links, and leaves no filter; a kernel without tcx links keeps the filters.
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
    let status = status(world.node())?;
    if lacks_tcx(&status)? {
        ensure!(status.tc_attach == TcWay::Clsact, "{status:?}");
        world.all_ours()?;
        return world.serves();
    }
    ensure!(status.tc_attach == TcWay::Tcx, "{status:?}");
    world.no_filters()?;
    ensure!(world.other()? == other, "somebody else's is another");
    ensure!(!world.has_qdisc(POD)?, "our own qdisc stays");
    ensure!(world.has_qdisc(SHARED)?, "somebody else's qdisc is gone");
    ensure!(world.links()?.len() == 6, "{:?}", world.links()?);
    world.serves()
}

fn lacks_tcx(status: &Status) -> Result<bool> {
    let tcx = status.kernel.iter().find(|it| it.feature == "tcx links");
    Ok(tcx.context("the status says nothing of tcx links")?.state == FeatureState::Lacks)
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

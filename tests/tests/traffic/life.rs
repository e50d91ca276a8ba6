//! Agents that crash, stop and start again, under traffic that must not notice.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use tests::{agent::lbctl, checks::Check, cluster::Target, talk::Conversation};

use crate::{Question, World, kinds};

/// Where questions go: the client to a remote backend, a pod to a local and a remote one.
const QUESTIONS: [(&str, Target); 3] = [
    (
        "client",
        Target {
            v4: "10.10.0.1",
            v6: "fd00:10::1",
            port: 30083,
        },
    ),
    (
        "pod-2",
        Target {
            v4: "10.96.1.81",
            v6: "fd00:96::181",
            port: 80,
        },
    ),
    (
        "pod-2",
        Target {
            v4: "10.96.1.83",
            v6: "fd00:96::183",
            port: 80,
        },
    ),
];

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    vec![
        Check::new(format!("{group}::two_agents_on_one_kernel"), two_agents),
        Check::new(format!("{group}::agent_restart_cuts_nothing"), restart),
        Check::new(format!("{group}::agent_stop_cuts_nothing"), stop),
        Check::new(format!("{group}::agent_crash_cuts_nothing"), crash),
    ]
}

fn two_agents(world: &mut World) -> Result<()> {
    for (node, pod) in [("node-a", "veth-pod-1"), ("node-b", "veth-pod-3")] {
        let status = world.status(node)?;
        ensure!(
            status.node == node,
            "{node} has the status of {}",
            status.node
        );
        let mut names: Vec<_> = status
            .interfaces
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        names.retain(|name| *name != "veth-pod-2");
        ensure!(names == ["eth0", pod], "{node} is attached to {names:?}");
    }
    Ok(())
}

/// Established flows of every kind.
fn flows(world: &World) -> Result<Vec<Conversation>> {
    let mut flows = Vec::new();
    for (from, to) in QUESTIONS {
        for (family, protocol) in kinds() {
            let mut flow = world.open(Question {
                from,
                protocol,
                to: to.of(family)?,
            })?;
            flow.ask()?;
            flows.push(flow);
        }
    }
    Ok(flows)
}

fn go_on(world: &World, flows: &mut [Conversation]) -> Result<()> {
    for flow in flows {
        flow.ask().context("an established flow was cut")?;
    }
    for (from, to) in QUESTIONS {
        for (family, protocol) in kinds() {
            world.ask(Question {
                from,
                protocol,
                to: to.of(family)?,
            })?;
        }
    }
    Ok(())
}

/// While both agents start again, established and new flows are asked without a pause.
fn restart(world: &mut World) -> Result<()> {
    let mut flows = flows(world)?;
    let done = AtomicBool::new(false);
    for node in ["node-a", "node-b"] {
        world.cluster.agent(node)?.kill();
    }
    // Agents are restarted on this side while the world is asked on the other.
    let launched = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                go_on(world, &mut flows)?;
                rounds += 1;
            }
            Ok::<_, anyhow::Error>(rounds)
        });
        let launched: Result<Vec<_>> = ["node-a", "node-b"]
            .into_iter()
            .map(|node| world.cluster.agent_on(node))
            .collect();
        done.store(true, Ordering::Relaxed);
        let rounds = asking
            .join()
            .map_err(|_| anyhow!("the client panicked"))??;
        ensure!(rounds > 0, "nothing was asked");
        launched
    })?;
    world.cluster.agents.extend(launched);
    go_on(world, &mut flows)
}

fn stop(world: &mut World) -> Result<()> {
    let mut flows = flows(world)?;
    for node in ["node-a", "node-b"] {
        world.cluster.agent(node)?.stop()?;
    }
    go_on(world, &mut flows)?;
    world.cluster.start_agents()
}

fn crash(world: &mut World) -> Result<()> {
    let mut flows = flows(world)?;
    for node in ["node-a", "node-b"] {
        world.cluster.agent(node)?.kill();
    }
    go_on(world, &mut flows)?;
    let dump = lbctl(
        world.cluster.topology.node("node-a")?,
        &["maps", "dump", "frontends"],
    )?;
    ensure!(
        dump.contains("10.96.1.83"),
        "lbctl without an agent shows:\n{dump}"
    );
    world.cluster.start_agents()
}

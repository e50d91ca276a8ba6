//! What `lbctl explain` says beside a running agent, and when the agent is gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{agent::lbctl, checks::Check, cluster::eventually};

use crate::World;

/// The verifier reads the programs of dry runs after those of traffic, beside whatever else runs.
const LOADING: Duration = Duration::from_secs(60);

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    vec![
        Check::new(format!("{group}::lbctl_explains"), explains),
        Check::new(format!("{group}::lbctl_explains_without_an_agent"), alone),
    ]
}

fn explains(world: &mut World) -> Result<()> {
    let before = flows(world)?;
    for (from, to, verdict, choice) in [
        ("10.10.0.99%eth0", "10.10.0.1:30083", "forward", "only"),
        ("10.10.0.99%eth0", "10.96.1.81:80", "forward", "only"),
        ("10.10.0.1", "10.96.200.200:80", "reject", ""),
        ("10.10.0.99%eth0", "10.96.200.200:80", "drop", ""),
        (
            "[fd00:10::99]:40000%eth0",
            "[fd00:10::1]:30083",
            "forward",
            "only",
        ),
    ] {
        let answer = eventually(LOADING, || explain(world, from, to))?;
        // Without the hooks of sockets, the node's own calls go on as they are.
        let hooked = answer["notes"].as_array().is_none_or(Vec::is_empty);
        let verdict = if hooked { verdict } else { "pass" };
        ensure!(answer["verdict"] == verdict, "{from} to {to}: {answer}");
        ensure!(
            answer["choice"].as_str().unwrap_or_default() == choice,
            "{from} to {to}: {answer}"
        );
    }
    ensure!(flows(world)? == before, "explaining has opened flows");
    Ok(())
}

fn alone(world: &mut World) -> Result<()> {
    world.cluster.agent("node-a")?.kill();
    let answer = explain(world, "10.10.0.99%eth0", "10.10.0.1:30083");
    let agent = world.cluster.agent_on("node-a")?;
    world.cluster.agents.extend([agent]);
    ensure!(answer?["verdict"] == "forward");
    Ok(())
}

fn explain(world: &World, from: &str, to: &str) -> Result<Value> {
    let node = world.cluster.topology.node("node-a")?;
    let text = lbctl(node, &["explain", "--from", from, "--to", to, "-o", "json"])?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// How many flows services of node-a have had.
fn flows(world: &World) -> Result<Vec<Value>> {
    let node = world.cluster.topology.node("node-a")?;
    let text = lbctl(node, &["maps", "dump", "services", "-o", "json"])?;
    let services: Value = serde_json::from_str(&text)?;
    let services = services["services"].as_array().context("no services")?;
    Ok(services
        .iter()
        .map(|service| service["flows"].clone())
        .collect())
}

//! K1: the file of `--config`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{checks::Check, cluster::eventually, echo::Protocol::Tcp};

use crate::world::{SOON, World, row};

/// The node whose agent has a file.
const NODE: &str = "node-b";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("k1_changed_file_ends_the_agent", k1_changed_file),
        row("k1_file_nobody_could_start_with", k1_bad_file),
        row("k1_unknown_fields_are_named", k1_unknown_fields),
    ]
}

/// Does `then` while the agent of the node has its options from a file with these fields.
fn with_file(
    world: &mut World,
    fields: &Value,
    then: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let file = world.config(NODE, fields)?;
    world.with_options(NODE, &["--config", &file], then)
}

/// The period that is in force.
fn period(world: &World) -> Result<Value> {
    let (_, text) = world.get(NODE, "127.0.0.1:10249", "/configz")?;
    let config: Value = serde_json::from_str(&text)?;
    let config = &config["kubeproxy.config.k8s.io"];
    Ok(config["iptables"]["syncPeriod"].clone())
}

fn with_period(period: &str) -> Value {
    json!({ "iptables": { "syncPeriod": period } })
}

fn k1_changed_file(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}",
    )?;
    world.endpoints("web", &["pod-1"])?;
    with_file(world, &with_period("11s"), |world| {
        let found = period(world)?;
        ensure!(found == "11s", "{found} is in force");
        world.served("pod-3", Tcp, "10.96.1.1:80", &["pod-1"])?;
        let file = world.config(NODE, &with_period("12s"))?;
        let agent = world.cluster.agent(NODE)?;
        let status = agent.process().ended(SOON)?;
        let log = agent.log();
        ensure!(
            !status.success(),
            "what restarts it may take that for its end:\n{log}"
        );
        ensure!(log.contains("it has changed"), "{log}");
        // Nobody is there, and traffic goes on.
        world.served("pod-3", Tcp, "10.96.1.1:80", &["pod-1"])?;
        world.restart(NODE, &["--config", &file])?;
        let found = period(world)?;
        ensure!(found == "12s", "{found} is in force");
        Ok(())
    })
}

fn k1_bad_file(world: &mut World) -> Result<()> {
    with_file(world, &with_period("11s"), |world| {
        world.config(NODE, &with_period("-1s"))?;
        world.problem(NODE, &["iptables.syncPeriod", "-1s"])?;
        world.config(NODE, &with_period("11s"))?;
        eventually(SOON, || {
            let problems = world.status(NODE)?["problems"].clone();
            ensure!(problems == json!([]), "{problems}");
            Ok(())
        })?;
        world.cluster.agent(NODE)?.process().check_alive()
    })
}

/// As kube-proxy takes them from a file that is meant for another release.
fn k1_unknown_fields(world: &mut World) -> Result<()> {
    let fields = json!({ "iptables": { "syncPeriod": "11s", "speed": "high" }, "turbo": true });
    with_file(world, &fields, |world| {
        let found = period(world)?;
        ensure!(found == "11s", "{found} is in force");
        let log = world.cluster.agent(NODE)?.log();
        for field in ["iptables.speed", "turbo"] {
            let named = |line: &str| line.contains("WARN") && line.contains(field);
            ensure!(log.lines().any(named), "no warning of {field}:\n{log}");
        }
        Ok(())
    })
}

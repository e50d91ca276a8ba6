//! K: process and node.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    checks::Check,
    old_kernel::{Lack, without},
};

use crate::world::{World, row};

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("k2_defaults", k2_defaults),
        row("k3_wrong_values", k3_wrong_values),
        row("k4_flags_without_effect", k4_flags_without_effect),
        row("k13_old_kernel", k13_old_kernel),
        row("k15_starting", k15_starting),
        row("k17_ipvs", k17_ipvs),
    ]
}

fn k2_defaults(world: &mut World) -> Result<()> {
    let (_, text) = world.get("node-a", "127.0.0.1:10249", "/configz")?;
    let shown: Value = serde_json::from_str(&text)?;
    let config = &shown["kubeproxy.config.k8s.io"];
    for (field, value) in [
        ("/bindAddress", json!("0.0.0.0")),
        ("/healthzBindAddress", json!("0.0.0.0:10256")),
        ("/metricsBindAddress", json!("127.0.0.1:10249")),
        ("/oomScoreAdj", json!(-999)),
        ("/conntrack/maxPerCore", json!(32768)),
        ("/conntrack/min", json!(131_072)),
    ] {
        let found = config.pointer(field);
        ensure!(found == Some(&value), "{field} is {found:?} in {config}");
    }
    Ok(())
}

fn k3_wrong_values(world: &mut World) -> Result<()> {
    for (options, field) in [
        (["--conntrack-min", "-1"], "conntrack"),
        (["--cluster-cidr", "10.0.0.0/33"], "cluster"),
        (["--detect-local-mode", "Nearby"], "detect"),
    ] {
        let mut agent = world.cluster.launch("node-a", &options)?;
        let error = agent.wait_ready().err().context("it started")?;
        let said = format!("{error:#}").to_lowercase();
        ensure!(said.contains(field), "{options:?}: {said}");
    }
    Ok(())
}

/// Does `then` with what an agent with these options has logged.
fn names(world: &mut World, options: &[&str], subject: &str) -> Result<()> {
    world.with_options("node-a", options, |world| {
        let log = world.cluster.agent("node-a")?.log();
        let mut warnings = log.lines().filter(|line| line.contains("WARN"));
        let named = warnings.any(|line| line.to_lowercase().contains(subject));
        ensure!(named, "no warning of {subject}:\n{log}");
        Ok(())
    })
}

fn k4_flags_without_effect(world: &mut World) -> Result<()> {
    let options = [
        "--iptables-min-sync-period",
        "7s",
        "--config-sync-period",
        "9m",
    ];
    names(world, &options, "iptables-min-sync-period")
}

/// One that has no programs of tc.
fn k13_old_kernel(world: &mut World) -> Result<()> {
    let by = without(&[Lack::Programs])?;
    let by: Vec<_> = by.iter().map(String::as_str).collect();
    let said = world.refuses(&by, "node-a", &["--node-name", "node-a"])?;
    for words in ["the kernel cannot serve", "bpf_redirect_neigh", "run Linux"] {
        ensure!(said.contains(words), "it does not say {words}: {said}");
    }
    Ok(())
}

fn k15_starting(world: &mut World) -> Result<()> {
    world.event("Starting", "node-a", "")
}

fn k17_ipvs(world: &mut World) -> Result<()> {
    names(
        world,
        &["--proxy-mode", "ipvs", "--ipvs-scheduler", "rr"],
        "ipvs",
    )
}

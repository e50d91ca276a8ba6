//! D: the source address.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use tests::{checks::Check, cluster::eventually, echo::Protocol::Tcp, topology::Family};

use crate::world::{SOON, World, row};

const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("d1_pod_keeps_its_address", d1_pod_keeps_its_address),
        row("d2_rewritten_only_where_needed", d2_only_where_needed),
        row("d3_masquerade_all", d3_masquerade_all),
        row("d4_external_policy_cluster", d4_external_policy_cluster),
        row("d5_external_policy_local", d5_external_policy_local),
        row("d6_hairpin", d6_hairpin),
        row("d7_no_mark", d7_no_mark),
    ]
}

fn given(world: &mut World, external: &str, endpoints: &[&str]) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, clusterIP: 10.96.1.1, externalTrafficPolicy: {external},
                  ports: [{{port: 80, nodePort: 30080}}]}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

/// Soon `by` answers `from` at `to`, and sees it at the address of `as_whom`.
fn seen(world: &World, from: &str, to: &str, by: &str, as_whom: &str) -> Result<()> {
    let expected: IpAddr = world.cluster.address(as_whom, Family::V4)?;
    eventually(SOON, || {
        let answer = world.ask(from, Tcp, to)?;
        ensure!(answer.server == by, "{} answers", answer.server);
        let client = answer.client.ip();
        ensure!(client == expected, "{by} saw {client}, not {expected}");
        Ok(())
    })
    .with_context(|| format!("{from} at {to}"))
}

fn d1_pod_keeps_its_address(world: &mut World) -> Result<()> {
    for endpoint in ["pod-1", "pod-3"] {
        given(world, "Cluster", &[endpoint])?;
        seen(world, "pod-2", CLUSTER_IP, endpoint, "pod-2")?;
    }
    Ok(())
}

fn d2_only_where_needed(world: &mut World) -> Result<()> {
    given(world, "Cluster", &["pod-1"])?;
    seen(world, "client", CLUSTER_IP, "pod-1", "client")?;
    given(world, "Cluster", &["pod-3"])?;
    seen(world, "client", CLUSTER_IP, "pod-3", "node-a")?;
    seen(world, "node-a", CLUSTER_IP, "pod-3", "node-a")
}

fn d3_masquerade_all(world: &mut World) -> Result<()> {
    given(world, "Local", &["pod-3"])?;
    world.with_options("node-a", &["--masquerade-all"], |world| {
        seen(world, "pod-2", CLUSTER_IP, "pod-3", "node-a")?;
        given(world, "Local", &["pod-1"])?;
        seen(world, "client", AT_A, "pod-1", "client")
    })
}

fn d4_external_policy_cluster(world: &mut World) -> Result<()> {
    given(world, "Cluster", &["pod-1"])?;
    seen(world, "client", AT_A, "pod-1", "client")?;
    given(world, "Cluster", &["pod-3"])?;
    seen(world, "client", AT_A, "pod-3", "node-a")?;
    seen(world, "pod-2", AT_A, "pod-3", "pod-2")
}

fn d5_external_policy_local(world: &mut World) -> Result<()> {
    given(world, "Local", &["pod-1"])?;
    seen(world, "client", AT_A, "pod-1", "client")?;
    seen(world, "pod-2", AT_A, "pod-1", "pod-2")
}

fn d6_hairpin(world: &mut World) -> Result<()> {
    given(world, "Cluster", &["pod-1"])?;
    for to in [CLUSTER_IP, AT_A] {
        seen(world, "pod-1", to, "pod-1", "node-a")?;
    }
    Ok(())
}

fn d7_no_mark(world: &mut World) -> Result<()> {
    let bit = ["--iptables-masquerade-bit", "5"];
    world.with_options("node-a", &bit, |world| {
        let log = world.cluster.agent("node-a")?.log();
        let mut warnings = log.lines().filter(|line| line.contains("WARN"));
        let named = warnings.any(|line| line.contains("masquerade-bit"));
        ensure!(named, "the agent does not name the option:\n{log}");
        Ok(())
    })
}

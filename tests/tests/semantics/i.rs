//! I: the agent's own servers.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{checks::Check, cluster::eventually, kube::node_object};

use crate::world::{SOON, World, row};

const HEALTH: &str = "10.10.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("i1_healthz", i1_healthz),
        row("i3_taint_of_the_autoscaler", i3_taint),
        row("i4_livez_ignores_the_node", i4_livez),
        row("i5_body", i5_body),
        row("i6_load_balancers_see_it", i6_load_balancers_see_it),
        row("i7_metrics_server", i7_metrics_server),
        row("i9_ipv6_address", i9_ipv6_address),
    ]
}

/// Soon a path of the health server answers this status.
fn answers(world: &World, path: &str, status: u16) -> Result<()> {
    eventually(SOON, || {
        let (answered, body) = world.get("client", HEALTH, path)?;
        ensure!(answered == status, "{path} answers {answered}: {body}");
        Ok(())
    })
}

/// Does `then` while the Node of node-a has a taint of this key.
fn with_taint(world: &World, key: &str, then: impl FnOnce() -> Result<()>) -> Result<()> {
    let was = node_object(world.cluster.topology.node("node-a")?);
    let mut tainted = was.clone();
    tainted["spec"]["taints"] = json!([{ "key": key, "effect": "NoSchedule" }]);
    let control = &world.cluster.source.control;
    control.apply(&[tainted])?;
    let outcome = then();
    control.apply(&[was])?;
    outcome?;
    answers(world, "/healthz", 200)
}

fn i1_healthz(world: &mut World) -> Result<()> {
    let (status, body) = world.get("client", HEALTH, "/healthz")?;
    ensure!(status == 200, "{status}");
    ensure!(body.contains("lastUpdated"), "{body}");
    Ok(())
}

fn i3_taint(world: &mut World) -> Result<()> {
    with_taint(world, "ToBeDeletedByClusterAutoscaler", || {
        answers(world, "/healthz", 503)
    })?;
    with_taint(world, "example.org/other", || {
        answers(world, "/healthz", 200)
    })
}

fn i4_livez(world: &mut World) -> Result<()> {
    with_taint(world, "ToBeDeletedByClusterAutoscaler", || {
        answers(world, "/healthz", 503)?;
        answers(world, "/livez", 200)
    })
}

fn i5_body(world: &mut World) -> Result<()> {
    let (_, body) = world.get("client", HEALTH, "/healthz")?;
    let body: Value = serde_json::from_str(&body)?;
    for field in ["/lastUpdated", "/currentTime", "/status/IPv4/lastUpdated"] {
        let is_time = body.pointer(field).is_some_and(Value::is_string);
        ensure!(is_time, "no {field} in {body}");
    }
    for field in ["/nodeEligible", "/healthy", "/status/IPv6/healthy"] {
        let holds = body.pointer(field) == Some(&json!(true));
        ensure!(holds, "{field} does not hold in {body}");
    }
    Ok(())
}

fn i6_load_balancers_see_it(world: &mut World) -> Result<()> {
    with_taint(world, "ToBeDeletedByClusterAutoscaler", || {
        answers(world, "/healthz", 503)?;
        let (status, _) = world.get("client", "10.10.0.2:10256", "/healthz")?;
        ensure!(status == 200, "node-b answers {status}");
        Ok(())
    })
}

fn i7_metrics_server(world: &mut World) -> Result<()> {
    for (path, words) in [
        ("/metrics", "kubeproxy_sync_proxy_rules_duration_seconds"),
        ("/healthz", "ok"),
        ("/proxyMode", "ebpf"),
        ("/configz", "kubeproxy.config.k8s.io"),
    ] {
        let (status, body) = world.get("node-a", METRICS, path)?;
        ensure!(status == 200, "{path} answers {status}");
        ensure!(body.contains(words), "{path}: {body}");
    }
    let outside = world.get("client", "10.10.0.1:10249", "/metrics");
    ensure!(outside.is_err(), "metrics are open to everyone");
    Ok(())
}

fn i9_ipv6_address(world: &mut World) -> Result<()> {
    let options = ["--metrics-bind-address", "[::1]:10249"];
    world.with_options("node-a", &options, |world| {
        eventually(SOON, || {
            let (status, _) = world.get("node-a", "[::1]:10249", "/proxyMode")?;
            ensure!(status == 200, "{status}");
            Ok(())
        })
    })
}

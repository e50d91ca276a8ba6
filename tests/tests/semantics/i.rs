//! I: the agent's own servers.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{checks::Check, cluster::eventually, echo::Protocol::Tcp, kube::node_object};

use crate::world::{SOON, World, row};

const HEALTH: &str = "10.10.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("i1_healthz", i1_healthz),
        row("i2_a_change_that_waits", i2_a_change_that_waits),
        row("i3_taint_of_the_autoscaler", i3_taint),
        row("i4_livez_ignores_the_node", i4_livez),
        row("i5_body", i5_body),
        row("i6_load_balancers_see_it", i6_load_balancers_see_it),
        row("i7_metrics_server", i7_metrics_server),
        row("i7_requests_are_counted", i7_requests_are_counted),
        row("i8_address_in_use", i8_address_in_use),
        row("i8_hard_fail", i8_hard_fail),
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

const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web},
    spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}";

/// A map that refuses writes is no matter until a change waits for it, and then not at once.
fn i2_a_change_that_waits(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    world.endpoints("web", &["pod-1"])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    world.with_frozen("node-a", "FRONTENDS4", |world| {
        answers(world, "/livez", 200)?;
        world.endpoints("web", &["pod-3"])?;
        world.problem("node-a", &["default/web", "FRONTENDS4"])?;
        let (status, body) = world.get("client", HEALTH, "/healthz")?;
        ensure!(status == 200, "{status} before a minute is over: {body}");
        Ok(())
    })?;
    // Twice the period that is configured.
    world.with_options("node-a", &["--iptables-sync-period", "1s"], |world| {
        world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-3"])?;
        world.with_frozen("node-a", "FRONTENDS4", |world| {
            world.endpoints("web", &["pod-1"])?;
            for path in ["/healthz", "/livez"] {
                answers(world, path, 503)?;
            }
            let (_, body) = world.get("client", HEALTH, "/livez")?;
            let body: Value = serde_json::from_str(&body)?;
            let healthy = ["/healthy", "/status/IPv4/healthy", "/status/IPv6/healthy"];
            let healthy = healthy.map(|field| body.pointer(field) == Some(&json!(true)));
            ensure!(healthy == [false, false, true], "{body}");
            Ok(())
        })
    })?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    answers(world, "/healthz", 200)
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

fn i7_requests_are_counted(world: &mut World) -> Result<()> {
    world.restart("node-a", &[])?;
    eventually(SOON, || {
        let watches = world.requests("node-a", "200", "GET")?;
        // Services, EndpointSlices, the Node, ServiceCIDRs; and the Event of the start.
        ensure!(watches >= 4, "{watches} requests for what is watched");
        let events = world.requests("node-a", "201", "POST")?;
        ensure!(events == 1, "{events} Events");
        Ok(())
    })?;
    world.cluster.source.control.kill_api_server();
    let failed = eventually(SOON, || {
        let failed = world.requests("node-a", "<error>", "GET")?;
        ensure!(failed > 0, "none has failed");
        Ok(())
    });
    world.cluster.source.control.start_api_server()?;
    failed
}

/// Does `then` while the agent of node-a does not run and its servers' addresses are taken.
fn with_addresses_taken(
    world: &mut World,
    then: impl FnOnce(&mut World, Vec<TcpListener>) -> Result<()>,
) -> Result<()> {
    world.cluster.agent("node-a")?.stop()?;
    let netns = world.cluster.netns("node-a")?;
    let taken = netns.run(|| [HEALTH, METRICS].map(TcpListener::bind))?;
    let taken: Result<Vec<_>, _> = taken.into_iter().collect();
    let outcome = then(world, taken?);
    let restored = world.restart("node-a", &[]);
    outcome.and(restored)
}

/// Each server comes up once its address is free; services are served meanwhile.
fn i8_address_in_use(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    world.endpoints("web", &["pod-1"])?;
    with_addresses_taken(world, |world, taken| {
        world.restart("node-a", &[])?;
        for (port, reason) in [
            ("10256", "FailedToStartProxierHealthcheck"),
            ("10249", "FailedToStartMetricServer"),
        ] {
            world.problem("node-a", &["cannot listen", port])?;
            world.event(reason, "node-a", port)?;
        }
        world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
        drop(taken);
        answers(world, "/healthz", 200)?;
        eventually(SOON, || {
            let (status, _) = world.get("node-a", METRICS, "/metrics")?;
            ensure!(status == 200, "{status}");
            let problems = world.status("node-a")?["problems"].to_string();
            ensure!(!problems.contains("cannot listen"), "{problems}");
            Ok(())
        })
    })
}

fn i8_hard_fail(world: &mut World) -> Result<()> {
    with_addresses_taken(world, |world, _taken| {
        let options = ["--node-name", "node-a", "--bind-address-hard-fail"];
        let said = world.refuses(&[], "node-a", &options)?;
        ensure!(said.contains("cannot listen on"), "{said}");
        Ok(())
    })
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

//! H: health check node ports.

use std::net::TcpListener;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tests::{checks::Check, cluster::eventually, echo::Protocol::Tcp};

use crate::world::{SOON, World, row};

const AT_A: &str = "10.10.0.1:30099";

/// The load balancer of [`given`] with the policy that has no health check.
const POLICY_CLUSTER: &str = "{apiVersion: v1, kind: Service, metadata: {name: web},
    spec: {type: LoadBalancer, clusterIP: 10.96.1.1, externalTrafficPolicy: Cluster,
           ports: [{port: 80}]}}";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("h1_load_balancers_of_policy_local", h1_which_services),
        row("h2_where_node_ports_are", h2_where_node_ports_are),
        row("h3_status", h3_status),
        row("h4_distinct_ready_addresses", h4_distinct_ready_addresses),
        row("h5_headers", h5_headers),
        row("h6_body", h6_body),
        row("h7_only_after_the_maps", h7_only_after_the_maps),
        row("h8_another_port", h8_another_port),
        row("h9_port_in_use", h9_port_in_use),
    ]
}

/// A load balancer of policy `Local` with this health check port.
fn given(world: &mut World, port: u16, endpoints: &[&str]) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: LoadBalancer, clusterIP: 10.96.1.1, externalTrafficPolicy: Local,
                  healthCheckNodePort: {port}, ports: [{{port: 80}}]}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

/// Soon the health check says so, of so many endpoints.
fn answers(world: &World, at: &str, status: u16, endpoints: u64) -> Result<()> {
    eventually(SOON, || {
        let (answered, body) = world.get("client", at, "/")?;
        let body: Value = serde_json::from_str(&body)?;
        let expected = (status, Some(endpoints));
        let found = (answered, body["localEndpoints"].as_u64());
        ensure!(found == expected, "{found:?} instead of {expected:?}");
        Ok(())
    })
}

/// Soon nobody listens there.
fn closed(world: &World, from: &str, at: &str) -> Result<()> {
    eventually(SOON, || match world.get(from, at, "/") {
        Ok((status, _)) => bail!("{at} answers {status}"),
        Err(_) => Ok(()),
    })
}

fn h1_which_services(world: &mut World) -> Result<()> {
    given(world, 30099, &["pod-1"])?;
    answers(world, AT_A, 200, 1)?;
    world.given(POLICY_CLUSTER)?;
    closed(world, "client", AT_A)
}

fn h2_where_node_ports_are(world: &mut World) -> Result<()> {
    given(world, 30099, &["pod-1"])?;
    answers(world, AT_A, 200, 1)?;
    closed(world, "node-a", "127.0.0.1:30099")?;
    let all = ["--nodeport-addresses", "all"];
    world.with_options("node-a", &all, |world| {
        eventually(SOON, || {
            let (status, _) = world.get("node-a", "127.0.0.1:30099", "/")?;
            ensure!(status == 200, "{status} on loopback");
            Ok(())
        })
    })
}

fn h3_status(world: &mut World) -> Result<()> {
    given(world, 30099, &["pod-1"])?;
    answers(world, AT_A, 200, 1)?;
    answers(world, "10.10.0.2:30099", 503, 0)
}

fn h4_distinct_ready_addresses(world: &mut World) -> Result<()> {
    given(world, 30099, &["pod-1", "pod-2", "pod-3"])?;
    answers(world, AT_A, 200, 2)?;
    world.endpoints("web", &["pod-1", "pod-2 unready", "pod-3"])?;
    answers(world, AT_A, 200, 1)?;
    world.endpoints("web", &["pod-1 terminating"])?;
    answers(world, AT_A, 503, 0)
}

fn h5_headers(world: &mut World) -> Result<()> {
    given(world, 30099, &["pod-1", "pod-2"])?;
    answers(world, AT_A, 200, 2)?;
    answers(world, "10.10.0.2:30099", 503, 0)?;
    for (at, weight) in [(AT_A, "2"), ("10.10.0.2:30099", "0")] {
        let (head, _) = world.exchange("client", at, "/")?;
        let head = head.to_lowercase();
        let weight = format!("x-load-balancing-endpoint-weight: {weight}");
        for header in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            &weight,
        ] {
            ensure!(head.contains(header), "no {header} in:\n{head}");
        }
    }
    Ok(())
}

fn h6_body(world: &mut World) -> Result<()> {
    given(world, 30099, &["pod-1"])?;
    answers(world, AT_A, 200, 1)?;
    let (_, body) = world.get("client", AT_A, "/any/path")?;
    let body: Value = serde_json::from_str(&body)?;
    let expected = json!({
        "service": { "namespace": "default", "name": "web" },
        "localEndpoints": 1,
        "serviceProxyHealthy": true,
    });
    ensure!(body == expected, "{body}");
    Ok(())
}

/// While a map cannot be written, traffic goes where it went, and the answer is about that.
fn h7_only_after_the_maps(world: &mut World) -> Result<()> {
    const VIA_A: &str = "10.96.1.1:80";
    given(world, 30099, &["pod-1"])?;
    answers(world, AT_A, 200, 1)?;
    world.with_frozen("node-a", "FRONTENDS4", |world| {
        world.endpoints("web", &["pod-3"])?;
        world.problem("node-a", &["default/web", "FRONTENDS4"])?;
        let (status, body) = world.get("client", AT_A, "/")?;
        let body: Value = serde_json::from_str(&body)?;
        let told = (status, &body["localEndpoints"]);
        ensure!(told == (200, &json!(1)), "{told:?} before the maps changed");
        world.served("client", Tcp, VIA_A, &["pod-1"])
    })?;
    answers(world, AT_A, 503, 0)?;
    world.served("client", Tcp, VIA_A, &["pod-3"])
}

fn h8_another_port(world: &mut World) -> Result<()> {
    given(world, 30099, &["pod-1"])?;
    answers(world, AT_A, 200, 1)?;
    world.given(POLICY_CLUSTER)?;
    given(world, 30098, &["pod-1"])?;
    answers(world, "10.10.0.1:30098", 200, 1)?;
    closed(world, "client", AT_A)
}

fn h9_port_in_use(world: &mut World) -> Result<()> {
    let netns = world.cluster.netns("node-a")?;
    let taken = netns.run(|| TcpListener::bind(AT_A))??;
    given(world, 30099, &["pod-1"])?;
    world.event("FailedToStartServiceHealthcheck", "web", "30099")?;
    drop(taken);
    answers(world, AT_A, 200, 1)
}

//! F: session affinity.

use anyhow::{Result, ensure};
use tests::{
    checks::Check,
    echo::Protocol::{Tcp, Udp},
};

use crate::world::{World, row};

const BOTH: [&str; 2] = ["pod-1", "pod-3"];
const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("f1_shared_by_all_addresses", f1_shared_by_all_addresses),
        row("f3_another_list_another_endpoint", f3_another_list),
        row("f5_off_forgets", f5_off_forgets),
        row("f6_endpoint_goes", f6_endpoint_goes),
        row("f8_udp", f8_udp),
    ]
}

fn given(world: &mut World, affinity: &str, external: &str) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, clusterIP: 10.96.1.1, sessionAffinity: {affinity},
                  externalTrafficPolicy: {external}, ports: [{{port: 80, nodePort: 30080}}]}}}}"
    ))
}

fn f1_shared_by_all_addresses(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Cluster")?;
    world.endpoints("web", &BOTH)?;
    for from in ["pod-2", "client"] {
        let one = world.served_by_one(from, Tcp, CLUSTER_IP, &BOTH)?;
        world.served(from, Tcp, AT_A, &[&one])?;
    }
    Ok(())
}

/// Outside clients of a policy `Local` are not kept on an endpoint elsewhere.
fn f3_another_list(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Local")?;
    world.endpoints("web", &["pod-3"])?;
    world.served("client", Tcp, CLUSTER_IP, &["pod-3"])?;
    world.endpoints("web", &BOTH)?;
    world.served("client", Tcp, AT_A, &["pod-1"])?;
    // And that is who is remembered.
    world.served("client", Tcp, CLUSTER_IP, &["pod-1"])
}

fn f5_off_forgets(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Cluster")?;
    world.endpoints("web", &BOTH)?;
    world.served_by_one("pod-2", Tcp, CLUSTER_IP, &BOTH)?;
    given(world, "None", "Cluster")?;
    world.served("pod-2", Tcp, CLUSTER_IP, &BOTH)
}

fn f6_endpoint_goes(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Cluster")?;
    world.endpoints("web", &BOTH)?;
    let one = world.served_by_one("pod-2", Tcp, CLUSTER_IP, &BOTH)?;
    let other = if one == "pod-1" { "pod-3" } else { "pod-1" };
    world.endpoints("web", &[other])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &[other])?;
    // Back again, it is not who the client is kept on.
    world.endpoints("web", &BOTH)?;
    let kept = world.served_by_one("pod-2", Tcp, CLUSTER_IP, &BOTH)?;
    ensure!(kept == other, "{kept} has the client of {other}");
    Ok(())
}

fn f8_udp(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, sessionAffinity: ClientIP,
                 ports: [{name: udp, protocol: UDP, port: 80}]}}",
    )?;
    world.endpoints("web", &BOTH)?;
    world
        .served_by_one("pod-2", Udp, CLUSTER_IP, &BOTH)
        .map(drop)
}

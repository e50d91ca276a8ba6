//! C: which endpoint.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    checks::Check, echo::Protocol::Tcp, kube::node_object, talk::Conversation, topology::Family,
};

use crate::world::{World, row};

const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";
const AT_B: &str = "10.10.0.2:30080";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("c1_reachable_from_outside", c1_reachable_from_outside),
        row(
            "c2_inside_has_the_cluster_list",
            c2_inside_has_the_cluster_list,
        ),
        row("c3_local_list", c3_local_list),
        row("c4_ready_else_terminating", c4_ready_else_terminating),
        row(
            "c5_local_falls_back_by_itself",
            c5_local_falls_back_by_itself,
        ),
        row("c6_nobody_and_nobody_here", c6_nobody_and_nobody_here),
        row("c7_each_list_its_own", c7_each_list_its_own),
        row("c8_outside_and_pods_apart", c8_outside_and_pods_apart),
        row("c9_hints_only", c9_hints_only),
        row("c10_node_hints", c10_node_hints),
        row("c11_zone_hints", c11_zone_hints),
        row("c12_all_without_all_hints", c12_all_without_all_hints),
        row("c13_node_changes_zone", c13_node_changes_zone),
        row("c14_local_for_every_client", c14_local_for_every_client),
        row("c15_none_local", c15_none_local),
        row("c16_none_local_for_outside", c16_none_local_for_outside),
        row("c17_pod_short_circuit", c17_pod_short_circuit),
        row("c18_node_short_circuit", c18_node_short_circuit),
        row("c20_policies_apart", c20_policies_apart),
        row("c21_uniformly_random", c21_uniformly_random),
        row("c22_established_stay", c22_established_stay),
    ]
}

/// A Service with a node port, these policies and endpoints.
fn given(world: &mut World, internal: &str, external: &str, endpoints: &[&str]) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, clusterIP: 10.96.1.1, internalTrafficPolicy: {internal},
                  externalTrafficPolicy: {external}, ports: [{{port: 80, nodePort: 30080}}]}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

fn c1_reachable_from_outside(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Cluster", &["pod-1"])?;
    world.served("client", Tcp, AT_A, &["pod-1"])?;
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: ClusterIP, clusterIP: 10.96.1.1, ports: [{port: 80}]}}",
    )?;
    // The node's own stack answers, where nobody listens.
    world.refused("client", Tcp, AT_A)?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])
}

fn c2_inside_has_the_cluster_list(world: &mut World) -> Result<()> {
    given(world, "Local", "Local", &["pod-1", "pod-3"])?;
    for from in ["pod-2", "node-a"] {
        world.served(from, Tcp, AT_A, &["pod-1", "pod-3"])?;
    }
    Ok(())
}

fn c3_local_list(world: &mut World) -> Result<()> {
    given(world, "Local", "Local", &["pod-1", "pod-3"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])?;
    world.served("pod-3", Tcp, CLUSTER_IP, &["pod-3"])?;
    world.served("client", Tcp, AT_A, &["pod-1"])?;
    world.served("client", Tcp, AT_B, &["pod-3"])
}

fn c4_ready_else_terminating(world: &mut World) -> Result<()> {
    given(
        world,
        "Cluster",
        "Cluster",
        &["pod-1", "pod-2 unready", "pod-3 terminating"],
    )?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])?;
    world.endpoints("web", &["pod-2 unready", "pod-3 terminating"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-3"])?;
    world.endpoints("web", &["pod-2 unready", "pod-3 terminating not-serving"])?;
    world.refused("pod-2", Tcp, CLUSTER_IP)
}

fn c5_local_falls_back_by_itself(world: &mut World) -> Result<()> {
    let hints = [
        "pod-1 zones=zone-b",
        "pod-2 zones=zone-b",
        "pod-3 zones=zone-a",
    ];
    given(world, "Local", "Local", &hints)?;
    // Topology would have pod-3 alone.
    world.served("client", Tcp, AT_A, &["pod-1", "pod-2"])?;
    world.endpoints("web", &["pod-1 terminating", "pod-3"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])?;
    world.served("client", Tcp, AT_A, &["pod-1"])
}

fn c6_nobody_and_nobody_here(world: &mut World) -> Result<()> {
    given(world, "Local", "Cluster", &["pod-3"])?;
    world.unanswered("pod-2", CLUSTER_IP)?;
    world.endpoints("web", &["pod-3 terminating"])?;
    world.unanswered("pod-2", CLUSTER_IP)?;
    world.endpoints("web", &["pod-3 unready"])?;
    world.refused("pod-2", Tcp, CLUSTER_IP)
}

fn c7_each_list_its_own(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Local", &["pod-1 terminating", "pod-3"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-3"])?;
    world.served("client", Tcp, AT_A, &["pod-1"])
}

fn c8_outside_and_pods_apart(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Local", &["pod-1 terminating", "pod-3"])?;
    world.served("client", Tcp, AT_A, &["pod-1"])?;
    world.served("pod-2", Tcp, AT_A, &["pod-3"])
}

fn c9_hints_only(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service,
          metadata: {name: web, annotations: {service.kubernetes.io/topology-mode: Auto}},
          spec: {clusterIP: 10.96.1.1, trafficDistribution: PreferSameZone, ports: [{port: 80}]}}",
    )?;
    world.endpoints("web", &["pod-1", "pod-3"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1", "pod-3"])
}

fn c10_node_hints(world: &mut World) -> Result<()> {
    let hints = [
        "pod-1 nodes=node-a zones=zone-b",
        "pod-3 nodes=node-b zones=zone-a",
    ];
    given(world, "Cluster", "Cluster", &hints)?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])?;
    world.served("pod-3", Tcp, CLUSTER_IP, &["pod-3"])
}

fn c11_zone_hints(world: &mut World) -> Result<()> {
    let hints = [
        "pod-1 zones=zone-b",
        "pod-2 zones=zone-a,zone-b",
        "pod-3 zones=zone-a",
    ];
    given(world, "Cluster", "Cluster", &hints)?;
    world.served("pod-1", Tcp, CLUSTER_IP, &["pod-2", "pod-3"])?;
    world.served("pod-3", Tcp, CLUSTER_IP, &["pod-1", "pod-2"])
}

fn c12_all_without_all_hints(world: &mut World) -> Result<()> {
    given(
        world,
        "Cluster",
        "Cluster",
        &["pod-1 zones=zone-a", "pod-3"],
    )?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1", "pod-3"])?;
    world.endpoints("web", &["pod-1 zones=zone-x", "pod-3 zones=zone-b"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1", "pod-3"])?;
    world.endpoints(
        "web",
        &["pod-1 zones=zone-a", "pod-2 unready", "pod-3 zones=zone-b"],
    )?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])
}

fn c13_node_changes_zone(world: &mut World) -> Result<()> {
    given(
        world,
        "Cluster",
        "Cluster",
        &["pod-1 zones=zone-a", "pod-3 zones=zone-x"],
    )?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])?;
    let was = node_object(world.cluster.topology.node("node-a")?);
    let mut moved = was.clone();
    moved["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("zone-x");
    let control = &world.cluster.source.control;
    control.apply(&[moved])?;
    let followed = world.served("pod-2", Tcp, CLUSTER_IP, &["pod-3"]);
    control.apply(&[was])?;
    followed?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])
}

fn c14_local_for_every_client(world: &mut World) -> Result<()> {
    given(world, "Local", "Cluster", &["pod-1", "pod-3"])?;
    for from in ["pod-2", "node-a", "client"] {
        world.served(from, Tcp, CLUSTER_IP, &["pod-1"])?;
    }
    world.served("node-b", Tcp, CLUSTER_IP, &["pod-3"])
}

fn c15_none_local(world: &mut World) -> Result<()> {
    given(world, "Local", "Cluster", &["pod-3"])?;
    for from in ["pod-2", "client"] {
        world.unanswered(from, CLUSTER_IP)?;
    }
    world.endpoints("web", &[])?;
    for from in ["pod-2", "client", "node-a"] {
        world.refused(from, Tcp, CLUSTER_IP)?;
    }
    Ok(())
}

fn c16_none_local_for_outside(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Local", &["pod-3"])?;
    world.unanswered("client", AT_A)?;
    world.served("client", Tcp, AT_B, &["pod-3"])?;
    for from in ["pod-2", "node-a"] {
        world.served(from, Tcp, AT_A, &["pod-3"])?;
    }
    world.endpoints("web", &[])?;
    for from in ["client", "pod-2", "node-a"] {
        world.refused(from, Tcp, AT_A)?;
    }
    Ok(())
}

fn c17_pod_short_circuit(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Local", &["pod-3"])?;
    world.served("pod-2", Tcp, AT_A, &["pod-3"])?;
    let seen = world.ask("pod-2", Tcp, AT_A)?.client.ip();
    let own = world.cluster.address("pod-2", Family::V4)?;
    ensure!(seen == own, "pod-3 saw {seen} instead of {own}");
    Ok(())
}

fn c18_node_short_circuit(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Local", &["pod-3"])?;
    world.served("node-a", Tcp, AT_A, &["pod-3"])?;
    let seen = world.ask("node-a", Tcp, AT_A)?.client.ip();
    let own = world.cluster.address("node-a", Family::V4)?;
    ensure!(seen == own, "pod-3 saw {seen} instead of {own}");
    Ok(())
}

fn c20_policies_apart(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Local", &["pod-3"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-3"])?;
    given(world, "Local", "Cluster", &["pod-3"])?;
    world.served("client", Tcp, AT_A, &["pod-3"])
}

/// Of 200 connections to two endpoints each gets 100, give or take 40: 5.7 standard deviations.
fn c21_uniformly_random(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Cluster", &["pod-1", "pod-3"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1", "pod-3"])?;
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..200 {
        *answers
            .entry(world.ask("pod-2", Tcp, CLUSTER_IP)?.server)
            .or_default() += 1;
    }
    let fair = answers.values().all(|count| (60..=140).contains(count));
    ensure!(fair, "of 200 connections: {answers:?}");
    Ok(())
}

fn c22_established_stay(world: &mut World) -> Result<()> {
    given(world, "Cluster", "Cluster", &["pod-1"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])?;
    let netns = world.cluster.netns("pod-2")?;
    let mut kept = Conversation::open(netns, Tcp, CLUSTER_IP.parse()?, 0)?;
    kept.ask()?;
    world.endpoints("web", &["pod-3"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-3"])?;
    let server = kept.ask()?.server;
    ensure!(
        server == "pod-1",
        "{server} goes on with pod-1's connection"
    );
    Ok(())
}

//! G: connection state.

use std::fs;

use anyhow::{Result, ensure};
use tests::{
    checks::Check,
    cluster::eventually,
    echo::Protocol::{Tcp, Udp},
    talk::Conversation,
};

use crate::world::{SOON, World, row};

const CLUSTER_IP: &str = "10.96.1.1:80";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("g1_udp_follows_endpoints", g1_udp_follows_endpoints),
        row("g5_first_endpoint", g5_first_endpoint),
        row("g8_tcp_stays", g8_tcp_stays),
        row("g9_sysctls", g9_sysctls),
    ]
}

fn given(world: &mut World, protocol: &str, endpoints: &[&str]) -> Result<()> {
    let name = if protocol == "UDP" { "udp" } else { "''" };
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{clusterIP: 10.96.1.1,
                  ports: [{{name: {name}, protocol: {protocol}, port: 80}}]}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

/// One flow, from one source port, moves at its next packet.
fn g1_udp_follows_endpoints(world: &mut World) -> Result<()> {
    given(world, "UDP", &["pod-1"])?;
    world.served("pod-2", Udp, CLUSTER_IP, &["pod-1"])?;
    let netns = world.cluster.netns("pod-2")?;
    let mut flow = Conversation::open(netns, Udp, CLUSTER_IP.parse()?, 0)?;
    flow.ask()?;
    world.endpoints("web", &["pod-3"])?;
    eventually(SOON, || {
        let server = flow.ask()?.server;
        ensure!(server == "pod-3", "{server} answers");
        Ok(())
    })
}

fn g5_first_endpoint(world: &mut World) -> Result<()> {
    given(world, "UDP", &[])?;
    world.refused("pod-2", Udp, CLUSTER_IP)?;
    let netns = world.cluster.netns("pod-2")?;
    let mut flow = Conversation::open(netns, Udp, CLUSTER_IP.parse()?, 0)?;
    ensure!(flow.ask().is_err(), "somebody answers");
    world.endpoints("web", &["pod-1"])?;
    eventually(SOON, || {
        let server = flow.ask()?.server;
        ensure!(server == "pod-1", "{server} answers");
        Ok(())
    })
}

fn g8_tcp_stays(world: &mut World) -> Result<()> {
    given(world, "TCP", &["pod-1"])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &["pod-1"])?;
    let netns = world.cluster.netns("pod-2")?;
    let mut flow = Conversation::open(netns, Tcp, CLUSTER_IP.parse()?, 0)?;
    flow.ask()?;
    world.endpoints("web", &[])?;
    world.refused("pod-2", Tcp, CLUSTER_IP)?;
    let server = flow.ask()?.server;
    ensure!(server == "pod-1", "{server} answers");
    Ok(())
}

fn g9_sysctls(world: &mut World) -> Result<()> {
    for (name, value) in [
        ("nf_conntrack_tcp_timeout_established", "86400"),
        ("nf_conntrack_tcp_timeout_close_wait", "3600"),
    ] {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let found = world
            .cluster
            .netns("node-a")?
            .run(|| fs::read_to_string(path))??;
        ensure!(found.trim() == value, "{name} is {found}");
    }
    Ok(())
}

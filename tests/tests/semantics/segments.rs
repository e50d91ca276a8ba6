//! E13: segments that belong to no place in their connection's stream.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use tests::{
    capture::Capture, checks::Check, crafted, echo::Protocol::Tcp, talk::Conversation,
    topology::Family,
};

use crate::{
    objects::POD_PORT,
    world::{World, row},
};

/// As good as any: what a connection is at is drawn anew for each, and its window is 64 KiB.
const SOMEWHERE: u32 = 0x5000_0000;
/// Number of TCP.
const TCP: u8 = 6;

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("e13_pod_at_a_cluster_ip", e13_pod_at_a_cluster_ip),
        row("e13_client_at_a_node_port", e13_client_at_a_node_port),
    ]
}

fn e13_pod_at_a_cluster_ip(world: &mut World) -> Result<()> {
    reach_translated(world, "pod-2", ["10.96.1.1:80", "[fd00:96::101]:80"])
}

fn e13_client_at_a_node_port(world: &mut World) -> Result<()> {
    let node_ports = ["10.10.0.1:30080", "[fd00:10::1]:30080"];
    reach_translated(world, "client", node_ports)
}

/// What an endpoint, here or elsewhere, sends outside the window of a connection comes to its
/// client from the Service, and the connection goes on.
fn reach_translated(world: &mut World, from: &str, to: [&str; 2]) -> Result<()> {
    for endpoint in ["pod-1", "pod-3"] {
        world.given(
            "{apiVersion: v1, kind: Service, metadata: {name: web},
              spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                     clusterIPs: [10.96.1.1, 'fd00:96::101'],
                     ports: [{port: 80, nodePort: 30080}]}}",
        )?;
        world.endpoints("web", &[endpoint])?;
        for (family, to) in Family::BOTH.into_iter().zip(to) {
            world.served(from, Tcp, to, &[endpoint])?;
            survives(world, from, to.parse()?, endpoint, family)
                .with_context(|| format!("{from} at {to}, served by {endpoint}"))?;
        }
    }
    Ok(())
}

fn survives(
    world: &World,
    from: &str,
    to: SocketAddr,
    endpoint: &str,
    family: Family,
) -> Result<()> {
    let netns = world.cluster.netns(from)?;
    let mut open = Conversation::open(netns, Tcp, to, 0)?;
    let client_seen = open.ask()?.client;
    let capture = Capture::start(netns)?;
    let server = SocketAddr::new(world.cluster.address(endpoint, family)?, POD_PORT);
    let inside = world.cluster.netns(endpoint)?;
    crafted::segment(inside, server, client_seen, SOMEWHERE)?;
    open.ask().context("the connection is broken")?;
    let seen = capture.finish()?;
    open.ask().context("the connection has broken")?;
    let client = open.local()?;
    let expected = BTreeSet::from([(TCP, to, client)]);
    ensure!(
        seen.crafted == expected,
        "the segment is seen as {:?}",
        seen.crafted
    );
    let untranslated = seen.between(Tcp, server.ip(), client.ip());
    let replied = seen.between(Tcp, client.ip(), server.ip());
    ensure!(
        !untranslated && !replied,
        "the client met {server}: {:?}",
        seen.flows
    );
    Ok(())
}

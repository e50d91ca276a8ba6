//! ICMP errors about translated packets reach who sent them: sockets fail at once, a path's MTU is found,
//! and routers are seen.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};
use tests::{checks::Check, cluster::Target, echo::Protocol, talk, topology::Family};

use crate::{
    Question, World,
    paths::{POD_1_AT_NODE_A, POD_1_CLUSTER, POD_3_AT_NODE_A, POD_3_CLUSTER},
    refusals::refused,
};

/// Each way a packet can take to a pod: its name, who asks what, and the pod.
#[rustfmt::skip]
const WAYS: [(&str, &str, Target, &str); 7] = [
    ("node_port_local", "client", POD_1_AT_NODE_A, "pod-1"),
    ("node_port_remote", "client", POD_3_AT_NODE_A, "pod-3"),
    ("pod_to_cluster_ip_local", "pod-2", POD_1_CLUSTER, "pod-1"),
    ("pod_to_cluster_ip_remote", "pod-2", POD_3_CLUSTER, "pod-3"),
    ("pod_to_itself", "pod-1", POD_1_CLUSTER, "pod-1"),
    ("node_to_cluster_ip_local", "node-a", POD_1_CLUSTER, "pod-1"),
    ("node_to_cluster_ip_remote", "node-a", POD_3_CLUSTER, "pod-3"),
];

/// What the link to pod-3 takes, as far as node-b is told; IPv6 takes no less than 1280.
const NARROW: u32 = 1300;

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for family in Family::BOTH {
        for (name, from, to, pod) in WAYS {
            let name = format!("{group}::{name}::{family:?}::n2_closed_port").to_lowercase();
            checks.push(Check::new(name, move |world: &mut World| {
                closed(world, from, to.of(family)?, pod)
            }));
        }
        for (name, from, to, _) in WAYS.into_iter().filter(|(_, _, _, pod)| *pod == "pod-3") {
            let name = format!("{group}::{name}::{family:?}").to_lowercase();
            checks.push(Check::new(format!("{name}::n2_path_mtu"), move |world| {
                path_mtu(world, from, to.of(family)?, family)
            }));
            checks.push(Check::new(format!("{name}::n2_trace"), move |world| {
                trace(world, from, to.of(family)?, family)
            }));
        }
    }
    checks
}

/// A datagram to a backend whose port is closed, by a socket that is connected to the service.
fn closed(world: &mut World, from: &str, to: SocketAddr, pod: &str) -> Result<()> {
    world.cluster.silence(pod);
    let outcome = refused(world, from, Protocol::Udp, to);
    world.cluster.serve(pod)?;
    outcome
}

/// A stream whose segments are too long for the last link, as only its router knows.
fn path_mtu(world: &mut World, from: &'static str, to: SocketAddr, family: Family) -> Result<()> {
    lead_to_pod_3(world, family, &format!("mtu lock {NARROW}"))?;
    let outcome = world
        .open(Question {
            from,
            protocol: Protocol::Tcp,
            to,
        })
        .and_then(|mut flow| flow.transfer(1 << 20))
        .and_then(|()| learned(world, from, to));
    lead_to_pod_3(world, family, "")?;
    outcome
}

/// Has node-b think of the way to pod-3 as this.
fn lead_to_pod_3(world: &World, family: Family, terms: &str) -> Result<()> {
    let node = world.cluster.topology.node("node-b")?;
    let pod = world.cluster.topology.pod("pod-3")?;
    let (interface, source) = (pod.interface(), node.addresses.of(family));
    let to = pod.addresses.of(family);
    node.netns.ip(&format!(
        "route replace {to} dev {interface} src {source} {terms}"
    ))
}

/// A kernel keeps the MTU of a path with the address it sends to.
fn learned(world: &World, from: &str, to: SocketAddr) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["route", "get", &to.ip().to_string()]);
    let route = world.cluster.netns(from)?.output(&mut ip)?.stdout;
    let route = String::from_utf8(route)?;
    ensure!(
        route.contains(&format!("mtu {NARROW}")),
        "{from} has not learned the MTU of the path: {route}"
    );
    Ok(())
}

/// Each router on the way of a datagram says who it is, and shows the datagram as it was sent.
fn trace(world: &mut World, from: &str, to: SocketAddr, family: Family) -> Result<()> {
    let netns = world.cluster.netns(from)?;
    // What comes from outside to a backend elsewhere is not routed by node-a, but sent on.
    let routers: &[(u8, &str)] = match from {
        "client" => &[(2, "node-b")],
        "node-a" => &[(1, "node-b")],
        _ => &[(1, "node-a"), (2, "node-b")],
    };
    for (hops, router) in routers {
        let told = talk::trace(netns, to, *hops).with_context(|| format!("{hops} hops to {to}"))?;
        let address = world.cluster.address(router, family)?;
        ensure!(told == (address, to), "at {router}: {told:?}");
    }
    Ok(())
}

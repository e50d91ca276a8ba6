//! ICMP errors about translated packets reach who sent them, and about those that this node cannot send on:
//! sockets fail at once, a path's MTU is found, and routers are seen.

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

/// A node that is told of a link to pod-3 that takes little, and how much; IPv6 takes no less than 1280.
#[derive(Clone, Copy)]
struct Narrow {
    row: &'static str,
    at: &'static str,
    mtu: u32,
}

/// A router between, and the node that translates.
const NARROW: [Narrow; 2] = [
    Narrow {
        row: "n2",
        at: "node-b",
        mtu: 1300,
    },
    Narrow {
        row: "n9",
        at: "node-a",
        mtu: 1350,
    },
];

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
            for narrow in NARROW {
                let name = format!("{name}::{}_path_mtu", narrow.row);
                checks.push(Check::new(name, move |world| {
                    path_mtu(world, from, to.of(family)?, family, narrow)
                }));
            }
            for (row, hops, router) in routers(from) {
                let name = format!("{name}::{row}_trace_{hops}");
                checks.push(Check::new(name, move |world| {
                    trace(world, from, to.of(family)?, family, (*hops, router))
                }));
            }
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

/// A namespace and an interface of it.
type Device = (&'static str, &'static str);

/// Segments that are one packet when they come by, its checksum left to devices: who sends them, to whom, and
/// the devices on the way that leave it so. The node's, which an error leaves by, is one of them or is not.
#[rustfmt::skip]
const MERGED: [(&str, &str, Target, &[Device]); 3] = [
    ("received", "client", POD_3_AT_NODE_A, &[("client", "eth0"), ("switch", "to-node-a")]),
    ("handed_on", "client", POD_3_AT_NODE_A, &[("client", "eth0"), ("switch", "to-node-a"), ("node-a", "eth0")]),
    ("own", "node-a", POD_3_CLUSTER, &[("node-a", "eth0")]),
];

pub(crate) fn merged(group: &str) -> Vec<Check<World>> {
    let mut checks = Vec::new();
    let [_, here] = NARROW;
    for family in Family::BOTH {
        for (name, from, to, devices) in MERGED {
            let name = format!("{group}::merged_{name}::{family:?}::n9_path_mtu").to_lowercase();
            checks.push(Check::new(name, move |world: &mut World| {
                offload(world, devices, &["tx", "on", "sg", "on", "tso", "on"])?;
                let outcome = path_mtu(world, from, to.of(family)?, family, here);
                offload(world, devices, &["tx", "off"])?;
                outcome
            }));
        }
    }
    checks
}

fn offload(world: &World, devices: &[Device], settings: &[&str]) -> Result<()> {
    for (host, device) in devices {
        let netns = match *host {
            "switch" => &world.cluster.topology.switch,
            host => world.cluster.netns(host)?,
        };
        netns.offload(device, settings)?;
    }
    Ok(())
}

/// A stream whose segments are too long for a link, as only the node before it knows.
fn path_mtu(
    world: &mut World,
    from: &'static str,
    to: SocketAddr,
    family: Family,
    narrow: Narrow,
) -> Result<()> {
    for host in [from, "node-a"] {
        world.cluster.netns(host)?.forget_paths()?;
    }
    let question = Question {
        from,
        protocol: Protocol::Tcp,
        to,
    };
    // Of a hop whose neighbour is yet to be found nothing else is known.
    world.ask(question)?;
    let terms = format!("mtu lock {}", narrow.mtu);
    lead_to_pod_3(world, family, narrow.at, &terms)?;
    let outcome = world
        .open(question)
        .and_then(|mut flow| flow.transfer(1 << 20))
        .and_then(|()| learned(world, from, to, narrow.mtu));
    lead_to_pod_3(world, family, narrow.at, "")?;
    outcome
}

/// Has a node think of the way to pod-3 as this.
fn lead_to_pod_3(world: &World, family: Family, at: &str, terms: &str) -> Result<()> {
    let node = world.cluster.topology.node(at)?;
    let pod = world.cluster.topology.pod("pod-3")?;
    let to = pod.addresses.of(family);
    let way = if at == pod.node {
        format!("dev {} src {}", pod.interface(), node.addresses.of(family))
    } else {
        format!("via {}", world.cluster.address(pod.node, family)?)
    };
    node.netns.ip(&format!("route replace {to} {way} {terms}"))
}

/// A kernel keeps the MTU of a path with the address it sends to.
fn learned(world: &World, from: &str, to: SocketAddr, mtu: u32) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["route", "get", &to.ip().to_string()]);
    let route = world.cluster.netns(from)?.output(&mut ip)?.stdout;
    let route = String::from_utf8(route)?;
    ensure!(
        route.contains(&format!("mtu {mtu}")),
        "{from} has not learned the MTU of the path: {route}"
    );
    Ok(())
}

/// The routers on the way to pod-3, by their distance; the row says whether node-a routes or sends on.
fn routers(from: &str) -> &'static [(&'static str, u8, &'static str)] {
    match from {
        "client" => &[("n8", 1, "node-a"), ("n2", 2, "node-b")],
        "node-a" => &[("n2", 1, "node-b")],
        _ => &[("n2", 1, "node-a"), ("n2", 2, "node-b")],
    }
}

/// A router on the way of a datagram says who it is, and shows the datagram as it was sent.
fn trace(
    world: &mut World,
    from: &str,
    to: SocketAddr,
    family: Family,
    (hops, router): (u8, &str),
) -> Result<()> {
    let netns = world.cluster.netns(from)?;
    let told = talk::trace(netns, to, hops).with_context(|| format!("{hops} hops to {to}"))?;
    let address = world.cluster.address(router, family)?;
    ensure!(told == (address, to), "at {router}: {told:?}");
    Ok(())
}

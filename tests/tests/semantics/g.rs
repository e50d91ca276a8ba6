//! G: connection state; what the kernel's connection tracking knows from kube-proxy is in
//! [`conntrack`](crate::conntrack).

use std::fs;

use anyhow::{Result, ensure};
use tests::{
    checks::Check,
    cluster::eventually,
    echo::{
        Protocol::{Tcp, Udp},
        Servers,
    },
    talk::Conversation,
};

use crate::{
    flows::Flow,
    world::{SOON, World, row},
};

const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";
/// A pod and a process of node-a, and a client outside.
const CLIENTS: [(&str, &str); 4] = [
    ("pod-2", CLUSTER_IP),
    ("node-a", CLUSTER_IP),
    ("client", CLUSTER_IP),
    ("client", AT_A),
];

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("g1_udp_follows_endpoints", g1_udp_follows_endpoints),
        row("g2_serving_endpoints", g2_serving_endpoints),
        row("g2_policies_and_topology", g2_policies_and_topology),
        row("g2_address_passes_on", g2_address_passes_on),
        row("g3_target_port", g3_target_port),
        row("g4_no_endpoint_and_no_service", g4_nobody_left),
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

/// A Service at every kind of address, with more of its spec.
fn given_everywhere(world: &mut World, more: &str) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, clusterIP: 10.96.1.1, {more}
                  ports: [{{name: udp, protocol: UDP, port: 80, nodePort: 30080}}]}}}}"
    ))
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

/// What serves keeps its flows though it gets no new ones, across agents too; what does not loses
/// them, and nobody else any.
fn g2_serving_endpoints(world: &mut World) -> Result<()> {
    const OTHERS: [&str; 2] = ["pod-1", "pod-2"];
    given_everywhere(world, "")?;
    world.endpoints("web", &["pod-1", "pod-2", "pod-3"])?;
    let mut flows = world.flows(&CLIENTS, &["pod-1", "pod-2", "pod-3"])?;
    for passed_over in ["pod-3 unready", "pod-3 terminating"] {
        world.endpoints("web", &["pod-1", "pod-2", passed_over])?;
        for (from, to) in CLIENTS {
            world.served(from, Udp, to, &OTHERS)?;
        }
        flows.iter_mut().try_for_each(Flow::stays)?;
    }
    world.restart("node-a", &[])?;
    flows.iter_mut().try_for_each(Flow::stays)?;
    world.endpoints("web", &["pod-1", "pod-2", "pod-3 terminating not-serving"])?;
    for flow in &mut flows {
        match &*flow.server {
            "pod-3" => flow.moves(&OTHERS)?,
            _ => flow.stays()?,
        }
    }
    Ok(())
}

/// Whoever a policy or a hint passes over keeps the flows it has, until it is gone.
fn g2_policies_and_topology(world: &mut World) -> Result<()> {
    const LOCAL: &str = "internalTrafficPolicy: Local, externalTrafficPolicy: Local,";
    const EVERYWHERE: [&str; 2] = ["pod-1", "pod-3"];
    // From outside, a cluster IP follows the internal policy, a node port the external one.
    let clients = [
        ("pod-2", CLUSTER_IP),
        ("client", CLUSTER_IP),
        ("client", AT_A),
    ];
    for (policies, endpoints) in [
        (LOCAL, EVERYWHERE),
        ("", ["pod-1 zones=zone-a", "pod-3 zones=zone-b"]),
    ] {
        given_everywhere(world, "")?;
        world.endpoints("web", &EVERYWHERE)?;
        let mut flows = world.flows(&clients, &EVERYWHERE)?;
        given_everywhere(world, policies)?;
        world.endpoints("web", &endpoints)?;
        for (from, to) in clients {
            world.served(from, Udp, to, &["pod-1"])?;
        }
        flows.iter_mut().try_for_each(Flow::stays)?;
        world.endpoints("web", &endpoints[..1])?;
        for flow in &mut flows {
            flow.moves(&["pod-1"])?;
        }
    }
    Ok(())
}

/// An address that passes to another Service, at once or after nobody had it, takes its flows along;
/// those to the addresses its Service goes on having stay.
fn g2_address_passes_on(world: &mut World) -> Result<()> {
    const PASSING: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
    let service = |name: &str, cluster_ip: &str, external_ips: &[&str]| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}},
              spec: {{clusterIP: {cluster_ip}, externalIPs: {external_ips:?},
                      ports: [{{name: udp, protocol: UDP, port: 80}}]}}}}"
        )
    };
    world.given(&service("web", "10.96.1.1", &PASSING))?;
    world.endpoints("web", &["pod-1"])?;
    world.given(&service("heir", "10.96.1.2", &[]))?;
    world.endpoints("heir", &["pod-3"])?;
    let [first, second] = PASSING.map(|address| format!("{address}:80"));
    let at = |to| world.flows(&[("client", to), ("node-a", to)], &["pod-1"]);
    let (mut at_first, mut at_second) = (at(&*first)?, at(&*second)?);
    let mut staying = world.flows(&CLIENTS[..3], &["pod-1"])?;
    world.with_agent_stopped("node-a", |world| {
        world.given(&service("web", "10.96.1.1", &PASSING[1..]))?;
        world.given(&service("heir", "10.96.1.2", &PASSING[..1]))
    })?;
    for flow in &mut at_first {
        flow.moves(&["pod-3"])?;
    }
    world.given(&service("web", "10.96.1.1", &[]))?;
    world.absent_on("node-a", &[&format!("{second}/UDP")])?;
    world.given(&service("heir", "10.96.1.2", &PASSING))?;
    for flow in &mut at_second {
        flow.moves(&["pod-3"])?;
    }
    staying.iter_mut().try_for_each(Flow::stays)
}

/// Who answers at another port of pod-1.
pub(crate) const ELSEWHERE: &str = "pod-1 at another port";

/// A second slice of the Service: pod-1 at another port.
pub(crate) fn at_another_port(world: &mut World) -> Result<Servers> {
    const PORT: u16 = 7070;
    let servers = Servers::start(world.cluster.netns("pod-1")?, ELSEWHERE, &[PORT])?;
    world.given(&format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
          metadata: {{name: other, labels: {{kubernetes.io/service-name: web}}}},
          ports: [{{name: udp, protocol: UDP, port: {PORT}}}],
          endpoints: [{{addresses: [10.1.1.1], nodeName: node-a}}]}}"
    ))?;
    Ok(servers)
}

/// One pod at two ports is two endpoints.
fn g3_target_port(world: &mut World) -> Result<()> {
    given_everywhere(world, "")?;
    world.endpoints("web", &["pod-1"])?;
    let _servers = at_another_port(world)?;
    let mut flows = world.flows(&CLIENTS, &["pod-1", ELSEWHERE])?;
    world.endpoints("web", &[])?;
    for flow in &mut flows {
        match &*flow.server {
            "pod-1" => flow.moves(&[ELSEWHERE])?,
            _ => flow.stays()?,
        }
    }
    world.endpoints("web", &["pod-1"])?;
    world.delete("endpointslice", "other")?;
    for flow in &mut flows {
        flow.moves(&["pod-1"])?;
    }
    Ok(())
}

fn g4_nobody_left(world: &mut World) -> Result<()> {
    given_everywhere(world, "")?;
    world.endpoints("web", &["pod-1"])?;
    let mut flows = world.flows(&CLIENTS, &["pod-1"])?;
    world.endpoints("web", &[])?;
    flows.iter_mut().try_for_each(Flow::ends)?;
    world.endpoints("web", &["pod-1"])?;
    for flow in &mut flows {
        flow.moves(&["pod-1"])?;
    }
    world.delete("service", "web")?;
    flows.iter_mut().try_for_each(Flow::ends)
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

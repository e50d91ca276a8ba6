//! Agents and backends that come and go under a process's sockets.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tests::{
    agent::{clean_up, lbctl},
    checks::Check,
    cluster::{Target, eventually},
    echo::Protocol,
    talk::{Conversation, Loose},
    topology::Family,
};

use crate::World;

/// How soon a changed manifest has to have taken effect, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// `web` of the examples: a backend in every pod.
pub(crate) const WEB: Target = Target {
    v4: "10.96.0.10",
    v6: "fd00:96::10",
    port: 80,
};

pub(crate) fn checks() -> Vec<Check<World>> {
    vec![
        Check::new("sockets::p8_datagrams_stay_with_a_backend", stay),
        Check::new("sockets::c18_external_local_policy", external_local),
        Check::new("sockets::c22_g2_backend_leaves", backend_leaves),
        Check::new("sockets::agent_crash_and_restart", restart),
        Check::new("sockets::p1_switched_off_and_on", off_and_on),
        Check::new("sockets::no_cgroup_is_a_problem_and_no_more", no_cgroup),
        Check::new("sockets::cleanup", cleanup),
    ]
}

/// One socket's datagrams to one service have one backend.
fn stay(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        let to = WEB.of(family)?;
        let socket = world.loose("node-a", to)?;
        let (first, _) = socket.ask(to)?;
        for _ in 0..20 {
            let (answer, _) = socket.ask(to)?;
            ensure!(answer == first, "{answer:?} after {first:?}");
        }
    }
    Ok(())
}

/// To the node's processes, external addresses lead to every endpoint of the cluster.
fn external_local(world: &mut World) -> Result<()> {
    world.cluster.source.write(
        "outer.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: outer}, spec: {type: NodePort, \
         externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack, clusterIP: 10.96.3.2, \
         clusterIPs: [10.96.3.2, \"fd00:96::302\"], selector: {pod: pod-3}, \
         ports: [{port: 80, targetPort: 8080, nodePort: 30110}]}}\n",
    )?;
    let ways = [("10.10.0.1", "fd00:10::1"), ("127.0.0.1", "::1")];
    for (v4, v6) in ways {
        for family in Family::BOTH {
            let to = Target {
                v4,
                v6,
                port: 30110,
            }
            .of(family)?;
            let answer = eventually(SOON, || world.ask("node-a", Protocol::Tcp, to))?;
            ensure!(answer.server == "pod-3", "{} answered", answer.server);
        }
    }
    world.cluster.source.remove("outer.yaml")
}

/// A backend is scaled away: its TCP connections drain, datagrams go elsewhere, new connections
/// avoid it.
fn backend_leaves(world: &mut World) -> Result<()> {
    let manifest = world.cluster.source.read("pod-3.yaml")?;
    for family in Family::BOTH {
        let to = WEB.of(family)?;
        let mut tcp = conversation_with(world, "node-a", Protocol::Tcp, "pod-3", to)?;
        let udp = loose_to(world, "pod-3", to)?;
        world.cluster.source.remove("pod-3.yaml")?;
        let asked = Instant::now();
        while udp.ask(to).context("the datagrams were lost")?.0.server == "pod-3" {
            ensure!(asked.elapsed() < SOON, "datagrams still go to pod-3");
        }
        ensure!(udp.ask(to)?.1 == to, "the new backend is told of");
        let answer = tcp.ask().context("the TCP connection was cut")?;
        ensure!(answer.server == "pod-3", "{} took it over", answer.server);
        for _ in 0..15 {
            let answer = world.ask("node-a", Protocol::Tcp, to)?;
            ensure!(answer.server != "pod-3", "a new connection went to pod-3");
        }
        world.cluster.source.write("pod-3.yaml", &manifest)?;
        eventually(SOON, || {
            conversation_with(world, "node-a", Protocol::Tcp, "pod-3", to)
        })?;
    }
    Ok(())
}

/// A flow to the given backend of a service: chance decides, so try until it does.
pub(crate) fn conversation_with(
    world: &World,
    from: &str,
    protocol: Protocol,
    pod: &str,
    to: SocketAddr,
) -> Result<Conversation> {
    // Two thirds to the 40th power is less than one in ten million.
    for _ in 0..40 {
        let mut flow = world.open(from, protocol, to)?;
        if flow.ask()?.server == pod {
            return Ok(flow);
        }
    }
    bail!("{pod} is never chosen")
}

/// The same for a socket that is not connected.
fn loose_to(world: &World, pod: &str, to: SocketAddr) -> Result<Loose> {
    for _ in 0..40 {
        let socket = world.loose("node-a", to)?;
        if socket.ask(to)?.0.server == pod {
            return Ok(socket);
        }
    }
    bail!("{pod} is never chosen")
}

/// With no agent, and with the next one, sockets keep their backends and new ones get theirs.
fn restart(world: &mut World) -> Result<()> {
    let to = WEB.of(Family::V4)?;
    let mut tcp = world.open("node-a", Protocol::Tcp, to)?;
    let udp = world.loose("node-a", to)?;
    let (first, _) = udp.ask(to)?;
    let mut go_on = |world: &World| -> Result<()> {
        tcp.ask().context("the TCP connection was cut")?;
        ensure!(tcp.peer()? == to, "the connection is told of its backend");
        let (answer, from) = udp.ask(to)?;
        ensure!(answer == first, "{answer:?} after {first:?}");
        ensure!(from == to, "the socket is told of its backend");
        world.ask("node-a", Protocol::Tcp, to).map(drop)
    };
    world.cluster.agent("node-a")?.kill();
    go_on(world).context("without an agent")?;
    let (name, agent) = world.cluster.agent_on("node-a")?;
    world.cluster.agents.insert(name, agent);
    go_on(world).context("with the next agent")
}

/// Has node-a's agent run with another cgroup; none means that sockets are left alone.
fn start_with(world: &mut World, cgroup: Option<PathBuf>) -> Result<()> {
    world.cluster.agent("node-a")?.stop()?;
    world.cluster.topology.node_a.cgroup = cgroup;
    let (name, agent) = world.cluster.agent_on("node-a")?;
    world.cluster.agents.insert(name, agent);
    Ok(())
}

/// No route leads to cluster IPs: only hooks do.
fn ensure_not_led(world: &World) -> Result<()> {
    let asked = world.ask("node-a", Protocol::Tcp, WEB.of(Family::V4)?);
    match asked {
        Ok(answer) => bail!("{} answered", answer.server),
        Err(_) => Ok(()),
    }
}

fn off_and_on(world: &mut World) -> Result<()> {
    let group = world.cluster.topology.node_a.cgroup.clone();
    start_with(world, None)?;
    ensure_not_led(world)?;
    // The other node's agent is on the same cgroup.
    world.ask("node-b", Protocol::Tcp, WEB.of(Family::V4)?)?;
    start_with(world, group)?;
    world
        .ask("node-a", Protocol::Tcp, WEB.of(Family::V4)?)
        .map(drop)
}

/// What is attached stays so, pods are served, and the status says what is wrong.
fn no_cgroup(world: &mut World) -> Result<()> {
    let group = world.cluster.topology.node_a.cgroup.clone();
    start_with(world, Some("/proc".into()))?;
    let to = WEB.of(Family::V4)?;
    world.ask("pod-2", Protocol::Tcp, to)?;
    world.ask("node-a", Protocol::Tcp, to)?;
    let status = lbctl(world.cluster.topology.node("node-a")?, &["status"])?;
    let line = "--cgroup /proc: not in a cgroup2 hierarchy";
    ensure!(status.contains(line), "{status}");
    start_with(world, group)?;
    world.ask("node-a", Protocol::Tcp, to).map(drop)
}

fn cleanup(world: &mut World) -> Result<()> {
    let group = world.cluster.topology.node_a.cgroup.clone();
    world.cluster.agent("node-a")?.stop()?;
    clean_up(world.cluster.topology.node("node-a")?)?;
    ensure_not_led(world)?;
    start_with(world, group)?;
    world
        .ask("node-a", Protocol::Tcp, WEB.of(Family::V4)?)
        .map(drop)
}

//! What becomes of flows: long datagrams, those whose pod is deleted, those that are not used, those in the way.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map};
use lb_common::{
    Addr as _, Port, Tick, V4,
    flow::{Direction, Flow, FlowKey, Half, Route, end},
    maps::{FLOWS_MAX, FLOWS4},
    proto,
};
use lb_userspace::pins::Pins;
use rustix::time::{ClockId, clock_gettime};
use tests::{
    agent::{lbctl, metrics},
    checks::Check,
    cluster::{Target, eventually},
    echo::Protocol,
    talk::Conversation,
    topology::Family,
};

use crate::{
    Question, World,
    paths::{POD_1_AT_NODE_A, POD_1_CLUSTER, POD_3_AT_NODE_A, POD_3_CLUSTER},
};

/// Ways a packet can take to a pod. What the node itself sends to a local one is cut for the link by which
/// it left, which may take more than the pod's.
#[rustfmt::skip]
const WAYS: [(&str, &str, Target); 6] = [
    ("node_port_local", "client", POD_1_AT_NODE_A),
    ("node_port_remote", "client", POD_3_AT_NODE_A),
    ("pod_to_cluster_ip_local", "pod-2", POD_1_CLUSTER),
    ("pod_to_cluster_ip_remote", "pod-2", POD_3_CLUSTER),
    ("pod_to_itself", "pod-1", POD_1_CLUSTER),
    ("node_to_cluster_ip_remote", "node-a", POD_3_CLUSTER),
];
/// More than any link here takes in one piece.
const LONG: usize = 30_000;
/// `EMSGSIZE`
const TOO_LONG: i32 = 90;
/// How soon a changed manifest has to have taken effect, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for family in Family::BOTH {
        for (name, from, to) in WAYS {
            let name = format!("{group}::{name}::{family:?}::n5_fragments").to_lowercase();
            checks.push(Check::new(name, move |world: &mut World| {
                let question = Question {
                    from,
                    protocol: Protocol::Udp,
                    to: to.of(family)?,
                };
                fragments(world, question)
            }));
        }
        let name = format!("{group}::{family:?}::m1_clients_of_a_deleted_pod_are_reset");
        checks.push(Check::new(name.to_lowercase(), move |world: &mut World| {
            deleted(world, family)
        }));
    }
    let name = format!("{group}::l7_flows_that_are_not_used_go");
    checks.push(Check::new(name, unused));
    // It takes half a minute, and no hook has a part in it.
    if group == "tc" {
        let name = format!("{group}::l8_flows_that_are_over_make_room");
        checks.push(Check::new(name, crowded));
    }
    checks
}

/// A datagram that takes several packets, and its answer. Over IPv6 no router makes fragments smaller:
/// where the pod's link takes less than the first one, the sender hears so, and the datagram is lost.
fn fragments(world: &mut World, question: Question) -> Result<()> {
    let mut flow = world.open(question)?;
    if let Err(error) = flow.echo(LONG) {
        let error = error.downcast::<io::Error>()?;
        ensure!(
            question.to.is_ipv6() && error.raw_os_error() == Some(TOO_LONG),
            "{error}"
        );
    }
    for count in [LONG, LONG + 1, 2 * LONG] {
        let outcome = flow.echo(count);
        outcome.with_context(|| format!("a datagram of {count} bytes"))?;
    }
    Ok(())
}

/// A pod terminates, which cuts nothing, and is deleted: its clients hear so at their next packet,
/// though something still answers at its address.
fn deleted(world: &mut World, family: Family) -> Result<()> {
    let manifest = world.cluster.source.read("pod-3.yaml")?;
    let mut flows = Vec::new();
    for (from, to) in [("client", POD_3_AT_NODE_A), ("pod-2", POD_3_CLUSTER)] {
        let mut flow = world.open(Question {
            from,
            protocol: Protocol::Tcp,
            to: to.of(family)?,
        })?;
        flow.ask()?;
        flows.push((from, flow));
    }
    let (head, metadata) = manifest
        .split_once("metadata:\n")
        .context("a pod without metadata")?;
    let terminating =
        format!("{head}metadata:\n  deletionTimestamp: 2026-01-01T00:00:00Z\n{metadata}");
    world.cluster.source.write("pod-3.yaml", &terminating)?;
    eventually(SOON, || is_terminating(world))?;
    for (from, flow) in &mut flows {
        flow.ask()
            .with_context(|| format!("{from}, while it terminates"))?;
    }
    world.cluster.source.remove("pod-3.yaml")?;
    let outcome = flows.iter_mut().try_for_each(|(from, flow)| {
        is_reset(flow).with_context(|| format!("{from}, once it is deleted"))
    });
    world.cluster.source.write("pod-3.yaml", &manifest)?;
    eventually(SOON, || {
        world.ask(Question {
            from: "client",
            protocol: Protocol::Tcp,
            to: POD_3_AT_NODE_A.of(family)?,
        })
    })?;
    outcome
}

fn is_terminating(world: &World) -> Result<()> {
    let node = world.cluster.topology.node("node-a")?;
    let backends = lbctl(node, &["maps", "dump", "backends", "-o", "json"])?;
    ensure!(backends.contains("\"terminating\": true"), "{backends}");
    Ok(())
}

/// The connection is broken off at a packet, and not answered nor silent.
fn is_reset(flow: &mut Conversation) -> Result<()> {
    let asked = Instant::now();
    loop {
        match flow.ask() {
            // It is not seen everywhere yet.
            Ok(_) if asked.elapsed() < SOON => {}
            Ok(answer) => bail!("{} still answers", answer.server),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Rows go after the time that is given for their protocol and stage, but for those of flows that are used.
fn unused(world: &mut World) -> Result<()> {
    const OPTIONS: [&str; 2] = [
        "--flow-timeout",
        "udp-established=1s,udp-opening=1s,tcp-closed=1s",
    ];
    world.cluster.agent("node-a")?.kill();
    let mut agent = world.cluster.launch("node-a", &OPTIONS)?;
    agent.wait_ready()?;
    world.cluster.agents.insert("node-a", agent);
    // Where the client's packets come from, as `lbctl` shows it.
    let open = |protocol| -> Result<(Conversation, String)> {
        let mut flow = world.open(Question {
            from: "client",
            protocol,
            to: POD_1_AT_NODE_A.of(Family::V4)?,
        })?;
        flow.ask()?;
        let at = flow.local()?.port().to_string();
        Ok((flow, format!(":{at} ")))
    };
    let (_idle, idle) = open(Protocol::Udp)?;
    let (mut busy, busy_at) = open(Protocol::Udp)?;
    let (_tcp, tcp_at) = open(Protocol::Tcp)?;
    let (closed, closed_at) = open(Protocol::Tcp)?;
    drop(closed);
    let node = world.cluster.topology.node("node-a")?;
    eventually(Duration::from_secs(20), || {
        busy.ask()?;
        let rows = lbctl(node, &["maps", "dump", "FLOWS4"])?;
        ensure!(rows.contains(&busy_at) && rows.contains(&tcp_at), "{rows}");
        ensure!(!rows.contains(&idle), "the idle flow is still there");
        ensure!(!rows.contains(&closed_at), "the closed one is still there");
        Ok(())
    })?;
    for stage in ["established", "closed"] {
        let expired =
            format!("fairlead_flows_expired_total{{ip_family=\"IPv4\",stage=\"{stage}\"}}");
        eventually(SOON, || {
            let metrics = metrics(node)?;
            let count = metrics.get(&expired).context("there is no such metric")?;
            ensure!(*count >= 1.0, "{count} flows expired");
            Ok(())
        })?;
    }
    Ok(())
}

/// A table that is nearly full of flows that are over is rid of them long before their time; those that
/// go on stay.
fn crowded(world: &mut World) -> Result<()> {
    const OPTIONS: [&str; 2] = ["--flow-timeout", "tcp-closed=1h"];
    const CLOSED: &str = "fairlead_flow_rows{ip_family=\"IPv4\",stage=\"closed\"}";
    world.cluster.agent("node-a")?.kill();
    let mut agent = world.cluster.launch("node-a", &OPTIONS)?;
    agent.wait_ready()?;
    world.cluster.agents.insert("node-a", agent);
    let mut flow = world.open(Question {
        from: "client",
        protocol: Protocol::Tcp,
        to: POD_1_AT_NODE_A.of(Family::V4)?,
    })?;
    flow.ask()?;
    let node = world.cluster.topology.node("node-a")?;
    crowd(&Pins::new(&node.bpffs()))?;
    let closed = || -> Result<f64> {
        metrics(node)?
            .get(CLOSED)
            .copied()
            .context("no such metric")
    };
    let few = f64::from(FLOWS_MAX / 100);
    eventually(Duration::from_secs(60), || {
        let closed = closed()?;
        ensure!(closed > few, "only {closed} rows are seen");
        Ok(())
    })?;
    eventually(Duration::from_secs(60), || {
        let closed = closed()?;
        ensure!(closed < few, "{closed} rows of flows that are over stay");
        Ok(())
    })?;
    flow.ask().context("the flow that went on")?;
    Ok(())
}

/// Fills four fifths of a table, and some more, with rows of flows that have just ended.
fn crowd(pins: &Pins) -> Result<()> {
    let map = Map::LruHashMap(pins.open(FLOWS4)?);
    let mut table: HashMap<_, FlowKey<V4>, Flow<V4>> = HashMap::try_from(map)?;
    let word = |ip: [u8; 4]| V4::from_ip(ip.into()).context("an IPv4 address");
    let (client, service) = (word([203, 0, 113, 1])?, word([203, 0, 113, 2])?);
    for number in 0..FLOWS_MAX / 5 * 4 + FLOWS_MAX / 100 {
        let [_, high, sport, dport] = number.to_be_bytes();
        let from = (client, Port::new(u16::from_be_bytes([high, sport])));
        let to = (service, Port::new(dport.into()));
        let mut row = Flow::new(Half::Request, Route::Stack, from, to);
        row.set_end(Half::Request, end::CLOSED);
        row.set_end(Half::Reply, end::CLOSED);
        row.seen = tick();
        let key = FlowKey::new(Direction::Ingress, proto::TCP, from, to);
        table.insert(&key, &row, 0)?;
    }
    Ok(())
}

/// The time, as rows are stamped.
fn tick() -> Tick {
    let now = clock_gettime(ClockId::Monotonic);
    Tick::from_nanos(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

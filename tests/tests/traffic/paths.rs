//! Who answers, and whom they take the client for, on every path a packet can take.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    checks::Check, cluster::Target, course::Course, echo::Protocol, talk::Conversation,
    topology::Family,
};

use crate::{Question, World, kinds};

/// `only-pod-1` of `manifests/`: local to node-a.
pub(crate) const POD_1_AT_NODE_A: Target = Target::new("10.10.0.1", "fd00:10::1", 30081);
const POD_1_AT_NODE_B: Target = Target::new("10.10.0.2", "fd00:10::2", 30081);
const POD_1_EXTERNAL: Target = Target::new("192.0.2.81", "2001:db8:1::81", 80);
const POD_1_INGRESS: Target = Target::new("198.51.100.81", "2001:db8:2::81", 80);
pub(crate) const POD_1_CLUSTER: Target = Target::new("10.96.1.81", "fd00:96::181", 80);
/// `only-pod-3`: remote from node-a.
pub(crate) const POD_3_AT_NODE_A: Target = Target::new("10.10.0.1", "fd00:10::1", 30083);
const POD_3_AT_NODE_B: Target = Target::new("10.10.0.2", "fd00:10::2", 30083);
const POD_3_EXTERNAL: Target = Target::new("192.0.2.83", "2001:db8:1::83", 80);
const POD_3_INGRESS: Target = Target::new("198.51.100.83", "2001:db8:2::83", 80);
pub(crate) const POD_3_CLUSTER: Target = Target::new("10.96.1.83", "fd00:96::183", 80);

/// The client's address is kept but for a remote backend of outside traffic and for hairpin.
#[rustfmt::skip]
const COURSES: [Course; 20] = [
    Course { name: "node_port_local", from: "client", to: POD_1_AT_NODE_A, answers: "pod-1", sees: "client" },
    Course { name: "node_port_remote", from: "client", to: POD_3_AT_NODE_A, answers: "pod-3", sees: "node-a" },
    Course { name: "node_port_of_other_node", from: "client", to: POD_3_AT_NODE_B, answers: "pod-3", sees: "client" },
    Course { name: "node_port_back_to_first_node", from: "client", to: POD_1_AT_NODE_B, answers: "pod-1", sees: "node-b" },
    Course { name: "external_ip_local", from: "client", to: POD_1_EXTERNAL, answers: "pod-1", sees: "client" },
    Course { name: "external_ip_remote", from: "client", to: POD_3_EXTERNAL, answers: "pod-3", sees: "node-a" },
    Course { name: "ingress_ip_local", from: "client", to: POD_1_INGRESS, answers: "pod-1", sees: "client" },
    Course { name: "ingress_ip_remote", from: "client", to: POD_3_INGRESS, answers: "pod-3", sees: "node-a" },
    Course { name: "cluster_ip_from_outside_local", from: "client", to: POD_1_CLUSTER, answers: "pod-1", sees: "client" },
    Course { name: "cluster_ip_from_outside_remote", from: "client", to: POD_3_CLUSTER, answers: "pod-3", sees: "node-a" },
    Course { name: "pod_to_cluster_ip_local", from: "pod-2", to: POD_1_CLUSTER, answers: "pod-1", sees: "pod-2" },
    Course { name: "pod_to_cluster_ip_remote", from: "pod-2", to: POD_3_CLUSTER, answers: "pod-3", sees: "pod-2" },
    Course { name: "pod_to_node_port_local", from: "pod-2", to: POD_1_AT_NODE_A, answers: "pod-1", sees: "pod-2" },
    Course { name: "pod_to_node_port_remote", from: "pod-2", to: POD_3_AT_NODE_A, answers: "pod-3", sees: "pod-2" },
    Course { name: "pod_to_external_ip_remote", from: "pod-2", to: POD_3_EXTERNAL, answers: "pod-3", sees: "pod-2" },
    Course { name: "pod_to_itself", from: "pod-1", to: POD_1_CLUSTER, answers: "pod-1", sees: "node-a" },
    Course { name: "p11_node_to_cluster_ip_local", from: "node-a", to: POD_1_CLUSTER, answers: "pod-1", sees: "node-a" },
    Course { name: "p11_node_to_cluster_ip_remote", from: "node-a", to: POD_3_CLUSTER, answers: "pod-3", sees: "node-a" },
    Course { name: "p11_node_to_external_ip_remote", from: "node-a", to: POD_3_EXTERNAL, answers: "pod-3", sees: "node-a" },
    Course { name: "pod_to_itself_by_external_ip", from: "pod-1", to: POD_1_EXTERNAL, answers: "pod-1", sees: "node-a" },
];

/// The paths that carry streams too.
const STREAMS: [&str; 7] = [
    "node_port_local",
    "node_port_remote",
    "pod_to_cluster_ip_local",
    "pod_to_cluster_ip_remote",
    "pod_to_itself",
    "p11_node_to_cluster_ip_local",
    "p11_node_to_cluster_ip_remote",
];

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for course in COURSES {
        for (family, protocol) in kinds() {
            let name = format!("{group}::{}::{family:?}::{protocol:?}", course.name).to_lowercase();
            checks.push(Check::new(name, move |world| {
                follow(world, course, family, protocol)
            }));
        }
    }
    for course in COURSES
        .into_iter()
        .filter(|course| STREAMS.contains(&course.name))
    {
        for family in Family::BOTH {
            let name = format!("{group}::{}::{family:?}::stream", course.name).to_lowercase();
            checks.push(Check::new(name, move |world| stream(world, course, family)));
        }
    }
    checks.push(Check::new(
        format!("{group}::named_target_ports"),
        named_target_ports,
    ));
    checks.push(Check::new(format!("{group}::spread"), spread));
    checks.push(Check::new(
        format!("{group}::the_same_port_by_another_way"),
        another_way,
    ));
    checks
}

/// The first packets of a flow, and some of the established flow.
fn follow(world: &mut World, course: Course, family: Family, protocol: Protocol) -> Result<()> {
    let sees = world.cluster.address(course.sees, family)?;
    let mut flow = course.open(&world.cluster, family, protocol)?;
    course.ask(&mut flow, sees)
}

/// Megabytes both ways at once: windows, segmentation offloads of pods, retransmissions.
fn stream(world: &mut World, course: Course, family: Family) -> Result<()> {
    let mut flow = course.open(&world.cluster, family, Protocol::Tcp)?;
    flow.transfer(8 << 20)
}

/// `api` of the examples: the pods' container ports say what the target's name means.
fn named_target_ports(world: &mut World) -> Result<()> {
    for (family, protocol) in kinds() {
        let to = Target::new("10.96.0.20", "fd00:96::20", 7000).of(family)?;
        world.ask(Question {
            from: "pod-2",
            protocol,
            to,
        })?;
    }
    Ok(())
}

/// `web` of the examples has three backends: each gets about a third of the flows. With 600 flows
/// a fair choice falls outside these bounds less than once in 10^9 runs.
fn spread(world: &mut World) -> Result<()> {
    const FLOWS: u32 = 600;
    let to = Target::new("10.10.0.1", "fd00:10::1", 30080);
    let mut count = BTreeMap::<String, u32>::new();
    for flow in 0..FLOWS {
        let family = Family::BOTH[usize::from(flow % 2 == 0)];
        let protocol = Protocol::BOTH[usize::from(flow % 4 < 2)];
        let answer = world.ask(Question {
            from: "client",
            protocol,
            to: to.of(family)?,
        })?;
        *count.entry(answer.server).or_default() += 1;
    }
    ensure!(
        count.len() == 3 && count.values().all(|n| (130..=270).contains(n)),
        "{count:?}"
    );
    Ok(())
}

/// Of a client that reaches a backend by one node, then by the other, then straight, each time from
/// the port it had before: every answer is from whom it asked.
fn another_way(world: &mut World) -> Result<()> {
    const PORT: u16 = 40_321;
    let straight = |family| {
        Ok(SocketAddr::new(
            world.cluster.address("pod-1", family)?,
            8080,
        ))
    };
    let by_node_a = |family| POD_1_AT_NODE_A.of(family);
    let by_node_b = |family| POD_1_CLUSTER.of(family);
    let ways: [&dyn Fn(Family) -> Result<SocketAddr>; 3] = [&by_node_a, &by_node_b, &straight];
    let netns = world.cluster.netns("pod-3")?;
    for way in ways {
        for family in Family::BOTH {
            let to = way(family)?;
            let answer = Conversation::open(netns, Protocol::Tcp, to, PORT)?.ask();
            let answer = answer.with_context(|| format!("pod-3 at {to}"))?;
            ensure!(
                answer.server == "pod-1",
                "{} answered at {to}",
                answer.server
            );
        }
        // Connections that ended count as unused after a second.
        thread::sleep(Duration::from_millis(1_100));
    }
    Ok(())
}

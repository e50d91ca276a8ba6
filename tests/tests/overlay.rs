//! Nodes whose pods are connected by an overlay, as flannel builds it: a VXLAN device of each family on
//! each node, with permanent neighbours, over the network the nodes are on. What a client asks of a
//! backend behind the tunnel goes out by its device and comes back in by it, where only tc can be had.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use lb_userspace::status::{Mode, Role};
use rustix::io::Errno;
use tests::{
    agent,
    capture::Capture,
    checks::{Check, Checks},
    cluster::{Cluster, Target},
    course::Course,
    echo::{Answer, Protocol},
    manifests::examples,
    site::Site,
    talk::{patience, unspecified},
    topology::{Family, Host, Links, Topology},
};

/// The devices: their names, and what their headers take of the MTU.
const DEVICES: [(Family, &str, u32); 2] = [
    (Family::V4, "flannel.1", 50),
    (Family::V6, "flannel-v6.1", 70),
];
/// Where VXLAN packets go.
const VXLAN_PORT: u16 = 8472;

/// The services of `manifests/`.
const POD_1_AT_NODE_A: Target = Target::new("10.10.0.1", "fd00:10::1", 30081);
const POD_1_AT_NODE_B: Target = Target::new("10.10.0.2", "fd00:10::2", 30081);
const POD_3_AT_NODE_A: Target = Target::new("10.10.0.1", "fd00:10::1", 30083);
const POD_3_CLUSTER: Target = Target::new("10.96.1.83", "fd00:96::183", 80);

#[rustfmt::skip]
const COURSES: [Course; 6] = [
    Course { name: "node_port", from: "client", to: POD_3_AT_NODE_A, answers: "pod-3", sees: "node-a" },
    Course { name: "node_port_the_other_way", from: "client", to: POD_1_AT_NODE_B, answers: "pod-1", sees: "node-b" },
    Course { name: "cluster_ip_from_outside", from: "client", to: POD_3_CLUSTER, answers: "pod-3", sees: "node-a" },
    Course { name: "local_backend", from: "client", to: POD_1_AT_NODE_A, answers: "pod-1", sees: "client" },
    Course { name: "pod_to_cluster_ip", from: "pod-2", to: POD_3_CLUSTER, answers: "pod-3", sees: "pod-2" },
    Course { name: "pod_to_node_port", from: "pod-2", to: POD_3_AT_NODE_A, answers: "pod-3", sees: "pod-2" },
];

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    let mut list = vec![Check::new(
        "r1_tunnels_are_seen_by_tc_without_being_named",
        seen_by_tc,
    )];
    for course in COURSES {
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let name = format!("{}::{family:?}::{protocol:?}", course.name).to_lowercase();
                list.push(Check::new(name, move |world| {
                    follow(world, course, family, protocol)
                }));
            }
            let name = format!("{}::{family:?}::stream", course.name).to_lowercase();
            list.push(Check::new(name, move |world| stream(world, course, family)));
            let name = format!("{}::{family:?}::large", course.name).to_lowercase();
            list.push(Check::new(name, move |world| large(world, course, family)));
        }
    }
    for course in COURSES.into_iter().filter(|course| course.sees == "node-a") {
        for family in Family::BOTH {
            let name = format!("{}::{family:?}::n9_too_large", course.name).to_lowercase();
            list.push(Check::new(name, move |world| {
                too_large(world, course, family)
            }));
        }
    }
    list.push(Check::new(
        "r1_all_of_it_went_through_the_tunnels",
        tunnelled,
    ));
    checks.group(list, World::start, |world| world.cluster.logs());
    checks.finish()
}

struct World {
    wire: Option<Capture>,
    cluster: Cluster,
}

impl World {
    fn start() -> Result<Self> {
        let cluster = Cluster::build(Site::new()?, Links::STANDARD, &examples())?;
        cluster
            .source
            .add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"))?;
        lay(&cluster.topology)?;
        let mut world = Self {
            wire: Some(Capture::start(&cluster.topology.switch)?),
            cluster,
        };
        world.cluster.start_agents()?;
        Ok(world)
    }
}

/// Lays the overlay: what a node sends to pods of the other one goes by the tunnel of its family.
fn lay(topology: &Topology) -> Result<()> {
    let nodes = [(&topology.node_a, 1), (&topology.node_b, 2)];
    for (node, number) in nodes {
        for (family, device, headers) in DEVICES {
            tunnel(node, number, family, device, 1500 - headers)?;
        }
    }
    // What fits the narrower tunnel fits both; a CNI tells pods so.
    for pod in &topology.pods {
        let mtu = 1500 - DEVICES[1].2;
        pod.netns.ip(&format!("link set eth0 mtu {mtu}"))?;
        let node = topology.node(pod.node)?;
        node.netns
            .ip(&format!("link set {} mtu {mtu}", pod.interface()))?;
    }
    Ok(())
}

fn tunnel(node: &Host, number: u8, family: Family, device: &str, mtu: u32) -> Result<()> {
    let other = 3 - number;
    let mac = |number| format!("02:00:00:00:0{}:0{number}", u8::from(family == Family::V6));
    let (own, far) = (mac(number), mac(other));
    let (end, whole, length) = match family {
        Family::V4 => (IpAddr::from([10, 10, 0, other]), 32, 24),
        Family::V6 => (format!("fd00:10::{other}").parse()?, 128, 64),
    };
    let (local, remote) = (address(family, number), address(family, other));
    node.netns.ip(&format!(
        "link add {device} address {own} mtu {mtu} type vxlan id 1 dev eth0 local {} dstport {VXLAN_PORT} \
         nolearning\n\
         addr add {local}/{whole} dev {device}\n\
         link set {device} up\n\
         neigh add {remote} lladdr {far} dev {device} nud permanent\n\
         route del {remote}/{length}\n\
         route add {remote}/{length} via {remote} dev {device} onlink",
        node.addresses.of(family)
    ))?;
    let mut bridge = Command::new("bridge");
    bridge.args([
        "fdb",
        "append",
        &far,
        "dev",
        device,
        "dst",
        &end.to_string(),
    ]);
    node.netns.output(&mut bridge).map(drop)
}

/// The address of a node's tunnel: the first one of its pods' network.
fn address(family: Family, node: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 1, node, 0]),
        Family::V6 => IpAddr::from([0xfd00, 1, node.into(), 0, 0, 0, 0, 0]),
    }
}

/// The agent was told of `eth0` alone.
fn seen_by_tc(world: &mut World) -> Result<()> {
    for node in ["node-a", "node-b"] {
        let status = agent::status(world.cluster.topology.node(node)?)?;
        for (_, device, _) in DEVICES {
            let mut interfaces = status.interfaces.iter();
            let interface = interfaces.find(|interface| interface.name == device);
            let interface =
                interface.with_context(|| format!("{device} of {node} is not there"))?;
            ensure!(
                (interface.role, interface.mode) == (Role::External, Mode::Tc)
                    && interface.reason == "no XDP: the driver of a tunnel has none",
                "{node}: {interface:?}"
            );
        }
        ensure!(status.problems.is_empty(), "{node}: {:?}", status.problems);
    }
    let text = agent::lbctl(world.cluster.topology.node("node-a")?, &["status"])?;
    ensure!(text.contains("the driver of a tunnel has none"), "{text}");
    Ok(())
}

/// The address of who is to be seen: a node's is that of its tunnel.
fn sees(world: &World, course: Course, family: Family) -> Result<IpAddr> {
    match course.sees {
        "node-a" => Ok(address(family, 1)),
        "node-b" => Ok(address(family, 2)),
        other => world.cluster.address(other, family),
    }
}

/// The first packets of a flow, and some of the established flow.
fn follow(world: &mut World, course: Course, family: Family, protocol: Protocol) -> Result<()> {
    let sees = sees(world, course, family)?;
    let mut flow = course.open(&world.cluster, family, protocol)?;
    course.ask(&mut flow, sees)
}

/// Megabytes both ways: segments as long as the tunnel takes.
fn stream(world: &mut World, course: Course, family: Family) -> Result<()> {
    let mut flow = course.open(&world.cluster, family, Protocol::Tcp)?;
    flow.transfer(4 << 20)
}

/// A datagram that is as long as the tunnel takes.
fn large(world: &mut World, course: Course, family: Family) -> Result<()> {
    let to = course.to.of(family)?;
    let socket = connected(world, course, to)?;
    let answer = ask(&socket, &question(family, 1500 - DEVICES[1].2))?;
    course.judge(&answer, sees(world, course, family)?)
}

/// One that is as long as the link before the tunnel takes: its sender is told, cuts up the next one, and is
/// answered.
fn too_large(world: &mut World, course: Course, family: Family) -> Result<()> {
    let to = course.to.of(family)?;
    world.cluster.netns(course.from)?.forget_paths()?;
    let socket = connected(world, course, to)?;
    let question = question(family, 1500);
    let told = ask(&socket, &question).err().context("it was answered")?;
    let told = told.downcast_ref::<io::Error>();
    ensure!(
        told.is_some_and(|error| Errno::from_io_error(error) == Some(Errno::MSGSIZE)),
        "{told:?} instead of EMSGSIZE"
    );
    let answer = ask(&socket, &question)?;
    course.judge(&answer, sees(world, course, family)?)
}

/// What makes an IP packet of this length.
fn question(family: Family, length: u32) -> Vec<u8> {
    let headers = match family {
        Family::V4 => 20 + 8,
        Family::V6 => 40 + 8,
    };
    vec![b'?'; length as usize - headers]
}

/// A socket of who asks, connected to this address.
fn connected(world: &World, course: Course, to: SocketAddr) -> Result<UdpSocket> {
    let make = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((unspecified(to.ip()), 0))?;
        socket.set_read_timeout(Some(patience()))?;
        socket.connect(to)?;
        Ok(socket)
    };
    Ok(world.cluster.netns(course.from)?.run(make)??)
}

fn ask(socket: &UdpSocket, question: &[u8]) -> Result<Answer> {
    socket.send(question)?;
    let mut datagram = [0; 1500];
    let length = socket.recv(&mut datagram)?;
    Ok(serde_json::from_slice(&datagram[..length])?)
}

/// Ends the capture: on the nodes' network there was no packet of a pod's, but in a tunnel, and all
/// checksums were right.
fn tunnelled(world: &mut World) -> Result<()> {
    let wire = world.wire.take().context("there is no capture")?.finish()?;
    ensure!(
        wire.faults().is_empty(),
        "bad packets on the wire:\n{}",
        wire.faults().join("\n")
    );
    let Topology {
        pods,
        node_a,
        node_b,
        ..
    } = &world.cluster.topology;
    for (proto, from, to) in &wire.flows {
        let is_pod = |end: &SocketAddr| {
            let mut pods = pods.iter();
            pods.any(|pod| {
                Family::BOTH
                    .map(|family| pod.addresses.of(family))
                    .contains(&end.ip())
            })
        };
        ensure!(
            !is_pod(from) && !is_pod(to),
            "protocol {proto} from {from} to {to} in no tunnel"
        );
    }
    for family in Family::BOTH {
        let ends = [node_a.addresses.of(family), node_b.addresses.of(family)];
        let carried = wire.flows.iter().any(|(proto, from, to)| {
            *proto == 17 && to.port() == VXLAN_PORT && [from.ip(), to.ip()] == ends
        });
        ensure!(carried, "nothing went through the tunnel of {family:?}");
    }
    Ok(())
}

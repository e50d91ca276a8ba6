//! Fairlead on links of every kind: VLANs, bonds, jumbo frames, and real drivers' NICs with their offloads; over TCP, UDP
//! and the kernel's own SCTP.
//!
//! Each wire is a topology of its own. A machine that lacks what one is made of says so, and runs none of its checks:
//! `cargo xtask kernels` has guests that lack nothing.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_userspace::status::Mode;
use tests::{
    agent,
    capture::Capture,
    checks::{Check, Checks},
    cluster::{Cluster, Target, eventually},
    course::Course,
    echo::{Protocol, Servers},
    manifests::examples,
    sctp,
    site::Site,
    topology::{
        Family, Links,
        links::{Eth0, Port, set_carrier},
    },
};

/// Where pods have SCTP.
const ASSOCIATIONS: u16 = 7070;

/// A driver without native XDP, and one that has it.
const E1000E: Links = Links {
    port: Port::Nic("e1000e"),
    ..Links::STANDARD
};
const VIRTIO_NET: Links = Links {
    port: Port::Nic("virtio_net"),
    ..Links::STANDARD
};

/// Links, and how programs have to be attached to them.
#[derive(Clone, Copy)]
struct Wire {
    name: &'static str,
    links: Links,
    mode: Mode,
}

#[rustfmt::skip]
const WIRES: [Wire; 14] = [
    Wire { name: "veth", links: Links::STANDARD, mode: Mode::Xdp },
    Wire { name: "veth_jumbo", links: Links::JUMBO, mode: Mode::Tc },
    Wire { name: "veth_vlan", links: Links { eth0: Eth0::Vlan, ..Links::STANDARD }, mode: Mode::Tc },
    Wire { name: "veth_active_backup", links: Links { eth0: Eth0::ActiveBackup, ..Links::STANDARD }, mode: Mode::Xdp },
    Wire { name: "veth_balance_xor", links: Links { eth0: Eth0::BalanceXor, ..Links::STANDARD }, mode: Mode::Xdp },
    Wire { name: "virtio_net", links: VIRTIO_NET, mode: Mode::Xdp },
    Wire { name: "virtio_net_offloads", links: Links { offloads: true, ..VIRTIO_NET }, mode: Mode::Xdp },
    Wire { name: "virtio_net_jumbo", links: Links { mtu: 9000, ..VIRTIO_NET }, mode: Mode::Tc },
    Wire { name: "virtio_net_jumbo_offloads", links: Links { mtu: 9000, offloads: true, ..VIRTIO_NET }, mode: Mode::Tc },
    Wire { name: "virtio_net_vlan_offloads", links: Links { eth0: Eth0::Vlan, offloads: true, ..VIRTIO_NET }, mode: Mode::Tc },
    Wire { name: "virtio_net_active_backup", links: Links { eth0: Eth0::ActiveBackup, ..VIRTIO_NET }, mode: Mode::Xdp },
    Wire { name: "e1000e", links: E1000E, mode: Mode::Tc },
    Wire { name: "e1000e_offloads", links: Links { offloads: true, ..E1000E }, mode: Mode::Tc },
    Wire { name: "e1000e_jumbo", links: Links { mtu: 9000, ..E1000E }, mode: Mode::Tc },
];

/// The services of `manifests/`.
const POD_1_AT_NODE_A: Target = Target::new("10.10.0.1", "fd00:10::1", 30071);
const POD_3_AT_NODE_A: Target = Target::new("10.10.0.1", "fd00:10::1", 30073);
const POD_3_CLUSTER: Target = Target::new("10.96.1.73", "fd00:96::173", 80);

#[rustfmt::skip]
const COURSES: [Course; 4] = [
    Course { name: "node_port_local", from: "client", to: POD_1_AT_NODE_A, answers: "pod-1", sees: "client" },
    Course { name: "node_port_remote", from: "client", to: POD_3_AT_NODE_A, answers: "pod-3", sees: "node-a" },
    Course { name: "pod_to_cluster_ip_remote", from: "pod-2", to: POD_3_CLUSTER, answers: "pod-3", sees: "pod-2" },
    Course { name: "node_to_cluster_ip_remote", from: "node-a", to: POD_3_CLUSTER, answers: "pod-3", sees: "node-a" },
];

struct World {
    wire: Wire,
    client: Option<Capture>,
    /// Of SCTP.
    servers: BTreeMap<&'static str, Servers>,
    cluster: Cluster,
}

impl World {
    fn start(wire: Wire) -> Result<Self> {
        let cluster = Cluster::build(Site::new()?, wire.links, &examples())?;
        cluster
            .source
            .add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wires/manifests"))?;
        let mut world = Self {
            wire,
            client: Some(Capture::start(&cluster.topology.client.netns)?),
            servers: BTreeMap::new(),
            cluster,
        };
        world.widen_pods()?;
        if sctp::kernel_has_it() {
            world.serve_associations()?;
        }
        world.cluster.route_services("node-a")?;
        world.cluster.start_agents()?;
        Ok(world)
    }

    /// Has pods send frames as long as the wire takes, as CNIs do.
    fn widen_pods(&self) -> Result<()> {
        let (topology, mtu) = (&self.cluster.topology, self.wire.links.mtu);
        for pod in &topology.pods {
            let end = format!("link set {} mtu {mtu}", pod.interface());
            topology.node(pod.node)?.netns.ip(&end)?;
            pod.netns.ip(&format!("link set eth0 mtu {mtu}"))?;
        }
        Ok(())
    }

    fn serve_associations(&mut self) -> Result<()> {
        for pod in ["pod-1", "pod-3"] {
            let at = Family::BOTH.map(|family| {
                let address = self.cluster.address(pod, family)?;
                Ok(SocketAddr::new(address, ASSOCIATIONS))
            });
            let at = at.into_iter().collect::<Result<Vec<_>>>()?;
            let servers = Servers::associations(self.cluster.netns(pod)?, pod, &at)?;
            self.servers.insert(pod, servers);
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    // Before any topology has NICs: they come back some time after it is gone.
    let lacked = WIRES.map(|wire| wire.links.lacking());
    for (wire, lacked) in WIRES.into_iter().zip(lacked) {
        let (associations, others) = (of_sctp(wire), of_others(wire));
        match (lacked, sctp::kernel_has_it()) {
            (Some(lacked), _) => {
                checks.ignore(&others, &lacked);
                checks.ignore(&associations, &lacked);
            }
            (None, false) => {
                run(&mut checks, wire, others);
                checks.ignore(&associations, "no SCTP sockets");
            }
            (None, true) => run(
                &mut checks,
                wire,
                others.into_iter().chain(associations).collect(),
            ),
        }
    }
    checks.finish()
}

fn run(checks: &mut Checks, wire: Wire, mut list: Vec<Check<World>>) {
    // Ends the capture, so it comes last.
    list.push(Check::new(format!("{}::clean", wire.name), clean));
    checks.group(list, || World::start(wire), |world| world.cluster.logs());
}

fn of_others(wire: Wire) -> Vec<Check<World>> {
    let mut list = vec![Check::new(format!("{}::r6_mode", wire.name), mode)];
    list.extend(talks(wire, Protocol::Tcp));
    list.extend(talks(wire, Protocol::Udp));
    if wire.links.eth0 == Eth0::ActiveBackup && wire.links.port == Port::Veth {
        for family in Family::BOTH {
            let name = format!("{}::r6_a_port_is_lost::{family:?}", wire.name).to_lowercase();
            list.push(Check::new(name, move |world| a_port_is_lost(world, family)));
        }
    }
    list
}

fn of_sctp(wire: Wire) -> Vec<Check<World>> {
    talks(wire, Protocol::Sctp)
}

fn talks(wire: Wire, protocol: Protocol) -> Vec<Check<World>> {
    let mut list = Vec::new();
    for course in COURSES {
        for family in Family::BOTH {
            let row = match protocol {
                Protocol::Tcp | Protocol::Udp => "r6",
                Protocol::Sctp => "r7",
            };
            let name = format!(
                "{}::{row}_{}::{family:?}::{protocol:?}",
                wire.name, course.name
            );
            list.push(Check::new(name.to_lowercase(), move |world| {
                follow(world, course, family, protocol)
            }));
        }
    }
    list
}

/// The external interfaces are attached as they have to be here.
fn mode(world: &mut World) -> Result<()> {
    for node in ["node-a", "node-b"] {
        let status = agent::status(world.cluster.topology.node(node)?)?;
        let eth0 = status.interfaces.iter().find(|it| it.name == "eth0");
        let eth0 = eth0.context("eth0 is not there")?;
        ensure!(eth0.mode == world.wire.mode, "eth0 of {node}: {eth0:?}");
    }
    Ok(())
}

/// Questions and answers, then, where it is a stream, a megabyte both ways at once.
fn follow(world: &mut World, course: Course, family: Family, protocol: Protocol) -> Result<()> {
    let mut flow = course.open(&world.cluster, family, protocol)?;
    let sees = world.cluster.address(course.sees, family)?;
    course.ask(&mut flow, sees)?;
    match protocol {
        Protocol::Tcp | Protocol::Sctp => flow.transfer(1 << 20),
        // As much as fits one frame, with headers of IPv6 and UDP.
        Protocol::Udp => flow.echo(world.wire.links.mtu as usize - 48),
    }
}

/// A connection goes on by the other port of a bond.
fn a_port_is_lost(world: &mut World, family: Family) -> Result<()> {
    let [_, remote, ..] = COURSES;
    let mut flow = remote.open(&world.cluster, family, Protocol::Tcp)?;
    flow.ask()?;
    let (switch, links) = (&world.cluster.topology.switch, world.wire.links);
    for number in 0..links.ports().len() {
        set_carrier(switch, "node-a", links, number, false)?;
        let outcome = eventually(Duration::from_secs(10), || Ok(flow.ask()?));
        set_carrier(switch, "node-a", links, number, true)?;
        outcome.with_context(|| format!("without port {number}"))?;
        // The bond takes note of a port that is back.
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Ends the capture: no pod's address was seen, and all checksums were right if devices left none to others.
fn clean(world: &mut World) -> Result<()> {
    let seen = world
        .client
        .take()
        .context("there is no capture")?
        .finish()?;
    let pods = world.cluster.topology.pods.iter().map(|pod| pod.addresses);
    let pods: Vec<_> = pods.collect();
    for (_, from, to) in &seen.flows {
        let of_pod = pods
            .iter()
            .any(|pod| from.ip() == pod.v4 || from.ip() == pod.v6);
        ensure!(!of_pod, "untranslated: {from} to {to} at the client");
    }
    ensure!(
        world.wire.links.offloads || seen.bad.is_empty(),
        "bad packets at the client:\n{}",
        seen.bad.join("\n")
    );
    Ok(())
}

//! Who answers a process on a node, whom it is told it talks to, and whom the answerer sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tests::{checks::Check, cluster::Target, echo::Protocol, topology::Family};

use crate::World;

/// A path: which node asks what, and who answers.
#[derive(Clone, Copy)]
struct Path {
    name: &'static str,
    from: &'static str,
    to: Target,
    answers: &'static str,
}

const fn target(v4: &'static str, v6: &'static str, port: u16) -> Target {
    Target { v4, v6, port }
}

/// `only-pod-1` and `only-pod-3` of `manifests/`: a backend on node-a, and one on node-b.
#[rustfmt::skip]
const PATHS: [Path; 9] = [
    Path { name: "b1_cluster_ip_local", from: "node-a", to: target("10.96.1.81", "fd00:96::181", 80), answers: "pod-1" },
    Path { name: "b1_cluster_ip_remote", from: "node-a", to: target("10.96.1.83", "fd00:96::183", 80), answers: "pod-3" },
    Path { name: "b1_cluster_ip_on_the_other_node", from: "node-b", to: target("10.96.1.81", "fd00:96::181", 80), answers: "pod-1" },
    Path { name: "b4_node_port_local", from: "node-a", to: target("10.10.0.1", "fd00:10::1", 30081), answers: "pod-1" },
    Path { name: "b4_node_port_remote", from: "node-a", to: target("10.10.0.1", "fd00:10::1", 30083), answers: "pod-3" },
    Path { name: "b2_external_ip", from: "node-a", to: target("192.0.2.83", "2001:db8:1::83", 80), answers: "pod-3" },
    Path { name: "b3_ingress_ip", from: "node-a", to: target("198.51.100.83", "2001:db8:2::83", 80), answers: "pod-3" },
    Path { name: "b10_localhost_node_port_local", from: "node-a", to: target("127.0.0.1", "::1", 30081), answers: "pod-1" },
    Path { name: "b10_localhost_node_port_remote", from: "node-a", to: target("127.0.0.9", "::1", 30083), answers: "pod-3" },
];

/// How a process's socket is made for an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Socket {
    V4,
    V6,
    /// An IPv6 socket for an IPv4 address.
    Mapped,
}

impl Socket {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    pub(crate) fn family(self) -> Family {
        match self {
            Self::V4 | Self::Mapped => Family::V4,
            Self::V6 => Family::V6,
        }
    }

    /// What the process names to reach `to`.
    pub(crate) fn address(self, to: SocketAddr) -> SocketAddr {
        match (self, to.ip()) {
            (Self::Mapped, IpAddr::V4(ip)) => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())
            }
            (_, _) => to,
        }
    }
}

pub(crate) fn checks() -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for path in PATHS {
        for socket in Socket::ALL {
            let name =
                |way: &str| format!("sockets::{}::{socket:?}::{way}", path.name).to_lowercase();
            for protocol in Protocol::BOTH {
                let name = name(&format!("p3_connected::{protocol:?}"));
                checks.push(Check::new(name, move |world: &mut World| {
                    connected(world, path, socket, protocol)
                }));
            }
            checks.push(Check::new(name("p3_loose"), move |world: &mut World| {
                let to = socket.address(path.to.of(socket.family())?);
                loose(world, path.from, to, path.answers)
            }));
        }
    }
    checks.push(Check::new("sockets::stream", stream));
    checks.push(Check::new("sockets::any_address_means_localhost", any));
    checks.push(Check::new("sockets::p1_namespaces_are_kept_apart", apart));
    checks
}

/// A connected socket talks to the backend, and says it is the service.
fn connected(world: &mut World, path: Path, socket: Socket, protocol: Protocol) -> Result<()> {
    let to = socket.address(path.to.of(socket.family())?);
    let mut flow = world.open(path.from, protocol, to)?;
    let peer = flow.peer()?;
    ensure!(peer == to, "getpeername says {peer} instead of {to}");
    let node = world.cluster.address(path.from, socket.family())?;
    for _ in 0..3 {
        let answer = flow.ask()?;
        let (server, client) = (answer.server, answer.client.ip());
        ensure!(server == path.answers, "{server} answered {to}");
        ensure!(client == node, "{server} saw the client as {client}");
    }
    Ok(())
}

/// So does a socket that is not connected: answers come from the service.
pub(crate) fn loose(world: &World, from: &str, to: SocketAddr, answers: &str) -> Result<()> {
    let socket = world.loose(from, to)?;
    for _ in 0..3 {
        let (answer, from) = socket.ask(to)?;
        ensure!(answer.server == answers, "{} answered", answer.server);
        ensure!(from == to, "recvmsg says {from} instead of {to}");
    }
    Ok(())
}

/// Megabytes through the socket, both ways at once.
fn stream(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        let to = target("10.96.1.83", "fd00:96::183", 80).of(family)?;
        world.open("node-a", Protocol::Tcp, to)?.transfer(8 << 20)?;
    }
    Ok(())
}

/// To a process the unspecified address is its own host.
fn any(world: &mut World) -> Result<()> {
    for ip in [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        for protocol in Protocol::BOTH {
            let to = SocketAddr::new(ip, 30081);
            let answer = world.ask("node-a", protocol, to).context("no answer")?;
            ensure!(answer.server == "pod-1", "{} answered", answer.server);
        }
    }
    Ok(())
}

/// Two agents' hooks are on one cgroup: each leads the sockets of its own node's namespace, and
/// none those of a pod.
fn apart(world: &mut World) -> Result<()> {
    let to = target("10.96.1.83", "fd00:96::183", 80).of(Family::V4)?;
    let count =
        |world: &World| -> Result<[usize; 2]> { Ok([world.led("node-a")?, world.led("node-b")?]) };
    let [a, b] = count(world)?;
    world.ask("node-a", Protocol::Udp, to)?;
    ensure!(count(world)? == [a + 1, b], "node-a leads its own");
    world.ask("node-b", Protocol::Udp, to)?;
    ensure!(count(world)? == [a + 1, b + 1], "node-b leads its own");
    world.ask("pod-2", Protocol::Udp, to)?;
    ensure!(count(world)? == [a + 1, b + 1], "pods are left to tc");
    Ok(())
}

//! Sockets of pods, where they are led: those that are, and those that are left to tc.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    agent::lbctl,
    checks::Check,
    cluster::{Target, eventually},
    echo::Protocol,
    talk,
    topology::{Family, pod_addresses},
};

use crate::{World, change::SOON, destroyed, paths::Socket, refusals::fails};

/// `only-pod-1` and `only-pod-3` of `manifests/`.
const POD_1: Target = Target {
    v4: "10.96.1.81",
    v6: "fd00:96::181",
    port: 80,
};
const POD_3: Target = Target {
    v4: "10.96.1.83",
    v6: "fd00:96::183",
    port: 80,
};

pub(crate) fn checks() -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for socket in Socket::ALL {
        for protocol in Protocol::BOTH {
            let name = |what: &str| {
                format!("sockets::pods::{what}::{socket:?}::{protocol:?}").to_lowercase()
            };
            checks.push(Check::new(name("led"), move |world: &mut World| {
                led(world, socket, protocol)
            }));
            checks.push(Check::new(name("hairpin"), move |world: &mut World| {
                hairpin(world, socket, protocol)
            }));
            checks.push(Check::new(name("destroyed"), move |world: &mut World| {
                eventually_led(world, "pod-2", true)?;
                match protocol {
                    Protocol::Udp => destroyed::udp(world, "pod-2", socket),
                    Protocol::Tcp | Protocol::Sctp => destroyed::tcp(world, "pod-2", socket),
                }
            }));
        }
    }
    checks.push(Check::new("sockets::pods::status", status));
    checks.push(Check::new("sockets::pods::each_on_its_node", each));
    checks.push(Check::new("sockets::pods::loopback_is_their_own", loopback));
    checks.push(Check::new("sockets::pods::annotated", annotated));
    checks.push(Check::new("sockets::pods::with_a_tap_device", tap));
    checks.push(Check::new("sockets::pods::with_rules", rules));
    checks.push(Check::new("sockets::pods::that_come_and_go", come_and_go));
    checks
}

/// Whether a pod of node-a that asks a service is led there.
fn is_led(world: &World, pod: &str) -> Result<bool> {
    let before = world.led("node-a")?;
    world.ask(pod, Protocol::Tcp, POD_3.of(Family::V4)?)?;
    Ok(world.led("node-a")? > before)
}

/// Waits until a pod of node-a is led, or left to tc. It is served all the while.
fn eventually_led(world: &World, pod: &str, led: bool) -> Result<()> {
    eventually(SOON, || {
        ensure!(is_led(world, pod)? == led, "that {pod} is led is not {led}");
        Ok(())
    })
}

/// A pod's socket talks to the backend itself, which sees the pod, and says it is the service.
fn led(world: &mut World, socket: Socket, protocol: Protocol) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let to = socket.address(POD_3.of(socket.family())?);
    let before = world.led("node-a")?;
    let mut flow = world.open("pod-2", protocol, to)?;
    ensure!(world.led("node-a")? == before + 1, "it is not led");
    let peer = flow.peer()?;
    ensure!(peer == to, "getpeername says {peer} instead of {to}");
    let answer = flow.ask()?;
    let (server, client) = (answer.server, answer.client.ip());
    let own = world.cluster.address("pod-2", socket.family())?;
    ensure!(server == "pod-3", "{server} answered {to}");
    ensure!(client == own, "{server} saw the client as {client}");
    Ok(())
}

/// A pod that is led to itself talks to itself: nobody translates anything.
fn hairpin(world: &mut World, socket: Socket, protocol: Protocol) -> Result<()> {
    eventually_led(world, "pod-1", true)?;
    let to = socket.address(POD_1.of(socket.family())?);
    let before = world.led("node-a")?;
    let mut flow = world.open("pod-1", protocol, to)?;
    ensure!(world.led("node-a")? == before + 1, "it is not led");
    let answer = flow.ask()?;
    let own = world.cluster.address("pod-1", socket.family())?;
    ensure!(answer.server == "pod-1", "{} answered", answer.server);
    let client = answer.client.ip();
    ensure!(client == own, "pod-1 saw itself as {client}");
    Ok(())
}

/// Two agents' hooks are on one cgroup: each leads the pods of its own node.
fn each(world: &mut World) -> Result<()> {
    let count =
        |world: &World| -> Result<[usize; 2]> { Ok([world.led("node-a")?, world.led("node-b")?]) };
    eventually_led(world, "pod-2", true)?;
    let to = POD_1.of(Family::V4)?;
    eventually(SOON, || {
        let [a, b] = count(world)?;
        world.ask("pod-3", Protocol::Udp, to)?;
        ensure!(count(world)? == [a, b + 1], "node-b leads pod-3");
        Ok(())
    })?;
    let [a, b] = count(world)?;
    world.ask("pod-2", Protocol::Udp, to)?;
    ensure!(count(world)? == [a + 1, b], "node-a leads pod-2");
    Ok(())
}

/// Node ports on loopback addresses are the node's.
fn loopback(world: &mut World) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    for family in Family::BOTH {
        let to = Target {
            v4: "127.0.0.1",
            v6: "::1",
            port: 30081,
        }
        .of(family)?;
        let netns = world.cluster.netns("pod-2")?;
        fails(ErrorKind::ConnectionRefused, || {
            talk::ask(netns, Protocol::Tcp, to)
        })?;
    }
    Ok(())
}

/// `lbctl status` counts them.
fn status(world: &mut World) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let text = lbctl(world.cluster.topology.node("node-a")?, &["status"])?;
    let line = "of the node's processes and of 2 pods are led to services, 0 pods are left to tc";
    ensure!(text.contains(line), "{text}");
    Ok(())
}

fn annotated(world: &mut World) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let manifest = world.cluster.source.read("pod-2.yaml")?;
    let annotated = manifest.replace(
        "\n  name: pod-2\n",
        "\n  name: pod-2\n  annotations: { fairlead.dev/socket-lb: \"off\" }\n",
    );
    ensure!(annotated != manifest, "the manifest has no name");
    world.cluster.source.write("pod-2.yaml", &annotated)?;
    eventually_led(world, "pod-2", false)?;
    ensure!(is_led(world, "pod-1")?, "pod-1 asks for nothing");
    world.cluster.source.write("pod-2.yaml", &manifest)?;
    eventually_led(world, "pod-2", true)
}

/// Has node-a's agent look at all pods: one comes, and goes.
fn look_again(world: &mut World) -> Result<()> {
    let cluster = &mut world.cluster;
    cluster.add_pod("pod-9", "node-a", pod_addresses(1, 9))?;
    cluster.remove_pod("pod-9")
}

fn tap(world: &mut World) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let netns = world.cluster.netns("pod-2")?;
    netns.ip("tuntap add dev tap0 mode tap")?;
    look_again(world)?;
    eventually_led(world, "pod-2", false)?;
    world.cluster.netns("pod-2")?.ip("link del tap0")?;
    look_again(world)?;
    eventually_led(world, "pod-2", true)
}

fn rules(world: &mut World) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let feed = |world: &World, text: &str| -> Result<()> {
        let mut command = std::process::Command::new("nft");
        let netns = world.cluster.netns("pod-2")?;
        netns.output(command.arg(text)).map(drop)
    };
    feed(
        world,
        "table ip mesh { chain out { type nat hook output priority -100; \
         tcp dport 15001 redirect to :15006; }; }",
    )?;
    look_again(world)?;
    eventually_led(world, "pod-2", false)?;
    feed(world, "delete table ip mesh")?;
    look_again(world)?;
    eventually_led(world, "pod-2", true)
}

/// A pod that comes is led within moments, and known no longer once it is gone.
fn come_and_go(world: &mut World) -> Result<()> {
    let namespaces = |world: &World| world.rows("node-a", "netns");
    eventually_led(world, "pod-2", true)?;
    let before = namespaces(world)?;
    let addresses = pod_addresses(1, 8);
    world.cluster.add_pod("pod-8", "node-a", addresses)?;
    eventually_led(world, "pod-8", true)?;
    ensure!(namespaces(world)? == before + 1, "pod-8 is not known");
    world.cluster.remove_pod("pod-8")?;
    eventually(Duration::from_secs(2), || {
        let left = namespaces(world)?;
        ensure!(left == before, "{left} are known, not {before}");
        Ok(())
    })
}

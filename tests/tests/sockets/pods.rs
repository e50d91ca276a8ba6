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

use crate::{
    World,
    change::SOON,
    destroyed,
    paths::{self, Socket},
    refusals::{self, fails},
};

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
            checks.push(Check::new(name("p2_p3_led"), move |world: &mut World| {
                led(world, socket, protocol)
            }));
            checks.push(Check::new(name("p10_hairpin"), move |world: &mut World| {
                hairpin(world, socket, protocol)
            }));
            let destroyed = match protocol {
                Protocol::Udp => "m3_m4_destroyed",
                Protocol::Tcp | Protocol::Sctp => "m2_m3_destroyed",
            };
            checks.push(Check::new(name(destroyed), move |world: &mut World| {
                eventually_led(world, "pod-2", true)?;
                match protocol {
                    Protocol::Udp => destroyed::udp(world, "pod-2", socket),
                    Protocol::Tcp | Protocol::Sctp => destroyed::tcp(world, "pod-2", socket),
                }
            }));
        }
        let name = format!("sockets::pods::p3_loose::{socket:?}").to_lowercase();
        checks.push(Check::new(name, move |world: &mut World| {
            loose(world, socket)
        }));
    }
    checks.extend(refusals::checks_in_pods());
    checks.push(Check::new("sockets::pods::status", status));
    checks.push(Check::new("sockets::pods::p2_each_on_its_node", each));
    checks.push(Check::new(
        "sockets::pods::p9_loopback_is_their_own",
        loopback,
    ));
    checks.push(Check::new("sockets::pods::p5_annotated", annotated));
    for mode in ["tap", "tun"] {
        let name = format!("sockets::pods::p6_with_a_{mode}_device");
        checks.push(Check::new(name, move |world: &mut World| tap(world, mode)));
    }
    checks.push(Check::new("sockets::pods::p7_with_rules", rules));
    checks.push(Check::new("sockets::pods::that_come_and_go", come_and_go));
    checks
}

/// Whether a pod of node-a that asks a service is led there.
fn is_led(world: &World, pod: &str) -> Result<bool> {
    let before = world.led("node-a")?;
    world.ask(pod, Protocol::Tcp, POD_3.of(Family::V4)?)?;
    Ok(world.led("node-a")? > before)
}

/// Waits until the sockets of a node, which always are, or of a pod of node-a are led.
pub(crate) fn wait_until_led(world: &World, from: &str) -> Result<()> {
    match from {
        "node-a" | "node-b" => Ok(()),
        pod => eventually_led(world, pod, true),
    }
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

/// A pod's socket that is not connected: it is led where it sends, and told that the service answers.
fn loose(world: &mut World, socket: Socket) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let to = socket.address(POD_3.of(socket.family())?);
    let before = world.led("node-a")?;
    paths::loose(world, "pod-2", to, "pod-3")?;
    // One row for each half.
    ensure!(world.led("node-a")? == before + 2, "it is not led");
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

fn tap(world: &mut World, mode: &str) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let netns = world.cluster.netns("pod-2")?;
    netns.ip(&format!("tuntap add dev vm0 mode {mode}"))?;
    look_again(world)?;
    eventually_led(world, "pod-2", false)?;
    world.cluster.netns("pod-2")?.ip("link del vm0")?;
    look_again(world)?;
    eventually_led(world, "pod-2", true)
}

/// A mesh has its sidecar, which here is whatever serves in pod-2, take what is sent to a service: that goes
/// by the service's address, which the pod's packets have to have.
fn rules(world: &mut World) -> Result<()> {
    eventually_led(world, "pod-2", true)?;
    let feed = |world: &World, text: &str| -> Result<()> {
        let mut command = std::process::Command::new("nft");
        let netns = world.cluster.netns("pod-2")?;
        netns.output(command.arg(text)).map(drop)
    };
    let Target { v4, v6, port } = POD_3;
    feed(
        world,
        &format!(
            "table inet mesh {{ chain out {{ type nat hook output priority -100; \
             ip daddr {v4} tcp dport {port} redirect to :8080; \
             ip6 daddr {v6} tcp dport {port} redirect to :8080; }}; }}"
        ),
    )?;
    look_again(world)?;
    eventually_led(world, "pod-2", false)?;
    let taken = Family::BOTH.into_iter().try_for_each(|family| {
        let answer = world.ask("pod-2", Protocol::Tcp, POD_3.of(family)?)?;
        ensure!(answer.server == "pod-2", "{} answered", answer.server);
        Ok(())
    });
    feed(world, "delete table inet mesh")?;
    taken?;
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

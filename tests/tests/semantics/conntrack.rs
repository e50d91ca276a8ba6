//! G2, G4, G6, G7: what the kernel's connection tracking knows from the real kube-proxy when the agent
//! takes over.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{
    agent::{clean_up, clean_up_kube_proxy},
    checks::Check,
    cluster::eventually,
    echo::{
        Protocol::{self, Sctp, Tcp, Udp},
        Servers,
    },
    kube::{KubeProxy, Mode},
    netns::Netns,
    talk::Conversation,
};

use crate::{
    flows::Flow,
    g::{ELSEWHERE, at_another_port},
    world::{SOON, World, row},
};

const NODE: &str = "node-a";
const BOTH: [&str; 2] = ["pod-1", "pod-3"];
const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";
const CLIENTS: [(&str, &str); 2] = [("pod-2", CLUSTER_IP), ("client", AT_A)];
const CLIENTS_V6: [(&str, &str); 2] = [
    ("pod-2", "[fd00:96::101]:80"),
    ("client", "[fd00:10::1]:30080"),
];

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("g2_left_by_kube_proxy", g2_left_by_kube_proxy),
        row("g4_left_by_kube_proxy", g4_left_by_kube_proxy),
        row("g6_a_table_that_changes", g6_a_table_that_changes),
        row("g7_never_by_port_alone", g7_never_by_port_alone),
    ]
}

fn given(world: &mut World, endpoints: &[&str]) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                 clusterIPs: [10.96.1.1, 'fd00:96::101'],
                 ports: [{name: udp, protocol: UDP, port: 80, nodePort: 30080}]}}",
    )?;
    world.endpoints("web", endpoints)
}

/// Only what leads to an endpoint that serves, at its port (G3), is left: at take-over and from then
/// on.
fn g2_left_by_kube_proxy(world: &mut World) -> Result<()> {
    let before = |world: &mut World| {
        given(world, &BOTH)?;
        let mut flows = world.flows(&CLIENTS_V6, &BOTH)?;
        let servers = at_another_port(world)?;
        flows.extend(world.flows(&CLIENTS, &["pod-1", "pod-3", ELSEWHERE])?);
        Ok((servers, Led::of(world, flows)?))
    };
    after_kube_proxy(world, before, |world, (_servers, mut led)| {
        world.delete("endpointslice", "other")?;
        world.endpoints("web", &["pod-1"])?;
        world.restart(NODE, &[])?;
        left(world, &led, |led| led.by == "pod-1")?;
        move_to(&mut led, "pod-1")?;
        world.endpoints("web", &["pod-1 terminating", "pod-2"])?;
        for (from, to) in CLIENTS {
            world.served(from, Udp, to, &["pod-2"])?;
        }
        left(world, &led, |led| led.by == "pod-1")?;
        world.endpoints("web", &["pod-2"])?;
        left(world, &led, |_| false)?;
        move_to(&mut led, "pod-2")
    })
}

/// One Service has no endpoint any more, another one is deleted later. What is over TCP stays (G8).
fn g4_left_by_kube_proxy(world: &mut World) -> Result<()> {
    const OTHER: &str = "10.96.1.2:80";
    const OVER_TCP: &str = "10.96.1.3:80";
    let before = |world: &mut World| {
        given(world, &["pod-1"])?;
        for (name, ip, port) in [
            ("other", "10.96.1.2", "{name: udp, protocol: UDP, port: 80}"),
            ("tcp", "10.96.1.3", "{port: 80}"),
        ] {
            world.given(&format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}},
                  spec: {{clusterIP: {ip}, ports: [{port}]}}}}"
            ))?;
            world.endpoints(name, &["pod-1"])?;
        }
        let clients = [CLIENTS[0], CLIENTS[1], ("pod-2", OTHER)];
        let led = Led::of(world, world.flows(&clients, &["pod-1"])?)?;
        world.served("pod-2", Tcp, OVER_TCP, &["pod-1"])?;
        let pod = world.cluster.netns("pod-2")?;
        let connection = Conversation::open(pod, Tcp, OVER_TCP.parse()?, 0)?;
        Ok((led, connection))
    };
    after_kube_proxy(world, before, |world, (led, connection)| {
        world.endpoints("web", &[])?;
        world.endpoints("tcp", &[])?;
        world.restart(NODE, &[])?;
        let other: SocketAddr = OTHER.parse()?;
        left(world, &led, |led| led.entry.to == other)?;
        world.delete("service", "other")?;
        left(world, &led, |_| false)?;
        let client = connection.local()?;
        let mut entries = tracked(world, Tcp)?.into_iter();
        ensure!(
            entries.any(|entry| entry.client == client),
            "{client} is gone"
        );
        Ok(())
    })
}

/// While thousands of entries a second come and go, the list is what it happens to be; what it has
/// is dealt with, and what it lacks later on.
fn g6_a_table_that_changes(world: &mut World) -> Result<()> {
    let before = |world: &mut World| {
        given(world, &BOTH)?;
        Led::of(world, world.flows(&CLIENTS, &BOTH)?)
    };
    after_kube_proxy(world, before, |world, led| {
        world.endpoints("web", &["pod-1"])?;
        // Those that are there keep the time they were given.
        set_udp_timeout(world, Duration::from_secs(1))?;
        let pod = world.cluster.netns("pod-2")?.try_clone()?;
        while_entries_come_and_go(&pod, |made| {
            eventually(SOON, || {
                let there = tracked(world, Udp)?.len();
                let made = made.load(Ordering::Relaxed);
                ensure!(
                    there > 2_000 && made > there * 2,
                    "{made} made, {there} there"
                );
                Ok(())
            })?;
            world.restart(NODE, &[])?;
            left(world, &led, |led| led.by == "pod-1")?;
            world.endpoints("web", &["pod-3"])?;
            left(world, &led, |_| false)
        })
    })
}

/// Has a pod send to so many ports of the client that nobody answers at.
fn while_entries_come_and_go(
    pod: &Netns,
    then: impl FnOnce(&AtomicUsize) -> Result<()>,
) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(10);
    const AT_ONCE: usize = 50;
    let socket = pod.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    let (made, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut ports = (1024..u16::MAX).cycle();
            while !stop.load(Ordering::Relaxed) {
                for port in ports.by_ref().take(AT_ONCE) {
                    // That somebody says that nobody is there is no reason to end.
                    let sent = socket.send_to(b"nobody\n", ("10.10.0.9", port));
                    made.fetch_add(usize::from(sent.is_ok()), Ordering::Relaxed);
                }
                thread::sleep(PAUSE);
            }
        });
        let outcome = then(&made);
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// What goes to the number of a node port, but to another host, is nobody's business.
fn g7_never_by_port_alone(world: &mut World) -> Result<()> {
    const AT_CLIENT: &str = "10.10.0.9:30080";
    const AT_B: &str = "10.10.0.2:30080";
    let before = |world: &mut World| {
        given(world, &["pod-1"])?;
        let servers = Servers::start(world.cluster.netns("client")?, "client", &[30080])?;
        // Without kube-proxy's rules, which are there once it has the first, nothing is tracked.
        let mut flows = world.flows(&[("client", AT_A), ("pod-2", AT_B)], &["pod-1"])?;
        flows.extend(world.flows(&[("pod-2", AT_CLIENT)], &["client"])?);
        Ok((servers, Led::of(world, flows)?))
    };
    after_kube_proxy(world, before, |world, (_servers, mut led)| {
        let at_a: SocketAddr = AT_A.parse()?;
        let foreign = |led: &Led| led.entry.to != at_a;
        world.endpoints("web", &["pod-3"])?;
        world.restart(NODE, &[])?;
        left(world, &led, foreign)?;
        world.delete("service", "web")?;
        world.settled()?;
        left(world, &led, foreign)?;
        let at_client = led.last_mut().context("no flow")?;
        at_client.flow.stays()
    })
}

/// Does `before` while the real kube-proxy serves node-a in place of the agent, and `after` when it
/// is gone and has left its rules and entries. At the end, whatever became of both, the agent is
/// there again and the rules are gone.
fn after_kube_proxy<T>(
    world: &mut World,
    before: impl FnOnce(&mut World) -> Result<T>,
    after: impl FnOnce(&mut World, T) -> Result<()>,
) -> Result<()> {
    world.cluster.agent(NODE)?.stop()?;
    clean_up(world.cluster.topology.node(NODE)?)?;
    let outcome = under_kube_proxy(world, before).and_then(|made| after(world, made));
    let cleaned = clean_up_kube_proxy(world.cluster.topology.node(NODE)?);
    let restored = match outcome {
        Ok(()) => Ok(()),
        Err(_) => world.restart(NODE, &[]),
    };
    let timeouts = set_udp_timeout(world, UDP_TIMEOUT);
    outcome.and(cleaned).and(restored).and(timeouts)
}

fn under_kube_proxy<T>(
    world: &mut World,
    before: impl FnOnce(&mut World) -> Result<T>,
) -> Result<T> {
    // No entry is to be gone for its age when it is looked for.
    set_udp_timeout(world, Duration::from_secs(600))?;
    let control = &world.cluster.source.control;
    let netns = world.cluster.netns(NODE)?;
    let proxy = KubeProxy::start(control, netns, NODE, Mode::Nftables)?;
    before(world).with_context(|| proxy.process.tail())
}

/// The kernel's default.
const UDP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long node-a remembers UDP that has been going on for less than two seconds.
fn set_udp_timeout(world: &World, timeout: Duration) -> Result<()> {
    let seconds = timeout.as_secs().to_string();
    let netns = world.cluster.netns(NODE)?;
    netns.sysctl(&[("net/netfilter/nf_conntrack_udp_timeout", &seconds)])
}

/// A flow that kube-proxy has led to an endpoint.
struct Led {
    flow: Flow,
    by: String,
    entry: Entry,
}

impl Led {
    /// The flows, with their entries.
    fn of(world: &World, flows: Vec<Flow>) -> Result<Vec<Self>> {
        let entries = tracked(world, Udp)?;
        let led = |flow: Flow| {
            let (client, to) = (flow.client()?, flow.to());
            let entry = entries.iter().find(|it| (it.client, it.to) == (client, to));
            let entry = *entry.with_context(|| format!("no entry from {client} to {to}"))?;
            let by = flow.server.clone();
            Ok(Self { flow, by, entry })
        };
        flows.into_iter().map(led).collect()
    }
}

/// Soon exactly these of the entries are left.
fn left(world: &World, led: &[Led], stays: impl Fn(&Led) -> bool) -> Result<()> {
    eventually(SOON, || {
        let entries = tracked(world, Udp)?;
        for led in led {
            let (there, Led { by, entry, .. }) = (entries.contains(&led.entry), led);
            ensure!(there == stays(led), "{entry:?} to {by} is there: {there}");
        }
        Ok(())
    })
}

fn move_to(led: &mut [Led], server: &str) -> Result<()> {
    led.iter_mut().try_for_each(|led| led.flow.moves(&[server]))
}

/// An entry of node-a's connection tracking: client, where it sent to, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    client: SocketAddr,
    to: SocketAddr,
    answers: SocketAddr,
}

/// The entries of node-a.
fn tracked(world: &World, protocol: Protocol) -> Result<Vec<Entry>> {
    let table = world
        .cluster
        .netns(NODE)?
        .run(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"))??;
    let name = match protocol {
        Tcp => "tcp",
        Udp => "udp",
        Sctp => "sctp",
    };
    let lines = table.lines();
    let lines = lines.filter(|line| line.split_whitespace().nth(2) == Some(name));
    let entry = |line| entry(line).with_context(|| format!("{line} is no entry"));
    lines.map(entry).collect()
}

/// The entry in a line like `ipv4 2 udp 17 29 src=… dst=… sport=… dport=… src=… …`.
fn entry(line: &str) -> Option<Entry> {
    let fields = line.split_whitespace().filter_map(|it| it.split_once('='));
    let end = |address: &str, port: &str, nth| {
        let value = |key: &str| fields.clone().filter(|field| field.0 == key).nth(nth);
        let ip: IpAddr = value(address)?.1.parse().ok()?;
        Some(SocketAddr::new(ip, value(port)?.1.parse().ok()?))
    };
    Some(Entry {
        client: end("src", "sport", 0)?,
        to: end("dst", "dport", 0)?,
        answers: end("src", "sport", 1)?,
    })
}

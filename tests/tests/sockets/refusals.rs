//! What is not served fails at once, with the error that fits.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{checks::Check, cluster::Target, echo::Protocol, talk::Conversation, topology::Family};

use crate::{World, paths::Socket, pods};

/// Addresses that have nobody behind them.
#[rustfmt::skip]
const REFUSED: [(&str, Target); 4] = [
    ("e1_cluster_ip_without_endpoints", Target { v4: "10.96.0.60", v6: "fd00:96::60", port: 80 }),
    ("e1_node_port_without_endpoints", Target { v4: "10.10.0.1", v6: "fd00:10::1", port: 30090 }),
    ("e4_cluster_ip_wrong_port", Target { v4: "10.96.0.10", v6: "fd00:96::10", port: 81 }),
    ("e6_unallocated_cluster_ip", Target { v4: "10.96.200.200", v6: "fd00:96::c8c8", port: 80 }),
];

/// The same to processes of the node alone.
const REFUSED_HERE: (&str, Target) = (
    "e1_localhost_node_port_without_endpoints",
    Target {
        v4: "127.0.0.1",
        v6: "::1",
        port: 30090,
    },
);

pub(crate) fn checks() -> Vec<Check<World>> {
    let refused = REFUSED.into_iter().chain([REFUSED_HERE]);
    let refused = refused.flat_map(|(name, to)| refusals("sockets", name, "node-a", to));
    let policy = Check::new(
        "sockets::p4_c15_e3_local_policy_with_endpoints_elsewhere",
        |world: &mut World| local_only(world, "node-a", "node-b"),
    );
    refused.chain([policy]).collect()
}

/// What a pod's sockets are refused where they are led.
pub(crate) fn checks_in_pods() -> Vec<Check<World>> {
    let refused = REFUSED.into_iter();
    let refused = refused.flat_map(|(name, to)| refusals("sockets::pods", name, "pod-2", to));
    let policy = Check::new(
        "sockets::pods::p4_c15_e3_local_policy_with_endpoints_elsewhere",
        |world: &mut World| local_only(world, "pod-2", "pod-3"),
    );
    refused.chain([policy]).collect()
}

/// An address of nobody's, by each sort of socket. Nothing is sent: the call that names the address fails.
fn refusals(
    group: &str,
    name: &str,
    from: &'static str,
    to: Target,
) -> impl Iterator<Item = Check<World>> {
    let name = format!("{group}::p4_{name}");
    Socket::ALL.into_iter().flat_map(move |socket| {
        let name = format!("{name}::{socket:?}");
        let connects = Protocol::BOTH.map(|protocol| {
            let name = format!("{name}::{protocol:?}").to_lowercase();
            Check::new(name, move |world: &mut World| {
                pods::wait_until_led(world, from)?;
                let netns = world.cluster.netns(from)?;
                let to = socket.address(to.of(socket.family())?);
                fails(ErrorKind::ConnectionRefused, || {
                    Conversation::open(netns, protocol, to, 0)
                })
            })
        });
        let name = format!("{name}::loose").to_lowercase();
        let sends = Check::new(name, move |world: &mut World| {
            pods::wait_until_led(world, from)?;
            loose(world, from, socket.address(to.of(socket.family())?))
        });
        connects.into_iter().chain([sends])
    })
}

/// A failure has to come long before a client would try again (1 s over TCP).
pub(crate) fn fails<T>(expected: ErrorKind, attempt: impl FnOnce() -> io::Result<T>) -> Result<()> {
    let start = Instant::now();
    let error = attempt().err().context("answered")?;
    ensure!(error.kind() == expected, "instead of {expected}: {error}");
    let time = start.elapsed();
    ensure!(time < Duration::from_millis(900), "only after {time:?}");
    Ok(())
}

fn loose(world: &World, from: &str, to: SocketAddr) -> Result<()> {
    let socket = world.loose(from, to)?;
    fails(ErrorKind::ConnectionRefused, || socket.ask(to))
}

/// Cluster IPs whose policy keeps to the node, which has no endpoint: not permitted here, served there, on
/// the node that has it.
fn local_only(world: &mut World, here: &str, there: &str) -> Result<()> {
    pods::wait_until_led(world, here)?;
    let (v4, v6) = ("10.96.3.1", "fd00:96::301");
    world.cluster.source.write(
        "inner.yaml",
        &format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: inner}}, spec: {{\
             internalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack, \
             clusterIP: {v4}, clusterIPs: [{v4}, \"{v6}\"], selector: {{pod: pod-3}}, \
             ports: [{{port: 80, targetPort: 8080}}]}}}}\n"
        ),
    )?;
    for family in Family::BOTH {
        let to = Target { v4, v6, port: 80 }.of(family)?;
        let served = || world.ask(there, Protocol::Tcp, to);
        let answer = tests::cluster::eventually(Duration::from_secs(5), served)?;
        ensure!(answer.server == "pod-3", "{} answered", answer.server);
        tests::cluster::eventually(Duration::from_secs(5), || {
            let netns = world.cluster.netns(here)?;
            fails(ErrorKind::PermissionDenied, || {
                Conversation::open(netns, Protocol::Tcp, to, 0)
            })
        })?;
    }
    world.cluster.source.remove("inner.yaml")
}

//! What is not served fails at once, with the error that fits.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{checks::Check, cluster::Target, echo::Protocol, talk, topology::Family};

use crate::World;

/// Addresses that have nobody behind them.
#[rustfmt::skip]
const REFUSED: [(&str, Target); 5] = [
    ("e1_cluster_ip_without_endpoints", Target { v4: "10.96.0.60", v6: "fd00:96::60", port: 80 }),
    ("e1_node_port_without_endpoints", Target { v4: "10.10.0.1", v6: "fd00:10::1", port: 30090 }),
    ("e1_localhost_node_port_without_endpoints", Target { v4: "127.0.0.1", v6: "::1", port: 30090 }),
    ("e4_cluster_ip_wrong_port", Target { v4: "10.96.0.10", v6: "fd00:96::10", port: 81 }),
    ("e6_unallocated_cluster_ip", Target { v4: "10.96.200.200", v6: "fd00:96::c8c8", port: 80 }),
];

pub(crate) fn checks() -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for (name, to) in REFUSED {
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let name = format!("sockets::{name}::{family:?}::{protocol:?}").to_lowercase();
                checks.push(Check::new(name, move |world: &mut World| {
                    let netns = world.cluster.netns("node-a")?;
                    let to = to.of(family)?;
                    fails(ErrorKind::ConnectionRefused, || {
                        talk::ask(netns, protocol, to)
                    })
                }));
            }
            let name = format!("sockets::{name}::{family:?}::loose").to_lowercase();
            checks.push(Check::new(name, move |world: &mut World| {
                loose(world, to.of(family)?)
            }));
        }
    }
    checks.push(Check::new(
        "sockets::c15_e3_local_policy_with_endpoints_elsewhere",
        local_only,
    ));
    checks
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

fn loose(world: &mut World, to: SocketAddr) -> Result<()> {
    let socket = world.loose("node-a", to)?;
    fails(ErrorKind::ConnectionRefused, || socket.ask(to))
}

/// Cluster IPs whose policy keeps to the node, which has no endpoint: not permitted here, served on
/// the node that has it.
fn local_only(world: &mut World) -> Result<()> {
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
        let served = || world.ask("node-b", Protocol::Tcp, to);
        let answer = tests::cluster::eventually(Duration::from_secs(5), served)?;
        ensure!(answer.server == "pod-3", "{} answered", answer.server);
        tests::cluster::eventually(Duration::from_secs(5), || {
            let netns = world.cluster.netns("node-a")?;
            fails(ErrorKind::PermissionDenied, || {
                talk::ask(netns, Protocol::Tcp, to)
            })
        })?;
    }
    world.cluster.source.remove("inner.yaml")
}

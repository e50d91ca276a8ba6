//! What is not served is refused at once, or dropped where the contract says so.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tests::{checks::Check, cluster::Target, echo::Protocol, talk, topology::Family};

use crate::{World, kinds};

/// Addresses that have nobody behind them.
#[rustfmt::skip]
const REFUSED: [(&str, &str, Target); 6] = [
    ("node_port_without_endpoints", "client", Target { v4: "10.10.0.1", v6: "fd00:10::1", port: 30090 }),
    ("cluster_ip_without_endpoints_from_outside", "client", Target { v4: "10.96.0.60", v6: "fd00:96::60", port: 80 }),
    ("cluster_ip_without_endpoints", "pod-1", Target { v4: "10.96.0.60", v6: "fd00:96::60", port: 80 }),
    ("node_port_without_endpoints_from_pod", "pod-1", Target { v4: "10.10.0.1", v6: "fd00:10::1", port: 30090 }),
    ("cluster_ip_wrong_port", "pod-1", Target { v4: "10.96.0.10", v6: "fd00:96::10", port: 81 }),
    ("cluster_ip_wrong_port_from_outside", "client", Target { v4: "10.96.0.10", v6: "fd00:96::10", port: 81 }),
];

/// An address of the service ranges that no Service has.
const UNALLOCATED: Target = Target {
    v4: "10.96.200.200",
    v6: "fd00:96::c8c8",
    port: 80,
};

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for (name, from, to) in REFUSED {
        for (family, protocol) in kinds() {
            let name = format!("{group}::{name}::{family:?}::{protocol:?}").to_lowercase();
            checks.push(Check::new(name, move |world: &mut World| {
                refused(world, from, protocol, to.of(family)?)
            }));
        }
    }
    let name = format!("{group}::unallocated_cluster_ip_is_dropped");
    checks.push(Check::new(name, unallocated));
    checks
}

fn unallocated(world: &mut World) -> Result<()> {
    let to = UNALLOCATED.of(Family::V4)?;
    match talk::ask(world.cluster.netns("pod-1")?, Protocol::Udp, to) {
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
        other => bail!("instead of silence: {other:?}"),
    }
}

/// A refusal has to come long before a client would try again (1 s over TCP).
pub(crate) fn refused(
    world: &World,
    from: &str,
    protocol: Protocol,
    to: std::net::SocketAddr,
) -> Result<()> {
    let start = Instant::now();
    let error = talk::ask(world.cluster.netns(from)?, protocol, to)
        .err()
        .context("answered")?;
    ensure!(
        error.kind() == ErrorKind::ConnectionRefused,
        "instead of a refusal: {error}"
    );
    ensure!(
        start.elapsed() < Duration::from_millis(900),
        "refused after {:?}",
        start.elapsed()
    );
    Ok(())
}

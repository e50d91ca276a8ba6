//! D: the source address.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use anyhow::{Context, Result, ensure};
use tests::{
    checks::Check,
    cluster::eventually,
    echo::Protocol::{Tcp, Udp},
    talk::Conversation,
    topology::Family,
};

use crate::world::{SOON, World, row};

const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("d1_pod_keeps_its_address", d1_pod_keeps_its_address),
        row("d2_rewritten_only_where_needed", d2_only_where_needed),
        row("d3_masquerade_all", d3_masquerade_all),
        row("d4_external_policy_cluster", d4_external_policy_cluster),
        row("d5_external_policy_local", d5_external_policy_local),
        row("d6_hairpin", d6_hairpin),
        row("d7_no_mark", d7_no_mark),
        row("d8_ports_are_spread", d8_ports_are_spread),
        row("d8_ports_do_not_repeat", d8_ports_do_not_repeat),
    ]
}

fn given(world: &mut World, external: &str, endpoints: &[&str]) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, clusterIP: 10.96.1.1, externalTrafficPolicy: {external},
                  ports: [{{port: 80, nodePort: 30080}}]}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

/// Soon `by` answers `from` at `to`, and sees it at the address of `as_whom`.
fn seen(world: &World, from: &str, to: &str, by: &str, as_whom: &str) -> Result<()> {
    let expected: IpAddr = world.cluster.address(as_whom, Family::V4)?;
    eventually(SOON, || {
        let answer = world.ask(from, Tcp, to)?;
        ensure!(answer.server == by, "{} answers", answer.server);
        let client = answer.client.ip();
        ensure!(client == expected, "{by} saw {client}, not {expected}");
        Ok(())
    })
    .with_context(|| format!("{from} at {to}"))
}

fn d1_pod_keeps_its_address(world: &mut World) -> Result<()> {
    for endpoint in ["pod-1", "pod-3"] {
        given(world, "Cluster", &[endpoint])?;
        seen(world, "pod-2", CLUSTER_IP, endpoint, "pod-2")?;
    }
    Ok(())
}

fn d2_only_where_needed(world: &mut World) -> Result<()> {
    given(world, "Cluster", &["pod-1"])?;
    seen(world, "client", CLUSTER_IP, "pod-1", "client")?;
    given(world, "Cluster", &["pod-3"])?;
    seen(world, "client", CLUSTER_IP, "pod-3", "node-a")?;
    seen(world, "node-a", CLUSTER_IP, "pod-3", "node-a")
}

fn d3_masquerade_all(world: &mut World) -> Result<()> {
    given(world, "Local", &["pod-3"])?;
    world.with_options("node-a", &["--masquerade-all"], |world| {
        seen(world, "pod-2", CLUSTER_IP, "pod-3", "node-a")?;
        given(world, "Local", &["pod-1"])?;
        seen(world, "client", AT_A, "pod-1", "client")
    })
}

fn d4_external_policy_cluster(world: &mut World) -> Result<()> {
    given(world, "Cluster", &["pod-1"])?;
    seen(world, "client", AT_A, "pod-1", "client")?;
    given(world, "Cluster", &["pod-3"])?;
    seen(world, "client", AT_A, "pod-3", "node-a")?;
    seen(world, "pod-2", AT_A, "pod-3", "pod-2")
}

fn d5_external_policy_local(world: &mut World) -> Result<()> {
    given(world, "Local", &["pod-1"])?;
    seen(world, "client", AT_A, "pod-1", "client")?;
    seen(world, "pod-2", AT_A, "pod-1", "pod-2")
}

fn d6_hairpin(world: &mut World) -> Result<()> {
    given(world, "Cluster", &["pod-1"])?;
    for to in [CLUSTER_IP, AT_A] {
        seen(world, "pod-1", to, "pod-1", "node-a")?;
    }
    Ok(())
}

fn d7_no_mark(world: &mut World) -> Result<()> {
    let bit = ["--iptables-masquerade-bit", "5"];
    world.with_options("node-a", &bit, |world| {
        let log = world.cluster.agent("node-a")?.log();
        let mut warnings = log.lines().filter(|line| line.contains("WARN"));
        let named = warnings.any(|line| line.contains("masquerade-bit"));
        ensure!(named, "the agent does not name the option:\n{log}");
        Ok(())
    })
}

/// A client's ports, of those its kernel gives to connections: no ports for translation.
const CLIENT_PORTS: RangeInclusive<u16> = 40_000..=40_015;

/// Soon the client is led from node-a to an endpoint elsewhere, over UDP.
fn translated(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: NodePort, clusterIP: 10.96.1.1,
                 ports: [{name: udp, protocol: UDP, port: 80, nodePort: 30080}]}}",
    )?;
    world.endpoints("web", &["pod-3"])?;
    world.served("client", Udp, AT_A, &["pod-3"])
}

/// Of 200 ports each quarter of the range has 50, give or take 35: 5.7 standard deviations. They
/// follow neither each other nor the client's.
fn d8_ports_are_spread(world: &mut World) -> Result<()> {
    translated(world)?;
    let range = &world.lbctl("node-a", &["status"])?["snatPorts"];
    let bound = |end| range[end].as_u64().context("no ports for translation");
    let (first, last) = (bound("first")?, bound("last")?);
    let netns = world.cluster.netns("client")?;
    let mut flows = Vec::new();
    for _ in 0..200 {
        let mut flow = Conversation::open(netns, Udp, AT_A.parse()?, 0)?;
        flows.push((flow.local()?.port(), flow.ask()?.client.port()));
    }
    let mut quarters = [0; 4];
    for (own, port) in &flows {
        let place = u64::from(*port).checked_sub(first);
        let quarter = place.map_or(4, |place| place * 4 / (last + 1 - first));
        let count = quarters.get_mut(usize::try_from(quarter)?);
        *count.with_context(|| format!("{own} became {port}, which is not in {range}"))? += 1;
    }
    let even = quarters.iter().all(|count| (15..=85).contains(count));
    ensure!(even, "the quarters of {range} have {quarters:?}");
    let steps = flows.windows(2).map(|two| two[1].1.wrapping_sub(two[0].1));
    let distances = flows.iter().map(|(own, port)| port.wrapping_sub(*own));
    for differences in [steps.collect::<BTreeSet<_>>(), distances.collect()] {
        ensure!(differences.len() > 180, "there is a rule in {flows:?}");
    }
    Ok(())
}

/// The same flows, begun anew after their endpoint was away, have other ports.
fn d8_ports_do_not_repeat(world: &mut World) -> Result<()> {
    translated(world)?;
    let first = ports_seen(world)?;
    world.endpoints("web", &[])?;
    world.refused("client", Udp, AT_A)?;
    world.endpoints("web", &["pod-3"])?;
    world.served("client", Udp, AT_A, &["pod-3"])?;
    let second = ports_seen(world)?;
    let pairs = first.iter().zip(&second);
    let same = pairs.filter(|(first, second)| first == second).count();
    ensure!(same <= 1, "{first:?} became {second:?}");
    Ok(())
}

/// The ports that pod-3 sees [`CLIENT_PORTS`] as.
fn ports_seen(world: &World) -> Result<Vec<u16>> {
    let netns = world.cluster.netns("client")?;
    let seen = CLIENT_PORTS.map(|port| {
        let mut flow = Conversation::open(netns, Udp, AT_A.parse()?, port)?;
        Ok(flow.ask()?.client.port())
    });
    seen.collect()
}

//! K11, K12: nodes without IPv6, and networks of the wrong family.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{checks::Check, cluster::eventually, echo::Protocol::Tcp};

use crate::{
    node::{changed, remake, with_node},
    world::{SOON, World, row},
};

const WEB: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";

/// On nodes without IPv6.
pub(crate) fn rows_without_ipv6() -> Vec<Check<World>> {
    vec![
        row("k11_ipv4_alone", k11_ipv4_alone),
        row("k11_ipv6_comes_later", k11_ipv6_comes_later),
        row("k11_the_primary_family_is_missing", k11_primary_missing),
        row("k12_pods_of_a_missing_family_are_refused", k12_refused),
    ]
}

/// On usual ones.
pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("k12_cluster_cidr_of_the_other_family", k12_cluster_cidr),
        row("k12_pod_cidrs_of_the_other_family", k12_pod_cidrs),
    ]
}

/// A dual-stack Service, with more of its spec.
fn given(world: &mut World, more: &str, endpoints: &[&str]) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                  clusterIPs: [10.96.1.1, 'fd00:96::101'], {more}
                  ports: [{{port: 80, nodePort: 30080}}]}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

fn k11_ipv4_alone(world: &mut World) -> Result<()> {
    let more = "externalTrafficPolicy: Local, healthCheckNodePort: 30099,";
    given(world, more, &["pod-1"])?;
    world.with_options("node-a", &["--nodeport-addresses", "all"], |world| {
        for (from, to) in [
            ("client", WEB),
            ("pod-2", WEB),
            ("node-a", WEB),
            ("client", AT_A),
        ] {
            world.served(from, Tcp, to, &["pod-1"])?;
        }
        eventually(SOON, || {
            let (status, body) = world.get("client", "10.10.0.1:30099", "/")?;
            ensure!(status == 200, "{status}: {body}");
            Ok(())
        })?;
        let listening = listening(world, "node-a")?;
        ensure!(
            !listening.contains(&30099),
            "IPv6 is listened on: {listening:?}"
        );
        let status = world.status("node-a")?;
        let told = status["withoutIpv6"].as_str().unwrap_or_default();
        ensure!(told.contains("switched off"), "{status:#}");
        ensure!(status["problems"] == json!([]), "{status:#}");
        let log = world.cluster.agent("node-a")?.log();
        ensure!(log.contains("IPv4 alone is served"), "{log}");
        Ok(())
    })
}

/// The ports that IPv6 is listened on, in a node's namespace.
fn listening(world: &World, node: &str) -> Result<Vec<u16>> {
    const LISTEN: &str = "0A";
    let table = world
        .cluster
        .netns(node)?
        .run(|| fs::read_to_string("/proc/thread-self/net/tcp6"))??;
    let ports = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.split_once(':')?;
        (*fields.get(3)? == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    });
    Ok(ports.collect())
}

fn k11_ipv6_comes_later(world: &mut World) -> Result<()> {
    given(world, "", &["pod-1"])?;
    serve_ipv4_alone(world, true)?;
    let switch = |world: &World, off: &str| {
        let netns = world.cluster.netns("node-a")?;
        netns.sysctl(&[("net/ipv6/conf/all/disable_ipv6", off)])
    };
    switch(world, "0")?;
    let address = "fd00:10::1/64";
    let outcome = world.with_address("node-a", address, |world| {
        serve_ipv4_alone(world, false)?;
        world.programmed_on("node-a", &["[fd00:10::1]:30080/TCP"])
    });
    switch(world, "1")?;
    outcome?;
    serve_ipv4_alone(world, true)
}

/// Soon the agent of node-a serves IPv4 alone, or both.
fn serve_ipv4_alone(world: &World, alone: bool) -> Result<()> {
    eventually(SOON, || {
        let told = world.status("node-a")?["withoutIpv6"].clone();
        ensure!(told.is_string() == alone, "it says {told}");
        Ok(())
    })
}

fn k11_primary_missing(world: &mut World) -> Result<()> {
    let options = ["--node-name", "node-a", "--bind-address", "fd00:10::1"];
    let said = world.refuses(&[], "node-a", &options)?;
    ensure!(
        said.contains("--bind-address: fd00:10::1 is IPv6"),
        "{said}"
    );
    Ok(())
}

fn k12_refused(world: &mut World) -> Result<()> {
    let file = world.config("node-a", &json!({ "clusterCIDR": "fd00:1::/32" }))?;
    let options = ["--node-name", "node-a", "--config", &file];
    let said = world.refuses(&[], "node-a", &options)?;
    let named = format!("--config {file}: clusterCIDR: fd00:1::/32 is IPv6 alone");
    ensure!(said.contains(&named), "{said}");
    Ok(())
}

/// Pods of the family that is left out are no pods.
fn k12_cluster_cidr(world: &mut World) -> Result<()> {
    given(world, "externalTrafficPolicy: Local,", &["pod-3"])?;
    world.served("pod-2", Tcp, AT_A, &["pod-3"])?;
    let file = world.config("node-a", &json!({ "clusterCIDR": "fd00:1::/32" }))?;
    world.with_options("node-a", &["--config", &file], |world| {
        world.problem("node-a", &["clusterCIDR fd00:1::/32", "no IPv4 network"])?;
        world.unanswered("pod-2", AT_A)?;
        world.served("pod-2", Tcp, "[fd00:10::1]:30080", &["pod-3"])
    })
}

fn k12_pod_cidrs(world: &mut World) -> Result<()> {
    given(world, "externalTrafficPolicy: Local,", &["pod-3"])?;
    let options = ["--detect-local-mode", "NodeCIDR"];
    world.with_options("node-a", &options, |world| {
        world.served("pod-2", Tcp, AT_A, &["pod-3"])?;
        with_node(world, "node-a", |world| {
            let of = |spec: Value| changed(world, "node-a", |node| node["spec"] = spec);
            let v6 = json!({ "podCIDR": "fd00:1:1::/64", "podCIDRs": ["fd00:1:1::/64"] });
            remake(world, of(v6)?)?;
            world.problem("node-a", &["podCIDRs fd00:1:1::/64", "no IPv4 network"])?;
            world.unanswered("pod-2", AT_A)?;
            remake(world, of(json!({}))?)?;
            world.problem("node-a", &["the Node has no podCIDRs"])
        })?;
        world.served("pod-2", Tcp, AT_A, &["pod-3"])?;
        let problems = world.status("node-a")?["problems"].clone();
        ensure!(problems == json!([]), "{problems}");
        Ok(())
    })
}

//! E: refusals and filters.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::{
    checks::Check,
    echo::Protocol::{Tcp, Udp},
};

use crate::world::{World, row};

const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";
const VIP: &str = "192.0.2.10:80";
const VIP_V6: &str = "[2001:db8:1::10]:80";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("e1_refused_without_endpoints", e1_refused_without_endpoints),
        row("e2_ranges_before_refusal", e2_ranges_before_refusal),
        row("e3_dropped_where_others_have_some", e3_dropped),
        row("e4_wrong_port", e4_wrong_port),
        row("e5_wrong_protocol", e5_wrong_protocol),
        row("e6_unallocated_in_every_network", e6_unallocated),
        row("e8_source_ranges", e8_source_ranges),
        row("e9_the_other_family", e9_the_other_family),
        row("e10_range_of_all", e10_range_of_all),
        row("e12_ranges_without_address", e12_ranges_without_address),
        row("e14_no_netfilter", e14_no_netfilter),
    ]
}

/// A load balancer at [`VIP`] and [`VIP_V6`] that is open to these networks.
fn given(world: &mut World, ranges: &str, endpoints: &[&str]) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                  clusterIPs: [10.96.1.1, 'fd00:96::101'], loadBalancerSourceRanges: [{ranges}],
                  externalIPs: [198.51.100.7], ports: [{{port: 80, nodePort: 30080}}]}},
          status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.10}}, {{ip: '2001:db8:1::10'}}]}}}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

fn e1_refused_without_endpoints(world: &mut World) -> Result<()> {
    given(world, "", &[])?;
    for from in ["pod-2", "node-a", "client"] {
        for to in [CLUSTER_IP, AT_A, VIP, VIP_V6, "198.51.100.7:80"] {
            world.refused(from, Tcp, to)?;
        }
    }
    Ok(())
}

fn e2_ranges_before_refusal(world: &mut World) -> Result<()> {
    given(world, "10.1.0.0/16", &[])?;
    world.refused("pod-2", Tcp, VIP)?;
    world.unanswered("client", VIP)
}

fn e3_dropped(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: NodePort, clusterIP: 10.96.1.1, externalTrafficPolicy: Local,
                 ports: [{name: udp, protocol: UDP, port: 80, nodePort: 30080}]}}",
    )?;
    world.endpoints("web", &["pod-3"])?;
    world.dropped("client", AT_A, "drop-no-local-backend")
}

fn e4_wrong_port(world: &mut World) -> Result<()> {
    given(world, "", &["pod-1"])?;
    for from in ["pod-2", "node-a", "client"] {
        world.refused(from, Tcp, "10.96.1.1:81")?;
    }
    Ok(())
}

fn e5_wrong_protocol(world: &mut World) -> Result<()> {
    given(world, "", &["pod-1"])?;
    for from in ["pod-2", "client"] {
        world.refused(from, Udp, CLUSTER_IP)?;
    }
    Ok(())
}

fn e6_unallocated(world: &mut World) -> Result<()> {
    const REASON: &str = "drop-unallocated-cluster-ip";
    world.dropped("pod-2", "10.96.1.99:80", REASON)?;
    world.given(
        "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more},
          spec: {cidrs: [10.97.0.0/24]}}",
    )?;
    world.dropped("pod-2", "10.97.0.9:80", REASON)
}

fn e8_source_ranges(world: &mut World) -> Result<()> {
    given(world, "10.10.0.9/32", &["pod-1"])?;
    world.served("client", Tcp, VIP, &["pod-1"])?;
    world.unanswered("pod-2", VIP)?;
    given(world, "10.1.0.0/16", &["pod-1"])?;
    world.served("pod-2", Tcp, VIP, &["pod-1"])?;
    world.unanswered("client", VIP)
}

fn e9_the_other_family(world: &mut World) -> Result<()> {
    given(world, "10.1.0.0/16", &["pod-1"])?;
    world.unanswered("client", VIP)?;
    world.served("client", Tcp, VIP_V6, &["pod-1"])?;
    world.with_options("node-a", &["--strict-source-ranges"], |world| {
        world.unanswered("client", VIP_V6)
    })
}

fn e10_range_of_all(world: &mut World) -> Result<()> {
    given(world, "203.0.113.0/25, 0.0.0.0/0", &["pod-1"])?;
    world.served("client", Tcp, VIP, &["pod-1"])?;
    given(world, "' 10.10.0.9/32 '", &["pod-1"])?;
    world.unanswered("pod-2", VIP)?;
    world.served("client", Tcp, VIP, &["pod-1"])
}

fn e12_ranges_without_address(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: LoadBalancer, clusterIP: 10.96.1.1, externalIPs: [198.51.100.7],
                 loadBalancerSourceRanges: [203.0.113.0/25],
                 ports: [{port: 80, nodePort: 30080}]}}",
    )?;
    world.endpoints("web", &["pod-1"])?;
    for to in [CLUSTER_IP, AT_A, "198.51.100.7:80"] {
        world.served("client", Tcp, to, &["pod-1"])?;
    }
    Ok(())
}

fn e14_no_netfilter(world: &mut World) -> Result<()> {
    given(world, "10.1.0.0/16", &["pod-1"])?;
    world.served("pod-2", Tcp, VIP, &["pod-1"])?;
    let mut list = Command::new("nft");
    let output = world
        .cluster
        .netns("node-a")?
        .output(list.args(["list", "ruleset"]))?;
    let rules = String::from_utf8(output.stdout)?;
    ensure!(rules.trim().is_empty(), "there are rules:\n{rules}");
    Ok(())
}

//! E: refusals and filters.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::{
    capture::Capture,
    checks::Check,
    echo::Protocol::{Sctp, Tcp, Udp},
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
        row("e7_pings_are_refused", e7_pings_are_refused),
        row("e8_source_ranges", e8_source_ranges),
        row("e9_the_other_family", e9_the_other_family),
        row("e10_range_of_all", e10_range_of_all),
        row("e11_range_of_the_node", e11_range_of_the_node),
        row("e12_ranges_without_address", e12_ranges_without_address),
        row("e14_no_netfilter", e14_no_netfilter),
        row("e15_sctp_everywhere", e15_sctp_everywhere),
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

fn e7_pings_are_refused(world: &mut World) -> Result<()> {
    for endpoints in [["pod-1"].as_slice(), &[]] {
        given(world, "", endpoints)?;
        for from in ["pod-2", "client"] {
            for to in ["10.96.1.1", "fd00:96::101"] {
                world.ping_refused(from, to)?;
            }
        }
    }
    Ok(())
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

/// Ways of a host that has one load balancer address to another one, and back.
const TO_ANOTHER_VIP: &str = "\
addr add 192.0.2.10/32 dev lo
addr add 2001:db8:1::10/128 dev lo nodad
route add 192.0.2.11 via 10.10.0.1 src 192.0.2.10
route add 2001:db8:1::11 via fd00:10::1 src 2001:db8:1::10";
const TO_THE_HOST: &str = "\
route add 192.0.2.10 via 10.10.0.9
route add 2001:db8:1::10 via fd00:10::9";

/// A node that has a load balancer address itself uses it to talk to that; seen from another node,
/// so does the client here.
fn e11_range_of_the_node(world: &mut World) -> Result<()> {
    let back = |lines: &str| -> String {
        let undone = lines.replace(" add ", " del ").replace(" nodad", "");
        // A route goes with the address it prefers.
        let in_turn: Vec<_> = undone.lines().rev().collect();
        in_turn.join("\n")
    };
    let (client, node) = (
        world.cluster.netns("client")?,
        world.cluster.netns("node-a")?,
    );
    client.ip(TO_ANOTHER_VIP)?;
    node.ip(TO_THE_HOST)?;
    let outcome = load_balancers_as_sources(world);
    let (client, node) = (
        world.cluster.netns("client")?,
        world.cluster.netns("node-a")?,
    );
    client.ip(&back(TO_ANOTHER_VIP))?;
    node.ip(&back(TO_THE_HOST))?;
    outcome
}

fn load_balancers_as_sources(world: &mut World) -> Result<()> {
    const OTHER: [&str; 2] = ["192.0.2.11:80", "[2001:db8:1::11]:80"];
    const THIRD: &str = "192.0.2.12:80";
    let given = |world: &mut World, ranges: &str| {
        world.given(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
              spec: {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack,
                      clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, 'fd00:96::101'],
                      loadBalancerSourceRanges: [{ranges}], ports: [{{port: 80}}]}},
              status: {{loadBalancer: {{ingress: [
                {{ip: 192.0.2.10}}, {{ip: 192.0.2.11}}, {{ip: 192.0.2.12}},
                {{ip: '2001:db8:1::10'}}, {{ip: '2001:db8:1::11'}}]}}}}}}"
        ))?;
        world.endpoints("web", &["pod-1"])
    };
    // Both nodes, but not the client.
    given(world, "10.10.0.0/30, 'fd00:10::/126'")?;
    for to in OTHER {
        world.served("client", Tcp, to, &["pod-1"])?;
    }
    let source = world.ask("client", Tcp, OTHER[0])?.client.ip();
    ensure!(source.to_string() == "192.0.2.10", "pod-1 saw {source}");
    world.with_address("node-a", "192.0.2.12/32", |world| {
        world.served("node-a", Tcp, THIRD, &["pod-1"])
    })?;
    world.unanswered("client", THIRD)?;
    given(world, "10.10.0.4/30, 'fd00:10::4/126'")?;
    OTHER
        .iter()
        .try_for_each(|to| world.unanswered("client", to))
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

fn e15_sctp_everywhere(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                 clusterIPs: [10.96.1.1, 'fd00:96::101'],
                 externalIPs: [198.51.100.7, '2001:db8:2::7'],
                 ports: [{name: sctp, protocol: SCTP, port: 80, nodePort: 30080}]},
          status: {loadBalancer: {ingress: [{ip: 192.0.2.10}, {ip: '2001:db8:1::10'}]}}}",
    )?;
    world.endpoints("web", &["pod-1", "pod-3"])?;
    let capture = Capture::start(&world.cluster.topology.switch)?;
    for from in ["pod-1", "pod-2", "client"] {
        for to in [
            CLUSTER_IP,
            AT_A,
            VIP,
            "198.51.100.7:80",
            "[fd00:96::101]:80",
            "[fd00:10::1]:30080",
            VIP_V6,
            "[2001:db8:2::7]:80",
        ] {
            world.served(from, Sctp, to, &["pod-1", "pod-3"])?;
        }
    }
    let seen = capture.finish()?;
    ensure!(seen.faults().is_empty(), "on the wire: {:?}", seen.faults());
    world.endpoints("web", &[])?;
    for to in [CLUSTER_IP, AT_A, VIP_V6] {
        world.refused("client", Sctp, to)?;
    }
    Ok(())
}

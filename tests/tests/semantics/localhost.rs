//! B10 to B13: node ports at loopback addresses.

use std::fs;

use anyhow::{Result, ensure};
use tests::{
    checks::Check,
    cluster::NODES,
    echo::Protocol::{self, Sctp, Tcp, Udp},
};

use crate::world::{World, row};

const BOTH: [&str; 2] = ["pod-1", "pod-3"];
const LOOPBACK: [&str; 2] = ["127.0.0.1:30080", "[::1]:30080"];

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("b10_localhost_by_default", b10_localhost_by_default),
        row("b10_localhost_switched_off", b10_switched_off),
        row("b11_nobody_else", b11_nobody_else),
        row("b12_ipv6_localhost", b12_ipv6_localhost),
        row("b13_policy_affinity_and_refusal", b13_as_any_client),
    ]
}

/// A Service at node port 30080 over `protocol`, with more of its spec.
fn given(world: &mut World, protocol: Protocol, more: &str) -> Result<()> {
    let (name, transport) = match protocol {
        Tcp => ("''", "TCP"),
        Udp => ("udp", "UDP"),
        Sctp => ("sctp", "SCTP"),
    };
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                  clusterIPs: [10.96.1.1, 'fd00:96::101'], {more}
                  ports: [{{name: {name}, protocol: {transport}, port: 80, nodePort: 30080}}]}}}}"
    ))
}

fn b10_localhost_by_default(world: &mut World) -> Result<()> {
    given(world, Tcp, "")?;
    world.endpoints("web", &BOTH)?;
    NODES
        .iter()
        .try_for_each(|node| world.served(node, Tcp, LOOPBACK[0], &BOTH))
}

fn b10_switched_off(world: &mut World) -> Result<()> {
    given(world, Tcp, "")?;
    world.endpoints("web", &BOTH)?;
    world.served("node-a", Tcp, LOOPBACK[0], &BOTH)?;
    world.with_options("node-a", &["--localhost-nodeports=false"], |world| {
        for to in LOOPBACK {
            world.refused("node-a", Tcp, to)?;
        }
        world.served("node-a", Tcp, "10.10.0.1:30080", &BOTH)
    })
}

fn b11_nobody_else(world: &mut World) -> Result<()> {
    given(world, Tcp, "")?;
    world.endpoints("web", &BOTH)?;
    world.served("node-a", Tcp, LOOPBACK[0], &BOTH)?;
    for (hook, from) in [
        ("external", "10.10.0.9:40000%eth0"),
        ("pod", "10.1.1.2:40000%veth-pod-2"),
    ] {
        let args = [
            "explain",
            "--hook",
            hook,
            "--from",
            from,
            "--to",
            LOOPBACK[0],
        ];
        let verdict = &world.lbctl("node-a", &args)?["verdict"];
        ensure!(verdict == "pass" || verdict == "drop", "{hook}: {verdict}");
    }
    let loosened = world.cluster.netns("node-a")?.run(|| -> Result<String> {
        let conf = "/proc/sys/net/ipv4/conf";
        let read = |of: &str| fs::read_to_string(format!("{conf}/{of}/route_localnet"));
        Ok(read("all")? + &read("eth0")? + &read("veth-pod-2")?)
    })??;
    ensure!(loosened == "0\n0\n0\n", "route_localnet: {loosened:?}");
    Ok(())
}

fn b12_ipv6_localhost(world: &mut World) -> Result<()> {
    given(world, Tcp, "")?;
    world.endpoints("web", &BOTH)?;
    NODES
        .iter()
        .try_for_each(|node| world.served(node, Tcp, LOOPBACK[1], &BOTH))
}

fn b13_as_any_client(world: &mut World) -> Result<()> {
    for protocol in Protocol::BOTH {
        given(world, protocol, "externalTrafficPolicy: Local,")?;
        world.endpoints("web", &BOTH)?;
        for to in LOOPBACK {
            world.served("node-a", protocol, to, &BOTH)?;
        }
        world.endpoints("web", &[])?;
        for to in LOOPBACK {
            world.refused("node-a", protocol, to)?;
        }
        given(world, protocol, "sessionAffinity: ClientIP,")?;
        world.endpoints("web", &BOTH)?;
        for to in LOOPBACK {
            world.served_by_one("node-a", protocol, to, &BOTH)?;
        }
    }
    Ok(())
}

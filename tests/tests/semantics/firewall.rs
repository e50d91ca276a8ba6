//! D9: the node's own rules for what it forwards.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{checks::Check, cluster::NODES, command, echo::Protocol::Tcp, topology::Family};

use crate::{
    objects::POD_PORT,
    world::{World, row},
};

const CLUSTER_IPS: [&str; 2] = ["10.96.1.1:80", "[fd00:96::101]:80"];
const NODE_PORTS: [&str; 2] = ["10.10.0.1:30080", "[fd00:10::1]:30080"];
const BOTH: [&str; 2] = ["pod-1", "pod-3"];

/// Who reaches which endpoint through the stack of a node. What a node sends on in its own name
/// does not pass its own.
const PAIRS: [(&str, &[(&str, &str)]); 2] = [
    (
        "node-a",
        &[
            ("pod-2", "pod-1"),
            ("pod-2", "pod-3"),
            ("pod-3", "pod-1"),
            ("client", "pod-1"),
        ],
    ),
    (
        "node-b",
        &[("pod-2", "pod-3"), ("pod-3", "pod-1"), ("node-a", "pod-3")],
    ),
];
/// The counter of what has a cluster IP.
const UNTRANSLATED: &str = "untranslated";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![row("d9_rules_see_endpoints", d9_rules_see_endpoints)]
}

fn d9_rules_see_endpoints(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                 clusterIPs: [10.96.1.1, 'fd00:96::101'], ports: [{port: 80, nodePort: 30080}]}}",
    )?;
    world.endpoints("web", &BOTH)?;
    for (node, pairs) in PAIRS {
        nft(world, node, &["-f", "-"], &rules(world, pairs)?)?;
    }
    let outcome = through_the_rules(world);
    for node in NODES {
        nft(world, node, &["flush", "ruleset"], "")?;
    }
    outcome
}

fn through_the_rules(world: &mut World) -> Result<()> {
    world.unanswered("pod-2", "10.1.1.1:9090")?;
    let list = |world: &World| -> Result<Vec<String>> {
        let list = |node| nft(world, node, &["--stateless", "list", "ruleset"], "");
        NODES.into_iter().map(list).collect()
    };
    let before = list(world)?;
    for node in NODES {
        world.restart(node, &[])?;
    }
    for to in [CLUSTER_IPS, NODE_PORTS].concat() {
        world.served("client", Tcp, to, &BOTH)?;
        world.served("pod-2", Tcp, to, &BOTH)?;
    }
    for to in CLUSTER_IPS {
        world.served("pod-3", Tcp, to, &BOTH)?;
    }
    let after = list(world)?;
    ensure!(before == after, "{before:?} became {after:?}");
    NODES.iter().try_for_each(|node| all_counted(world, node))
}

/// Rules of a node that forwards nothing but what these clients and endpoints have to say to each
/// other, and counts that.
fn rules(world: &World, pairs: &[(&str, &str)]) -> Result<String> {
    let mut counters = vec![format!("counter {UNTRANSLATED} {{}}")];
    let mut rules = Vec::new();
    for (family, ip, cluster_ip) in [
        (Family::V4, "ip", "10.96.1.1"),
        (Family::V6, "ip6", "fd00:96::101"),
    ] {
        for end in ["saddr", "daddr"] {
            let rule = format!("{ip} {end} {cluster_ip} counter name {UNTRANSLATED}");
            rules.push(rule);
        }
        for (client, endpoint) in pairs {
            let name = format!("{client}.{endpoint}.{ip}");
            let address = |of| world.cluster.address(of, family);
            let (client, endpoint) = (address(client)?, address(endpoint)?);
            for (way, from, to, port) in [
                ("asks", client, endpoint, "dport"),
                ("answers", endpoint, client, "sport"),
            ] {
                counters.push(format!("counter {name}.{way} {{}}"));
                rules.push(format!(
                    "{ip} saddr {from} {ip} daddr {to} tcp {port} {POD_PORT} \
                     counter name {name}.{way} accept"
                ));
            }
        }
    }
    let (counters, rules) = (counters.join("\n"), rules.join("\n"));
    Ok(format!(
        "table inet firewall {{
{counters}
chain forward {{
type filter hook forward priority filter; policy drop;
{rules}
}}
}}"
    ))
}

/// All who are let through have been, and nobody else was there.
fn all_counted(world: &World, node: &str) -> Result<()> {
    let text = nft(world, node, &["-j", "list", "counters"], "")?;
    let listed: Value = serde_json::from_str(&text)?;
    let objects = listed["nftables"].as_array().context("no list")?;
    let counters = objects.iter().filter_map(|object| object.get("counter"));
    for counter in counters {
        let counted = counter["packets"] != 0;
        let expected = counter["name"] != UNTRANSLATED;
        ensure!(counted == expected, "on {node}: {counter}");
    }
    Ok(())
}

/// Runs `nft` on a node, with `input` on its standard input; what it prints.
fn nft(world: &World, node: &str, args: &[&str], input: &str) -> Result<String> {
    let mut nft = Command::new("nft");
    let run = || command::feed(nft.args(args), input);
    let output = world.cluster.netns(node)?.run(run)??;
    Ok(String::from_utf8(output.stdout)?)
}

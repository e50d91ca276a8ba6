//! K7 to K10: which node this is, and what its Node says.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{checks::Check, cluster::eventually, echo::Protocol::Tcp, kube::node_object};

use crate::world::{SOON, World, row};

const WEB: &str = "10.96.1.1:80";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("k7_host_name_in_lower_case", k7_host_name),
        row("k7_hostname_override", k7_hostname_override),
        row("k8_node_comes_later", k8_node_comes_later),
        row("k9_address_of_the_node", k9_address),
        row("k9_zone_of_the_node", k9_zone),
        row("k9_pod_networks_of_the_node", k9_pod_networks),
        row("k10_where_the_address_is_from", k10_address),
    ]
}

/// A Service at a node port, with more of its spec.
fn given(world: &mut World, more: &str, endpoints: &[&str]) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, clusterIP: 10.96.1.1, {more}
                  ports: [{{port: 80, nodePort: 30080}}]}}}}"
    ))?;
    world.endpoints("web", endpoints)
}

/// Runs an agent of node-b on a host of this name; it knows itself to be `node`.
fn is_known_as(
    world: &mut World,
    host: &str,
    options: &[&str],
    node: &str,
    then: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let rename = format!("hostname {host} && exec \"$@\"");
    let by = [
        "env",
        "--unset=NODE_NAME",
        "unshare",
        "--uts",
        "sh",
        "-c",
        &rename,
        "sh",
    ];
    let launch = |world: &World| world.cluster.launch_by(&by, "node-b", options);
    world.with_agent("node-b", launch, |world| {
        let name = world.status("node-b")?["node"].clone();
        ensure!(name == node, "it takes itself for {name}");
        then(world)
    })
}

fn k7_host_name(world: &mut World) -> Result<()> {
    given(world, "internalTrafficPolicy: Local,", &["pod-1", "pod-3"])?;
    is_known_as(world, "Node-B", &[], "node-b", |world| {
        world.served("pod-3", Tcp, WEB, &["pod-3"])
    })
}

/// To a node of another name all endpoints are remote.
fn k7_hostname_override(world: &mut World) -> Result<()> {
    given(world, "internalTrafficPolicy: Local,", &["pod-1", "pod-3"])?;
    let options = ["--hostname-override", "NODE-B"];
    is_known_as(world, "elsewhere", &options, "node-b", |world| {
        world.served("pod-3", Tcp, WEB, &["pod-3"])
    })?;
    is_known_as(world, "elsewhere", &[], "elsewhere", |world| {
        world.unanswered("pod-3", WEB)
    })
}

/// The Node of a node, changed.
pub(crate) fn changed(world: &World, node: &str, change: impl FnOnce(&mut Value)) -> Result<Value> {
    let mut object = node_object(world.cluster.topology.node(node)?);
    change(&mut object);
    Ok(object)
}

/// Does `then`, and puts the Node of a node back as it was.
pub(crate) fn with_node(
    world: &mut World,
    node: &'static str,
    then: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let outcome = then(world);
    let restored = remake(world, changed(world, node, |_| {})?);
    outcome.and(restored)
}

/// Does `then`, through which the agent of a node runs on.
fn by_one_agent(
    world: &mut World,
    node: &'static str,
    then: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let pid = world.status(node)?["pid"].clone();
    then(world)?;
    world.cluster.agent(node)?.process().check_alive()?;
    let now = world.status(node)?["pid"].clone();
    ensure!(now == pid, "another agent runs: {now}, not {pid}");
    Ok(())
}

/// Puts a Node in the place of one: its pods' networks cannot be changed otherwise.
pub(crate) fn remake(world: &World, node: Value) -> Result<()> {
    let control = &world.cluster.source.control;
    let node = [node];
    control.delete(&node)?;
    control.apply(&node)
}

fn with_addresses(node: &mut Value, addresses: &[&str]) {
    let addresses = addresses.iter();
    let addresses = addresses.map(|ip| json!({ "type": "InternalIP", "address": ip }));
    node["status"]["addresses"] = addresses.collect();
}

/// Soon a node serves the node port at this of its addresses, and not at the others.
fn serves_at(world: &World, node: &str, address: &str) -> Result<()> {
    let at = |address: &str| format!("{address}:30080/TCP");
    let others = ["10.10.0.1", "10.10.0.2", "10.10.0.77", "10.10.0.78"];
    let others = others.iter().filter(|other| **other != address);
    let others: Vec<_> = others.map(|other| at(other)).collect();
    world.programmed_on(node, &[&at(address)])?;
    world.absent_on(node, &others.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Until there is a Node, the address of the interface is the node's.
fn k8_node_comes_later(world: &mut World) -> Result<()> {
    given(world, "", &["pod-1"])?;
    world.with_address("node-b", "10.10.0.77/24", |world| {
        with_node(world, "node-b", |world| {
            let node = changed(world, "node-b", |it| with_addresses(it, &["10.10.0.77"]))?;
            let node = [node];
            world.cluster.source.control.delete(&node)?;
            world.restart("node-b", &[])?;
            by_one_agent(world, "node-b", |world| {
                world.served("pod-3", Tcp, WEB, &["pod-1"])?;
                serves_at(world, "node-b", "10.10.0.2")?;
                world.served("client", Tcp, "10.10.0.2:30080", &["pod-1"])?;
                healthz(world, 503)?;
                world.cluster.source.control.apply(&node)?;
                serves_at(world, "node-b", "10.10.0.77")?;
                world.served("client", Tcp, "10.10.0.77:30080", &["pod-1"])?;
                healthz(world, 200)
            })
        })
    })
}

/// Soon load balancers may send to node-b, or not.
fn healthz(world: &World, expected: u16) -> Result<()> {
    eventually(SOON, || {
        let (status, body) = world.get("client", "10.10.0.2:10256", "/healthz")?;
        ensure!(status == expected, "{status}: {body}");
        Ok(())
    })
}

fn k9_address(world: &mut World) -> Result<()> {
    given(world, "", &["pod-1"])?;
    world.with_address("node-a", "10.10.0.77/24", |world| {
        by_one_agent(world, "node-a", |world| {
            serves_at(world, "node-a", "10.10.0.1")?;
            with_node(world, "node-a", |world| {
                let addresses = ["10.10.0.77", "10.10.0.1"];
                let node = changed(world, "node-a", |it| with_addresses(it, &addresses))?;
                world.cluster.source.control.apply(&[node])?;
                serves_at(world, "node-a", "10.10.0.77")?;
                world.served("client", Tcp, "10.10.0.77:30080", &["pod-1"])
            })?;
            serves_at(world, "node-a", "10.10.0.1")
        })
    })
}

fn k9_zone(world: &mut World) -> Result<()> {
    given(world, "", &["pod-1 zones=zone-a", "pod-3 zones=zone-c"])?;
    by_one_agent(world, "node-a", |world| {
        world.served("pod-2", Tcp, WEB, &["pod-1"])?;
        with_node(world, "node-a", |world| {
            let node = changed(world, "node-a", |node| {
                node["metadata"]["labels"]["topology.kubernetes.io/zone"] = "zone-c".into();
            })?;
            world.cluster.source.control.apply(&[node])?;
            world.served("pod-2", Tcp, WEB, &["pod-3"])
        })?;
        world.served("pod-2", Tcp, WEB, &["pod-1"])
    })
}

/// Who is a pod, and so reaches the endpoints of other nodes, is told by the Node's networks. They
/// change with the Node alone: kube-proxy ends for either.
fn k9_pod_networks(world: &mut World) -> Result<()> {
    const AT_A: &str = "10.10.0.1:30080";
    given(world, "externalTrafficPolicy: Local,", &["pod-3"])?;
    let options = ["--detect-local-mode", "NodeCIDR"];
    world.with_options("node-a", &options, |world| {
        by_one_agent(world, "node-a", |world| {
            world.served("pod-2", Tcp, AT_A, &["pod-3"])?;
            with_node(world, "node-a", |world| {
                let node = changed(world, "node-a", |node| {
                    node["spec"] = json!({ "podCIDR": "10.1.9.0/24", "podCIDRs": ["10.1.9.0/24"] });
                })?;
                remake(world, node)?;
                world.unanswered("pod-2", AT_A)
            })?;
            world.served("pod-2", Tcp, AT_A, &["pod-3"])
        })
    })
}

/// The option before the Node, the Node before the interface.
fn k10_address(world: &mut World) -> Result<()> {
    given(world, "", &["pod-1"])?;
    world.with_address("node-a", "10.10.0.77/24", |world| {
        world.with_address("node-a", "10.10.0.78/24", |world| {
            with_node(world, "node-a", |world| {
                for (addresses, served) in [(&[][..], "10.10.0.1"), (&["10.10.0.77"], "10.10.0.77")]
                {
                    let node = changed(world, "node-a", |it| with_addresses(it, addresses))?;
                    world.cluster.source.control.apply(&[node])?;
                    serves_at(world, "node-a", served)?;
                }
                world.with_options("node-a", &["--bind-address", "10.10.0.78"], |world| {
                    serves_at(world, "node-a", "10.10.0.78")?;
                    world.served("client", Tcp, "10.10.0.78:30080", &["pod-1"])
                })
            })
        })
    })
}

//! C19 and D10: who is a pod.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    checks::Check,
    cluster::{Source, eventually},
    echo::Protocol::Tcp,
    kube::node_object,
    topology::CLUSTER_CIDRS,
};

use crate::world::{SOON, World, row};

/// The node port on node-a, in either family.
const AT_A: [&str; 2] = ["10.10.0.1:30080", "[fd00:10::1]:30080"];
const BOTH: [&str; 2] = ["pod-1", "pod-3"];

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("c19_family_without_pods", c19_family_without_pods),
        row("c19_node_without_pod_networks", c19_node_without_networks),
        row("d10_by_interface_name", d10_by_interface_name),
        row("d10_by_bridge", d10_by_bridge),
        row("d10_by_cluster_network", d10_by_cluster_network),
        row("d10_by_node_network", d10_by_node_network),
    ]
}

/// A Service whose node ports pods and all others have different endpoints at.
fn given(world: &mut World, endpoints: &[&str]) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                 clusterIPs: [10.96.1.1, 'fd00:96::101'], externalTrafficPolicy: Local,
                 ports: [{port: 80, nodePort: 30080}]}}",
    )?;
    world.endpoints("web", endpoints)
}

/// Pods of IPv4 are treated as outside.
fn all_outside(world: &mut World) -> Result<()> {
    given(world, &BOTH)?;
    world.served("pod-2", Tcp, AT_A[0], &["pod-1"])?;
    given(world, &["pod-3"])?;
    world.unanswered("pod-2", AT_A[0])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-3"])?;
    // What the node itself sends is not told by an address.
    world.served("node-a", Tcp, AT_A[0], &["pod-3"])?;
    given(world, &[])?;
    world.refused("pod-2", Tcp, AT_A[0])
}

fn c19_family_without_pods(world: &mut World) -> Result<()> {
    let v6_only = [
        "--detect-local-mode",
        "ClusterCIDR",
        "--cluster-cidr",
        "fd00:1::/32",
    ];
    world.with_options("node-a", &v6_only, |world| {
        all_outside(world)?;
        given(world, &["pod-3"])?;
        world.served("pod-2", Tcp, AT_A[1], &["pod-3"])
    })
}

/// A Node gets its networks some time after it has come to be, and then keeps them.
fn c19_node_without_networks(world: &mut World) -> Result<()> {
    let node = node_object(world.cluster.topology.node("node-a")?);
    let mut without = node.clone();
    without["spec"] = json!({});
    let by_node = ["--detect-local-mode", "NodeCIDR"];
    world.with_options("node-a", &by_node, |world| {
        let control = &world.cluster.source.control;
        control.delete(std::slice::from_ref(&node))?;
        control.apply(&[without])?;
        let outcome = all_outside(world).and_then(|()| given(world, &["pod-3"]));
        world.cluster.source.control.apply(&[node])?;
        outcome?;
        world.served("pod-2", Tcp, AT_A[0], &["pod-3"])
    })
}

/// Does `then` while node-a runs with these options, and again with a file that says the same.
fn told(
    world: &mut World,
    flags: &[&str],
    config: Value,
    then: impl Fn(&World) -> Result<()>,
) -> Result<()> {
    let file = written(world, config)?;
    given(world, &BOTH)?;
    let outcome = [flags, &["--config", &file]]
        .iter()
        .try_for_each(|options| {
            world.restart("node-a", options)?;
            then(world).with_context(|| format!("with {options:?}"))
        });
    let restored = world.restart("node-a", &[]);
    outcome.and(restored)
}

/// Of these, `inside` are pods and `outside` are not.
fn sides(world: &World, inside: &[&str], outside: &[&str]) -> Result<()> {
    for to in AT_A {
        for from in inside {
            world.served(from, Tcp, to, &BOTH)?;
        }
        for from in outside {
            world.served(from, Tcp, to, &["pod-1"])?;
        }
    }
    Ok(())
}

/// Soon these, and no others, are the pods' interfaces of node-a.
fn interfaces(world: &World, expected: &[&str]) -> Result<()> {
    eventually(SOON, || {
        let status = world.status("node-a")?;
        let all = status["interfaces"].as_array().context("no interfaces")?;
        let pods = all.iter().filter(|interface| interface["role"] == "pod");
        let names: Vec<_> = pods.map(|interface| &interface["name"]).collect();
        ensure!(names == expected, "the pods' interfaces are {names:?}");
        Ok(())
    })
}

/// A file of kube-proxy's configuration for node-a; its path.
fn written(world: &World, mut config: Value) -> Result<String> {
    let topology = &world.cluster.topology;
    let arguments = world.cluster.source.arguments(topology.node("node-a")?)?;
    let kubeconfig = arguments.last().context("no kubeconfig")?;
    config["apiVersion"] = json!("kubeproxy.config.k8s.io/v1alpha1");
    config["kind"] = json!("KubeProxyConfiguration");
    config["clientConnection"] = json!({ "kubeconfig": kubeconfig.to_str() });
    let path = topology.dir().join("kube-proxy.json");
    fs::write(&path, config.to_string())?;
    Ok(path.to_str().context("a strange path")?.to_owned())
}

fn d10_by_interface_name(world: &mut World) -> Result<()> {
    let flags = [
        "--detect-local-mode",
        "InterfaceNamePrefix",
        "--pod-interface-name-prefix",
        "veth-pod-",
    ];
    let config = json!({
        "detectLocalMode": "InterfaceNamePrefix",
        "detectLocal": { "interfaceNamePrefix": "veth-pod-" },
    });
    told(world, &flags, config, |world| {
        interfaces(world, &["veth-pod-1", "veth-pod-2"])?;
        sides(world, &["pod-2"], &["pod-3", "client"])
    })
}

fn d10_by_bridge(world: &mut World) -> Result<()> {
    let flags = [
        "--detect-local-mode",
        "BridgeInterface",
        "--pod-bridge-interface",
        "cni0",
    ];
    let config = json!({
        "detectLocalMode": "BridgeInterface",
        "detectLocal": { "bridgeInterface": "cni0" },
    });
    world.cluster.topology.bridge("pod-2", "cni0")?;
    let outcome = told(world, &flags, config, |world| {
        interfaces(world, &["veth-pod-2"])?;
        sides(world, &["pod-2"], &["pod-3", "client"])
    });
    let undone = world.cluster.topology.unbridge("pod-2", "cni0");
    outcome.and(undone)
}

/// Whatever the interface they are seen on: pod-3's packets come from outside, as the client's do.
fn d10_by_cluster_network(world: &mut World) -> Result<()> {
    const POD_3: &str = "10.1.2.0/24,fd00:1:2::/64";
    let flags = [
        "--detect-local-mode",
        "ClusterCIDR",
        "--cluster-cidr",
        POD_3,
    ];
    let config = json!({ "clusterCIDR": POD_3 });
    told(world, &flags, config, |world| {
        sides(world, &["pod-3"], &["pod-1", "pod-2", "client"])
    })
}

/// The cluster's networks don't count, only those of the Node.
fn d10_by_node_network(world: &mut World) -> Result<()> {
    let flags = [
        "--detect-local-mode",
        "NodeCIDR",
        "--cluster-cidr",
        CLUSTER_CIDRS,
    ];
    let config = json!({ "detectLocalMode": "NodeCIDR", "clusterCIDR": CLUSTER_CIDRS });
    told(world, &flags, config, |world| {
        sides(world, &["pod-1", "pod-2"], &["pod-3", "client"])
    })
}

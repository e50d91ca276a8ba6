//! Where the `DaemonSets` put their Pods.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{cluster::eventually, kube::ControlPlane};

use super::{NAME, NAMESPACE, SOON, World, apply, folder};

/// Labels of nodes that Fairlead is built for.
const AMD64: [&str; 2] = ["kubernetes.io/os=linux", "kubernetes.io/arch=amd64"];
const ARM64: [&str; 2] = ["kubernetes.io/os=linux", "kubernetes.io/arch=arm64"];
/// Labels of a node whose CPU it is not built for.
const S390X: [&str; 2] = ["kubernetes.io/os=linux", "kubernetes.io/arch=s390x"];

/// kube-proxy as it is found in clusters, as far as its places are concerned.
const KUBE_PROXY: &str = "\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-proxy, namespace: kube-system}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: kube-proxy}}
  template:
    metadata: {labels: {app.kubernetes.io/name: kube-proxy}}
    spec:
      hostNetwork: true
      nodeSelector: {kubernetes.io/os: linux}
      tolerations: [{operator: Exists}]
      containers: [{name: kube-proxy, image: example.org/kube-proxy}]
";

/// The nodes that a `DaemonSet` has a Pod for. Does what a scheduler and kubelets would on the way:
/// the controller looks at Pods by the node they are on.
fn nodes_of(control: &ControlPlane, name: &str) -> Result<BTreeSet<String>> {
    let label = format!("app.kubernetes.io/name={name}");
    let args = ["get", "pods", "-n", NAMESPACE, "-l", &label, "-o", "json"];
    let pods: Value = serde_json::from_str(&control.kubectl(&args, "")?)?;
    let mut nodes = BTreeSet::new();
    for pod in pods["items"].as_array().context("no list")? {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            end(control, name)?;
            continue;
        }
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                     /nodeSelectorTerms/0/matchFields/0/values/0";
        let node = pod.pointer(terms).and_then(Value::as_str);
        let node = node.context("a Pod for no node")?;
        if pod["spec"]["nodeName"].is_null() {
            bind(control, name, node)?;
        }
        nodes.insert(node.to_owned());
    }
    Ok(nodes)
}

fn bind(control: &ControlPlane, pod: &str, node: &str) -> Result<()> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": pod },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/binding");
    let create = ["create", "--raw", &path, "--filename=-"];
    control.kubectl(&create, &binding.to_string()).map(drop)
}

fn end(control: &ControlPlane, pod: &str) -> Result<()> {
    let delete = ["delete", "pod", pod, "-n", NAMESPACE, "--ignore-not-found"];
    let at_once = ["--force", "--grace-period=0"];
    control
        .kubectl(&[&delete[..], &at_once].concat(), "")
        .map(drop)
}

fn until_on(control: &ControlPlane, name: &str, wanted: &[&str]) -> Result<()> {
    eventually(SOON, || {
        let nodes = nodes_of(control, name)?;
        ensure!(
            nodes.iter().eq(wanted),
            "{name} is on {nodes:?}, not on {wanted:?}"
        );
        Ok(())
    })
}

fn label(control: &ControlPlane, node: &str, labels: &[&str]) -> Result<()> {
    let args = [&["label", "--overwrite", "node", node], labels].concat();
    control.kubectl(&args, "").map(drop)
}

/// Each node with a CPU that Fairlead is built for, whatever keeps other Pods away, and before all others.
pub(super) fn everywhere(world: &mut World) -> Result<()> {
    let control = world.control();
    label(control, "node-b", &S390X)?;
    let taint = [
        "taint",
        "--overwrite",
        "node",
        "node-b",
        "full=yes:NoExecute",
    ];
    control.kubectl(&taint, "")?;
    label(control, "node-a", &AMD64)?;
    until_on(control, NAME, &["node-a"])?;
    label(control, "node-b", &ARM64)?;
    until_on(control, NAME, &["node-a", "node-b"])?;
    let args = [
        "get",
        "pods",
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={.items[*].spec.priority}",
    ];
    let priorities = control.kubectl(&args, "")?;
    ensure!(priorities == "2000001000 2000001000", "{priorities}");
    Ok(())
}

/// A label moves a node from kube-proxy to Fairlead, and without it the node goes back.
pub(super) fn by_node(world: &mut World) -> Result<()> {
    let control = world.control();
    label(control, "node-a", &AMD64)?;
    label(control, "node-b", &ARM64)?;
    control.kubectl(&["delete", "daemonset", NAME, "-n", NAMESPACE], "")?;
    until_on(control, NAME, &[])?;
    let patch = folder("overlays/by-node/kube-proxy.yaml");
    let patch = patch.to_str().context("our path is not text")?;
    // Patched before it is applied: what becomes of Pods in an update is not the question.
    let kube_proxy = ["patch", "--local", "--filename=-", "--output=yaml"];
    let kube_proxy = [&kube_proxy[..], &["--patch-file", patch]].concat();
    control.apply_yaml(&control.kubectl(&kube_proxy, KUBE_PROXY)?)?;
    until_on(control, "kube-proxy", &["node-a", "node-b"])?;
    apply(control, "overlays/by-node")?;
    for (change, ours, theirs) in [
        ("fairlead.dev/serves=true", &["node-a"][..], &["node-b"][..]),
        ("fairlead.dev/serves-", &[], &["node-a", "node-b"]),
    ] {
        label(control, "node-a", &[change])?;
        until_on(control, NAME, ours)?;
        until_on(control, "kube-proxy", theirs)?;
    }
    control.kubectl(&["delete", "daemonset", "kube-proxy", "-n", NAMESPACE], "")?;
    apply(control, "base").map(drop)
}

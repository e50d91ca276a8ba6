//! Where the DaemonSets put their Pods.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{cluster::eventually, kube::ControlPlane};

use super::{NAME, NAMESPACE, SOON, World, apply, folder};

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

/// The nodes that a DaemonSet has a Pod for.
fn nodes_of(control: &ControlPlane, name: &str) -> Result<BTreeSet<String>> {
    let label = format!("app.kubernetes.io/name={name}");
    let args = ["get", "pods", "-n", NAMESPACE, "-l", &label, "-o", "json"];
    let pods: Value = serde_json::from_str(&control.kubectl(&args, "")?)?;
    let pods = pods["items"].as_array().context("no list")?;
    let node = |pod: &Value| {
        // There is no scheduler, which would do as it is told here.
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                     /nodeSelectorTerms/0/matchFields/0/values/0";
        let name = pod.pointer(terms).and_then(Value::as_str);
        Some(name.context("a Pod for no node")?.to_owned()).context("no node")
    };
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(node)
        .collect()
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

/// Each node of our architecture, whatever keeps other Pods away, and before all others.
pub(super) fn everywhere(world: &mut World) -> Result<()> {
    let control = world.control();
    let ours = ["kubernetes.io/os=linux", "kubernetes.io/arch=amd64"];
    let taint = [
        "taint",
        "--overwrite",
        "node",
        "node-b",
        "full=yes:NoExecute",
    ];
    control.kubectl(&taint, "")?;
    label(control, "node-a", &ours)?;
    until_on(control, NAME, &["node-a"])?;
    label(control, "node-b", &ours)?;
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
    everywhere(world)?;
    let control = world.control();
    control.apply_yaml(KUBE_PROXY)?;
    until_on(control, "kube-proxy", &["node-a", "node-b"])?;
    let patch = folder("overlays/by-node/kube-proxy.yaml");
    let patch = patch.to_str().context("our path is not text")?;
    let kube_proxy = ["patch", "daemonset", "kube-proxy", "-n", NAMESPACE];
    control.kubectl(&[&kube_proxy[..], &["--patch-file", patch]].concat(), "")?;
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

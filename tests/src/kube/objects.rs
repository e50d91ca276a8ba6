//! What a kubelet would write: Nodes and Pods, ready to be [applied](super::ControlPlane::apply).

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// A Node.
#[derive(Clone, Debug, Default)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its topology zone.
    pub zone: Option<&'a str>,
    /// Its internal addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// The ranges its pods have their addresses from.
    pub pod_cidrs: &'a [&'a str],
}

impl Node<'_> {
    /// The object, ready.
    pub fn object(&self) -> Value {
        let Self {
            name,
            zone,
            addresses,
            pod_cidrs,
        } = self;
        let mut labels = Map::from_iter([("kubernetes.io/hostname".to_owned(), json!(name))]);
        if let Some(zone) = zone {
            labels.insert("topology.kubernetes.io/zone".to_owned(), json!(zone));
        }
        let mut spec = Map::new();
        if let Some(first) = pod_cidrs.first() {
            spec.insert("podCIDR".to_owned(), json!(first));
            spec.insert("podCIDRs".to_owned(), json!(pod_cidrs));
        }
        let addresses = addresses
            .iter()
            .map(|address| json!({ "type": "InternalIP", "address": address }));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name, "labels": labels },
            "spec": spec,
            "status": {
                "addresses": addresses.collect::<Vec<_>>(),
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    }
}

/// A Pod that runs. Deleted, it stays as one that terminates, until it is deleted without grace.
#[derive(Clone, Debug, Default)]
pub struct Pod<'a> {
    /// Its namespace; `default` when empty.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The Node it is on.
    pub node: &'a str,
    /// Its labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Its ports, by name, all TCP.
    pub ports: &'a [(&'a str, u16)],
    /// Whether it is not ready.
    pub unready: bool,
}

impl Pod<'_> {
    /// The object.
    pub fn object(&self) -> Value {
        let Self {
            namespace,
            name,
            node,
            labels,
            addresses,
            ports,
            unready,
        } = self;
        let namespace = if namespace.is_empty() {
            "default"
        } else {
            namespace
        };
        let labels: Map<_, _> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let ports = ports
            .iter()
            .map(|(name, port)| json!({ "name": name, "containerPort": port }));
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| json!({ "ip": address }))
            .collect();
        let ready = if *unready { "False" } else { "True" };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": namespace, "name": name, "labels": labels },
            "spec": {
                "nodeName": node,
                "containers": [{
                    "name": "main",
                    "image": "example.org/none",
                    "ports": ports.collect::<Vec<_>>(),
                }],
            },
            "status": {
                "phase": "Running",
                "podIP": addresses.first().map(|first| first["ip"].clone()),
                "podIPs": addresses,
                "conditions": [{ "type": "Ready", "status": ready }],
            },
        })
    }
}

//! Objects in a few words.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::topology::{Family, Topology};

/// The port that the pods' servers are at.
pub(crate) const POD_PORT: u16 = 8080;

/// A slice of a Service's endpoints in one family: an unnamed TCP port, `udp` and `sctp`.
///
/// An endpoint is a pod's name and words about it: `unready`, `terminating`, `not-serving`,
/// `nowhere` (it names no node), `zones=zone-a,zone-b` and `nodes=node-a` (hints).
pub(crate) fn slice(
    topology: &Topology,
    service: &str,
    family: Family,
    endpoints: &[&str],
) -> Result<Value> {
    let (suffix, kind) = match family {
        Family::V4 => ("4", "IPv4"),
        Family::V6 => ("6", "IPv6"),
    };
    let endpoints: Result<Vec<Value>> = endpoints
        .iter()
        .map(|words| endpoint(topology, family, words))
        .collect();
    Ok(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{suffix}"),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": kind,
        "ports": [
            { "name": "", "protocol": "TCP", "port": POD_PORT },
            { "name": "udp", "protocol": "UDP", "port": POD_PORT },
            { "name": "sctp", "protocol": "SCTP", "port": POD_PORT },
        ],
        "endpoints": endpoints?,
    }))
}

fn endpoint(topology: &Topology, family: Family, words: &str) -> Result<Value> {
    let mut words = words.split(' ');
    let pod = topology.pod(words.next().context("an endpoint without a name")?)?;
    let address: IpAddr = pod.addresses.of(family);
    let mut endpoint = json!({ "addresses": [address], "nodeName": pod.node, "conditions": {} });
    for word in words {
        let names = |text: &str| -> Value {
            let names = text.split(',').map(|name| json!({ "name": name }));
            names.collect()
        };
        match word.split_once('=') {
            Some(("zones", zones)) => endpoint["hints"]["forZones"] = names(zones),
            Some(("nodes", nodes)) => endpoint["hints"]["forNodes"] = names(nodes),
            None if word == "unready" => endpoint["conditions"]["ready"] = false.into(),
            None if word == "terminating" => {
                endpoint["conditions"]["ready"] = false.into();
                endpoint["conditions"]["terminating"] = true.into();
            }
            None if word == "not-serving" => endpoint["conditions"]["serving"] = false.into(),
            None if word == "nowhere" => endpoint["nodeName"] = Value::Null,
            Some(_) | None => bail!("an endpoint cannot be {word:?}"),
        }
    }
    Ok(endpoint)
}

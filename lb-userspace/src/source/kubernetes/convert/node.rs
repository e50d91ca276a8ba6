//! Node

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Remarks, at, network};
use crate::{
    model::Node,
    source::{check, kubernetes::objects},
};

/// Our Node.
pub(super) fn node(object: &objects::Node, remarks: &mut Remarks) -> Node {
    let labels = object.metadata.labels.as_ref();
    let zone = labels.and_then(|labels| labels.zone.clone());
    Node {
        addresses: internal_ips(object, remarks),
        zone: zone.filter(|zone| !zone.is_empty()),
        pod_cidrs: pod_cidrs(object, remarks),
        eligible: is_eligible(object),
    }
}

fn internal_ips(object: &objects::Node, remarks: &mut Remarks) -> Vec<IpAddr> {
    let given = object.status.addresses.as_deref().unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, address) in given.iter().enumerate() {
        if address.kind == "InternalIP" {
            let field = || format!("status.addresses[{index}].address");
            addresses.extend(remarks.take(check::routable_ip(&address.address), field));
        }
    }
    addresses
}

fn pod_cidrs(object: &objects::Node, remarks: &mut Remarks) -> Vec<IpNet> {
    let spec = &object.spec;
    let several = spec.pod_cidrs.as_deref().filter(|cidrs| !cidrs.is_empty());
    let given = several.unwrap_or(spec.pod_cidr.as_slice()).iter();
    given
        .enumerate()
        .filter(|(_, text)| !text.is_empty())
        .filter_map(|(index, text)| remarks.take(network(text), || at("spec.podCIDRs", index)))
        .collect()
}

/// Other taints, and a node that is not ready or takes no pods, do not count (row I3).
fn is_eligible(object: &objects::Node) -> bool {
    let mut taints = object.spec.taints.iter().flatten();
    object.metadata.deletion_timestamp.is_none()
        && !taints.any(|taint| taint.key == Node::DELETION_TAINT)
}

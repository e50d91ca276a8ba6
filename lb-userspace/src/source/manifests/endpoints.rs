//! Pod, Node, Endpoints and EndpointSlice: the API server's defaults and validation.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    check::{self, At, Invalid},
    metadata,
    object::{EndpointSlice, Endpoints, Family, NamedPort, Node, Pod},
};
use crate::{
    model::{self, Endpoint, EndpointPort, ObjectName},
    source::annotations::{self, Weights},
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// A Pod, as an endpoint to be, with a remark on what does not count.
pub(super) fn pod(pod: core::Pod) -> Result<(Pod, Option<Invalid>), Invalid> {
    let name = metadata::namespaced(&pod.metadata)?;
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let ips = pod_ips(&status)?;
    let asked = metadata::annotation(&pod.metadata, annotations::SOCKET_LB);
    let asked = asked.map(annotations::socket_lb).transpose();
    let asked = asked.at(annotations::field(annotations::SOCKET_LB));
    let read = Pod {
        left_to_tc: matches!(asked, Ok(Some(()))),
        name,
        ports: named_ports(&spec)?,
        node: spec.node_name.filter(|node| !node.is_empty()),
        ips: if ended { Vec::new() } else { ips },
        ready: status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        labels: pod.metadata.labels.unwrap_or_default(),
    };
    Ok((read, asked.err()))
}

/// `podIPs`, which `podIP` stands for when it is alone.
fn pod_ips(status: &core::PodStatus) -> Result<Vec<IpAddr>, Invalid> {
    let all = status.pod_ips.as_deref().unwrap_or_default();
    if all.is_empty() {
        let first = status.pod_ip.as_deref().filter(|ip| !ip.is_empty());
        let first = first.map(check::ip).transpose().at("status.podIP")?;
        return Ok(first.into_iter().collect());
    }
    all.iter()
        .enumerate()
        .map(|(index, pod_ip)| check::ip(&pod_ip.ip).at(format_args!("status.podIPs[{index}].ip")))
        .collect()
}

/// Ports of the containers that run as long as the pod does.
fn named_ports(spec: &core::PodSpec) -> Result<Vec<NamedPort>, Invalid> {
    let mut named = Vec::new();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = [
        ("containers", spec.containers.as_slice()),
        ("initContainers", init),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            if list == "containers" || sidecar {
                let field = format!("spec.{list}[{index}]");
                container_ports(&field, container, &mut named)?;
            }
        }
    }
    Ok(named)
}

fn container_ports(
    field: &str,
    container: &core::Container,
    named: &mut Vec<NamedPort>,
) -> Result<(), Invalid> {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = |name| format!("{field}.ports[{index}].{name}");
        let number = check::port(port.container_port).at(field("containerPort"))?;
        let protocol = check::protocol(port.protocol.as_deref()).at(field("protocol"))?;
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            check::port_name(name).at(field("name"))?;
            named.push(NamedPort {
                name: name.to_owned(),
                protocol,
                port: number,
            });
        }
    }
    Ok(())
}

/// Label with a Node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A Node.
pub(super) fn node(node: &core::Node) -> Result<Node, Invalid> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    check::dns_subdomain(name).at("metadata.name")?;
    let status = node.status.as_ref();
    let given = status.and_then(|status| status.addresses.as_deref());
    let mut addresses = Vec::new();
    for (index, address) in given.unwrap_or_default().iter().enumerate() {
        if address.type_ == "InternalIP" {
            let field = format_args!("status.addresses[{index}].address");
            addresses.push(check::routable_ip(&address.address).at(field)?);
        }
    }
    let spec = node.spec.as_ref();
    let cidrs = spec.and_then(|spec| spec.pod_cidrs.as_deref());
    let mut pod_cidrs = Vec::new();
    for (index, cidr) in cidrs.unwrap_or_default().iter().enumerate() {
        pod_cidrs.push(check::cidr(cidr).at(format_args!("spec.podCIDRs[{index}]"))?);
    }
    let taints = spec.and_then(|spec| spec.taints.as_deref());
    let mut taints = taints.unwrap_or_default().iter();
    let deleted = taints.any(|taint| taint.key == model::Node::DELETION_TAINT);
    Ok(Node {
        name: name.to_owned(),
        facts: model::Node {
            addresses,
            zone: metadata::label(&node.metadata, ZONE).map(str::to_owned),
            pod_cidrs,
            eligible: !deleted && node.metadata.deletion_timestamp.is_none(),
        },
    })
}

/// An Endpoints object, as the slices that it would be mirrored into: they take its annotations
/// over. With a remark on what does not count.
pub(super) fn endpoints(
    endpoints: &core::Endpoints,
) -> Result<(Endpoints, Option<Invalid>), Invalid> {
    let meta = &endpoints.metadata;
    let name = metadata::namespaced(meta)?;
    let skipped = metadata::label(meta, SKIP_MIRROR) == Some("true");
    let annotations = meta.annotations.as_ref();
    let election = annotations.is_some_and(|annotations| annotations.contains_key(LEADER));
    let (weights, remark) = weights(meta);
    let mut slices = Vec::new();
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        slices.extend(subset_slices(&name, index, subset, &weights)?);
    }
    let endpoints = Endpoints {
        name,
        mirrored: !skipped && !election,
        slices,
    };
    Ok((endpoints, remark))
}

/// The weights of endpoints; a remark on those that cannot be read.
fn weights(meta: &ObjectMeta) -> (Weights, Option<Invalid>) {
    let text = metadata::annotation(meta, annotations::WEIGHTS);
    let (weights, fault) = text.map(Weights::parse).unwrap_or_default();
    let field = annotations::field(annotations::WEIGHTS);
    (weights, fault.map(|reason| Invalid::new(field, reason)))
}

fn subset_slices(
    name: &ObjectName,
    index: usize,
    subset: &core::EndpointSubset,
    weights: &Weights,
) -> Result<Vec<model::EndpointSlice>, Invalid> {
    let field = format!("subsets[{index}]");
    let ports = subset_ports(&field, subset.ports.as_deref().unwrap_or_default())?;
    let mut endpoints = Vec::new();
    let lists = [
        ("addresses", &subset.addresses, true),
        ("notReadyAddresses", &subset.not_ready_addresses, false),
    ];
    for (list, addresses, ready) in lists {
        for (n, address) in addresses.iter().flatten().enumerate() {
            let addr = check::routable_ip(&address.ip);
            let addr = addr.at(format_args!("{field}.{list}[{n}].ip"))?;
            endpoints.push(Endpoint {
                addr,
                node: address.node_name.clone(),
                ready,
                serving: true,
                terminating: false,
                weight: weights.of(addr),
                for_zones: Vec::new(),
                for_nodes: Vec::new(),
            });
        }
    }
    if endpoints.is_empty() {
        let reason = "needs addresses or notReadyAddresses";
        return Err(Invalid::new(field, reason));
    }
    let (v4, v6): (Vec<_>, Vec<_>) = endpoints
        .into_iter()
        .partition(|endpoint| endpoint.addr.is_ipv4());
    let slice = |(family, endpoints): (Family, Vec<Endpoint>)| model::EndpointSlice {
        // '~' is in no name of Kubernetes', so this is no hand-made slice's.
        name: ObjectName::new(
            &name.namespace,
            format!("{}~{family}~subsets[{index}]", name.name),
        ),
        service: name.name.clone(),
        ports: ports.clone(),
        endpoints,
    };
    let families: [(Family, Vec<Endpoint>); 2] = [(Family::V4, v4), (Family::V6, v6)];
    let filled = families.into_iter().filter(|(_, some)| !some.is_empty());
    Ok(filled.map(slice).collect())
}

fn subset_ports(field: &str, given: &[core::EndpointPort]) -> Result<Vec<EndpointPort>, Invalid> {
    let mut ports = Vec::with_capacity(given.len());
    for (index, port) in given.iter().enumerate() {
        let field = |name| format!("{field}.ports[{index}].{name}");
        let name = port.name.clone().unwrap_or_default();
        if name.is_empty() && given.len() > 1 {
            return Err(Invalid::new(field("name"), "required with several ports"));
        }
        if !name.is_empty() {
            check::dns_label(&name).at(field("name"))?;
        }
        ports.push(EndpointPort {
            name,
            protocol: check::protocol(port.protocol.as_deref()).at(field("protocol"))?,
            port: check::port(port.port).at(field("port"))?,
        });
    }
    Ok(ports)
}

/// An EndpointSlice, with a remark if it is of no Service, or on what does not count.
pub(super) fn slice(
    slice: &discovery::EndpointSlice,
) -> Result<(EndpointSlice, Option<Invalid>), Invalid> {
    let meta = &slice.metadata;
    let name = metadata::namespaced(meta)?;
    let family = match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        "FQDN" => None,
        "" => return Err(Invalid::new("addressType", "required")),
        other => {
            let reason = format_args!("{other:?} is not one of IPv4, IPv6, FQDN");
            return Err(Invalid::new("addressType", reason));
        }
    };
    let Some(family) = family else {
        return Ok((EndpointSlice { name, slice: None }, None));
    };
    let ports = slice_ports(slice.ports.as_deref().unwrap_or_default())?;
    let (weights, bad_weights) = weights(meta);
    let endpoints = slice_endpoints(slice, family, &weights)?;
    let service = metadata::label(meta, SERVICE_NAME);
    let remark = service.is_none().then(|| {
        let field = format_args!("metadata.labels[{SERVICE_NAME}]");
        Invalid::new(field, "missing, so the slice is of no Service")
    });
    let slice = service
        .filter(|_| !metadata::has_label(meta, HEADLESS))
        .map(|service| model::EndpointSlice {
            name: name.clone(),
            service: service.to_owned(),
            ports,
            endpoints,
        });
    Ok((EndpointSlice { name, slice }, remark.or(bad_weights)))
}

/// Ports that have a number; "all ports" means nothing to a proxy (row A8).
fn slice_ports(given: &[discovery::EndpointPort]) -> Result<Vec<EndpointPort>, Invalid> {
    let mut ports = Vec::with_capacity(given.len());
    let mut names = BTreeSet::new();
    for (index, port) in given.iter().enumerate() {
        let field = |name| format!("ports[{index}].{name}");
        let name = port.name.clone().unwrap_or_default();
        if !name.is_empty() {
            check::dns_label(&name).at(field("name"))?;
        }
        if !names.insert(name.clone()) {
            let reason = format_args!("{name:?} is already the name of another port");
            return Err(Invalid::new(field("name"), reason));
        }
        let protocol = check::protocol(port.protocol.as_deref()).at(field("protocol"))?;
        if let Some(number) = port.port.filter(|number| *number != 0) {
            ports.push(EndpointPort {
                name,
                protocol,
                port: check::port(number).at(field("port"))?,
            });
        }
    }
    Ok(ports)
}

fn slice_endpoints(
    slice: &discovery::EndpointSlice,
    family: Family,
    weights: &Weights,
) -> Result<Vec<Endpoint>, Invalid> {
    let given = slice.endpoints.as_deref().unwrap_or_default();
    let mut endpoints = Vec::with_capacity(given.len());
    for (index, endpoint) in given.iter().enumerate() {
        let field = |n| format!("endpoints[{index}].addresses[{n}]");
        let mut addresses = Vec::with_capacity(endpoint.addresses.len());
        for (n, text) in endpoint.addresses.iter().enumerate() {
            let addr = check::routable_ip(text).at(field(n))?;
            if Family::of(addr) != family {
                let reason = format_args!("{addr} is not {family}, as addressType says");
                return Err(Invalid::new(field(n), reason));
            }
            addresses.push(addr);
        }
        let conditions = endpoint.conditions.as_ref();
        let condition = |get: fn(&discovery::EndpointConditions) -> Option<bool>, default| {
            conditions.and_then(get).unwrap_or(default)
        };
        let hints = endpoint.hints.as_ref();
        let Some(addr) = addresses.first() else {
            let field = format_args!("endpoints[{index}].addresses");
            return Err(Invalid::new(field, "required"));
        };
        endpoints.push(Endpoint {
            addr: *addr,
            node: endpoint.node_name.clone(),
            ready: condition(|c| c.ready, true),
            serving: condition(|c| c.serving, true),
            terminating: condition(|c| c.terminating, false),
            weight: weights.of(*addr),
            for_zones: names(hints.and_then(|hints| hints.for_zones.as_deref()), |zone| {
                &zone.name
            }),
            for_nodes: names(hints.and_then(|hints| hints.for_nodes.as_deref()), |node| {
                &node.name
            }),
        });
    }
    Ok(endpoints)
}

fn names<T>(hints: Option<&[T]>, name: fn(&T) -> &String) -> Vec<String> {
    hints
        .unwrap_or_default()
        .iter()
        .map(name)
        .cloned()
        .collect()
}

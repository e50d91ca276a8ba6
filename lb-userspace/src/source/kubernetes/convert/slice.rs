//! EndpointSlice

use std::net::IpAddr;

use super::Remarks;
use crate::{
    model::{Endpoint, EndpointPort, EndpointSlice, ObjectName},
    source::{
        annotations::{self, Weights},
        check,
        kubernetes::objects::{self, Conditions, Hints, Named},
    },
};

/// The slice if it is of addresses and of a Service (row A7).
pub(super) fn slice(
    object: &objects::EndpointSlice,
    name: &ObjectName,
    remarks: &mut Remarks,
) -> Option<EndpointSlice> {
    let is_ipv4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        // A name is resolved by who asks for it, not by a proxy.
        "FQDN" => return None,
        other => {
            let reason = format!("{other:?} is not one of IPv4, IPv6, FQDN");
            remarks.note("addressType", &reason);
            return None;
        }
    };
    let labels = object.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.service_name.as_deref());
    // Quite lawful: slices are for others to use, too.
    let service = service.filter(|service| !service.is_empty())?;
    Some(EndpointSlice {
        name: name.clone(),
        service: service.to_owned(),
        ports: ports(object, remarks),
        endpoints: endpoints(object, is_ipv4, remarks),
    })
}

/// The ports with a name and a number: "all ports" means nothing to a proxy (row A8).
fn ports(object: &objects::EndpointSlice, remarks: &mut Remarks) -> Vec<EndpointPort> {
    let given = object.ports.as_deref().unwrap_or_default();
    let mut ports = Vec::with_capacity(given.len());
    for (index, port) in given.iter().enumerate() {
        let field = |name| format!("ports[{index}].{name}");
        let number = port.port.filter(|number| *number != 0);
        let (Some(name), Some(number)) = (&port.name, number) else {
            continue;
        };
        let protocol = check::protocol(port.protocol.as_deref());
        let protocol = remarks.take(protocol, || field("protocol"));
        let number = remarks.take(check::port(number), || field("port"));
        if let (Some(protocol), Some(port)) = (protocol, number) {
            ports.push(EndpointPort {
                name: name.clone(),
                protocol,
                port,
            });
        }
    }
    ports
}

/// The endpoints with an address; only the first one of each counts (row A9).
fn endpoints(
    object: &objects::EndpointSlice,
    is_ipv4: bool,
    remarks: &mut Remarks,
) -> Vec<Endpoint> {
    let given = object.endpoints.as_deref().unwrap_or_default();
    let weights = weights(object, remarks);
    let mut endpoints = Vec::with_capacity(given.len());
    for (index, endpoint) in given.iter().enumerate() {
        let text = endpoint.addresses.iter().flatten().next();
        let field = || format!("endpoints[{index}].addresses[0]");
        let addr = text.and_then(|text| remarks.take(address(text, is_ipv4), field));
        endpoints.extend(addr.map(|addr| self::endpoint(addr, &weights, endpoint)));
    }
    endpoints
}

fn address(text: &str, is_ipv4: bool) -> Result<IpAddr, String> {
    let addr = check::routable_ip(text)?;
    if addr.is_ipv4() == is_ipv4 {
        return Ok(addr);
    }
    Err(format!("{addr} is not of the addressType"))
}

/// What is not said of an endpoint: it is ready, it serves, it is not terminating (row A10).
fn endpoint(addr: IpAddr, weights: &Weights, given: &objects::Endpoint) -> Endpoint {
    let Conditions {
        ready,
        serving,
        terminating,
    } = given.conditions.unwrap_or_default();
    let Hints {
        for_zones,
        for_nodes,
    } = given.hints.as_ref().unwrap_or(&Hints::NONE);
    Endpoint {
        addr,
        node: given.node_name.clone(),
        ready: ready.unwrap_or(true),
        serving: serving.unwrap_or(true),
        terminating: terminating.unwrap_or(false),
        weight: weights.of(addr),
        for_zones: names(for_zones.as_deref()),
        for_nodes: names(for_nodes.as_deref()),
    }
}

/// The weights of the endpoints, as far as they can be read.
fn weights(object: &objects::EndpointSlice, remarks: &mut Remarks) -> Weights {
    let annotations = object.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.weights.as_deref());
    let (weights, fault) = text.map(Weights::parse).unwrap_or_default();
    if let Some(reason) = fault {
        remarks.note(annotations::field(annotations::WEIGHTS), &reason);
    }
    weights
}

fn names(list: Option<&[Named]>) -> Vec<String> {
    let list = list.unwrap_or_default().iter();
    list.map(|named| named.name.clone()).collect()
}

//! Objects of the scenarios.

use lb_userspace::{
    maps::{Capacities, FamilyCapacities},
    model::{
        Batch, Change, Endpoint, EndpointPort, EndpointSlice, ObjectName, Protocol, Service,
        ServicePort, ServiceType, TrafficPolicy,
    },
};

pub(crate) const CAPACITIES: Capacities = Capacities {
    v4: FAMILY,
    v6: FAMILY,
    services: 64,
};
pub(crate) const FAMILY: FamilyCapacities = FamilyCapacities {
    frontends: 64,
    slots: 64,
    backends: 64,
    source_ranges: 64,
};

pub(crate) fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

/// A Service with one UDP port, 53, on this cluster IP.
pub(crate) fn service(service: &str, cluster_ip: &str) -> Change {
    let object = Service {
        name: name(service),
        created: 0,
        kind: ServiceType::ClusterIP,
        cluster_ips: vec![cluster_ip.parse().unwrap()],
        external_ips: Vec::new(),
        ingress_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Udp,
            port: 53,
            node_port: 0,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        algorithm: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
    };
    Change::Service(name(service), Some(object))
}

/// Its slice, with ready endpoints on another node.
pub(crate) fn slice(service: &str, hosts: impl IntoIterator<Item = u8>) -> Change {
    let object = EndpointSlice {
        name: name(service),
        service: service.to_owned(),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Udp,
            port: 5353,
        }],
        endpoints: hosts.into_iter().map(endpoint).collect(),
    };
    Change::Slice(name(service), Some(object))
}

fn endpoint(host: u8) -> Endpoint {
    Endpoint {
        node: Some("there".to_owned()),
        ..Endpoint::at([10, 0, 0, host].into())
    }
}

pub(crate) fn batch(changes: impl IntoIterator<Item = Change>) -> Batch {
    Batch {
        changes: changes.into_iter().collect(),
        ..Batch::default()
    }
}

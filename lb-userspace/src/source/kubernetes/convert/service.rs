//! Service

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use lb_common::service::Affinity;

use super::{Remarks, Rules, addresses, at, network};
use crate::{
    model::{Algorithm, ObjectName, Service, ServicePort, ServiceType, TrafficPolicy},
    source::{
        annotations, check,
        kubernetes::objects::{self, Metadata, ServiceSpec, ServiceStatus},
    },
};

/// Seconds a client is remembered unless the Service says (the API server's default).
const AFFINITY_TIMEOUT: u32 = 10_800;

/// What `clusterIP` says of a headless Service.
const HEADLESS: &str = "None";

/// The Service if it has an address of its own and is no alias (rows A3, A4).
pub(super) fn service(
    object: &objects::Service,
    name: &ObjectName,
    rules: Rules,
    remarks: &mut Remarks,
) -> Option<Service> {
    let objects::Service {
        metadata,
        spec,
        status,
    } = object;
    let kind = kind(spec, remarks)?;
    let cluster_ips = cluster_ips(spec, remarks);
    if cluster_ips.is_empty() {
        return None;
    }
    let given = spec.external_ips.as_deref().filter(|_| rules.external_ips);
    let external_policy = policy(
        spec.external_traffic_policy.as_deref(),
        "spec.externalTrafficPolicy",
        remarks,
    );
    Some(Service {
        name: name.clone(),
        created: created(metadata.creation_timestamp.as_deref()),
        kind,
        external_ips: addresses(given, "spec.externalIPs", remarks),
        ingress_ips: ingress_ips(status, remarks),
        ports: ports(spec, remarks),
        internal_policy: policy(
            spec.internal_traffic_policy.as_deref(),
            "spec.internalTrafficPolicy",
            remarks,
        ),
        external_policy,
        affinity: affinity(spec, remarks),
        algorithm: algorithm(metadata, remarks),
        source_ranges: source_ranges(spec, remarks),
        health_check_node_port: health_check(spec, kind, external_policy, remarks),
        cluster_ips,
    })
}

/// The type; none for those that are not programmed.
fn kind(spec: &ServiceSpec, remarks: &mut Remarks) -> Option<ServiceType> {
    match spec.kind.as_deref() {
        None | Some("" | "ClusterIP") => Some(ServiceType::ClusterIP),
        Some("NodePort") => Some(ServiceType::NodePort),
        Some("LoadBalancer") => Some(ServiceType::LoadBalancer),
        Some("ExternalName") => None,
        Some(other) => {
            let reason = format!("{other:?} is no type of Service that is known here");
            remarks.note("spec.type", &reason);
            None
        }
    }
}

fn created(text: Option<&str>) -> i64 {
    text.and_then(|text| text.parse::<Timestamp>().ok())
        .map_or(0, Timestamp::as_second)
}

/// The first of each family (row A5); none of a headless Service (row A3).
fn cluster_ips(spec: &ServiceSpec, remarks: &mut Remarks) -> Vec<IpAddr> {
    if spec.cluster_ip.as_deref() == Some(HEADLESS) {
        return Vec::new();
    }
    let several = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
    let given = several.unwrap_or(spec.cluster_ip.as_slice());
    let mut all = addresses(Some(given), "spec.clusterIPs", remarks);
    let mut families = BTreeSet::new();
    all.retain(|ip| families.insert(ip.is_ipv4()));
    all
}

/// Of mode VIP only: to the others, traffic has to go out to the load balancer (row B3).
fn ingress_ips(status: &ServiceStatus, remarks: &mut Remarks) -> Vec<IpAddr> {
    let load_balancer = status.load_balancer.as_ref();
    let given = load_balancer.and_then(|balancer| balancer.ingress.as_deref());
    let mut ips = Vec::new();
    for (index, ingress) in given.unwrap_or_default().iter().enumerate() {
        let is_vip = matches!(ingress.ip_mode.as_deref(), None | Some("VIP"));
        let text = ingress.ip.as_deref().filter(|ip| is_vip && !ip.is_empty());
        let ip = text.and_then(|text| {
            remarks.take(check::ip(text), || {
                format!("status.loadBalancer.ingress[{index}].ip")
            })
        });
        ips.extend(ip.filter(|ip| !ips.contains(ip)));
    }
    ips
}

fn ports(spec: &ServiceSpec, remarks: &mut Remarks) -> Vec<ServicePort> {
    let given = spec.ports.as_deref().unwrap_or_default();
    let mut ports: Vec<ServicePort> = Vec::with_capacity(given.len());
    for (index, port) in given.iter().enumerate() {
        let Some(port) = service_port(index, port, remarks) else {
            continue;
        };
        let same =
            |other: &&ServicePort| other.name == port.name && other.protocol == port.protocol;
        if ports.iter().any(|other| same(&other)) {
            let reason = "another port has this name and protocol";
            remarks.note(at("spec.ports", index), reason);
        } else {
            ports.push(port);
        }
    }
    ports
}

fn service_port(
    index: usize,
    port: &objects::ServicePort,
    remarks: &mut Remarks,
) -> Option<ServicePort> {
    let field = |name| format!("spec.ports[{index}].{name}");
    let protocol = check::protocol(port.protocol.as_deref());
    let node_port = port.node_port.filter(|number| *number != 0);
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: remarks.take(protocol, || field("protocol"))?,
        port: remarks.take(check::port(port.port), || field("port"))?,
        node_port: node_port
            .and_then(|number| remarks.take(check::port(number), || field("nodePort")))
            .unwrap_or_default(),
    })
}

/// `Cluster` unless it says `Local`.
fn policy(text: Option<&str>, field: &str, remarks: &mut Remarks) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            remarks.note(field, &format!("{other:?} is not one of Cluster, Local"));
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &ServiceSpec, remarks: &mut Remarks) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let reason = format!("{other:?} is not one of None, ClientIP");
            remarks.note("spec.sessionAffinity", &reason);
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let client_ip = config.and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client_ip.and_then(|client_ip| client_ip.timeout_seconds) else {
        return Some(AFFINITY_TIMEOUT);
    };
    let timeout = u32::try_from(seconds)
        .ok()
        .filter(|seconds| (1..=Affinity::TIMEOUT_MAX).contains(seconds))
        .ok_or_else(|| format!("{seconds} is not 1 to {}", Affinity::TIMEOUT_MAX));
    let field = || "spec.sessionAffinityConfig.clientIP.timeoutSeconds".to_owned();
    Some(remarks.take(timeout, field).unwrap_or(AFFINITY_TIMEOUT))
}

fn algorithm(metadata: &Metadata, remarks: &mut Remarks) -> Option<Algorithm> {
    let text = metadata.annotations.as_ref()?.algorithm.as_deref()?;
    let field = || annotations::field(annotations::ALGORITHM);
    remarks.take(annotations::algorithm(text), field)
}

/// The ranges as they are: that one of length 0 lets all of its family in, and that a family
/// without any is open (rows E9, E10), is for those who use them to see to.
fn source_ranges(spec: &ServiceSpec, remarks: &mut Remarks) -> Vec<IpNet> {
    let given = spec.load_balancer_source_ranges.iter().flatten();
    let field = "spec.loadBalancerSourceRanges";
    let range = |(index, text): (usize, &String)| remarks.take(network(text), || at(field, index));
    given.enumerate().filter_map(range).collect()
}

/// Row H1.
fn health_check(
    spec: &ServiceSpec,
    kind: ServiceType,
    external: TrafficPolicy,
    remarks: &mut Remarks,
) -> u16 {
    let needed = kind == ServiceType::LoadBalancer && external == TrafficPolicy::Local;
    let number = spec.health_check_node_port.filter(|n| needed && *n != 0);
    let field = || "spec.healthCheckNodePort".to_owned();
    number
        .and_then(|number| remarks.take(check::port(number), field))
        .unwrap_or_default()
}

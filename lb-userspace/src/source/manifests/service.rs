//! Service: the API server's defaults and validation.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1 as core,
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use lb_common::service::Affinity;

use super::{
    check::{self, At, Invalid},
    cluster_ips::{Type, virtual_ip},
    metadata,
    object::{NodePort, Service, ServicePort, Target, VirtualIp},
    ranges::Ranges,
};
use crate::{
    model::{Algorithm, ServiceType, TrafficPolicy},
    source::annotations,
};

/// Seconds a client is remembered unless the Service says (the API server's default).
const AFFINITY_TIMEOUT: u32 = 10_800;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// Defaults and validates a Service on its own, with a remark on what does not count.
pub(super) fn service(
    service: &core::Service,
    ranges: &Ranges,
) -> Result<(Service, Option<Invalid>), Invalid> {
    let meta = &service.metadata;
    let name = metadata::namespaced(meta)?;
    check::dns_label(&name.name).at("metadata.name")?;
    let spec = service
        .spec
        .as_ref()
        .ok_or_else(|| Invalid::new("spec", "required"))?;
    let kind = service_type(spec)?;
    let virtual_ip = virtual_ip(spec, kind, &ranges.cluster)?;
    let ports = ports(spec, kind, virtual_ip.is_some(), ranges)?;
    let external_ips = addresses(spec.external_ips.as_deref(), "spec.externalIPs")?;
    let external_policy = external_policy(spec, kind, !external_ips.is_empty())?;
    let (algorithm, remark) = algorithm(meta);
    let service = Service {
        name,
        created: meta
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
        virtual_ip,
        ports,
        foreign: metadata::has_label(meta, PROXY_NAME),
        external_ips,
        ingress_ips: ingress_ips(service)?,
        internal_policy: traffic_policy(spec.internal_traffic_policy.as_deref())
            .at("spec.internalTrafficPolicy")?,
        external_policy,
        affinity: session_affinity(spec)?,
        algorithm,
        source_ranges: source_ranges(spec, kind)?,
        health_check_node_port: health_check_node_port(spec, kind, external_policy, ranges)?,
        selector: spec.selector.clone().unwrap_or_default(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
    };
    Ok((service, remark))
}

fn service_type(spec: &core::ServiceSpec) -> Result<Type, Invalid> {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => Ok(Type::Virtual(ServiceType::ClusterIP)),
        Some("NodePort") => Ok(Type::Virtual(ServiceType::NodePort)),
        Some("LoadBalancer") => Ok(Type::Virtual(ServiceType::LoadBalancer)),
        Some("ExternalName") => {
            let name = spec.external_name.as_deref().unwrap_or_default();
            check::dns_subdomain(name.trim_end_matches('.')).at("spec.externalName")?;
            Ok(Type::ExternalName)
        }
        Some(other) => Err(Invalid::new(
            "spec.type",
            format_args!("{other:?} is not one of ClusterIP, NodePort, LoadBalancer, ExternalName"),
        )),
    }
}

fn ports(
    spec: &core::ServiceSpec,
    kind: Type,
    has_virtual_ip: bool,
    ranges: &Ranges,
) -> Result<Vec<ServicePort>, Invalid> {
    let given = spec.ports.as_deref().unwrap_or_default();
    if given.is_empty() && has_virtual_ip {
        return Err(Invalid::new("spec.ports", "required"));
    }
    let mut ports = Vec::with_capacity(given.len());
    for (index, port) in given.iter().enumerate() {
        ports.push(service_port(index, port, given.len() > 1)?);
    }
    unique_ports(&ports)?;
    node_ports(spec, &mut ports, kind, ranges)?;
    Ok(ports)
}

/// A port, its node port still to come.
fn service_port(
    index: usize,
    port: &core::ServicePort,
    name_required: bool,
) -> Result<ServicePort, Invalid> {
    let field = |name| format!("spec.ports[{index}].{name}");
    let name = port.name.clone().unwrap_or_default();
    if name_required && name.is_empty() {
        return Err(Invalid::new(field("name"), "required with several ports"));
    }
    if !name.is_empty() {
        check::dns_label(&name).at(field("name"))?;
    }
    let number = check::port(port.port).at(field("port"))?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => Target::Number(number),
        Some(IntOrString::Int(target)) => {
            Target::Number(check::port(*target).at(field("targetPort"))?)
        }
        Some(IntOrString::String(target)) if target.is_empty() => Target::Number(number),
        Some(IntOrString::String(target)) => {
            check::port_name(target).at(field("targetPort"))?;
            Target::Name(target.clone())
        }
    };
    Ok(ServicePort {
        name,
        protocol: check::protocol(port.protocol.as_deref()).at(field("protocol"))?,
        port: number,
        target,
        node_port: NodePort::None,
    })
}

fn unique_ports(ports: &[ServicePort]) -> Result<(), Invalid> {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let ServicePort {
            name,
            protocol,
            port,
            ..
        } = port;
        if !names.insert(name) {
            return Err(Invalid::new(
                format_args!("spec.ports[{index}].name"),
                format_args!("{name:?} is already the name of another port"),
            ));
        }
        if !numbers.insert((protocol, port)) {
            return Err(Invalid::new(
                format_args!("spec.ports[{index}].port"),
                format_args!("{port}/{protocol} is already another port"),
            ));
        }
    }
    Ok(())
}

fn node_ports(
    spec: &core::ServiceSpec,
    ports: &mut [ServicePort],
    kind: Type,
    ranges: &Ranges,
) -> Result<(), Invalid> {
    let (wanted, allocate) = match kind {
        Type::ExternalName | Type::Virtual(ServiceType::ClusterIP) => (false, false),
        Type::Virtual(ServiceType::NodePort) => (true, true),
        Type::Virtual(ServiceType::LoadBalancer) => {
            (true, spec.allocate_load_balancer_node_ports != Some(false))
        }
    };
    let given = spec.ports.iter().flatten().map(|port| port.node_port);
    let mut taken = BTreeSet::new();
    for (index, (port, given)) in ports.iter_mut().zip(given).enumerate() {
        let field = format_args!("spec.ports[{index}].nodePort");
        port.node_port = match given {
            None | Some(0) if allocate => NodePort::Allocate,
            None | Some(0) => NodePort::None,
            Some(_) if !wanted => {
                let reason = "only with type NodePort or LoadBalancer";
                return Err(Invalid::new(field, reason));
            }
            Some(number) => NodePort::Explicit(node_port(number, ranges).at(field)?),
        };
        if let NodePort::Explicit(number) = port.node_port
            && !taken.insert((port.protocol, number))
        {
            let protocol = port.protocol;
            return Err(Invalid::new(
                field,
                format_args!("{number}/{protocol} is already the node port of another port"),
            ));
        }
    }
    Ok(())
}

fn node_port(number: i32, ranges: &Ranges) -> Result<u16, String> {
    let range = &ranges.node_ports;
    match u16::try_from(number) {
        Ok(port) if range.contains(&port) => Ok(port),
        Ok(_) | Err(_) => Err(format!(
            "{number} is outside the node port range {}-{}",
            range.start(),
            range.end()
        )),
    }
}

fn addresses(addresses: Option<&[String]>, field: &str) -> Result<Vec<std::net::IpAddr>, Invalid> {
    addresses
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(index, text)| check::routable_ip(text).at(format_args!("{field}[{index}]")))
        .collect()
}

/// Addresses of the load balancer that are for the nodes to answer (row B3).
fn ingress_ips(service: &core::Service) -> Result<Vec<std::net::IpAddr>, Invalid> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let mut ips = Vec::new();
    for (index, ingress) in ingress.unwrap_or_default().iter().enumerate() {
        let field = |name| format!("status.loadBalancer.ingress[{index}].{name}");
        let vip = match ingress.ip_mode.as_deref() {
            None | Some("VIP") => true,
            Some("Proxy") => false,
            Some(other) => {
                let reason = format_args!("{other:?} is not one of VIP, Proxy");
                return Err(Invalid::new(field("ipMode"), reason));
            }
        };
        if let Some(ip) = ingress.ip.as_deref().filter(|ip| !ip.is_empty()) {
            let ip = check::ip(ip).at(field("ip"))?;
            ips.extend(vip.then_some(ip));
        }
    }
    Ok(ips)
}

fn external_policy(
    spec: &core::ServiceSpec,
    kind: Type,
    has_external_ips: bool,
) -> Result<TrafficPolicy, Invalid> {
    let given = spec.external_traffic_policy.as_deref();
    let external = match kind {
        Type::ExternalName => false,
        Type::Virtual(ServiceType::ClusterIP) => has_external_ips,
        Type::Virtual(ServiceType::NodePort | ServiceType::LoadBalancer) => true,
    };
    if !external && given.is_some_and(|policy| !policy.is_empty()) {
        return Err(Invalid::new(
            "spec.externalTrafficPolicy",
            "only with type NodePort or LoadBalancer, or with externalIPs",
        ));
    }
    traffic_policy(given).at("spec.externalTrafficPolicy")
}

fn traffic_policy(name: Option<&str>) -> Result<TrafficPolicy, String> {
    match name {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(format!("{other:?} is not one of Cluster, Local")),
    }
}

fn health_check_node_port(
    spec: &core::ServiceSpec,
    kind: Type,
    external_policy: TrafficPolicy,
    ranges: &Ranges,
) -> Result<Option<u16>, Invalid> {
    const FIELD: &str = "spec.healthCheckNodePort";
    let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) else {
        return Ok(None);
    };
    let used =
        kind == Type::Virtual(ServiceType::LoadBalancer) && external_policy == TrafficPolicy::Local;
    if !used {
        let reason = "only with type LoadBalancer and externalTrafficPolicy Local";
        return Err(Invalid::new(FIELD, reason));
    }
    node_port(number, ranges).at(FIELD).map(Some)
}

/// `spec.loadBalancerSourceRanges`.
fn source_ranges(spec: &core::ServiceSpec, kind: Type) -> Result<Vec<IpNet>, Invalid> {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    let prefixes = spec.load_balancer_source_ranges.iter().flatten();
    if prefixes.clone().next().is_some() && kind != Type::Virtual(ServiceType::LoadBalancer) {
        return Err(Invalid::new(FIELD, "only with type LoadBalancer"));
    }
    let range = |(index, prefix): (usize, &String)| {
        check::cidr(prefix.trim()).at(format_args!("{FIELD}[{index}]"))
    };
    prefixes.enumerate().map(range).collect()
}

/// Seconds a client is remembered, if it is.
fn session_affinity(spec: &core::ServiceSpec) -> Result<Option<u32>, Invalid> {
    let client_ip = match spec.session_affinity.as_deref() {
        None | Some("" | "None") => false,
        Some("ClientIP") => true,
        Some(other) => {
            let reason = format_args!("{other:?} is not one of None, ClientIP");
            return Err(Invalid::new("spec.sessionAffinity", reason));
        }
    };
    let Some(config) = &spec.session_affinity_config else {
        return Ok(client_ip.then_some(AFFINITY_TIMEOUT));
    };
    if !client_ip {
        let reason = "only with sessionAffinity ClientIP";
        return Err(Invalid::new("spec.sessionAffinityConfig", reason));
    }
    let timeout = config.client_ip.as_ref().and_then(|c| c.timeout_seconds);
    let Some(seconds) = timeout else {
        return Ok(Some(AFFINITY_TIMEOUT));
    };
    match u32::try_from(seconds) {
        Ok(seconds) if (1..=Affinity::TIMEOUT_MAX).contains(&seconds) => Ok(Some(seconds)),
        Ok(_) | Err(_) => Err(Invalid::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "must be 1 to 86400",
        )),
    }
}

/// The algorithm that is asked for; a remark if it is none.
fn algorithm(meta: &ObjectMeta) -> (Option<Algorithm>, Option<Invalid>) {
    let text = metadata::annotation(meta, annotations::ALGORITHM);
    let read = text.map(annotations::algorithm).transpose();
    match read.at(annotations::field(annotations::ALGORITHM)) {
        Ok(algorithm) => (algorithm, None),
        Err(remark) => (None, Some(remark)),
    }
}

impl Service {
    /// The cluster IPs and node ports of a Service that is programmed.
    pub(super) fn programmed(&self) -> Option<&VirtualIp> {
        self.virtual_ip.as_ref().filter(|_| !self.foreign)
    }
}

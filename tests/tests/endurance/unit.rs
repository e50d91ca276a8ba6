//! A Service as it is written to the API.

use std::net::IpAddr;

use lb_userspace::model::{
    Endpoint, EndpointPort, EndpointSlice, ObjectName, Protocol, Service, ServicePort, ServiceType,
    TrafficPolicy,
};
use serde_json::{Value, json};

/// The namespace of all that is made.
pub(crate) const NAMESPACE: &str = "default";

/// What a Service is, as its `spec.type` and `spec.clusterIP` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    Headless,
    ExternalName,
}

impl Kind {
    /// Whether anything is programmed for it.
    pub(crate) const fn is_programmed(self) -> bool {
        match self {
            Self::ClusterIp | Self::NodePort | Self::LoadBalancer => true,
            Self::Headless | Self::ExternalName => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp | Self::Headless => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unit {
    pub(crate) kind: Kind,
    /// What would be programmed, were it of a kind that is.
    pub(crate) service: Service,
    /// Addresses of its load balancer that are not led past it (ipMode Proxy).
    pub(crate) proxied: Vec<IpAddr>,
}

/// The name of an object of ours.
pub(crate) fn named(name: impl Into<String>) -> ObjectName {
    ObjectName::new(NAMESPACE, name)
}

/// The Service of a slice: `web` of `web.4a`.
pub(crate) fn service_of(slice: &ObjectName) -> ObjectName {
    let name = slice.name.split('.').next().unwrap_or_default();
    ObjectName::new(&slice.namespace, name)
}

impl Unit {
    /// A Service with nothing but cluster IPs and ports.
    pub(crate) fn new(
        name: &str,
        kind: Kind,
        cluster_ips: &[IpAddr],
        ports: &[ServicePort],
    ) -> Self {
        let service = Service {
            name: named(name),
            created: 0,
            kind: ServiceType::ClusterIP,
            cluster_ips: cluster_ips.to_vec(),
            external_ips: Vec::new(),
            ingress_ips: Vec::new(),
            ports: ports.to_vec(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            algorithm: None,
            source_ranges: Vec::new(),
            health_check_node_port: 0,
        };
        Self {
            kind,
            service,
            proxied: Vec::new(),
        }
    }

    /// The object, but for its status.
    pub(crate) fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.service.name.name, "namespace": NAMESPACE },
            "spec": self.spec(),
        })
    }

    fn spec(&self) -> Value {
        let Service {
            cluster_ips,
            external_ips,
            ports,
            internal_policy,
            external_policy,
            affinity,
            source_ranges,
            health_check_node_port,
            ..
        } = &self.service;
        let mut spec = json!({
            "type": self.kind.name(),
            "externalIPs": external_ips,
            "ports": ports.iter().map(service_port).collect::<Vec<_>>(),
        });
        match self.kind {
            Kind::ExternalName => {
                spec["externalName"] = "elsewhere.example".into();
                return spec;
            }
            Kind::Headless => {
                spec["clusterIP"] = "None".into();
                spec["clusterIPs"] = json!(["None"]);
                return spec;
            }
            Kind::ClusterIp | Kind::NodePort | Kind::LoadBalancer => {}
        }
        spec["clusterIP"] = json!(cluster_ips.first());
        spec["clusterIPs"] = json!(cluster_ips);
        spec["ipFamilies"] = cluster_ips.iter().map(family).collect();
        spec["ipFamilyPolicy"] = match cluster_ips.len() {
            1 => "SingleStack".into(),
            _ => "RequireDualStack".into(),
        };
        spec["internalTrafficPolicy"] = policy(*internal_policy).into();
        if self.kind != Kind::ClusterIp || !external_ips.is_empty() {
            spec["externalTrafficPolicy"] = policy(*external_policy).into();
        }
        if let Some(seconds) = affinity {
            spec["sessionAffinity"] = "ClientIP".into();
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        if self.kind == Kind::LoadBalancer {
            spec["loadBalancerSourceRanges"] = json!(source_ranges);
            spec["allocateLoadBalancerNodePorts"] =
                ports.iter().any(|port| port.node_port != 0).into();
        }
        if *health_check_node_port != 0 {
            spec["healthCheckNodePort"] = json!(health_check_node_port);
        }
        spec
    }

    /// What a load balancer's controller writes.
    pub(crate) fn status(&self) -> Value {
        let entry = |mode: &'static str| move |ip| json!({ "ip": ip, "ipMode": mode });
        let vips = self.service.ingress_ips.iter().map(entry("VIP"));
        let proxied = self.proxied.iter().map(entry("Proxy"));
        json!({
            "status": { "loadBalancer": { "ingress": vips.chain(proxied).collect::<Vec<_>>() } },
        })
    }
}

fn service_port(port: &ServicePort) -> Value {
    let mut entry = json!({ "protocol": port.protocol, "port": port.port });
    if !port.name.is_empty() {
        entry["name"] = json!(port.name);
    }
    if port.node_port != 0 {
        entry["nodePort"] = json!(port.node_port);
    }
    entry
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

const fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

/// A slice; of IPv6 if it is named so, as `web.6a` is.
pub(crate) fn slice_object(slice: &EndpointSlice) -> Value {
    let v6 = slice.name.name.contains(".6");
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice.name.name,
            "namespace": NAMESPACE,
            "labels": { "kubernetes.io/service-name": slice.service },
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": slice.ports.iter().map(slice_port).collect::<Vec<_>>(),
        "endpoints": slice.endpoints.iter().map(endpoint_object).collect::<Vec<_>>(),
    })
}

fn slice_port(port: &EndpointPort) -> Value {
    json!({ "name": port.name, "protocol": port.protocol, "port": port.port })
}

fn endpoint_object(endpoint: &Endpoint) -> Value {
    let names = |names: &[String]| -> Value {
        let names = names.iter().map(|name| json!({ "name": name }));
        names.collect()
    };
    json!({
        "addresses": [endpoint.addr],
        "nodeName": endpoint.node,
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
        "hints": {
            "forZones": names(&endpoint.for_zones),
            "forNodes": names(&endpoint.for_nodes),
        },
    })
}

/// A port of a Service without a node port.
pub(crate) fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        node_port: 0,
    }
}

/// An endpoint that is ready.
pub(crate) fn endpoint(addr: IpAddr, node: Option<&str>) -> Endpoint {
    Endpoint {
        node: node.map(str::to_owned),
        ..Endpoint::at(addr)
    }
}

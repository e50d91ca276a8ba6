//! Which cluster IPs and node ports a Service gets, and who holds which.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use super::{
    check::Invalid,
    object::{Family, NodePort, Service, ServicePort, VirtualIp},
    ranges::{self, Ranges},
    services::{AssignedPort, Assignment},
};
use crate::model::{ObjectName, Protocol};

/// A value that one Service at a time can have. Protocols have node ports of their own (row B17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    ClusterIp(IpAddr),
    NodePort(Protocol, u16),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp(ip) => write!(f, "{ip}"),
            Self::NodePort(protocol, port) => write!(f, "{port}/{protocol}"),
        }
    }
}

/// Who has a value.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) service: ObjectName,
    /// It asked for it, rather than being given it.
    pub(super) explicit: bool,
}

/// Every value in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<Claim, Holder>,
    held: HashMap<ObjectName, Vec<Claim>>,
}

impl Claims {
    pub(super) fn holder(&self, claim: Claim) -> Option<&Holder> {
        self.holders.get(&claim)
    }

    /// Gives a Service these values (and whether it asked for each) instead of those it had;
    /// returns Services that lost a value by it.
    pub(super) fn hold(
        &mut self,
        service: &ObjectName,
        claims: impl IntoIterator<Item = (Claim, bool)>,
    ) -> Vec<ObjectName> {
        self.release(service);
        let mut losers = Vec::new();
        let mut held = Vec::new();
        for (claim, explicit) in claims {
            let holder = Holder {
                service: service.clone(),
                explicit,
            };
            held.push(claim);
            if let Some(loser) = self.holders.insert(claim, holder) {
                if let Some(others) = self.held.get_mut(&loser.service) {
                    others.retain(|other| *other != claim);
                }
                losers.push(loser.service);
            }
        }
        if !held.is_empty() {
            self.held.insert(service.clone(), held);
        }
        losers
    }

    /// Takes all its values from a Service.
    pub(super) fn release(&mut self, service: &ObjectName) {
        for claim in self.held.remove(service).unwrap_or_default() {
            self.holders.remove(&claim);
        }
    }

    fn is_free(&self, service: &ObjectName, claim: Claim) -> bool {
        self.holder(claim)
            .is_none_or(|holder| holder.service == *service)
    }

    /// As many candidates as are held, and one more, include a free one if there is any.
    fn enough(&self) -> usize {
        self.holders.len() + 1
    }
}

impl Assignment {
    pub(super) fn claims(&self) -> impl Iterator<Item = Claim> {
        let ips = self.cluster_ips.iter().map(|ip| Claim::ClusterIp(*ip));
        let ports = self.node_ports.iter();
        ips.chain(ports.map(|port| Claim::NodePort(port.protocol, port.node_port)))
    }

    /// The node port of a port, 0 for none.
    pub(super) fn node_port(&self, port: &ServicePort) -> u16 {
        let mut ports = self.node_ports.iter();
        let own = ports.find(|p| p.name == port.name && p.protocol == port.protocol);
        own.map_or(0, |port| port.node_port)
    }
}

/// The values that a Service asks for, each with its field.
pub(super) fn explicit_claims(service: &Service) -> Vec<(Claim, String)> {
    let mut claims = Vec::new();
    let virtual_ip = service.virtual_ip.iter();
    for (index, ip) in virtual_ip.flat_map(|v| &v.explicit).enumerate() {
        claims.push((Claim::ClusterIp(*ip), cluster_ip_field(index)));
    }
    for (index, port) in service.ports.iter().enumerate() {
        match port.node_port {
            NodePort::Explicit(number) => claims.push((
                Claim::NodePort(port.protocol, number),
                format!("spec.ports[{index}].nodePort"),
            )),
            NodePort::None | NodePort::Allocate => {}
        }
    }
    if let Some(number) = service.health_check_node_port {
        let field = "spec.healthCheckNodePort".to_owned();
        claims.push((Claim::NodePort(Protocol::Tcp, number), field));
    }
    claims
}

/// The field that most people know an address by.
pub(super) fn cluster_ip_field(index: usize) -> String {
    match index {
        0 => "spec.clusterIP".to_owned(),
        _ => format!("spec.clusterIPs[{index}]"),
    }
}

/// An assignment, and every value that goes with it: whether the Service asked for it.
pub(super) struct Assigned {
    pub(super) assignment: Assignment,
    pub(super) claims: Vec<(Claim, bool)>,
}

/// Gives a Service what it asks for, what it had, and what it lacks of the free values.
pub(super) fn assign(
    service: &Service,
    had: &Assignment,
    claims: &Claims,
    ranges: &Ranges,
) -> Result<Assigned, Invalid> {
    let explicit = explicit_claims(service);
    let taken = explicit.iter().find_map(|(claim, field)| {
        let holder = claims.holder(*claim)?;
        let other = holder.explicit && holder.service != service.name;
        other.then(|| {
            let reason = format_args!("{claim} is taken by Service {}", holder.service);
            Invalid::new(field, reason)
        })
    });
    if let Some(invalid) = taken {
        return Err(invalid);
    }
    let Some(virtual_ip) = &service.virtual_ip else {
        return Ok(Assigned {
            assignment: Assignment::default(),
            claims: Vec::new(),
        });
    };
    let assignment = Assignment {
        cluster_ips: cluster_ips(service, virtual_ip, had, claims, ranges)?,
        node_ports: node_ports(service, had, claims, ranges)?,
    };
    let explicit: HashSet<Claim> = explicit.into_iter().map(|(claim, _)| claim).collect();
    let given = assignment
        .claims()
        .filter(|claim| !explicit.contains(claim));
    let given: Vec<(Claim, bool)> = given.map(|claim| (claim, false)).collect();
    let claims = explicit
        .iter()
        .map(|claim| (*claim, true))
        .chain(given)
        .collect();
    Ok(Assigned { assignment, claims })
}

fn cluster_ips(
    service: &Service,
    virtual_ip: &VirtualIp,
    had: &Assignment,
    claims: &Claims,
    ranges: &Ranges,
) -> Result<Vec<IpAddr>, Invalid> {
    let of = |family, ips: &[IpAddr]| ips.iter().copied().find(|ip| Family::of(*ip) == family);
    let free = |ip: &IpAddr| claims.is_free(&service.name, Claim::ClusterIp(*ip));
    let mut ips = Vec::with_capacity(virtual_ip.families.len());
    for family in &virtual_ip.families {
        let kept = of(*family, &had.cluster_ips).filter(|ip| ranges.cluster.check(*ip).is_ok());
        let ip = of(*family, &virtual_ip.explicit)
            .or(kept.filter(free))
            .or_else(|| {
                let seed = ranges::seed(&service.name.to_string());
                let candidates = ranges.cluster.candidates(*family, seed);
                candidates.take(claims.enough()).find(free)
            });
        ips.push(ip.ok_or_else(|| {
            let reason = format_args!("no {family} address is left to allocate");
            Invalid::new("spec.clusterIP", reason)
        })?);
    }
    Ok(ips)
}

fn node_ports(
    service: &Service,
    had: &Assignment,
    claims: &Claims,
    ranges: &Ranges,
) -> Result<Vec<AssignedPort>, Invalid> {
    let mut assigned: Vec<(u16, AssignedPort)> = Vec::new();
    // Explicit ones first: nothing is to be allocated that another port asks for.
    for port in &service.ports {
        if let NodePort::Explicit(number) = port.node_port {
            assigned.push((port.port, assigned_port(port, number)));
        }
    }
    for (index, port) in service.ports.iter().enumerate() {
        if port.node_port == NodePort::Allocate {
            let number = allocate(service, port, &assigned, had, claims, ranges);
            let number = number.ok_or_else(|| {
                let field = format_args!("spec.ports[{index}].nodePort");
                Invalid::new(field, "no node port is left to allocate")
            })?;
            assigned.push((port.port, assigned_port(port, number)));
        }
    }
    Ok(assigned.into_iter().map(|(_, port)| port).collect())
}

fn assigned_port(port: &ServicePort, node_port: u16) -> AssignedPort {
    AssignedPort {
        name: port.name.clone(),
        protocol: port.protocol,
        node_port,
    }
}

/// The number that the port had, or that another protocol of the same port has, or a fresh one.
fn allocate(
    service: &Service,
    port: &ServicePort,
    assigned: &[(u16, AssignedPort)],
    had: &Assignment,
    claims: &Claims,
    ranges: &Ranges,
) -> Option<u16> {
    const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let free = |protocol, number| {
        let mut others = assigned.iter().map(|(_, other)| other);
        let twice = others.any(|o| o.protocol == protocol && o.node_port == number);
        let health_check =
            protocol == Protocol::Tcp && service.health_check_node_port == Some(number);
        let claim = Claim::NodePort(protocol, number);
        !twice && !health_check && claims.is_free(&service.name, claim)
    };
    let kept = had.node_ports.iter().find(|had| had.name == port.name);
    let kept = kept.map(|had| had.node_port);
    let kept = kept.filter(|number| ranges.node_ports.contains(number));
    let sibling = assigned.iter().find(|(number, _)| *number == port.port);
    let sibling = sibling.map(|(_, sibling)| sibling.node_port);
    kept.filter(|number| free(port.protocol, *number))
        .or(sibling.filter(|number| free(port.protocol, *number)))
        .or_else(|| {
            let seed = ranges::seed(&format!("{}:{}", service.name, port.name));
            ranges::node_port_candidates(&ranges.node_ports, seed)
                .find(|number| PROTOCOLS.iter().all(|protocol| free(*protocol, *number)))
        })
}

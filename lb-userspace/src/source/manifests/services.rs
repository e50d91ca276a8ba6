//! Services as the API server would have them: admitted one against another, with cluster IPs and
//! node ports allocated.
//!
//! A Service that collides with another is refused and its last admitted state stays. A value
//! asked for wins over the same value allocated to another Service, which gets a new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    assign::{Assigned, Claim, Claims, assign, explicit_claims},
    check::Invalid,
    object::Service,
    ranges::Ranges,
};
use crate::model::{self, ObjectName, Protocol};

/// Cluster IPs and node ports in force, by Service: what is kept over restarts.
pub type Allocations = BTreeMap<ObjectName, Assignment>;

/// The cluster IPs and node ports of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Cluster IPs, in order of the Service's families.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    /// Node ports of the ports that have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_ports: Vec<AssignedPort>,
}

/// The node port of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedPort {
    /// Name of the port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its node port.
    pub node_port: u16,
}

/// A Service in force.
#[derive(Clone)]
pub(super) struct Admitted {
    pub(super) service: Arc<Service>,
    pub(super) assignment: Assignment,
}

impl Admitted {
    /// The Service to program, if it is of a type that programs anything.
    pub(super) fn programmed(&self) -> Option<model::Service> {
        let Self {
            service,
            assignment,
        } = self;
        let virtual_ip = service.programmed()?;
        let ports = service.ports.iter().map(|port| model::ServicePort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
            node_port: assignment.node_port(port),
        });
        Some(model::Service {
            name: service.name.clone(),
            created: service.created,
            kind: virtual_ip.kind,
            cluster_ips: assignment.cluster_ips.clone(),
            external_ips: service.external_ips.clone(),
            ingress_ips: service.ingress_ips.clone(),
            ports: ports.collect(),
            internal_policy: service.internal_policy,
            external_policy: service.external_policy,
            affinity: service.affinity,
            algorithm: service.algorithm,
            source_ranges: service.source_ranges.clone(),
            health_check_node_port: service.health_check_node_port.unwrap_or_default(),
        })
    }
}

/// A Service that is not in force as its manifest has it.
#[derive(Clone)]
struct Refused {
    service: Arc<Service>,
    reason: Invalid,
}

/// Every Service.
#[derive(Clone)]
pub(super) struct Services {
    ranges: Ranges,
    admitted: BTreeMap<ObjectName, Admitted>,
    refused: BTreeMap<ObjectName, Refused>,
    /// Allocations of an earlier run for Services not seen yet.
    recorded: Allocations,
    claims: Claims,
}

impl Services {
    pub(super) fn new(ranges: Ranges, recorded: Allocations) -> Self {
        let mut claims = Claims::default();
        for (name, assignment) in &recorded {
            claims.hold(name, assignment.claims().map(|claim| (claim, false)));
        }
        Self {
            ranges,
            admitted: BTreeMap::new(),
            refused: BTreeMap::new(),
            recorded,
            claims,
        }
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&Admitted> {
        self.admitted.get(name)
    }

    /// The Service that has this cluster IP.
    pub(super) fn with_cluster_ip(&self, ip: IpAddr) -> Option<&ObjectName> {
        let holder = self.claims.holder(Claim::ClusterIp(ip))?;
        Some(&holder.service)
    }

    /// Why Services are not in force as their manifests have them.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&ObjectName, &Invalid)> {
        let refused = self.refused.iter();
        refused.map(|(name, refused)| (name, &refused.reason))
    }

    /// Everything that is to be kept over a restart.
    pub(super) fn allocations(&self) -> Allocations {
        let admitted = self.admitted.iter();
        let admitted = admitted.map(|(name, admitted)| (name, &admitted.assignment));
        self.recorded
            .iter()
            .chain(admitted)
            .filter(|(_, assignment)| !assignment.cluster_ips.is_empty())
            .map(|(name, assignment)| (name.clone(), assignment.clone()))
            .collect()
    }

    /// Forgets recorded allocations of Services that are gone for sure.
    pub(super) fn forget(&mut self, mut gone: impl FnMut(&ObjectName) -> bool) {
        let Self {
            recorded, claims, ..
        } = self;
        recorded.retain(|name, _| {
            let gone = gone(name);
            if gone {
                claims.release(name);
            }
            !gone
        });
    }

    /// Takes Services that changed (none: gone); returns those whose state in force may differ.
    pub(super) fn apply(
        &mut self,
        changes: BTreeMap<ObjectName, Option<Arc<Service>>>,
    ) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        let refused = std::mem::take(&mut self.refused).into_iter();
        let mut pending: BTreeMap<_, _> = refused.map(|(name, r)| (name, r.service)).collect();
        for (name, change) in changes {
            if let Some(service) = change {
                pending.insert(name, service);
            } else {
                pending.remove(&name);
                self.remove(&name);
                touched.insert(name);
            }
        }
        let mut pending = self.in_order(pending.into_values());
        // What one Service gives up another may be waiting for.
        loop {
            let count = pending.len();
            pending = self.admit_all(pending, &mut touched);
            if pending.is_empty() || pending.len() == count {
                break;
            }
        }
        self.exchange(&pending, &mut touched);
        touched
    }

    fn remove(&mut self, name: &ObjectName) {
        self.admitted.remove(name);
        self.recorded.remove(name);
        self.claims.release(name);
    }

    /// Those that ask for values come first, so that nothing is allocated only to be taken away
    /// again; of these, first those that had all of them already, then the oldest.
    fn in_order(&self, services: impl Iterator<Item = Arc<Service>>) -> Vec<Arc<Service>> {
        let mut services: Vec<Arc<Service>> = services.collect();
        services.sort_by_cached_key(|service| {
            let asked = explicit_claims(service);
            let has_all = asked.iter().all(|(claim, _)| {
                let holder = self.claims.holder(*claim);
                holder.is_some_and(|holder| holder.service == service.name)
            });
            let name = service.name.clone();
            (asked.is_empty(), !has_all, service.created, name)
        });
        services
    }

    /// Admits what can be; returns the rest, with the reasons noted.
    fn admit_all(
        &mut self,
        pending: Vec<Arc<Service>>,
        touched: &mut BTreeSet<ObjectName>,
    ) -> Vec<Arc<Service>> {
        let mut rest = Vec::new();
        let mut losers = Vec::new();
        for service in pending {
            match self.admit(&service) {
                Ok(displaced) => {
                    self.refused.remove(&service.name);
                    touched.insert(service.name.clone());
                    losers.extend(displaced);
                }
                Err(reason) => {
                    self.refuse(&service, reason);
                    rest.push(service);
                }
            }
        }
        self.replace_lost(losers, touched);
        rest
    }

    /// Puts a Service in force; returns those that lost a value by it.
    fn admit(&mut self, service: &Arc<Service>) -> Result<Vec<ObjectName>, Invalid> {
        let name = &service.name;
        let admitted = self.admitted.get(name).map(|admitted| &admitted.assignment);
        let had = admitted.or_else(|| self.recorded.get(name));
        let had = had.cloned().unwrap_or_default();
        let Assigned { assignment, claims } = assign(service, &had, &self.claims, &self.ranges)?;
        let losers = self.claims.hold(name, claims);
        self.recorded.remove(name);
        let admitted = Admitted {
            service: Arc::clone(service),
            assignment,
        };
        self.admitted.insert(name.clone(), admitted);
        Ok(losers)
    }

    /// Gives other values to those that lost one.
    fn replace_lost(&mut self, losers: Vec<ObjectName>, touched: &mut BTreeSet<ObjectName>) {
        for name in losers {
            let Some(Admitted { service, .. }) = self.admitted.get(&name).cloned() else {
                continue;
            };
            // Only values asked for displace, and here none is new: this displaces nobody.
            if let Err(reason) = self.admit(&service) {
                self.remove(&name);
                self.refuse(&service, reason);
            }
            touched.insert(name);
        }
    }

    fn refuse(&mut self, service: &Arc<Service>, reason: Invalid) {
        let refused = Refused {
            service: Arc::clone(service),
            reason,
        };
        self.refused.insert(service.name.clone(), refused);
    }

    /// Services that wait for each other's values are admitted together.
    fn exchange(&mut self, pending: &[Arc<Service>], touched: &mut BTreeSet<ObjectName>) {
        if !pending
            .iter()
            .any(|service| self.admitted.contains_key(&service.name))
        {
            return;
        }
        let mut trial = self.clone();
        for service in pending {
            trial.claims.release(&service.name);
        }
        let mut names = BTreeSet::new();
        let rest = trial.admit_all(pending.to_vec(), &mut names);
        let mut losers = Vec::new();
        for service in &rest {
            // Who is still refused must get back what it had.
            let before = trial
                .admitted
                .get(&service.name)
                .map(|a| Arc::clone(&a.service));
            match before.map(|before| trial.admit(&before)) {
                Some(Ok(displaced)) => losers.extend(displaced),
                Some(Err(_)) => return,
                None => {}
            }
            names.insert(service.name.clone());
        }
        if rest.len() < pending.len() {
            trial.replace_lost(losers, &mut names);
            *self = trial;
            touched.append(&mut names);
        }
    }
}

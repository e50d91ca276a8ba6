//! One address family: what is desired, what is realised, and what differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use lb_common::service::FrontendKey;

use super::{
    NoLocalEndpoints, Usage,
    claims::{Claims, Conflict},
    desired::{PortId, PortPlan, ServicePlan},
    pool::Pool,
    program::{self, ProgramError, Writer},
    realised::Realised,
};
use crate::{
    maps::{Family, FamilyCapacities, LbMaps},
    model::ObjectName,
};

/// What a family should be like.
#[derive(Clone, Debug)]
pub(super) struct Desired<A> {
    /// Plans, by Service.
    services: BTreeMap<ObjectName, ServicePlan<A>>,
    /// Their claims.
    pub(super) claims: Claims<A>,
}

impl<A: Family> Desired<A> {
    /// What a port asks for.
    pub(super) fn plan(&self, id: &PortId) -> Option<&PortPlan<A>> {
        self.services.get(&id.service)?.port(&id.port)
    }

    /// Whether a frontend is this port's.
    pub(super) fn wants(&self, id: &PortId, key: &FrontendKey<A>) -> bool {
        let winner = self.claims.winner(key);
        winner.is_some_and(|(winner, _)| **winner == *id)
    }
}

/// The state of a family.
#[derive(Clone, Debug)]
pub(super) struct State<A> {
    desired: Desired<A>,
    pub(super) realised: Realised<A>,
    /// Ports whose realised state may differ from the desired one.
    dirty: BTreeSet<Arc<PortId>>,
    /// What is wrong with which port.
    problems: BTreeMap<Arc<PortId>, String>,
    stray_problem: Option<String>,
    /// Services whose load balancer addresses are open only because their source ranges are of
    /// the other family.
    unranged: BTreeSet<ObjectName>,
    no_local_endpoints: NoLocalEndpoints,
    /// Whether something failed in the last [`State::sync`] though there was room for it.
    failing: bool,
}

impl<A: Family> State<A> {
    /// Nothing desired, nothing realised.
    pub(super) fn empty(capacities: FamilyCapacities) -> Self {
        Self {
            desired: Desired {
                services: BTreeMap::new(),
                claims: Claims::new(),
            },
            realised: Realised::empty(capacities),
            dirty: BTreeSet::new(),
            problems: BTreeMap::new(),
            stray_problem: None,
            failing: false,
            unranged: BTreeSet::new(),
            no_local_endpoints: NoLocalEndpoints::default(),
        }
    }

    /// Takes over what the maps hold.
    pub(super) fn adopt(&mut self, realised: Realised<A>) {
        self.dirty.extend(realised.ports.keys().cloned());
        self.realised = realised;
    }

    /// Has ports looked at again at the next [`State::sync`].
    pub(super) fn doubt(&mut self, ports: impl IntoIterator<Item = Arc<PortId>>) {
        self.dirty.extend(ports);
    }

    /// Replaces what a Service asks for.
    pub(super) fn replan(&mut self, service: &ObjectName, plan: Option<ServicePlan<A>>) {
        let Desired { services, claims } = &mut self.desired;
        let old = services.get(service);
        if old == plan.as_ref() {
            return;
        }
        self.dirty.extend(claims.replace(old, plan.as_ref()));
        self.dirty.extend(differing_ports(old, plan.as_ref()));
        self.no_local_endpoints.remove(old);
        self.no_local_endpoints.add(plan.as_ref());
        if plan.as_ref().is_some_and(|plan| plan.unranged) {
            self.unranged.insert(service.clone());
        } else {
            self.unranged.remove(service);
        }
        match plan {
            Some(plan) => drop(services.insert(service.clone(), plan)),
            None => drop(services.remove(service)),
        }
    }

    /// How many Service ports have endpoints elsewhere only, by what looks for local ones.
    pub(super) const fn no_local_endpoints(&self) -> NoLocalEndpoints {
        self.no_local_endpoints
    }

    /// How many addresses of this node are ready endpoints of a Service; none if it is not served
    /// in this family.
    pub(super) fn local_endpoints(&self, service: &ObjectName) -> Option<usize> {
        let plan = self.desired.services.get(service)?;
        (!plan.ports.is_empty()).then_some(plan.local_endpoints)
    }

    /// Brings the maps into line. What fails is left for the next call.
    pub(super) fn sync<M: LbMaps>(&mut self, writer: &mut Writer<'_, M>, now: Instant) {
        let Self {
            desired,
            realised,
            dirty,
            problems,
            stray_problem,
            unranged: _,
            no_local_endpoints: _,
            failing,
        } = self;
        realised.slots.expire(now);
        realised.backends.expire(now);
        let strays = program::remove_strays(desired, realised, writer);
        *stray_problem = strays.err().map(|error| describe(&error));
        *failing = stray_problem.is_some();

        let ports = std::mem::take(dirty);
        problems.retain(|id, _| !ports.contains(id));
        let mut record = |id: &Arc<PortId>, result: Result<(), ProgramError>| {
            if let Err(error) = result {
                *failing |= !error.is_want_of_room();
                dirty.insert(Arc::clone(id));
                let line = || format!("{id}, IPv{}: {}", A::NUMBER, describe(&error));
                problems.entry(Arc::clone(id)).or_insert_with(line);
            }
        };
        for id in &ports {
            record(id, program::build(desired, realised, id, writer));
        }
        for id in &ports {
            record(id, program::unpublish(desired, realised, id, writer));
        }
        let mut waiting = Vec::new();
        for id in &ports {
            let released = program::release(desired, realised, id, writer);
            waiting.extend(
                released
                    .as_ref()
                    .ok()
                    .filter(|waits| **waits)
                    .map(|_| Arc::clone(id)),
            );
            record(id, released.map(drop));
        }
        dirty.extend(waiting);
    }

    /// Whether something failed that there was room for.
    pub(super) const fn failing(&self) -> bool {
        self.failing
    }

    /// Whether something is left to do.
    pub(super) fn unfinished(&self) -> bool {
        !self.dirty.is_empty() || self.stray_problem.is_some()
    }

    /// How full the maps are.
    pub(super) fn usage(&self, capacities: FamilyCapacities, now: Instant) -> [Usage; 4] {
        let Realised {
            frontends,
            slots,
            backends,
            source_ranges,
            ..
        } = &self.realised;
        let pool = |map, pool: &Pool| Usage {
            map,
            used: pool.used_at(now),
            capacity: pool.capacity(),
        };
        let frontends = Usage {
            map: A::FRONTENDS,
            used: frontends.len() as u32,
            capacity: capacities.frontends,
        };
        let source_ranges = Usage {
            map: A::SOURCE_RANGES,
            used: *source_ranges as u32,
            capacity: capacities.source_ranges,
        };
        [
            frontends,
            pool(A::SLOTS, slots),
            pool(A::BACKENDS, backends),
            source_ranges,
        ]
    }

    /// A line for each thing that is not as the objects ask.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let failures = self.problems.values().chain(&self.stray_problem).cloned();
        let conflicts = self.conflicts().map(|conflict| conflict.to_string());
        let unranged = self.unranged.iter().map(|service| {
            let family = A::NUMBER;
            format!(
                "Service {service}: spec.loadBalancerSourceRanges has no IPv{family} network, so \
                 its IPv{family} load balancer addresses are open to every client; add one, or \
                 close them with --strict-source-ranges"
            )
        });
        failures.chain(conflicts).chain(unranged)
    }

    /// Each claim to a frontend that is not in force.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.desired.claims.conflicts()
    }
}

impl NoLocalEndpoints {
    fn add<A>(&mut self, plan: Option<&ServicePlan<A>>) {
        for port in plan.into_iter().flat_map(|plan| &plan.ports) {
            let (internal, external) = port.without_local_endpoint();
            self.internal += usize::from(internal);
            self.external += usize::from(external);
        }
    }

    fn remove<A>(&mut self, plan: Option<&ServicePlan<A>>) {
        let mut gone = Self::default();
        gone.add(plan);
        self.internal -= gone.internal;
        self.external -= gone.external;
    }
}

/// The ports that a Service asks something else for.
fn differing_ports<'a, A: Family>(
    old: Option<&'a ServicePlan<A>>,
    new: Option<&'a ServicePlan<A>>,
) -> impl Iterator<Item = Arc<PortId>> {
    let of = |plan: Option<&'a ServicePlan<A>>, key| plan.and_then(|plan| plan.port(key));
    let ports = [old, new]
        .into_iter()
        .flatten()
        .flat_map(|plan| &plan.ports);
    ports
        .filter(move |port| of(old, &port.id.port) != of(new, &port.id.port))
        .map(|port| Arc::clone(&port.id))
}

/// An error and its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

//! One address family: what is desired, what is realised, and what differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use lb_common::service::FrontendKey;

use super::{
    Usage,
    claims::Claims,
    desired::{List, PortId, PortPlan, ServicePlan, Target},
    pool::Pool,
    program::{self, ProgramError, Writer},
    realised::Realised,
    select::Member,
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
    fn plan(&self, id: &PortId) -> Option<&PortPlan<A>> {
        self.services.get(&id.service)?.ports.get(&id.port)
    }

    /// Whether a frontend is this port's.
    pub(super) fn wants(&self, id: &PortId, key: &FrontendKey<A>) -> bool {
        let winner = self.claims.winner(key);
        winner.is_some_and(|(winner, _)| winner == id)
    }

    /// The frontends of a port that no other port has a better claim to.
    pub(super) fn won(&self, id: &PortId) -> Vec<(FrontendKey<A>, Target)> {
        let targets = self.plan(id).into_iter().flat_map(|plan| &plan.targets);
        targets
            .filter(|(key, _)| self.wants(id, key))
            .map(|(key, target)| (*key, *target))
            .collect()
    }

    /// The endpoints in a list of a port.
    pub(super) fn members(&self, id: &PortId, list: List) -> &[Member<A>] {
        match (self.plan(id), list) {
            (Some(plan), List::Cluster) => &plan.lists.cluster,
            (Some(plan), List::Local) => &plan.lists.local,
            (None, _) | (_, List::None) => &[],
        }
    }
}

/// The state of a family.
#[derive(Clone, Debug)]
pub(super) struct State<A> {
    desired: Desired<A>,
    pub(super) realised: Realised<A>,
    /// Ports whose realised state may differ from the desired one.
    dirty: BTreeSet<PortId>,
    /// What is wrong with which port.
    problems: BTreeMap<PortId, String>,
    stray_problem: Option<String>,
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
        }
    }

    /// Takes over what the maps hold.
    pub(super) fn adopt(&mut self, realised: Realised<A>) {
        self.dirty.extend(realised.ports.keys().cloned());
        self.realised = realised;
    }

    /// Has ports looked at again at the next [`State::sync`].
    pub(super) fn doubt(&mut self, ports: impl IntoIterator<Item = PortId>) {
        self.dirty.extend(ports);
    }

    /// Replaces what a Service asks for.
    pub(super) fn replan(&mut self, service: &ObjectName, plan: Option<ServicePlan<A>>) {
        let Desired { services, claims } = &mut self.desired;
        let old = services.remove(service);
        if old != plan {
            self.dirty
                .extend(claims.replace(service, old.as_ref(), plan.as_ref()));
            self.dirty
                .extend(differing_ports(service, old.as_ref(), plan.as_ref()));
        }
        if let Some(plan) = plan {
            services.insert(service.clone(), plan);
        }
    }

    /// Brings the maps into line. What fails is left for the next call.
    pub(super) fn sync<M: LbMaps>(&mut self, writer: &mut Writer<'_, M>, now: Instant) {
        let Self {
            desired,
            realised,
            dirty,
            problems,
            stray_problem,
        } = self;
        realised.slots.expire(now);
        realised.backends.expire(now);
        let strays = program::remove_strays(desired, realised, writer);
        *stray_problem = strays.err().map(|error| describe(&error));

        let ports = std::mem::take(dirty);
        problems.retain(|id, _| !ports.contains(id));
        let mut record = |id: &PortId, result: Result<(), ProgramError>| {
            if let Err(error) = result {
                dirty.insert(id.clone());
                let line = || format!("{id}, IPv{}: {}", A::NUMBER, describe(&error));
                problems.entry(id.clone()).or_insert_with(line);
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
                    .map(|_| id.clone()),
            );
            record(id, released.map(drop));
        }
        dirty.extend(waiting);
    }

    /// Whether something is left to do.
    pub(super) fn unfinished(&self) -> bool {
        !self.dirty.is_empty() || self.stray_problem.is_some()
    }

    /// How full the maps are.
    pub(super) fn usage(&self, capacities: FamilyCapacities) -> [Usage; 3] {
        let Realised {
            frontends,
            slots,
            backends,
            ..
        } = &self.realised;
        let pool = |map, pool: &Pool| Usage {
            map,
            used: pool.used(),
            capacity: pool.capacity(),
        };
        let frontends = Usage {
            map: A::FRONTENDS,
            used: frontends.len() as u32,
            capacity: capacities.frontends,
        };
        [
            frontends,
            pool(A::SLOTS, slots),
            pool(A::BACKENDS, backends),
        ]
    }

    /// A line for each thing that is not as the objects ask.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let failures = self.problems.values().chain(&self.stray_problem).cloned();
        failures.chain(self.desired.claims.problems())
    }
}

/// The ports that a Service asks something else for.
fn differing_ports<'a, A: Family>(
    service: &'a ObjectName,
    old: Option<&'a ServicePlan<A>>,
    new: Option<&'a ServicePlan<A>>,
) -> impl Iterator<Item = PortId> {
    let of = |plan: Option<&'a ServicePlan<A>>, key| plan.and_then(|plan| plan.ports.get(key));
    let keys = [old, new]
        .into_iter()
        .flatten()
        .flat_map(|plan| plan.ports.keys());
    keys.filter(move |key| of(old, key) != of(new, key))
        .map(|key| PortId {
            service: service.clone(),
            port: key.clone(),
        })
}

/// An error and its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

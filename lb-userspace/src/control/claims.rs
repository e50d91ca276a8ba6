//! Who has a frontend that several Service ports ask for (SEMANTICS B16).

use std::collections::{BTreeMap, BTreeSet};

use lb_common::service::FrontendKey;

use super::desired::{PortId, ServicePlan, Target};
use crate::{
    maps::{Family, show_key},
    model::ObjectName,
};

/// All claims of a family, the best one of each frontend in force.
#[derive(Clone, Debug)]
pub(super) struct Claims<A> {
    by_key: BTreeMap<FrontendKey<A>, BTreeMap<Rank, Target>>,
    contested: BTreeSet<FrontendKey<A>>,
}

/// The order of claims: the older Service, then the one that comes first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    created: i64,
    port: PortId,
}

impl<A: Family> Claims<A> {
    pub(super) const fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            contested: BTreeSet::new(),
        }
    }

    /// Replaces the claims of a Service. Returns the ports of any Service that have gained,
    /// changed or lost a frontend by it.
    pub(super) fn replace(
        &mut self,
        service: &ObjectName,
        old: Option<&ServicePlan<A>>,
        new: Option<&ServicePlan<A>>,
    ) -> BTreeSet<PortId> {
        let keys: BTreeSet<_> = [old, new]
            .into_iter()
            .flatten()
            .flat_map(|plan| plan.ports.values())
            .flat_map(|port| port.targets.keys().copied())
            .collect();
        let winners = |claims: &Self| -> Vec<_> {
            let winner = |key| {
                claims
                    .winner(key)
                    .map(|(port, target)| (port.clone(), target))
            };
            keys.iter().map(winner).collect()
        };
        let before = winners(self);
        self.withdraw(service, old);
        self.file(service, new);
        let after = winners(self);
        let changed = before
            .into_iter()
            .zip(after)
            .filter(|(before, after)| before != after);
        changed
            .flat_map(|(before, after)| [before, after])
            .flatten()
            .map(|(port, _)| port)
            .collect()
    }

    fn withdraw(&mut self, service: &ObjectName, plan: Option<&ServicePlan<A>>) {
        for (key, rank, _) in claims_of(service, plan) {
            if let Some(claims) = self.by_key.get_mut(&key) {
                claims.remove(&rank);
                if claims.len() < 2 {
                    self.contested.remove(&key);
                }
                if claims.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }

    fn file(&mut self, service: &ObjectName, plan: Option<&ServicePlan<A>>) {
        for (key, rank, target) in claims_of(service, plan) {
            let claims = self.by_key.entry(key).or_default();
            claims.insert(rank, target);
            if claims.len() > 1 {
                self.contested.insert(key);
            }
        }
    }

    /// The port that has a frontend, and where it leads.
    pub(super) fn winner(&self, key: &FrontendKey<A>) -> Option<(&PortId, Target)> {
        let (rank, target) = self.by_key.get(key)?.first_key_value()?;
        Some((&rank.port, *target))
    }

    /// A line for each claim that is not in force.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let contested = self.contested.iter().filter_map(|key| {
            let mut ranks = self.by_key.get(key)?.keys();
            Some((key, ranks.next()?, ranks))
        });
        contested.flat_map(|(key, winner, losers)| {
            losers.map(move |loser| {
                format!(
                    "{}: {} is already taken by {}",
                    loser.port,
                    show_key(key),
                    winner.port
                )
            })
        })
    }
}

fn claims_of<'a, A: Family>(
    service: &'a ObjectName,
    plan: Option<&'a ServicePlan<A>>,
) -> impl Iterator<Item = (FrontendKey<A>, Rank, Target)> {
    plan.into_iter().flat_map(move |plan| {
        plan.ports.iter().flat_map(move |(port, port_plan)| {
            port_plan.targets.iter().map(move |(key, target)| {
                let rank = Rank {
                    created: plan.created,
                    port: PortId {
                        service: service.clone(),
                        port: port.clone(),
                    },
                };
                (*key, rank, *target)
            })
        })
    })
}

//! Who has a frontend that several Service ports ask for (SEMANTICS B16).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry as Place},
    fmt,
    sync::Arc,
};

use lb_common::service::FrontendKey;

use super::desired::{PortId, ServicePlan, Target};
use crate::maps::{Family, show_key};

/// All claims of a family, the best one of each frontend in force.
#[derive(Clone, Debug)]
pub(super) struct Claims<A> {
    /// The best one first.
    by_key: BTreeMap<FrontendKey<A>, Vec<Claim>>,
    contested: BTreeSet<FrontendKey<A>>,
}

/// A port's wish to have a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    created: i64,
    port: Arc<PortId>,
    target: Target,
}

impl Claim {
    /// The order of claims: the older Service, then the one that comes first by name.
    fn rank(&self) -> (i64, &PortId) {
        (self.created, &self.port)
    }
}

/// A frontend that several ports ask for, and one that does not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The frontend, as people write it.
    pub frontend: String,
    /// The port that has it: of the older Service, or of the one that comes first by name.
    pub winner: Arc<PortId>,
    /// The port that does not.
    pub loser: Arc<PortId>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            frontend,
            winner,
            loser,
        } = self;
        write!(f, "{loser}: {frontend} is already taken by {winner}")
    }
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
        old: Option<&ServicePlan<A>>,
        new: Option<&ServicePlan<A>>,
    ) -> BTreeSet<Arc<PortId>> {
        let keys: BTreeSet<_> = [old, new]
            .into_iter()
            .flatten()
            .flat_map(|plan| &plan.ports)
            .flat_map(|port| port.targets.iter().map(|(key, _)| *key))
            .collect();
        let before = self.winners(&keys);
        self.withdraw(old);
        self.file(new);
        let after = self.winners(&keys);
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

    fn winners(&self, keys: &BTreeSet<FrontendKey<A>>) -> Vec<Option<(Arc<PortId>, Target)>> {
        let winner = |key| {
            let (port, target) = self.winner(key)?;
            Some((Arc::clone(port), target))
        };
        keys.iter().map(winner).collect()
    }

    fn withdraw(&mut self, plan: Option<&ServicePlan<A>>) {
        for (key, claim) in claims_of(plan) {
            let Place::Occupied(mut claims) = self.by_key.entry(key) else {
                continue;
            };
            claims
                .get_mut()
                .retain(|other| other.rank() != claim.rank());
            if claims.get().len() < 2 {
                self.contested.remove(&key);
            }
            if claims.get().is_empty() {
                claims.remove();
            }
        }
    }

    fn file(&mut self, plan: Option<&ServicePlan<A>>) {
        for (key, claim) in claims_of(plan) {
            // Nearly every frontend has one claim only.
            let claims = self.by_key.entry(key);
            let claims = claims.or_insert_with(|| Vec::with_capacity(1));
            let at = claims.partition_point(|other| other.rank() < claim.rank());
            claims.insert(at, claim);
            if claims.len() > 1 {
                self.contested.insert(key);
            }
        }
    }

    /// The port that has a frontend, and where it leads.
    pub(super) fn winner(&self, key: &FrontendKey<A>) -> Option<(&Arc<PortId>, Target)> {
        let claim = self.by_key.get(key)?.first()?;
        Some((&claim.port, claim.target))
    }

    /// Each claim that is not in force.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        let contested = self.contested.iter().filter_map(|key| {
            let (winner, losers) = self.by_key.get(key)?.split_first()?;
            Some((key, winner, losers))
        });
        contested.flat_map(|(key, winner, losers)| {
            losers.iter().map(move |loser| Conflict {
                frontend: show_key(key),
                winner: Arc::clone(&winner.port),
                loser: Arc::clone(&loser.port),
            })
        })
    }
}

fn claims_of<A: Family>(
    plan: Option<&ServicePlan<A>>,
) -> impl Iterator<Item = (FrontendKey<A>, Claim)> {
    plan.into_iter().flat_map(|plan| {
        plan.ports.iter().flat_map(move |port| {
            port.targets.iter().map(move |(key, target)| {
                let claim = Claim {
                    created: plan.created,
                    port: Arc::clone(&port.id),
                    target: *target,
                };
                (*key, claim)
            })
        })
    })
}

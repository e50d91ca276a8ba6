//! Who could be led where, and when.
//!
//! Time passes in steps: each writes some objects, each of them once, and ends when the maps of both
//! nodes say what the objects then ask for. Between two steps it is known exactly where each frontend
//! leads. During one, a Service that is written may be as before, as afterwards, or both, its slices
//! apart from it; the others are as they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::RangeInclusive,
    time::Instant,
};

use lb_userspace::model::ObjectName;
use tests::frontends::{Key, Leads};

/// See the [module](self).
#[derive(Default)]
pub(crate) struct History {
    steps: Vec<Step>,
    leads: [BTreeMap<Key, Versions<Option<Leads>>>; 2],
    parts: BTreeMap<ObjectName, Versions<Part>>,
}

struct Step {
    began: Instant,
    settled: Option<Instant>,
}

/// What there was, by the step since which it was.
type Versions<T> = Vec<(usize, T)>;

/// States the nodes may have been in: each is numbered as the step that led there.
pub(crate) type Window = RangeInclusive<usize>;

/// Frontends of each node that lead elsewhere than before, and where.
pub(crate) type Differences = [BTreeMap<Key, Option<Leads>>; 2];

/// What a Service and its slices have to do with traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// Frontends it asks for, on either node.
    pub(crate) claims: BTreeSet<Key>,
    /// All addresses in its slices.
    pub(crate) endpoints: BTreeSet<SocketAddr>,
    /// Those of them that terminate.
    pub(crate) terminating: BTreeSet<SocketAddr>,
}

impl History {
    /// A step begins: what it leads to, as far as that differs.
    pub(crate) fn begin(&mut self, differences: Differences, parts: BTreeMap<ObjectName, Part>) {
        self.steps.push(Step {
            began: Instant::now(),
            settled: None,
        });
        let number = self.steps.len();
        for (known, leads) in self.leads.iter_mut().zip(differences) {
            for (key, leads) in leads {
                known.entry(key).or_default().push((number, leads));
            }
        }
        for (name, part) in parts {
            self.parts.entry(name).or_default().push((number, part));
        }
    }

    /// Both nodes are in line.
    pub(crate) fn settle(&mut self) {
        let now = Instant::now();
        // One that a failed check left behind is over too.
        let unsettled = self.steps.iter_mut().rev();
        for step in unsettled.take_while(|step| step.settled.is_none()) {
            step.settled = Some(now);
        }
    }

    /// The states a time was in.
    pub(crate) fn window(&self, from: Instant, to: Instant) -> Window {
        let settled = |step: &Step| step.settled.is_some_and(|settled| settled <= from);
        let (steps, began) = (&self.steps, |step: &Step| step.began <= to);
        steps.partition_point(settled)..=steps.partition_point(began)
    }

    /// Where a frontend led on a node, in a state.
    pub(crate) fn leads(&self, node: usize, key: &Key, state: usize) -> Option<&Leads> {
        let versions = self.leads[node].get(key)?;
        at(versions, state)?.as_ref()
    }

    /// Whether one of these Services had an endpoint.
    pub(crate) fn have(
        &self,
        names: &BTreeSet<ObjectName>,
        endpoint: &SocketAddr,
        window: &Window,
    ) -> bool {
        let parts = names.iter().filter_map(|name| self.parts.get(name));
        let mut parts = parts.flat_map(|versions| during(versions, window));
        parts.any(|part| part.endpoints.contains(endpoint))
    }

    /// Whether the pod of an endpoint may be taken for deleted: a Service had it as one that terminates, and
    /// by now has not.
    pub(crate) fn may_be_deleted(&self, endpoint: &SocketAddr, window: &Window) -> bool {
        let ever = 0..=*window.end();
        self.parts.values().any(|versions| {
            during(versions, &ever).any(|part| part.terminating.contains(endpoint))
                && during(versions, window).any(|part| !part.endpoints.contains(endpoint))
        })
    }

    /// The Services that asked for a frontend, and all their endpoints meanwhile.
    pub(crate) fn claimants(&self, key: &Key, window: &Window) -> Claimants {
        let mut claimants = Claimants::default();
        for (name, versions) in &self.parts {
            let parts = || during(versions, window);
            if parts().any(|part| part.claims.contains(key)) {
                claimants.names.insert(name.clone());
                let endpoints = parts().flat_map(|part| &part.endpoints);
                claimants.endpoints.extend(endpoints);
                claimants.changed |= versions
                    .iter()
                    .any(|(step, _)| step > window.start() && step <= window.end());
            }
        }
        claimants
    }
}

/// See [`History::claimants`].
#[derive(Debug, Default)]
pub(crate) struct Claimants {
    pub(crate) names: BTreeSet<ObjectName>,
    pub(crate) endpoints: BTreeSet<SocketAddr>,
    /// Whether any of them was written meanwhile.
    pub(crate) changed: bool,
}

fn at<T>(versions: &Versions<T>, state: usize) -> Option<&T> {
    let after = versions.partition_point(|(step, _)| *step <= state);
    Some(&versions[after.checked_sub(1)?].1)
}

fn during<'v, T>(versions: &'v Versions<T>, window: &Window) -> impl Iterator<Item = &'v T> {
    let (start, end) = (*window.start(), *window.end());
    let later = versions
        .iter()
        .filter(move |(step, _)| (start + 1..=end).contains(step));
    at(versions, start)
        .into_iter()
        .chain(later.map(|(_, version)| version))
}

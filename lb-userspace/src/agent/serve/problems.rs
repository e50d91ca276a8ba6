//! What is wrong with the servers, for the agent's loop to collect.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use super::Key;

/// What a problem is about. Each has at most one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    /// The health server.
    Health,
    /// The metrics server.
    Metrics,
    /// Reading for the metrics.
    Scrape,
    /// A Service's health check port.
    Service(Key),
}

/// What is wrong now.
#[derive(Debug, Default)]
pub(super) struct ServerProblems(Mutex<BTreeMap<Spot, String>>);

impl ServerProblems {
    /// Says what is wrong with something, or that nothing is. Returns whether that is a problem
    /// that was not told before.
    pub(super) fn set(&self, spot: Spot, line: Option<String>) -> bool {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = line else {
            lines.remove(&spot);
            return false;
        };
        lines.insert(spot, line.clone()) != Some(line)
    }

    /// All of it.
    pub(super) fn lines(&self) -> BTreeSet<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.values().cloned().collect()
    }
}

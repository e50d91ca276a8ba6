//! The changes of all kinds, put together into batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{failure::Trouble, kind::Kind, ledger::Delta};
use crate::model::Batch;

/// Remarks on objects that are told of a kind; the rest is counted.
const MOST_REMARKS: usize = 50;

/// What those who follow a kind report.
#[derive(Debug)]
pub(super) enum Report {
    /// Something changed.
    Delta(Kind, Delta),
    /// There is trouble, or none any more.
    Trouble(Kind, Option<Trouble>),
    /// It will take long until anything is known, if ever.
    Hopeless(Kind),
}

/// Gathers reports.
#[derive(Debug)]
pub(super) struct Assembly {
    /// What has to be known before anything is told (row A16).
    waiting: BTreeSet<Kind>,
    batch: Batch,
    remarks: BTreeMap<Kind, Vec<String>>,
    troubles: BTreeMap<Kind, Trouble>,
    /// Whether a complete batch was told.
    complete: bool,
    told: BTreeSet<String>,
}

impl Assembly {
    /// Waits for these kinds.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            waiting: kinds.into_iter().collect(),
            batch: Batch::default(),
            remarks: BTreeMap::new(),
            troubles: BTreeMap::new(),
            complete: false,
            told: BTreeSet::new(),
        }
    }

    /// Takes in a report.
    pub(super) fn take_in(&mut self, report: Report) {
        match report {
            Report::Delta(kind, delta) => self.add(kind, delta),
            Report::Trouble(kind, Some(trouble)) => drop(self.troubles.insert(kind, trouble)),
            Report::Trouble(kind, None) => drop(self.troubles.remove(&kind)),
            Report::Hopeless(kind) => drop(self.waiting.remove(&kind)),
        }
    }

    fn add(&mut self, kind: Kind, delta: Delta) {
        let Delta {
            changes,
            triggers,
            remarks,
            listed,
        } = delta;
        if listed {
            self.waiting.remove(&kind);
        }
        if self.batch.changes.is_empty() {
            self.batch.changes = changes;
        } else {
            self.batch.changes.extend(changes);
        }
        self.batch.triggers.extend(triggers);
        if let Some(remarks) = remarks {
            self.remarks.insert(kind, remarks);
        }
    }

    /// Whether there is something to tell.
    pub(super) fn is_news(&self) -> bool {
        if !self.waiting.is_empty() {
            return self.problems() != self.told;
        }
        !self.complete || !self.batch.changes.is_empty() || self.problems() != self.told
    }

    /// What there is to tell: problems only, until everything is known.
    pub(super) fn take(&mut self) -> Batch {
        let problems = self.problems();
        self.told.clone_from(&problems);
        if !self.waiting.is_empty() {
            return Batch {
                problems,
                unseen: true,
                ..Batch::default()
            };
        }
        self.complete = true;
        Batch {
            problems,
            ..mem::take(&mut self.batch)
        }
    }

    fn problems(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for (kind, remarks) in &self.remarks {
            lines.extend(remarks.iter().take(MOST_REMARKS).cloned());
            if let Some(more) = remarks.len().checked_sub(MOST_REMARKS).filter(|n| *n > 0) {
                lines.insert(format!(
                    "{kind}: {more} more lines of the like are not shown"
                ));
            }
        }
        lines.extend(self.unreachable());
        lines.extend(self.refused());
        lines
    }

    /// One line, however many watches broke.
    fn unreachable(&self) -> Option<String> {
        let troubles = self.troubles.values().filter(|t| t.unreachable);
        let first = troubles.min_by(|a, b| a.since.cmp(&b.since))?;
        let Trouble {
            since,
            server,
            cause,
            ..
        } = first;
        let consequence = Kind::Service.consequence();
        Some(format!(
            "the API server at {server} has not answered since {since}: {cause}; {consequence}"
        ))
    }

    fn refused(&self) -> impl Iterator<Item = String> {
        let troubles = self.troubles.iter().filter(|(_, t)| !t.unreachable);
        troubles.map(|(kind, trouble)| {
            let Trouble {
                since,
                server,
                cause,
                ..
            } = trouble;
            let (resource, consequence) = (kind.resource(), kind.consequence());
            format!(
                "the API server at {server} has not given {resource} since {since}: {cause}; \
                 {consequence}"
            )
        })
    }
}

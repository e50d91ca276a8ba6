//! From what led to a change of endpoints to its being in force (SEMANTICS J10).

use std::{collections::VecDeque, time::SystemTime};

use crate::{
    control::ByFamily,
    model::{Batch, Change, ObjectName},
};

/// How many may wait; older ones are forgotten.
const MOST: usize = 10_000;

/// What led to changes that are not in force yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The families in which it is not, and when it happened.
    triggers: VecDeque<(ByFamily<bool>, SystemTime)>,
}

impl Waiting {
    /// A batch has come. What happened before the agent `started` says nothing of how fast it is.
    pub(super) fn queued(&mut self, batch: &Batch, started: SystemTime) {
        for (service, at) in batch.triggers.iter().filter(|(_, at)| *at > started) {
            if self.triggers.len() == MOST {
                self.triggers.pop_front();
            }
            self.triggers.push_back((concerned(batch, service), *at));
        }
    }

    /// Takes out what is in force.
    pub(super) fn take(&mut self, in_force: ByFamily<bool>) -> Vec<(&'static str, SystemTime)> {
        let mut taken = Vec::new();
        let done = [in_force.v4, in_force.v6];
        for (families, at) in &mut self.triggers {
            let names = families.named().map(|(name, _)| name);
            for ((waits, name), done) in families.each_mut().into_iter().zip(names).zip(done) {
                if *waits && done {
                    *waits = false;
                    taken.push((name, *at));
                }
            }
        }
        self.triggers
            .retain(|(families, _)| families.v4 || families.v6);
        taken
    }
}

/// The families whose slices of a Service are in a batch; both if its slices are empty.
fn concerned(batch: &Batch, service: &ObjectName) -> ByFamily<bool> {
    let mut families = ByFamily::both(false);
    for change in &batch.changes {
        if let Change::Slice(name, Some(slice)) = change
            && name.namespace == service.namespace
            && slice.service == service.name
        {
            families.v4 |= slice.endpoints.iter().any(|e| e.addr.is_ipv4());
            families.v6 |= slice.endpoints.iter().any(|e| e.addr.is_ipv6());
        }
    }
    if families == ByFamily::both(false) {
        ByFamily::both(true)
    } else {
        families
    }
}

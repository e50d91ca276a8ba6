//! What Prometheus is told. What happens is counted where it happens; what is, is put together when
//! someone asks ([`family`], [`kernel`], [`process`]). [`definitions`] names all of it.

mod definitions;
mod family;
mod kernel;
mod process;
mod registered;
mod requests;
mod state;
mod triggers;

use std::sync::{Mutex, PoisonError};

use prometheus::TextEncoder;

use super::moment::Moment;
use crate::{pins::Pins, source::kubernetes::Requests};
use family::Family;
use kernel::{Counted, Counters};

pub(in crate::agent) use registered::Pass;
pub(super) use registered::{Probe, Registered};
pub(super) use state::State;

/// Everything that is told.
pub(super) struct Metrics {
    /// What is counted as it happens.
    pub(super) registered: Registered,
    pins: Pins,
    requests: Requests,
    counters: Mutex<Option<Counters>>,
    state: Mutex<State>,
}

/// The text for a scrape, and what could not be part of it.
pub(super) struct Exposition {
    /// The text.
    pub(super) text: String,
    /// Why it lacks what the programs count.
    pub(super) problem: Option<String>,
}

impl Metrics {
    /// Nothing has happened.
    pub(super) fn new(
        pins: &Pins,
        started: Moment,
        requests: Requests,
    ) -> prometheus::Result<Self> {
        Ok(Self {
            registered: Registered::new(started)?,
            pins: pins.clone(),
            requests,
            counters: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// This is how things are.
    pub(super) fn observe(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All of it, in Prometheus's text format. It reads maps, so it is not for the agent's own
    /// thread.
    pub(super) fn exposition(&self) -> Exposition {
        let (counted, problem) = match self.counted() {
            Ok(counted) => (Some(counted), None),
            Err(error) => (None, Some(error)),
        };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let made = state.families();
        drop(state);
        let counted = counted.iter().flat_map(Counted::families).collect();
        let families = [
            self.registered.families(),
            made,
            counted,
            requests::families(&self.requests),
            process::families(),
        ];
        Exposition {
            text: text(families.concat()),
            problem,
        }
    }

    /// The text of `/metrics/slis`.
    pub(super) fn slis(&self) -> String {
        text(self.registered.slis())
    }

    fn counted(&self) -> Result<Counted, String> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let read = match counters.take() {
            Some(open) => Ok(open),
            None => Counters::open(&self.pins),
        };
        let counted = read.and_then(|mut open| {
            let counted = open.read()?;
            *counters = Some(open);
            Ok(counted)
        });
        counted.map_err(|error| crate::agent::programs::chain(&error))
    }
}

/// The text format, families in the order of their names.
fn text(mut families: Vec<Family>) -> String {
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    // Writing to a string fails only on families that have neither name nor sample.
    TextEncoder::new()
        .encode_to_string(&families)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;

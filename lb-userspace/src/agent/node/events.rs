//! What somebody should look at, as Events: each is told when it comes up.

use std::collections::HashSet;

use super::Node;
use crate::{control::Usage, source::kubernetes::Event};

impl Node {
    /// Tells of what holds and did not hold when it was last looked at. The recorder keeps back
    /// what comes and goes.
    pub(super) fn tell_events(&mut self, usage: &[Usage]) {
        let events: HashSet<Event> = self
            .conflicts()
            .chain(self.node_ports_everywhere())
            .chain(self.full_maps(usage))
            .collect();
        for event in events.difference(&self.told) {
            self.recorder.publish(event.clone());
        }
        self.told = events;
    }

    /// B16.
    fn conflicts(&self) -> impl Iterator<Item = Event> {
        let conflicts = self.controller.conflicts();
        conflicts.map(|conflict| Event::conflict(&conflict.loser.service, conflict.to_string()))
    }

    /// B7.
    fn node_ports_everywhere(&self) -> impl Iterator<Item = Event> {
        let setting = &self.options.node_port_addresses;
        let warnings = setting.warnings(&self.addresses.all).into_iter();
        warnings.map(|note| Event::node_port_addresses(&self.options.node_name, note))
    }

    fn full_maps(&self, usage: &[Usage]) -> impl Iterator<Item = Event> {
        let lines = usage.iter().filter_map(nearly_full);
        lines.map(|note| Event::nearly_full(&self.options.node_name, note))
    }
}

/// A warning when a map is over four fifths full. It names a step, not the number: it is not to
/// be told again for every entry.
pub(super) fn nearly_full(usage: &Usage) -> Option<String> {
    let Usage {
        map,
        used,
        capacity,
    } = usage;
    let percent = u64::from(*used) * 100 / u64::from(*capacity).max(1);
    let step = [100, 95, 90, 80]
        .into_iter()
        .find(|step| percent >= *step)?;
    Some(format!(
        "map {map}: {step} % of its {capacity} entries are used"
    ))
}

//! The maps compared with what we believe they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::service::ServiceName;

use super::{
    adopt::{stray_backends, stray_source_ranges},
    desired::PortId,
    program::name,
    realised::{Known, Realised},
};
use crate::maps::{Family, FamilyDump};

/// What an audit found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Entries that differ.
    pub(super) drifted: usize,
    /// The ports they belong to.
    pub(super) ports: BTreeSet<Arc<PortId>>,
}

impl Findings {
    fn note(&mut self, port: &Arc<PortId>) {
        self.drifted += 1;
        self.ports.insert(Arc::clone(port));
    }
}

/// Marks every entry that is not what we believed as unknown, for the next sync to write again,
/// and every entry we know nothing of as a stray, for it to remove.
pub(super) fn audit<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
    names: &BTreeMap<u32, ServiceName>,
) -> Findings {
    let mut findings = Findings::default();
    audit_ports(realised, dump, names, &mut findings);
    audit_frontends(realised, dump, &mut findings);
    let backends = stray_backends(realised, dump);
    let source_ranges: Vec<_> = stray_source_ranges(realised, dump).collect();
    findings.drifted += backends.len() + source_ranges.len();
    realised.strays.backends.extend(backends);
    realised.strays.source_ranges.extend(source_ranges);
    findings
}

fn audit_ports<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
    names: &BTreeMap<u32, ServiceName>,
    findings: &mut Findings,
) {
    for (id, port) in &mut realised.ports {
        if port.named && names.get(&port.id) != Some(&name::<A>(id)) {
            port.named = false;
            findings.note(id);
        }
        for (endpoint, entry) in &mut port.backends {
            let actual = dump.backends.get(&entry.index);
            if entry.certain && actual != Some(&entry.backend(port.id, endpoint)) {
                entry.certain = false;
                findings.note(id);
            }
        }
        for (network, certain) in &mut port.source_ranges {
            if *certain && !dump.source_ranges.contains(&(port.id, *network)) {
                *certain = false;
                findings.note(id);
            }
        }
        for range in &mut port.ranges {
            let start = range.slots.offset as usize;
            let actual = dump.slots.get(start..start + range.content.len());
            if range.written && actual != Some(&*range.content) {
                range.written = false;
                findings.note(id);
            }
        }
    }
}

fn audit_frontends<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
    findings: &mut Findings,
) {
    let Realised {
        by_id,
        frontends,
        strays,
        ..
    } = realised;
    for (key, known) in frontends.iter_mut() {
        let drifted = dump
            .frontends
            .get(key)
            .is_none_or(|actual| !known.is(actual));
        if known.certain && drifted {
            known.certain = false;
            let owners = known.values().filter_map(|value| by_id.get(&value.service));
            owners.for_each(|id| findings.note(id));
        }
    }
    for (key, value) in &dump.frontends {
        if !frontends.contains_key(key) {
            frontends.insert(*key, Known::new(*value, false));
            strays.frontends.insert(*key);
            findings.drifted += 1;
        }
    }
}

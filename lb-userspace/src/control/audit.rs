//! The maps compared with what we believe they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::service::{ServiceName, Slots};

use super::{
    adopt::{stray_backends, stray_source_ranges},
    desired::PortId,
    program::name,
    realised::{Form, Known, Range, Realised},
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
    audit_tables(realised, dump, &mut findings);
    audit_ports(realised, dump, names, &mut findings);
    audit_frontends(realised, dump, &mut findings);
    let backends = stray_backends(realised, dump);
    let source_ranges: Vec<_> = stray_source_ranges(realised, dump).collect();
    findings.drifted += backends.len() + source_ranges.len();
    realised.strays.backends.extend(backends);
    realised.strays.source_ranges.extend(source_ranges);
    findings
}

/// Of a table that differs, every port that has it is to look.
fn audit_tables<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
    findings: &mut Findings,
) {
    let mut drifted = BTreeSet::new();
    for table in realised.tables.iter_mut() {
        if table.written && !holds(dump, table.slots, &table.content) {
            table.written = false;
            drifted.insert(Form::List(Some(table.slots.offset)));
        }
    }
    let has = |range: &Range| drifted.contains(&range.form);
    let ports = realised.ports.iter();
    let ports = ports.filter(|(_, port)| port.ranges.iter().any(has));
    findings.ports.extend(ports.map(|(id, _)| Arc::clone(id)));
    findings.drifted += drifted.len();
}

/// Whether the map holds this at these slots.
fn holds<A>(dump: &FamilyDump<A>, slots: Slots, content: &[u32]) -> bool {
    let start = slots.offset as usize;
    dump.slots.get(start..start + content.len()) == Some(content)
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
            if range.written && !holds(dump, range.slots, &range.content) {
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

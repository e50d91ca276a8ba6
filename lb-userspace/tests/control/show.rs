//! Maps as text.

use std::{collections::BTreeMap, fmt::Write};

use lb_common::{
    V4, V6,
    service::{Frontend, Slots, backend, frontend, list, text},
};
use lb_userspace::maps::{Dump, Family, show_key};

pub(crate) fn show(dump: &Dump) -> String {
    let mut out = String::new();
    for (id, name) in &dump.names {
        let (namespace, service) = (text(&name.namespace), text(&name.name));
        let (port, proto, family) = (text(&name.port), name.proto, name.family);
        writeln!(
            out,
            "service {id}: {namespace}/{service}:{port} proto {proto} IPv{family}"
        )
        .unwrap();
    }
    show_family::<V4>(dump, &mut out);
    show_family::<V6>(dump, &mut out);
    out
}

fn show_family<A: Family>(dump: &Dump, out: &mut String) {
    let maps = A::of(dump);
    let mut lines: Vec<_> = maps
        .frontends
        .iter()
        .map(|(key, value)| {
            let flags = names(
                value.flags,
                &[
                    (frontend::CLUSTER_IP, "cluster-ip"),
                    (frontend::DROP_INSIDE, "drop-inside"),
                    (frontend::DROP_OUTSIDE, "drop-outside"),
                    (frontend::LOCAL_INSIDE, "local-inside"),
                    (frontend::LOCAL_OUTSIDE, "local-outside"),
                    (frontend::SOURCE_RANGES, "source-ranges"),
                    (frontend::HASHED, "hashed"),
                ],
            );
            let affinity = match (value.affinity.timeout(), value.affinity.term()) {
                (0, 0) => String::new(),
                (timeout, term) => format!(" affinity {timeout} s term {term}"),
            };
            let sort = (key.addr.to_ip(), key.port.number(), key.proto);
            let line = format!(
                "{:<22} service {} inside {} outside {} [{flags}]{affinity}",
                show_key(key),
                value.service,
                show_slots::<A>(dump, value, value.inside),
                show_slots::<A>(dump, value, value.outside),
            );
            (sort, line)
        })
        .collect();
    lines.sort();
    for (_, line) in lines {
        writeln!(out, "{line}").unwrap();
    }
    for (index, found) in &maps.backends {
        let flags = names(
            u32::from(found.flags),
            &[
                (u32::from(backend::ALIVE), "alive"),
                (u32::from(backend::LOCAL), "local"),
                (u32::from(backend::TERMINATING), "terminating"),
                (u32::from(backend::IN_CLUSTER), "in-cluster"),
                (u32::from(backend::IN_LOCAL), "in-local"),
                (u32::from(backend::LOST_FRONTEND), "lost-frontend"),
            ],
        );
        let (addr, port) = (found.addr.to_ip(), found.port.number());
        let (generation, service) = (found.generation, found.service);
        writeln!(
            out,
            "backend {index}: {addr} {port} {flags} generation {generation} of service {service}"
        )
        .unwrap();
    }
    for (service, network) in &maps.source_ranges {
        writeln!(out, "source range of service {service}: {network}").unwrap();
    }
}

fn names(flags: u32, names: &[(u32, &str)]) -> String {
    let set = names.iter().filter(|(flag, _)| flags & flag != 0);
    let set: Vec<_> = set.map(|(_, name)| *name).collect();
    set.join(" ")
}

/// The range, and the backend indices in it; of a list, its table too, with how often each position
/// stands there.
fn show_slots<A: Family>(dump: &Dump, frontend: &Frontend, slots: Slots) -> String {
    let content = |Slots { offset, count }| {
        let range = offset as usize..(offset + count) as usize;
        &A::of(dump).slots[range]
    };
    let range = |Slots { offset, count }| format!("{offset}+{count}");
    if slots.count == 0 || frontend.flags & frontend::HASHED == 0 {
        return format!("{}{:?}", range(slots), content(slots));
    }
    let [offset, count, ..] = *content(slots) else {
        panic!("a list without a table at {slots:?}");
    };
    let (table, backends) = (Slots { offset, count }, list::backends(slots));
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for position in content(table) {
        *counts.entry(*position).or_default() += 1;
    }
    let (backends, at) = (content(backends), range(slots));
    format!("{at}{backends:?} by {}{counts:?}", range(table))
}

//! Maps as text.

use std::fmt::Write;

use lb_common::{
    V4, V6,
    service::{Slots, backend, frontend, text},
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
            let flags = [
                (frontend::DROP_INSIDE, "inside"),
                (frontend::DROP_OUTSIDE, "outside"),
            ];
            let dropped: Vec<_> = flags
                .into_iter()
                .filter(|(flag, _)| value.flags & flag != 0)
                .map(|(_, name)| name)
                .collect();
            let sort = (key.addr.to_ip(), key.port.number(), key.proto);
            let line = format!(
                "{:<22} service {} inside {} outside {} drop {dropped:?}",
                show_key(key),
                value.service,
                show_slots::<A>(dump, value.inside),
                show_slots::<A>(dump, value.outside),
            );
            (sort, line)
        })
        .collect();
    lines.sort();
    for (_, line) in lines {
        writeln!(out, "{line}").unwrap();
    }
    for (index, found) in &maps.backends {
        let flags = [
            (backend::ALIVE, "alive"),
            (backend::LOCAL, "local"),
            (backend::TERMINATING, "terminating"),
        ];
        let flags: Vec<_> = flags
            .into_iter()
            .filter(|(flag, _)| found.flags & flag != 0)
            .map(|(_, name)| name)
            .collect();
        let (addr, port) = (found.addr.to_ip(), found.port.number());
        let (flags, generation) = (flags.join(" "), found.generation);
        writeln!(
            out,
            "backend {index}: {addr} {port} {flags} generation {generation}"
        )
        .unwrap();
    }
}

/// The range, and the backend indices in it.
fn show_slots<A: Family>(dump: &Dump, slots: Slots) -> String {
    let range = slots.offset as usize..(slots.offset + slots.count) as usize;
    format!(
        "{}+{}{:?}",
        slots.offset,
        slots.count,
        &A::of(dump).slots[range]
    )
}

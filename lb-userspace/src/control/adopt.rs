//! Realised state read back from the maps, so that a restart changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::service::{
    Backend, Frontend, FrontendKey, ServiceName, Slots, backend, frontend, text,
};

use super::{
    departure::age,
    desired::{PortId, PortKey},
    pool::Pool,
    realised::{Entry, Form, Former, Known, Port, Range, Realised, Term},
    select::Endpoint,
    tables::Tables,
};
use crate::{
    maps::{Family, FamilyCapacities, FamilyDump, Network},
    model::{ObjectName, Protocol},
};

/// The Service port a name stands for, and its family's number; none if we never wrote such a name.
pub(super) fn identity(name: &ServiceName) -> Option<(PortId, u8)> {
    let (namespace, service) = (text(&name.namespace), text(&name.name));
    let id = PortId {
        service: ObjectName::new(namespace, service),
        port: PortKey {
            name: text(&name.port).to_owned(),
            protocol: Protocol::from_number(name.proto)?,
        },
    };
    let known = !namespace.is_empty() && !service.is_empty() && matches!(name.family, 4 | 6);
    known.then_some((id, name.family))
}

/// Rebuilds the realised state of a family from its maps and the names of its service ids. What
/// does not fit together is rewritten or removed by the first sync.
pub(super) fn adopt<A: Family>(
    dump: &FamilyDump<A>,
    names: BTreeMap<u32, PortId>,
    capacities: FamilyCapacities,
) -> Realised<A> {
    let mut realised = Realised::empty(capacities);
    let generations = dump.backends.values().map(|backend| backend.generation);
    realised.generation = generations.max().unwrap_or_default();
    for (id, port) in names {
        let mut adopted = Port::new(id);
        adopted.named = true;
        let port = Arc::new(port);
        realised.ports.insert(Arc::clone(&port), adopted);
        realised.by_id.insert(id, port);
    }
    for (key, value) in &dump.frontends {
        let owner = realised.by_id.get(&value.service).cloned();
        let certain = owner.is_some_and(|id| adopt_frontend(&mut realised, dump, &id, *key, value));
        if !realised.by_id.contains_key(&value.service) {
            realised.strays.frontends.insert(*key);
        }
        realised.frontends.insert(*key, Known::new(*value, certain));
    }
    adopt_source_ranges(&mut realised, dump);
    realised.strays.backends = adopt_unlisted(&mut realised, dump);
    adopt_former(&mut realised, dump);
    realised.strays.source_ranges = stray_source_ranges(&realised, dump).collect();
    realised
}

fn adopt_source_ranges<A: Family>(realised: &mut Realised<A>, dump: &FamilyDump<A>) {
    let Realised {
        ports,
        by_id,
        source_ranges,
        ..
    } = realised;
    for (service, network) in &dump.source_ranges {
        if let Some(port) = by_id.get(service).and_then(|id| ports.get_mut(id)) {
            port.source_ranges.insert(*network, true);
            *source_ranges += 1;
        }
    }
}

/// Takes over the backends that no range leads to, for the flows they have. Returns the live ones
/// that are no port's.
fn adopt_unlisted<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
) -> BTreeMap<u32, Backend<A>> {
    let mut strays = stray_backends(realised, dump);
    let Realised {
        ports,
        by_id,
        backends,
        ..
    } = realised;
    strays.retain(|index, backend| {
        let port = by_id.get(&backend.service).and_then(|id| ports.get_mut(id));
        !port.is_some_and(|port| adopt_backend(port, backends, *index, backend))
    });
    strays
}

/// Takes over the backends that are gone: what was led to them and lives on, over TCP, and over UDP
/// what an agent that ended at that moment has told nobody of. Dead, they have the generation after
/// their last one, which nothing else has.
fn adopt_former<A: Family>(realised: &mut Realised<A>, dump: &FamilyDump<A>) {
    let Realised {
        ports,
        by_id,
        departed,
        ..
    } = realised;
    for (index, backend) in dump.backends.iter().filter(|(_, it)| !is_live(it)) {
        let Some(id) = by_id.get(&backend.service) else {
            continue;
        };
        let Some(port) = ports.get_mut(id) else {
            continue;
        };
        let former = Former {
            index: *index,
            generation: backend.generation,
        };
        let at = (backend.addr, backend.port.number());
        if id.port.protocol == Protocol::Udp {
            departed.push(former.departed(id.port.protocol, port.id, at, false));
            continue;
        }
        let known = port.former.entry(at).or_insert(former);
        if age(former.generation, known.generation) > 0 {
            *known = former;
        }
    }
}

/// Source ranges that no port has.
pub(super) fn stray_source_ranges<A: Family>(
    realised: &Realised<A>,
    dump: &FamilyDump<A>,
) -> impl Iterator<Item = (u32, Network<A>)> {
    let ranges = dump.source_ranges.iter().copied();
    ranges.filter(|(service, network)| {
        let port = realised.by_id.get(service);
        let port = port.and_then(|id| realised.ports.get(id));
        port.is_none_or(|port| !port.source_ranges.contains_key(network))
    })
}

/// Live backends that no port has.
pub(super) fn stray_backends<A: Family>(
    realised: &Realised<A>,
    dump: &FamilyDump<A>,
) -> BTreeMap<u32, Backend<A>> {
    let owned: BTreeSet<u32> = realised
        .ports
        .values()
        .flat_map(|port| port.backends.values())
        .map(|entry| entry.index)
        .collect();
    let live = dump.backends.iter().filter(|(_, backend)| is_live(backend));
    live.filter(|(index, _)| !owned.contains(index))
        .map(|(index, backend)| (*index, *backend))
        .collect()
}

/// Takes over a frontend and the ranges it refers to; false if one of them cannot be used.
fn adopt_frontend<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
    id: &PortId,
    key: FrontendKey<A>,
    value: &Frontend,
) -> bool {
    if let Some(port) = realised.ports.get_mut(id) {
        port.term = adopt_term(port, value);
        port.keys.insert(key);
    }
    let mut sound = true;
    for slots in [value.inside, value.outside] {
        let listed = value.flags & frontend::HASHED != 0;
        sound &= slots.count == 0 || adopt_range(realised, dump, id, slots, listed);
    }
    sound
}

/// The latest term that a frontend tells; on if all of them say so.
fn adopt_term<A>(port: &Port<A>, value: &Frontend) -> Term {
    let told = Term {
        number: value.affinity.term(),
        on: value.affinity.timeout() > 0,
    };
    let Term { number, on } = port.term;
    if port.keys.is_empty() || told == port.term {
        return told;
    }
    // An earlier agent did not finish: what is remembered from then counts for nothing.
    Term {
        number: number.max(told.number),
        on: on && told.on && number == told.number,
    }
}

fn adopt_range<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
    id: &PortId,
    slots: Slots,
    listed: bool,
) -> bool {
    let Realised {
        ports,
        slots: free,
        tables,
        backends,
        ..
    } = realised;
    let Some(port) = ports.get_mut(id) else {
        return false;
    };
    if let Some(range) = port.ranges.iter().find(|range| range.slots == slots) {
        return range.written && listed == matches!(range.form, Form::List(_));
    }
    if !free.reserve(slots) {
        return false;
    }
    let start = slots.offset as usize;
    let content = dump.slots.get(start..start + slots.count as usize);
    let content = content.unwrap_or_default().to_vec();
    let form = if listed {
        Form::List(adopt_table(tables, free, dump, &content))
    } else {
        Form::Drawn
    };
    let mut range = Range {
        slots,
        form,
        content: content.into(),
        written: false,
    };
    let mut sound = form != Form::List(None);
    for index in range.backends() {
        let backend = dump.backends.get(index).filter(|backend| is_live(backend));
        sound &= backend.is_some_and(|backend| adopt_backend(port, backends, *index, backend));
    }
    range.written = sound;
    port.ranges.push(range);
    sound
}

/// Takes over the table of a list; none if there can be no such table.
fn adopt_table<A>(
    tables: &mut Tables,
    free: &mut Pool,
    dump: &FamilyDump<A>,
    list: &[u32],
) -> Option<u32> {
    let [offset, count, ..] = *list else {
        return None;
    };
    let table = tables.adopt(Slots { offset, count }, &dump.slots, free)?;
    tables.hold(table);
    Some(table)
}

/// Takes over a backend; false if it is another port's, or this port has the endpoint already at
/// another index.
fn adopt_backend<A: Family>(
    port: &mut Port<A>,
    free: &mut Pool,
    index: u32,
    backend: &Backend<A>,
) -> bool {
    if backend.service != port.id {
        return false;
    }
    let endpoint = Endpoint {
        addr: backend.addr,
        port: backend.port.number(),
        local: backend.flags & backend::LOCAL != 0,
    };
    if let Some(entry) = port.backends.get(&endpoint) {
        return entry.index == index;
    }
    let reserved = free.reserve_one(index);
    if reserved {
        let entry = Entry {
            index,
            generation: backend.generation,
            flags: backend.flags,
            certain: true,
            pod_deleted: false,
        };
        port.backends.insert(endpoint, entry);
    }
    reserved
}

fn is_live<A>(backend: &Backend<A>) -> bool {
    backend.flags & backend::ALIVE != 0
}

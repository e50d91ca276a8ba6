//! Realised state read back from the maps, so that a restart changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::service::{Backend, Frontend, FrontendKey, ServiceName, Slots, backend, text};

use super::{
    desired::{PortId, PortKey},
    pool::Pool,
    realised::{Entry, Known, Port, Range, Realised},
    select::Endpoint,
};
use crate::{
    maps::{Family, FamilyCapacities, FamilyDump},
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
    for (id, port) in &names {
        let mut adopted = Port::new(*id);
        adopted.named = true;
        realised.ports.insert(port.clone(), adopted);
    }
    realised.by_id = names;
    for (key, value) in &dump.frontends {
        let owner = realised.by_id.get(&value.service).cloned();
        let certain = owner.is_some_and(|id| adopt_frontend(&mut realised, dump, &id, *key, value));
        if !realised.by_id.contains_key(&value.service) {
            realised.strays.frontends.insert(*key);
        }
        let values = vec![*value];
        realised.frontends.insert(*key, Known { values, certain });
    }
    realised.strays.backends = strays(&realised, dump);
    realised
}

/// Live backends that no port has.
pub(super) fn strays<A: Family>(
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
        port.keys.insert(key);
    }
    let mut sound = true;
    for slots in [value.inside, value.outside] {
        sound &= slots.count == 0 || adopt_range(realised, dump, id, slots);
    }
    sound
}

fn adopt_range<A: Family>(
    realised: &mut Realised<A>,
    dump: &FamilyDump<A>,
    id: &PortId,
    slots: Slots,
) -> bool {
    let Realised {
        ports,
        slots: free,
        backends,
        ..
    } = realised;
    let Some(port) = ports.get_mut(id) else {
        return false;
    };
    if let Some(range) = port.ranges.iter().find(|range| range.slots == slots) {
        return range.written;
    }
    if !free.reserve(slots) {
        return false;
    }
    let start = slots.offset as usize;
    let content = dump.slots.get(start..start + slots.count as usize);
    let content = content.unwrap_or_default().to_vec();
    let mut sound = true;
    for index in &content {
        let backend = dump.backends.get(index).filter(|backend| is_live(backend));
        sound &= backend.is_some_and(|backend| adopt_backend(port, backends, *index, backend));
    }
    port.ranges.push(Range {
        slots,
        content,
        written: sound,
    });
    sound
}

/// Takes over a backend; false if it is another port's, or this port has the endpoint already at
/// another index.
fn adopt_backend<A: Family>(
    port: &mut Port<A>,
    free: &mut Pool,
    index: u32,
    backend: &Backend<A>,
) -> bool {
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
            known: Some(*backend),
        };
        port.backends.insert(endpoint, entry);
    }
    reserved
}

fn is_live<A>(backend: &Backend<A>) -> bool {
    backend.flags & backend::ALIVE != 0
}

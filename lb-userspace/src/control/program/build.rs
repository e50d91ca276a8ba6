//! Steps that add.

use std::collections::btree_map::Entry as Place;

use lb_common::{
    Port as WirePort,
    service::{Affinity, Backend, Frontend, FrontendKey, ServiceName, Slots, backend},
};

use super::{ProgramError, Writer};
use crate::{
    control::{
        desired::{List, PortId, Target},
        family::Desired,
        pool::Pool,
        realised::{Entry, Known, Port, Range, Realised, next},
        select::Member,
    },
    maps::{Family, FamilyOp, LbMaps, Op, WriteError},
};

/// Step 1. A port that has won no frontend needs nothing.
pub(in crate::control) fn build<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    id: &PortId,
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let won = desired.won(id);
    if won.is_empty() {
        return Ok(());
    }
    name_port(realised, id, writer)?;
    let mut list = |list| {
        if used(&won, list) {
            write_list(realised, id, desired.members(id, list), writer)
        } else {
            Ok(Slots::default())
        }
    };
    let ranges = (list(List::Cluster)?, list(List::Local)?);
    publish(realised, id, &won, ranges, writer)
}

fn used<K>(won: &[(K, Target)], list: List) -> bool {
    won.iter()
        .any(|(_, target)| target.inside == list || target.outside == list)
}

fn name_port<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    id: &PortId,
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let Realised { ports, by_id, .. } = realised;
    let port = match ports.entry(id.clone()) {
        Place::Occupied(port) => port.into_mut(),
        Place::Vacant(place) => {
            let number = writer.ids.allocate_one();
            let number =
                number.ok_or_else(|| ProgramError::exhausted(1, "service ids", writer.ids))?;
            by_id.insert(number, id.clone());
            place.insert(Port::new(number))
        }
    };
    if !port.named {
        writer.apply(&Op::PutName(port.id, name::<A>(id)))?;
        port.named = true;
    }
    Ok(())
}

/// The name a service id has in the maps.
pub(in crate::control) fn name<A: Family>(id: &PortId) -> ServiceName {
    let PortId { service, port } = id;
    let proto = port.protocol.number();
    ServiceName::new(
        &service.namespace,
        &service.name,
        &port.name,
        proto,
        A::NUMBER,
    )
}

/// Writes the backends of a list and a range of slots that leads to them, unless they are there.
fn write_list<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    id: &PortId,
    members: &[Member<A>],
    writer: &mut Writer<'_, M>,
) -> Result<Slots, ProgramError> {
    let Realised {
        ports,
        slots,
        backends,
        generation,
        strays,
        ..
    } = realised;
    let Some(port) = ports.get_mut(id).filter(|_| !members.is_empty()) else {
        return Ok(Slots::default());
    };
    let mut content = Vec::with_capacity(members.len());
    for member in members {
        let entry = match port.backends.entry(member.endpoint) {
            Place::Occupied(entry) => entry.into_mut(),
            Place::Vacant(place) => {
                let missing = members.len() - content.len();
                let index = backends.allocate_one();
                let index =
                    index.ok_or_else(|| ProgramError::exhausted(missing, "backends", backends))?;
                place.insert(Entry {
                    index,
                    generation: next(generation),
                    known: None,
                })
            }
        };
        put_backend(entry, live(member, entry.generation), writer)?;
        strays.backends.remove(&entry.index);
        content.push(entry.index);
    }
    write_range::<A, M>(&mut port.ranges, slots, content, writer)
}

fn live<A: Family>(member: &Member<A>, generation: u32) -> Backend<A> {
    let Member {
        endpoint,
        terminating,
    } = member;
    let flag = |condition, flag| if condition { flag } else { 0 };
    Backend {
        addr: endpoint.addr,
        port: WirePort::new(endpoint.port),
        flags: backend::ALIVE
            | flag(endpoint.local, backend::LOCAL)
            | flag(*terminating, backend::TERMINATING),
        generation,
    }
}

fn put_backend<A: Family, M: LbMaps>(
    entry: &mut Entry<A>,
    value: Backend<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    if entry.known == Some(value) {
        return Ok(());
    }
    entry.known = None;
    writer.apply(&A::op(FamilyOp::PutBackend(entry.index, value)))?;
    entry.known = Some(value);
    Ok(())
}

fn write_range<A: Family, M: LbMaps>(
    ranges: &mut Vec<Range>,
    pool: &mut Pool,
    content: Vec<u32>,
    writer: &mut Writer<'_, M>,
) -> Result<Slots, ProgramError> {
    let found = ranges.iter().position(|range| range.content == content);
    let at = found.unwrap_or(ranges.len());
    if found.is_none() {
        let slots = pool.allocate(content.len() as u32);
        let slots = slots.ok_or_else(|| ProgramError::exhausted(content.len(), "slots", pool))?;
        ranges.push(Range {
            slots,
            content,
            written: false,
        });
    }
    let range = &mut ranges[at];
    if !range.written {
        let op = FamilyOp::WriteSlots(range.slots.offset, range.content.clone());
        writer.apply(&A::op(op))?;
        range.written = true;
    }
    Ok(range.slots)
}

/// Puts every frontend that differs; one that cannot be put does not hold up the others.
fn publish<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    id: &PortId,
    won: &[(FrontendKey<A>, Target)],
    (cluster, local): (Slots, Slots),
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let Some(service) = realised.ports.get(id).map(|port| port.id) else {
        return Ok(());
    };
    let slots = |list| match list {
        List::None => Slots::default(),
        List::Cluster => cluster,
        List::Local => local,
    };
    let mut result = Ok(());
    for (key, target) in won {
        let value = Frontend {
            service,
            flags: target.flags,
            inside: slots(target.inside),
            outside: slots(target.outside),
            affinity: Affinity::NONE,
        };
        let put = put_frontend(realised, id, *key, value, writer);
        result = result.and(put);
    }
    Ok(result?)
}

fn put_frontend<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    id: &PortId,
    key: FrontendKey<A>,
    value: Frontend,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    if realised
        .frontends
        .get(&key)
        .is_some_and(|known| known.is(&value))
    {
        return Ok(());
    }
    let result = writer.apply(&A::op(FamilyOp::PutFrontend(key, value)));
    if result.is_ok() {
        forget(realised, &key);
    }
    let known = realised.frontends.entry(key).or_insert(Known {
        values: Vec::new(),
        certain: false,
    });
    if !known.values.contains(&value) {
        known.values.push(value);
    }
    known.certain = result.is_ok();
    if let Some(port) = realised.ports.get_mut(id) {
        port.keys.insert(key);
    }
    result
}

/// Forgets all that was known of a frontend's entry.
pub(super) fn forget<A: Family>(realised: &mut Realised<A>, key: &FrontendKey<A>) {
    let Realised {
        ports,
        by_id,
        frontends,
        strays,
        ..
    } = realised;
    strays.frontends.remove(key);
    for value in frontends
        .remove(key)
        .into_iter()
        .flat_map(|known| known.values)
    {
        if let Some(port) = by_id.get(&value.service).and_then(|id| ports.get_mut(id)) {
            port.keys.remove(key);
        }
    }
}

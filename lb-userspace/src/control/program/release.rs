//! Steps that remove.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::service::{FrontendKey, Slots, frontend};

use super::{
    ProgramError, Writer,
    build::{Won, forget, put_backend},
    loss::announce_loss,
    ranges::give_back,
};
use crate::{
    control::{
        departure::Departed,
        desired::PortId,
        family::Desired,
        realised::{Entry, Former, IN_LISTS, Port, Range, Realised, next},
        select::Endpoint,
    },
    maps::{Family, FamilyOp, LbMaps, Op, WriteError},
    model::Protocol,
};

/// Slot ranges that frontends lead to: offset, count and a flag of the list.
type Referenced = BTreeSet<(u32, u32, u16)>;

/// Step 2. A frontend that another port has won is left for that one to overwrite.
pub(in crate::control) fn unpublish<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    id: &PortId,
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let Some(port) = realised.ports.get(id) else {
        return Ok(());
    };
    let unwanted = port
        .keys
        .iter()
        .filter(|key| desired.claims.winner(key).is_none());
    let unwanted: Vec<_> = unwanted.copied().collect();
    delete_frontends(desired, realised, &unwanted, writer)
}

fn delete_frontends<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    keys: &[FrontendKey<A>],
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let mut result = Ok(());
    for key in keys {
        let announced = announce_loss(desired, realised, key, None, writer);
        let delete = A::op(FamilyOp::DeleteFrontend(*key));
        let deleted = announced.and_then(|()| writer.apply(&delete));
        if deleted.is_ok() {
            forget(realised, key);
        } else if let Some(known) = realised.frontends.get_mut(key) {
            known.certain = false;
        }
        result = result.and(deleted);
    }
    Ok(result?)
}

/// Step 3.
///
/// Returns whether the port needs another round: a frontend that another one has won still leads
/// to it.
pub(in crate::control) fn release<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    id: &PortId,
    writer: &mut Writer<'_, M>,
) -> Result<bool, ProgramError> {
    let Some((id, mut port)) = realised.ports.remove_entry(id) else {
        return Ok(false);
    };
    let result = release_parts(desired, realised, &id, &mut port, writer);
    if result.is_ok() && port.is_bare() {
        port.named = false;
        if let Err(error) = writer.apply(&Op::DeleteName(port.id)) {
            realised.ports.insert(id, port);
            return Err(error.into());
        }
        realised.by_id.remove(&port.id);
        writer.ids.retire_one(port.id, writer.due);
        return Ok(false);
    }
    let waits = port.keys.iter().any(|key| !desired.wants(&id, key));
    realised.ports.insert(id, port);
    result.map(|()| waits)
}

fn release_parts<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    id: &PortId,
    port: &mut Port<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let won = desired.plan(id).map(|plan| Won::of(desired, plan));
    let referenced = realised.referenced(port);
    release_ranges(realised, port, &referenced, writer);
    let protocol = id.port.protocol;
    let backends = release_backends(realised, protocol, port, won.as_ref(), &referenced, writer);
    let source_ranges = release_source_ranges(realised, port, won.as_ref(), writer);
    Ok(backends.and(source_ranges)?)
}

/// Gives back the slots that no frontend leads to.
fn release_ranges<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    port: &mut Port<A>,
    referenced: &Referenced,
    writer: &Writer<'_, M>,
) {
    let Realised { slots, tables, .. } = realised;
    let unused = port
        .ranges
        .extract_if(.., |range| lists(referenced, range) == 0);
    for range in unused {
        give_back(&range, tables, slots, writer.due);
    }
}

/// Kills the backends that no packet may be led to and no flow may go on with, and takes the others
/// out of the lists that no frontend leads to.
fn release_backends<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    protocol: Protocol,
    port: &mut Port<A>,
    won: Option<&Won<'_, A>>,
    referenced: &Referenced,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    let needed = needed(port, won, referenced);
    let mut result = Ok(());
    let service = port.id;
    let Port {
        backends, former, ..
    } = port;
    backends.retain(|endpoint, entry| {
        let needed = needed.get(&entry.index);
        let done = if let Some(lists) = needed {
            // No longer in any list but these.
            let flags = entry.flags & (!IN_LISTS | *lists);
            put_backend(service, endpoint, entry, flags, writer)
        } else {
            let departed = entry.departed(protocol, service, endpoint);
            let killed = kill(service, endpoint, entry, realised, writer);
            if killed.is_ok() {
                depart(departed, former, &mut realised.departed);
            }
            killed
        };
        let keep = needed.is_some() || done.is_err();
        result = std::mem::replace(&mut result, Ok(())).and(done);
        keep
    });
    result
}

/// The backend indices that a packet may be led to, or may be as soon as what failed succeeds, with
/// the lists they are in; and those in no list that flows go on with.
fn needed<A: Family>(
    port: &Port<A>,
    won: Option<&Won<'_, A>>,
    referenced: &Referenced,
) -> HashMap<u32, u16> {
    let mut needed = HashMap::with_capacity(port.backends.len());
    for range in &port.ranges {
        let lists = lists(referenced, range);
        for index in range.backends() {
            *needed.entry(*index).or_default() |= lists;
        }
    }
    for (member, lists) in won.into_iter().flat_map(Won::members) {
        if let Some(entry) = port.backends.get(&member.endpoint) {
            *needed.entry(entry.index).or_default() |= lists;
        }
    }
    needed
}

/// The lists a range is referred to as.
fn lists(referenced: &Referenced, range: &Range) -> u16 {
    let Slots { offset, count } = range.slots;
    let uses = referenced.range((offset, count, 0)..=(offset, count, u16::MAX));
    uses.fold(0, |lists, (_, _, list)| lists | list)
}

/// Ends a backend: no new flow finds it, and flows that remember its generation have lost it. Its
/// address stays for packets that have just been given the index.
fn kill<A: Family, M: LbMaps>(
    service: u32,
    endpoint: &Endpoint<A>,
    entry: &mut Entry,
    realised: &mut Realised<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    entry.generation = next(&mut realised.generation);
    entry.flags = 0;
    entry.certain = false;
    let dead = entry.backend(service, endpoint);
    writer.apply(&A::op(FamilyOp::PutBackend(entry.index, dead)))?;
    realised.backends.retire_one(entry.index, writer.due);
    Ok(())
}

/// Tells of a backend that is gone, and remembers it for as long as its pod may have connections:
/// over UDP there is nothing that outlives it.
fn depart<A: Family>(
    backend: Departed<A>,
    former: &mut BTreeMap<(A, u16), Former>,
    told: &mut Vec<Departed<A>>,
) {
    let at = (backend.addr, backend.port);
    if backend.pod_deleted {
        former.remove(&at);
    } else if backend.protocol != Protocol::Udp {
        former.insert(at, Former::of(&backend));
    }
    told.push(backend);
}

/// Takes back the source ranges a port does not ask for: those of frontends that are open to all
/// by now, or behind ranges that are all there.
fn release_source_ranges<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    port: &mut Port<A>,
    won: Option<&Won<'_, A>>,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    let wanted = won.map_or(&[][..], Won::source_ranges);
    let complete = won.is_some_and(Won::is_restricted)
        && wanted
            .iter()
            .all(|network| port.source_ranges.get(network) == Some(&true));
    let mut values = realised.values(port);
    let enforced = values.any(|value| value.flags & frontend::SOURCE_RANGES != 0);
    drop(values);
    if enforced && !complete {
        return Ok(());
    }
    let mut result = Ok(());
    port.source_ranges.retain(|network, certain| {
        if wanted.binary_search(network).is_ok() {
            return true;
        }
        let op = FamilyOp::DeleteSourceRange(port.id, *network);
        let deleted = writer.apply(&A::op(op));
        *certain = false;
        let keep = deleted.is_err();
        realised.source_ranges -= usize::from(!keep);
        result = std::mem::replace(&mut result, Ok(())).and(deleted);
        keep
    });
    result
}

/// Removes what was found in the maps and belongs to no port. A stray frontend that a port has
/// won is left for that one to overwrite.
pub(in crate::control) fn remove_strays<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let frontends = realised.strays.frontends.iter().copied();
    let unwanted: Vec<_> = frontends
        .filter(|key| desired.claims.winner(key).is_none())
        .collect();
    let mut result = delete_frontends(desired, realised, &unwanted, writer);
    for (index, mut backend) in std::mem::take(&mut realised.strays.backends) {
        backend.flags = 0;
        backend.generation = next(&mut realised.generation);
        if let Err(error) = writer.apply(&A::op(FamilyOp::PutBackend(index, backend))) {
            realised.strays.backends.insert(index, backend);
            result = result.and(Err(error.into()));
        }
    }
    for (service, network) in std::mem::take(&mut realised.strays.source_ranges) {
        let op = FamilyOp::DeleteSourceRange(service, network);
        if let Err(error) = writer.apply(&A::op(op)) {
            realised.strays.source_ranges.insert((service, network));
            result = result.and(Err(error.into()));
        }
    }
    result
}

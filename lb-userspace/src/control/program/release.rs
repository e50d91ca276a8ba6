//! Steps that remove.

use std::collections::BTreeSet;

use lb_common::{
    Port as WirePort,
    service::{Backend, FrontendKey},
};

use super::{ProgramError, Writer, build::forget};
use crate::{
    control::{
        desired::PortId,
        family::Desired,
        realised::{Entry, Port, Realised, next},
        select::Endpoint,
    },
    maps::{Family, FamilyOp, LbMaps, Op, WriteError},
};

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
    delete_frontends(realised, &unwanted, writer)
}

fn delete_frontends<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    keys: &[FrontendKey<A>],
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let mut result = Ok(());
    for key in keys {
        let deleted = writer.apply(&A::op(FamilyOp::DeleteFrontend(*key)));
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
    let Some(mut port) = realised.ports.remove(id) else {
        return Ok(false);
    };
    let result = release_parts(desired, realised, id, &mut port, writer);
    let empty = port.keys.is_empty() && port.backends.is_empty() && port.ranges.is_empty();
    if result.is_ok() && empty {
        port.named = false;
        if let Err(error) = writer.apply(&Op::DeleteName(port.id)) {
            realised.ports.insert(id.clone(), port);
            return Err(error.into());
        }
        realised.by_id.remove(&port.id);
        writer.ids.retire_one(port.id, writer.due);
        return Ok(false);
    }
    let waits = port.keys.iter().any(|key| !desired.wants(id, key));
    realised.ports.insert(id.clone(), port);
    result.map(|()| waits)
}

fn release_parts<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    id: &PortId,
    port: &mut Port<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let referenced = realised.referenced(port);
    let unused = port.ranges.extract_if(.., |range| {
        !referenced.contains(&(range.slots.offset, range.slots.count))
    });
    for range in unused {
        realised.slots.retire(range.slots, writer.due);
    }

    let needed = needed(desired, id, port);
    let mut result = Ok(());
    port.backends.retain(|endpoint, entry| {
        if needed.contains(&entry.index) {
            return true;
        }
        let killed = kill(endpoint, entry, realised, writer);
        let keep = killed.is_err();
        result = std::mem::replace(&mut result, Ok(())).and(killed);
        keep
    });
    Ok(result?)
}

/// The backend indices that a packet may be led to, or may be as soon as what failed succeeds.
fn needed<A: Family>(desired: &Desired<A>, id: &PortId, port: &Port<A>) -> BTreeSet<u32> {
    let mut needed: BTreeSet<u32> = BTreeSet::new();
    needed.extend(port.ranges.iter().flat_map(|range| &range.content));
    for (_, target) in desired.won(id) {
        for list in [target.inside, target.outside] {
            let members = desired.members(id, list).iter();
            let entries = members.filter_map(|member| port.backends.get(&member.endpoint));
            needed.extend(entries.map(|entry| entry.index));
        }
    }
    needed
}

/// Ends a backend: no new flow finds it, and flows that remember its generation have lost it. Its
/// address stays for packets that have just been given the index.
fn kill<A: Family, M: LbMaps>(
    endpoint: &Endpoint<A>,
    entry: &mut Entry<A>,
    realised: &mut Realised<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    entry.generation = next(&mut realised.generation);
    entry.known = None;
    let dead = Backend {
        addr: endpoint.addr,
        port: WirePort::new(endpoint.port),
        flags: 0,
        generation: entry.generation,
    };
    writer.apply(&A::op(FamilyOp::PutBackend(entry.index, dead)))?;
    realised.backends.retire_one(entry.index, writer.due);
    Ok(())
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
    let mut result = delete_frontends(realised, &unwanted, writer);
    for (index, mut backend) in std::mem::take(&mut realised.strays.backends) {
        backend.flags = 0;
        backend.generation = next(&mut realised.generation);
        if let Err(error) = writer.apply(&A::op(FamilyOp::PutBackend(index, backend))) {
            realised.strays.backends.insert(index, backend);
            result = result.and(Err(error.into()));
        }
    }
    result
}

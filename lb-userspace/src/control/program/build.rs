//! Steps that add.

use std::{collections::btree_map::Entry as Place, sync::Arc};

use lb_common::service::{Affinity, Frontend, FrontendKey, ServiceName, Slots, backend, frontend};

use super::{
    ProgramError, Writer,
    loss::{announce_loss, tell_of_loss},
    ranges::put_list,
};
use crate::{
    control::{
        desired::{PortId, PortPlan, Target},
        family::Desired,
        realised::{Entry, IN_LISTS, Known, Port, Realised, Term, next},
        select::{Endpoint, List, Member},
        spread::{Listed, Share},
    },
    maps::{Family, FamilyOp, LbMaps, Network, Op, WriteError},
};

/// Flags of a backend that stay what they are while it is one.
const STICKY: u16 = backend::LOST_FRONTEND;

/// Step 1. A port that has won no frontend needs nothing.
pub(in crate::control) fn build<A: Family, M: LbMaps>(
    desired: &Desired<A>,
    realised: &mut Realised<A>,
    id: &PortId,
    writer: &mut Writer<'_, M>,
) -> Result<(), ProgramError> {
    let Some(plan) = desired.plan(id) else {
        return Ok(());
    };
    let won = Won::of(desired, plan);
    if won.targets.is_empty() {
        return Ok(());
    }
    let service = name_port(realised, &plan.id, writer)?;
    for network in won.source_ranges() {
        put_source_range(realised, id, *network, writer)?;
    }
    let (cluster, local) = put_backends(realised, &won, writer)?;
    let cluster = put_list(realised, id, plan.spread, &cluster, writer)?;
    let local = put_list(realised, id, plan.spread, &local, writer)?;
    let affinity = affinity(realised, id, plan.affinity);
    let mut result = Ok(());
    for (key, target) in &won.targets {
        let slots = |list| match list {
            List::None => Slots::default(),
            List::Cluster => cluster,
            List::Local => local,
        };
        let value = Frontend {
            service,
            flags: target.flags,
            inside: slots(target.inside),
            outside: slots(target.outside),
            affinity,
        };
        // One that cannot be put does not hold up the others.
        let put = put_frontend(desired, realised, id, *key, value, writer);
        result = result.and(put);
    }
    Ok(result?)
}

/// What a port has a right to have in the maps.
pub(super) struct Won<'a, A> {
    plan: &'a PortPlan<A>,
    /// Its frontends that no other port has a better claim to.
    targets: Vec<(FrontendKey<A>, Target)>,
}

impl<'a, A: Family> Won<'a, A> {
    pub(super) fn of(desired: &Desired<A>, plan: &'a PortPlan<A>) -> Self {
        let targets = plan.targets.iter().copied();
        let targets = targets.filter(|(key, _)| desired.wants(&plan.id, key));
        Self {
            targets: targets.collect(),
            plan,
        }
    }

    /// The networks that have to be known for its frontends, in order.
    pub(super) fn source_ranges(&self) -> &'a [Network<A>] {
        if self.is_restricted() {
            &self.plan.source_ranges
        } else {
            &[]
        }
    }

    /// Whether one of its frontends is open to some networks only.
    pub(super) fn is_restricted(&self) -> bool {
        let mut targets = self.targets.iter();
        targets.any(|(_, target)| target.flags & frontend::SOURCE_RANGES != 0)
    }

    /// The endpoints its frontends lead to, each with the lists they lead to it by as
    /// [`backend`] flags; and those that no list leads to, but flows go on with.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'a Member<A>, u16)> {
        let targets = self.targets.iter();
        let used = targets.fold(0, |flags, (_, target)| {
            flags | target.inside.flag() | target.outside.flag()
        });
        let reached = self.is_reached();
        let members = self.plan.lists.all().iter();
        members
            .map(move |member| (member, member.lists & used))
            .filter(move |(member, lists)| *lists != 0 || reached && member.keeps_flows)
    }

    /// Whether it has a frontend.
    pub(super) fn is_reached(&self) -> bool {
        !self.targets.is_empty()
    }
}

fn name_port<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    id: &Arc<PortId>,
    writer: &mut Writer<'_, M>,
) -> Result<u32, ProgramError> {
    let Realised { ports, by_id, .. } = realised;
    let port = match ports.entry(Arc::clone(id)) {
        Place::Occupied(port) => port.into_mut(),
        Place::Vacant(place) => {
            let number = writer.ids.allocate_one();
            let number =
                number.ok_or_else(|| ProgramError::exhausted(1, "service ids", writer.ids))?;
            by_id.insert(number, Arc::clone(id));
            place.insert(Port::new(number))
        }
    };
    if !port.named {
        writer.apply(&Op::PutName(port.id, name::<A>(id)))?;
        port.named = true;
    }
    Ok(port.id)
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

fn put_source_range<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    id: &PortId,
    network: Network<A>,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    let Some(port) = realised.ports.get_mut(id) else {
        return Ok(());
    };
    let known = port.source_ranges.entry(network);
    realised.source_ranges += usize::from(matches!(known, Place::Vacant(_)));
    let certain = known.or_insert(false);
    if !*certain {
        writer.apply(&A::op(FamilyOp::PutSourceRange(port.id, network)))?;
        *certain = true;
        realised.strays.source_ranges.remove(&(port.id, network));
    }
    Ok(())
}

/// Writes the backends in use. Returns those in the cluster list and those in the local one. An
/// endpoint in neither has an index only if it had one before: without, there are no flows of it.
fn put_backends<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    won: &Won<'_, A>,
    writer: &mut Writer<'_, M>,
) -> Result<(Vec<Listed>, Vec<Listed>), ProgramError> {
    let Realised {
        ports,
        backends,
        generation,
        strays,
        ..
    } = realised;
    let (mut cluster, mut local) = (Vec::new(), Vec::new());
    let Some(port) = ports.get_mut(&won.plan.id) else {
        return Ok((cluster, local));
    };
    tell_of_loss(port, writer)?;
    for (member, lists) in won.members() {
        let entry = match port.backends.entry(member.endpoint) {
            Place::Occupied(entry) => entry.into_mut(),
            Place::Vacant(_) if lists == 0 => continue,
            Place::Vacant(place) => {
                let index = backends.allocate_one();
                let index =
                    index.ok_or_else(|| ProgramError::exhausted(1, "backends", backends))?;
                place.insert(Entry {
                    index,
                    generation: next(generation),
                    flags: 0,
                    certain: false,
                    pod_deleted: false,
                })
            }
        };
        // A list it has left is kept until no frontend leads there: `release` narrows it.
        let flags = live(member) | lists | entry.flags & (IN_LISTS | STICKY);
        put_backend(port.id, &member.endpoint, entry, flags, writer)?;
        strays.backends.remove(&entry.index);
        let listed = Listed {
            index: entry.index,
            share: Share::new(&member.endpoint, member.weight),
        };
        cluster.extend((lists & backend::IN_CLUSTER != 0).then_some(listed));
        local.extend((lists & backend::IN_LOCAL != 0).then_some(listed));
    }
    Ok((cluster, local))
}

const fn live<A>(member: &Member<A>) -> u16 {
    let mut flags = backend::ALIVE;
    if member.endpoint.local {
        flags |= backend::LOCAL;
    }
    if member.terminating {
        flags |= backend::TERMINATING;
    }
    flags
}

/// Has the backend of an endpoint have these flags.
pub(super) fn put_backend<A: Family, M: LbMaps>(
    service: u32,
    endpoint: &Endpoint<A>,
    entry: &mut Entry,
    flags: u16,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    if entry.certain && entry.flags == flags {
        return Ok(());
    }
    entry.certain = false;
    entry.flags = flags;
    let value = entry.backend(service, endpoint);
    writer.apply(&A::op(FamilyOp::PutBackend(entry.index, value)))?;
    entry.certain = true;
    Ok(())
}

/// The affinity of a port's frontends. Switched on, it starts a term that nobody is remembered
/// from (F5).
fn affinity<A: Family>(realised: &mut Realised<A>, id: &PortId, timeout: u32) -> Affinity {
    let Some(port) = realised.ports.get_mut(id) else {
        return Affinity::NONE;
    };
    let Term { number, on } = port.term;
    let number = if timeout > 0 && !on {
        number.wrapping_add(1)
    } else {
        number
    };
    let affinity = Affinity::new(timeout, number);
    port.term = Term {
        number: affinity.term(),
        on: timeout > 0,
    };
    affinity
}

fn put_frontend<A: Family, M: LbMaps>(
    desired: &Desired<A>,
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
    announce_loss(desired, realised, &key, Some(value.service), writer)?;
    let result = writer.apply(&A::op(FamilyOp::PutFrontend(key, value)));
    if result.is_ok() {
        forget(realised, &key);
    }
    let mut known = Known::new(value, result.is_ok());
    if let Some(earlier) = realised.frontends.remove(&key) {
        let others = earlier.values().filter(|other| **other != value);
        known.others = others.copied().collect();
    }
    realised.frontends.insert(key, known);
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
    let Some(known) = frontends.remove(key) else {
        return;
    };
    for value in known.values() {
        if let Some(port) = by_id.get(&value.service).and_then(|id| ports.get_mut(id)) {
            port.keys.remove(key);
        }
    }
}

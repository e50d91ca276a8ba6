//! The maps as plain collections, with the kernel's limits.

use std::collections::BTreeMap;

use lb_common::{
    Addr, V4, V6,
    service::{Backend, Frontend, FrontendKey, ServiceName},
};
use rustix::io::Errno;

use super::{
    Capacities, Dump, FamilyCapacities, FamilyDump, FamilyOp, LbMaps, Op, ReadError, WriteError,
};

/// Maps in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    dump: Dump,
    capacities: Capacities,
}

impl Memory {
    /// Empty maps of the given sizes.
    pub fn new(capacities: Capacities) -> Self {
        let mut dump = Dump::default();
        dump.v4.slots = vec![0; capacities.v4.slots as usize];
        dump.v6.slots = vec![0; capacities.v6.slots as usize];
        Self { dump, capacities }
    }

    /// What they hold.
    pub fn content(&self) -> &Dump {
        &self.dump
    }

    /// What they hold, to be disturbed behind the owner's back.
    pub fn content_mut(&mut self) -> &mut Dump {
        &mut self.dump
    }
}

impl LbMaps for Memory {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        let Self { dump, capacities } = self;
        let Dump { v4, v6, names } = dump;
        match op {
            Op::V4(family) => apply::<V4>(v4, family, capacities.v4),
            Op::V6(family) => apply::<V6>(v6, family, capacities.v6),
            Op::PutName(id, name) => {
                put::<u32, ServiceName>(names, *id, *name, capacities.services)
            }
            Op::DeleteName(id) => {
                names.remove(id);
                Ok(())
            }
        }
        .map_err(|errno| op.failed(errno.into()))
    }

    fn dump(&self) -> Result<Dump, ReadError> {
        Ok(self.dump.clone())
    }

    fn capacities(&self) -> Capacities {
        self.capacities
    }
}

fn apply<A: Addr>(
    maps: &mut FamilyDump<A>,
    op: &FamilyOp<A>,
    capacity: FamilyCapacities,
) -> Result<(), Errno> {
    match op {
        FamilyOp::PutFrontend(key, value) => {
            put::<FrontendKey<A>, Frontend>(&mut maps.frontends, *key, *value, capacity.frontends)
        }
        FamilyOp::DeleteFrontend(key) => {
            maps.frontends.remove(key);
            Ok(())
        }
        FamilyOp::WriteSlots(offset, backends) => {
            let start = *offset as usize;
            let range = maps.slots.get_mut(start..start + backends.len());
            range.ok_or(Errno::INVAL)?.copy_from_slice(backends);
            Ok(())
        }
        FamilyOp::PutBackend(index, backend) => {
            if *index >= capacity.backends {
                return Err(Errno::INVAL);
            }
            put::<u32, Backend<A>>(&mut maps.backends, *index, *backend, capacity.backends)
        }
        FamilyOp::PutSourceRange(service, network) => {
            let key = (*service, *network);
            let full = maps.source_ranges.len() >= capacity.source_ranges as usize;
            if full && !maps.source_ranges.contains(&key) {
                return Err(Errno::NOSPC);
            }
            maps.source_ranges.insert(key);
            Ok(())
        }
        FamilyOp::DeleteSourceRange(service, network) => {
            maps.source_ranges.remove(&(*service, *network));
            Ok(())
        }
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, capacity: u32) -> Result<(), Errno> {
    if map.len() >= capacity as usize && !map.contains_key(&key) {
        return Err(Errno::TOOBIG);
    }
    map.insert(key, value);
    Ok(())
}

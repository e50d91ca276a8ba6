//! What the agent, the flow table and time do, on both sides.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::Result;
use lb_common::{
    Addr, Port, Tick, V4, V6,
    flow::{Flow, FlowKey},
    service::{Frontend, FrontendKey, backend},
};
use lb_ebpf::Flows as _;
use lb_model::{family::words, flows::HasTable};
use tests::{
    fixture::names,
    kernel::{Endpoint, Typed},
    topology::Family,
};

use crate::{
    twins::{Known, Twins, nanos},
    world::{PROTOCOLS, alive, change_backend},
};

/// What happens beside packets.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A backend goes, or comes back; this number of those there are.
    Backend(Family, usize),
    /// A frontend is withdrawn, by the same count.
    Withdraw(Family, usize),
    /// A frontend passes to the service with this id, and its backends are told.
    PassOn(Family, usize, u32),
    /// All frontends are as they were.
    Restore,
    /// A route changes, says the agent.
    Epoch,
    /// Seconds pass.
    Age,
    /// The table evicts a row.
    Evict(Known),
    /// The pods that all flows lead to are deleted.
    Abandon,
}

impl Twins<'_> {
    /// Has something else happen on both sides.
    pub(crate) fn change(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Backend(family, index) => self.set_backend(*family, *index, false)?,
            Change::Epoch => {
                let mut config = self.kernel.config()?;
                config.epoch += 1;
                self.kernel.configure(config)?;
                self.model.tables.config = Some(config);
            }
            Change::Age => {
                let moment = Tick::from_nanos(nanos() - 3_000_000_000);
                for family in Family::BOTH {
                    self.kernel.family(family).age(moment)?;
                }
                age(&mut self.model.flows.v4.rows, moment);
                age(&mut self.model.flows.v6.rows, moment);
            }
            Change::Withdraw(family, index) => self.change_frontend(*family, *index, None)?,
            Change::PassOn(family, index, service) => {
                self.change_frontend(*family, *index, Some(*service))?;
            }
            Change::Restore => self.restore_frontends()?,
            Change::Evict(known) => {
                self.evict::<V4>(known)?;
                self.evict::<V6>(known)?;
            }
            Change::Abandon => {
                for family in Family::BOTH {
                    self.kernel.family(family).abandon()?;
                }
                self.model.abandon_flows();
            }
        }
        self.list_rows();
        Ok(())
    }

    fn evict<A: Typed + HasTable>(&mut self, known: &Known) -> Result<()> {
        let Known {
            proto,
            direction,
            src,
            dst,
            ..
        } = *known;
        let end = |end: SocketAddr| Some((A::from_ip(end.ip())?, Port::new(end.port())));
        if let (Some(src), Some(dst)) = (end(src), end(dst)) {
            let key = FlowKey::new(direction, proto, src, dst);
            A::remove_row(self.kernel, &key)?;
            self.model.flows.remove(&key);
        }
        Ok(())
    }

    /// Brings a backend back, or has it go if it is there and come back if not.
    pub(crate) fn set_backend(&mut self, family: Family, index: usize, back: bool) -> Result<()> {
        let (name, _) = self.world.backends[index];
        let tables = &self.model.tables;
        let now = match family {
            Family::V4 => tables.v4.backends[index].flags,
            Family::V6 => tables.v6.backends[index].flags,
        };
        let flags = if back || now == 0 { alive(name) } else { 0 };
        if flags == now {
            return Ok(());
        }
        let (rows, index) = (self.kernel.family(family), index as u32);
        match family {
            Family::V4 => change_backend::<V4>(rows, &mut self.model, index, flags),
            Family::V6 => change_backend::<V6>(rows, &mut self.model, index, flags),
        }
    }

    /// Gives a frontend to another service, or to none.
    fn change_frontend(
        &mut self,
        family: Family,
        index: usize,
        service: Option<u32>,
    ) -> Result<()> {
        let (name, port) = self.world.frontends[index];
        let addr = names::address(name, family)?;
        for proto in PROTOCOLS {
            let at = Endpoint { addr, port };
            let Some(old) = self.frontend(family, at, proto) else {
                continue;
            };
            self.changed.push((family, at, proto, old));
            let new = service.map(|service| Frontend { service, ..old });
            self.write_frontend(family, at, proto, new)?;
        }
        if service.is_some() {
            for index in 0..self.world.backends.len() {
                self.flag_backend(family, index, backend::LOST_FRONTEND)?;
            }
        }
        Ok(())
    }

    /// Has all frontends be as they were at first.
    pub(crate) fn restore_frontends(&mut self) -> Result<()> {
        // What was changed twice was at first what it was before the first change.
        while let Some((family, at, proto, old)) = self.changed.pop() {
            self.write_frontend(family, at, proto, Some(old))?;
        }
        Ok(())
    }

    fn frontend(&self, family: Family, at: Endpoint, proto: u8) -> Option<Frontend> {
        let port = Port::new(at.port);
        let tables = &self.model.tables;
        match family {
            Family::V4 => {
                let key = FrontendKey::<V4>::new(words(at.addr), port, proto);
                tables.v4.frontends.get(&key).copied()
            }
            Family::V6 => {
                let key = FrontendKey::<V6>::new(words(at.addr), port, proto);
                tables.v6.frontends.get(&key).copied()
            }
        }
    }

    fn write_frontend(
        &mut self,
        family: Family,
        at: Endpoint,
        proto: u8,
        row: Option<Frontend>,
    ) -> Result<()> {
        self.kernel
            .family(family)
            .frontend(at, proto, row.as_ref())?;
        let tables = &mut self.model.tables;
        match family {
            Family::V4 => put(&mut tables.v4.frontends, at, proto, row),
            Family::V6 => put(&mut tables.v6.frontends, at, proto, row),
        }
        Ok(())
    }

    /// Gives a living backend another flag.
    fn flag_backend(&mut self, family: Family, index: usize, flag: u16) -> Result<()> {
        let backend = match family {
            Family::V4 => {
                let backend = &mut self.model.tables.v4.backends[index];
                if backend.flags != 0 {
                    backend.flags |= flag;
                }
                (backend.flags, backend.generation)
            }
            Family::V6 => {
                let backend = &mut self.model.tables.v6.backends[index];
                if backend.flags != 0 {
                    backend.flags |= flag;
                }
                (backend.flags, backend.generation)
            }
        };
        let (name, port) = self.world.backends[index];
        let addr = names::address(name, family)?;
        let (flags, generation) = backend;
        let rows = self.kernel.family(family);
        rows.backend(index as u32, Endpoint { addr, port }, flags, generation)
    }
}

fn put<A: Addr>(
    frontends: &mut HashMap<FrontendKey<A>, Frontend>,
    at: Endpoint,
    proto: u8,
    row: Option<Frontend>,
) {
    let key = FrontendKey::new(words(at.addr), Port::new(at.port), proto);
    match row {
        Some(row) => drop(frontends.insert(key, row)),
        None => drop(frontends.remove(&key)),
    }
}

fn age<A: Addr>(rows: &mut HashMap<FlowKey<A>, Flow<A>>, moment: Tick) {
    for row in rows.values_mut() {
        row.seen = moment;
        row.hop.resolved = moment;
    }
}

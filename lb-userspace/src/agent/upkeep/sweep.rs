//! What a look at some rows of a flow table comes to.

use std::{collections::HashMap, io};

use lb_common::{
    Addr, Tick,
    flow::{Flow, FlowKey, Half, Stage, end},
};

use super::lifetimes::Lifetimes;
use crate::{
    control::Departed,
    maps::{Family, FlowRows, Slice},
};

/// Backends whose pods are deleted: address, port, protocol and service id, and the last generation.
type Deleted<A> = HashMap<(A, u16, u8, u32), Departed<A>>;

/// What rows are looked at by.
#[derive(Debug)]
pub(super) struct Rules<'r, A> {
    /// How long they may be unused.
    pub(super) lifetimes: &'r Lifetimes,
    /// Whether those of flows that are over go at once: others need the room.
    pub(super) is_scarce: bool,
    /// Whose clients are to be told that nobody is left.
    deleted: Deleted<A>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct Found {
    /// Rows, by the stage their flows are in.
    pub(in crate::agent) rows: [u32; Stage::ALL.len()],
    /// Flows whose rows were removed, by the stage they were in.
    pub(in crate::agent) expired: [u32; Stage::ALL.len()],
    /// Flows whose clients are to be told.
    pub(in crate::agent) abandoned: u32,
}

impl Found {
    /// How many rows there are.
    pub(super) fn rows(&self) -> u32 {
        self.rows.iter().sum()
    }
}

impl<'r, A: Family> Rules<'r, A> {
    pub(super) fn new<'d>(
        lifetimes: &'r Lifetimes,
        is_scarce: bool,
        departed: impl Iterator<Item = &'d Departed<A>>,
    ) -> Self {
        let deleted = departed.filter(|it| it.pod_deleted).map(|it| {
            let key = (it.addr, it.port, it.protocol.number(), it.service);
            (key, *it)
        });
        Self {
            lifetimes,
            is_scarce,
            deleted: deleted.collect(),
        }
    }

    /// Whether there is no hurry.
    pub(super) fn is_patient(&self) -> bool {
        self.deleted.is_empty()
    }

    /// Looks at the rows that follow in a table. Yields whether they were the last ones.
    pub(super) fn look(
        &self,
        table: &mut impl FlowRows<A>,
        now: Tick,
        found: &mut Found,
    ) -> io::Result<bool> {
        let Slice { rows, is_last } = table.slice()?;
        for (key, row) in rows {
            if self.is_expired(&key, &row, now) && self.expire(table, &key, &row, now, found)? {
                continue;
            }
            found.rows[row.stage() as usize] += 1;
            if self.is_deleted(&key, &row) {
                abandon(table, &key, found)?;
            }
        }
        Ok(is_last)
    }

    fn is_expired(&self, key: &FlowKey<A>, row: &Flow<A>, now: Tick) -> bool {
        let stage = row.stage();
        let unused = unused(row, now);
        unused > self.lifetimes.ticks(key.proto, stage)
            || self.is_scarce && stage.is_over() && unused > Tick::PER_SECOND
    }

    /// Removes both rows of a flow, unless one of them has been used. Yields whether this one is gone.
    fn expire(
        &self,
        table: &mut impl FlowRows<A>,
        key: &FlowKey<A>,
        row: &Flow<A>,
        now: Tick,
        found: &mut Found,
    ) -> io::Result<bool> {
        let mate_key = key.mate(row);
        let mate = table
            .row(&mate_key)?
            .filter(|mate| are_mates(key, row, &mate_key, mate));
        if mate.is_some_and(|mate| !self.is_expired(&mate_key, &mate, now)) {
            return Ok(false);
        }
        match table.row(key)? {
            Some(current) if current == *row => {}
            // It has been used since it was read.
            Some(_) => return Ok(false),
            // It went with the other one.
            None => return Ok(true),
        }
        table.remove(key)?;
        if mate.is_some() {
            table.remove(&mate_key)?;
        }
        found.expired[row.stage() as usize] += 1;
        Ok(true)
    }

    /// Whether a row leads requests to a pod that is deleted.
    fn is_deleted(&self, key: &FlowKey<A>, row: &Flow<A>) -> bool {
        if self.deleted.is_empty()
            || row.half() == Half::Reply
            || row.end(Half::Request) & end::ABANDONED != 0
        {
            return false;
        }
        let backend = (row.dst, row.dport.number());
        let departed = self
            .deleted
            .get(&(backend.0, backend.1, key.proto, row.service));
        departed.is_some_and(|it| it.covers(backend, row.service, row.generation))
    }
}

/// Has the client of a flow be told.
fn abandon<A: Family>(
    table: &mut impl FlowRows<A>,
    key: &FlowKey<A>,
    found: &mut Found,
) -> io::Result<()> {
    // As it is by now, for it is replaced as a whole.
    if let Some(mut row) = table.row(key)? {
        row.set_end(Half::Request, row.end(Half::Request) | end::ABANDONED);
        table.replace(key, &row)?;
        found.abandoned += 1;
    }
    Ok(())
}

/// Ticks since a row was used. The programs' clock may be ahead by one.
const fn unused<A: Addr>(row: &Flow<A>, now: Tick) -> u32 {
    let unused = now.since(row.seen);
    if unused > u32::MAX / 2 { 0 } else { unused }
}

/// Whether two rows are of one flow.
fn are_mates<A: Addr>(
    key: &FlowKey<A>,
    row: &Flow<A>,
    mate_key: &FlowKey<A>,
    mate: &Flow<A>,
) -> bool {
    mate.half() != row.half()
        && (mate.backend, mate.generation) == (row.backend, row.generation)
        && mate_key.mate(mate) == *key
}

#[cfg(test)]
mod tests;

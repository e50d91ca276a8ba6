//! Ranges of slots: those that chance draws from, and lists with the tables they share.

use std::time::Instant;

use lb_common::service::Slots;

use super::{ProgramError, Writer};
use crate::{
    control::{
        desired::PortId,
        maglev::TableSize,
        pool::Pool,
        realised::{Form, Range, Realised},
        spread::{Listed, Spread, drawn},
        tables::{TableKey, Tables},
    },
    maps::{Family, FamilyOp, LbMaps, WriteError},
};

/// A range of slots that leads to these backends, written unless it is there: its table first.
pub(super) fn put_list<A: Family, M: LbMaps>(
    realised: &mut Realised<A>,
    id: &PortId,
    spread: Spread,
    list: &[Listed],
    writer: &mut Writer<'_, M>,
) -> Result<Slots, ProgramError> {
    let Realised {
        ports,
        slots: pool,
        tables,
        ..
    } = realised;
    let Some(port) = ports.get_mut(id).filter(|_| !list.is_empty()) else {
        return Ok(Slots::default());
    };
    let (form, content) = match spread {
        Spread::Random => (Form::Drawn, drawn(list)),
        Spread::Maglev(size) => behind_table(list, size, tables, pool)?,
    };
    let ranges = &mut port.ranges;
    let same = |range: &Range| range.form == form && *range.content == *content;
    let at = if let Some(at) = ranges.iter().position(same) {
        at
    } else {
        ranges.push(new_range(form, content, tables, pool)?);
        ranges.len() - 1
    };
    let range = &mut ranges[at];
    if let Form::List(Some(table)) = range.form {
        put_table::<A, M>(table, tables, writer)?;
    }
    if !range.written {
        let write = FamilyOp::WriteSlots(range.slots.offset, range.content.to_vec());
        writer.apply(&A::op(write))?;
        range.written = true;
    }
    Ok(range.slots)
}

/// The content of the list of these backends, whose table there is room for.
fn behind_table(
    list: &[Listed],
    size: TableSize,
    tables: &mut Tables,
    pool: &mut Pool,
) -> Result<(Form, Vec<u32>), ProgramError> {
    let key = TableKey::of(list.iter().map(|listed| listed.share), size);
    let table = tables.obtain(&key, pool);
    let wanted = key.size() as usize;
    let table = table.ok_or_else(|| ProgramError::exhausted(wanted, "slots", pool))?;
    let header = [table, key.size()];
    let content = header.into_iter().chain(list.iter().map(|it| it.index));
    Ok((Form::List(Some(table)), content.collect()))
}

/// A range that is to have this content; its table is held from now on.
fn new_range(
    form: Form,
    content: Vec<u32>,
    tables: &mut Tables,
    pool: &mut Pool,
) -> Result<Range, ProgramError> {
    let slots = pool.allocate(content.len() as u32);
    let slots = slots.ok_or_else(|| ProgramError::exhausted(content.len(), "slots", pool));
    if let Form::List(Some(table)) = form {
        match slots {
            Ok(_) => tables.hold(table),
            Err(_) => tables.discard_unheld(table, pool),
        }
    }
    Ok(Range {
        slots: slots?,
        form,
        content: content.into(),
        written: false,
    })
}

/// Writes a table unless it is there.
fn put_table<A: Family, M: LbMaps>(
    table: u32,
    tables: &mut Tables,
    writer: &mut Writer<'_, M>,
) -> Result<(), WriteError> {
    let Some(table) = tables.get_mut(table).filter(|table| !table.written) else {
        return Ok(());
    };
    let write = FamilyOp::WriteSlots(table.slots.offset, table.content.to_vec());
    writer.apply(&A::op(write))?;
    table.written = true;
    Ok(())
}

/// Gives back a range that no frontend leads to, and its table if no other list has it.
pub(super) fn give_back(range: &Range, tables: &mut Tables, pool: &mut Pool, due: Instant) {
    pool.retire(range.slots, due);
    if let Form::List(Some(table)) = range.form {
        tables.let_go(table, pool, due);
    }
}

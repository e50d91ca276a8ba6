//! The flow tables, as the programs keep them.

use std::io;

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData, MapError},
};
use lb_common::flow::{Flow, FlowKey};

use super::{
    Family, KernelError,
    batch::Walk,
    kernel::{absent_is_gone, io_error, shape},
};
use crate::pins::Pins;

/// Only if there is a row to replace (`BPF_EXIST`).
const EXISTING: u64 = 2;

/// Some of a table's rows.
#[derive(Clone, Debug)]
pub struct Slice<A> {
    /// The rows, in no order.
    pub rows: Vec<(FlowKey<A>, Flow<A>)>,
    /// Whether these are the last ones: the next slice is the first again.
    pub is_last: bool,
}

/// A family's flow table, which programs read and write meanwhile.
pub trait FlowRows<A> {
    /// How many rows fit.
    fn capacity(&self) -> u32;
    /// The rows that follow on those of the last slice. What is written meanwhile may be missing, or
    /// there twice.
    fn slice(&mut self) -> io::Result<Slice<A>>;
    /// A row as it stands.
    fn row(&self, key: &FlowKey<A>) -> io::Result<Option<Flow<A>>>;
    /// Replaces a row, if it is there.
    fn replace(&mut self, key: &FlowKey<A>, row: &Flow<A>) -> io::Result<()>;
    /// Removes a row, if it is there.
    fn remove(&mut self, key: &FlowKey<A>) -> io::Result<()>;
}

/// A pinned one.
#[derive(Debug)]
pub struct FlowTable<A> {
    map: HashMap<MapData, FlowKey<A>, Flow<A>>,
    capacity: u32,
    walk: Walk,
}

impl<A: Family> FlowTable<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    /// Opens the table pinned there.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        let data = pins.open(A::FLOWS)?;
        let failed = |error| shape(A::FLOWS, error);
        let capacity = data.info().map_err(failed)?.max_entries();
        Ok(Self {
            map: HashMap::try_from(Map::LruHashMap(data)).map_err(failed)?,
            capacity,
            walk: Walk::new(),
        })
    }
}

impl<A: Family> FlowRows<A> for FlowTable<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn slice(&mut self) -> io::Result<Slice<A>> {
        let (rows, is_last) = self.walk.next(self.map.map())?;
        Ok(Slice { rows, is_last })
    }

    fn row(&self, key: &FlowKey<A>) -> io::Result<Option<Flow<A>>> {
        match self.map.get(key, 0) {
            Ok(row) => Ok(Some(row)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(io_error(error)),
        }
    }

    fn replace(&mut self, key: &FlowKey<A>, row: &Flow<A>) -> io::Result<()> {
        absent_is_gone(self.map.insert(key, row, EXISTING))
    }

    fn remove(&mut self, key: &FlowKey<A>) -> io::Result<()> {
        absent_is_gone(self.map.remove(key))
    }
}

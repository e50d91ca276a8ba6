//! The flow table as a hash map.

use std::collections::{HashMap, hash_map};

use lb_common::{
    Addr, Port, V4, V6,
    flow::{Flow, FlowKey, Half, Route, Staged},
};
use lb_ebpf::{Entry, Flows, InsertError};

/// Both families' flow tables.
#[derive(Clone)]
pub struct HostFlows {
    /// IPv4's.
    pub v4: Table<V4>,
    /// IPv6's.
    pub v6: Table<V6>,
    /// Rows looked up, found or not.
    pub lookups: u32,
    /// Rows written or removed.
    pub writes: u32,
    /// New rows that are not taken before there are any again.
    pub busy: u32,
    /// Whether the maps are broken.
    pub unstageable: bool,
}

/// One family's.
#[derive(Clone)]
pub struct Table<A> {
    /// The rows that are there.
    pub rows: HashMap<FlowKey<A>, Flow<A>>,
    staged: Staged<A>,
    /// Rows that another CPU writes just before this one writes its next.
    meanwhile: HashMap<FlowKey<A>, Flow<A>>,
    /// Rows that fit. The kernel's table evicts instead; it can be busy all the same.
    pub capacity: usize,
}

impl<A: Addr> Table<A> {
    fn new() -> Self {
        let nobody = (A::default(), Port::default());
        let nothing = Flow::new(Half::Request, Route::Stack, nobody, nobody);
        Self {
            rows: HashMap::new(),
            staged: Staged {
                request: nothing,
                reply: nothing,
            },
            meanwhile: HashMap::new(),
            capacity: usize::MAX,
        }
    }
}

impl HostFlows {
    /// Without rows.
    pub fn new() -> Self {
        Self {
            v4: Table::new(),
            v6: Table::new(),
            lookups: 0,
            writes: 0,
            busy: 0,
            unstageable: false,
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.v4.rows.len() + self.v6.rows.len()
    }

    /// Whether two tables hold the same rows.
    pub fn same_rows(&self, other: &Self) -> bool {
        self.v4.rows == other.v4.rows && self.v6.rows == other.v6.rows
    }

    /// Lets another CPU write the rows of `other` just before the next row is written here.
    pub fn overtaken_by(&mut self, other: &Self) {
        self.v4.meanwhile.clone_from(&other.v4.rows);
        self.v6.meanwhile.clone_from(&other.v6.rows);
    }

    /// Gives both families' tables this size.
    pub fn limit(&mut self, capacity: usize) {
        self.v4.capacity = capacity;
        self.v6.capacity = capacity;
    }
}

/// A family whose table can be picked.
pub trait HasTable: Addr {
    /// The table.
    fn table(flows: &mut HostFlows) -> &mut Table<Self>;
    /// The same, to be looked at.
    fn rows_of(flows: &HostFlows) -> &Table<Self>;
}

impl HasTable for V4 {
    fn table(flows: &mut HostFlows) -> &mut Table<Self> {
        &mut flows.v4
    }

    fn rows_of(flows: &HostFlows) -> &Table<Self> {
        &flows.v4
    }
}

impl HasTable for V6 {
    fn table(flows: &mut HostFlows) -> &mut Table<Self> {
        &mut flows.v6
    }

    fn rows_of(flows: &HostFlows) -> &Table<Self> {
        &flows.v6
    }
}

impl<A: HasTable> Flows<A> for HostFlows {
    fn get(&mut self, key: &FlowKey<A>) -> Option<&mut Flow<A>> {
        self.lookups += 1;
        A::table(self).rows.get_mut(key)
    }

    fn staged(&mut self) -> Option<&mut Staged<A>> {
        (!self.unstageable).then(|| &mut A::table(self).staged)
    }

    fn emptied(&mut self, half: Half) -> Option<&mut Flow<A>> {
        let Staged { request, reply } = self.staged()?;
        let flow = match half {
            Half::Request => request,
            Half::Reply => reply,
        };
        let nowhere = (A::default(), Port::default());
        *flow = Flow::new(Half::Request, Route::Stack, nowhere, nowhere);
        Some(flow)
    }

    fn stage(&mut self, key: &FlowKey<A>) -> Option<()> {
        self.lookups += 1;
        let table = A::table(self);
        table.staged.request = *table.rows.get(key)?;
        Some(())
    }

    fn insert_staged(
        &mut self,
        half: Half,
        key: &FlowKey<A>,
        entry: Entry,
    ) -> Result<(), InsertError> {
        self.writes += 1;
        let busy = self.busy > 0;
        self.busy = self.busy.saturating_sub(1);
        let table = A::table(self);
        table.rows.extend(table.meanwhile.drain());
        let row = match half {
            Half::Request => table.staged.request,
            Half::Reply => table.staged.reply,
        };
        let full = busy || table.rows.len() >= table.capacity;
        match (table.rows.entry(*key), entry) {
            (hash_map::Entry::Occupied(_), Entry::New) => return Err(InsertError::Exists),
            (hash_map::Entry::Occupied(mut old), Entry::Any) => drop(old.insert(row)),
            (hash_map::Entry::Vacant(_), Entry::New | Entry::Any) if full => {
                return Err(InsertError::Busy);
            }
            (hash_map::Entry::Vacant(free), Entry::New | Entry::Any) => drop(free.insert(row)),
        }
        Ok(())
    }

    fn remove(&mut self, key: &FlowKey<A>) {
        self.writes += 1;
        A::table(self).rows.remove(key);
    }
}

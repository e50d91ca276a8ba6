//! Maps whose operations fail on demand.

use std::{collections::VecDeque, io};

use super::{Capacities, Dump, LbMaps, Op, ReadError, WriteError};

/// How one operation fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It succeeds.
    None,
    /// It fails and does nothing.
    Refused,
    /// It is carried out and reported as failed.
    Unacknowledged,
}

/// Other maps, with faults.
#[derive(Clone, Debug)]
pub struct Faulty<M> {
    inner: M,
    faults: VecDeque<Fault>,
}

impl<M> Faulty<M> {
    /// The maps `inner`, without a fault yet.
    pub const fn new(inner: M) -> Self {
        Self {
            inner,
            faults: VecDeque::new(),
        }
    }

    /// Sets how the next operations fare; those after them succeed.
    pub fn inject(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.faults = faults.into_iter().collect();
    }

    /// The maps themselves.
    pub const fn inner(&self) -> &M {
        &self.inner
    }

    /// The maps themselves.
    pub const fn inner_mut(&mut self) -> &mut M {
        &mut self.inner
    }
}

impl<M: LbMaps> LbMaps for Faulty<M> {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        match self.faults.pop_front().unwrap_or(Fault::None) {
            Fault::None => self.inner.apply(op),
            Fault::Refused => Err(op.failed(io::Error::other("injected fault"))),
            Fault::Unacknowledged => {
                self.inner.apply(op)?;
                Err(op.failed(io::Error::other("injected fault after the fact")))
            }
        }
    }

    fn dump(&self) -> Result<Dump, ReadError> {
        self.inner.dump()
    }

    fn capacities(&self) -> Capacities {
        self.inner.capacities()
    }
}

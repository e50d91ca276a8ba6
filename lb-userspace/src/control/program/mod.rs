//! Brings the maps of one family from what they hold to what is desired.
//!
//! All ports that need it go through three steps together, so a reader between any two
//! operations finds each frontend leading to live backends of its own Service, and a frontend
//! that moves from one port to another is never missing:
//!
//! 1. `build`: name, backends, a Maglev table if nobody has it yet, a fresh slot range, then one
//!    write per frontend that differs;
//! 2. `unpublish`: frontends nobody wants are deleted;
//! 3. `release`: what no frontend can lead to any more is taken back: backends lose their
//!    flows at once, indices and slots wait for the grace period.

mod build;
mod loss;
mod ranges;
mod release;

use std::time::Instant;

use super::pool::Pool;
use crate::maps::{LbMaps, Op, WriteError};

pub(super) use build::{build, name};
pub(super) use release::{release, remove_strays, unpublish};

/// Access to the maps while they are programmed.
#[derive(Debug)]
pub(super) struct Writer<'a, M> {
    /// The maps.
    pub(super) maps: &'a mut M,
    /// Service ids.
    pub(super) ids: &'a mut Pool,
    /// When what is given back by now may be used again.
    pub(super) due: Instant,
    /// Operations tried.
    pub(super) operations: usize,
    /// Those that failed.
    pub(super) failures: usize,
}

impl<M: LbMaps> Writer<'_, M> {
    pub(super) fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        self.operations += 1;
        let applied = self.maps.apply(op);
        self.failures += usize::from(applied.is_err());
        applied
    }
}

/// Why a Service port is not as desired.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProgramError {
    /// No index is left.
    #[error("no room for {wanted} more {what}: {used} of {capacity} are taken")]
    Exhausted {
        wanted: u32,
        what: &'static str,
        used: u32,
        capacity: u32,
    },
    /// An operation failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl ProgramError {
    /// Whether all that is wrong is that a map is full.
    pub(super) const fn is_want_of_room(&self) -> bool {
        match self {
            Self::Exhausted { .. } | Self::Write(WriteError::Full { .. }) => true,
            Self::Write(WriteError::Failed { .. }) => false,
        }
    }

    fn exhausted(wanted: usize, what: &'static str, pool: &Pool) -> Self {
        Self::Exhausted {
            wanted: wanted as u32,
            what,
            used: pool.used(),
            capacity: pool.capacity(),
        }
    }
}

//! Programs of tc on the two hooks of an interface: by tcx links, or by filters of the clsact qdisc.
//!
//! Links are pinned, filters have our name: either is found again without being remembered. Where the way
//! changes, the new one is put on before the old one is taken off, for no packet is to go untranslated. One that
//! meets both is translated by the first; to the second it is a packet for no service, as what XDP has
//! translated is to tc.

use std::{
    collections::BTreeSet,
    io,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    pin::PinError,
    programs::{
        ProgramError, TcAttach, TcAttachType,
        links::{FdLink, LinkError, LinkOrder},
        tc::SchedClassifierLink,
    },
};
use thiserror::Error;
use tracing::debug;

use crate::{
    agent::{
        filters::{FilterError, Filters, Hook, Qdiscs},
        links::{self, Place},
        programs::{LoadError, Programs, chain},
    },
    pins::Pins,
    status::TcWay,
};

/// Time between two looks at each filter of ours.
const AUDIT: Duration = Duration::from_secs(60);

/// A program could not be put on an interface.
#[derive(Debug, Error)]
pub(in crate::agent) enum AttachError {
    /// The kernel refused the program.
    #[error("{}", chain(.0))]
    Program(#[from] ProgramError),
    /// The link cannot be used.
    #[error("{}", chain(.0))]
    Link(#[from] LinkError),
    /// The link cannot be pinned.
    #[error("cannot pin the link: {}", chain(.0))]
    Pin(#[from] PinError),
    /// A stale pin cannot be removed.
    #[error("cannot remove a stale pin: {0}")]
    Remove(#[from] io::Error),
    /// A filter cannot be put there.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The object lacks the program.
    #[error(transparent)]
    Object(#[from] LoadError),
}

/// An interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device<'a> {
    /// Its index.
    pub(super) index: u32,
    /// Its name, which pins have.
    pub(super) name: &'a str,
}

/// Puts programs on hooks of tc.
#[derive(Debug)]
pub(super) struct TcHooks {
    pins: Pins,
    way: TcWay,
    filters: Filters,
    qdiscs: Qdiscs,
    /// Where links are used: interfaces that have no filter of ours left.
    swept: BTreeSet<u32>,
    audit: Instant,
}

impl TcHooks {
    /// In the network namespace of this thread.
    pub(super) fn new(pins: Pins, way: TcWay) -> Result<Self, FilterError> {
        Ok(Self {
            pins,
            way,
            filters: Filters::open()?,
            qdiscs: Qdiscs::new(),
            swept: BTreeSet::new(),
            audit: Instant::now() + AUDIT,
        })
    }

    /// Which way is used.
    pub(super) const fn way(&self) -> TcWay {
        self.way
    }

    /// Looks which interfaces have qdiscs. Without it nothing is put or taken off right.
    pub(super) fn look(&mut self) -> Result<(), FilterError> {
        self.qdiscs = self.filters.qdiscs()?;
        Ok(())
    }

    /// Puts a program on a hook, in place of an earlier agent's.
    pub(super) fn put(
        &mut self,
        programs: &mut Programs,
        device: Device<'_>,
        name: &'static str,
        hook: Hook,
    ) -> Result<(), AttachError> {
        match self.way {
            TcWay::Tcx => self.put_link(programs, device, name, hook),
            TcWay::Clsact => self.put_filter(programs, device, name, hook),
        }
    }

    /// Takes a program off a hook, whichever way it is there.
    pub(super) fn remove(
        &mut self,
        device: Device<'_>,
        name: &str,
        hook: Hook,
    ) -> Result<(), AttachError> {
        links::remove(&self.pins.link(name, device.name))?;
        if self.qdiscs.contains_key(&device.index) {
            self.filters.remove(device.index, hook)?;
        }
        Ok(())
    }

    /// Removes filters from all interfaces but those that are to be attached to, and, where links are used,
    /// from those too; with them qdiscs that we made and nobody else uses.
    pub(super) fn sweep(&mut self, wanted: &BTreeSet<u32>) -> Result<(), FilterError> {
        let leftover = |index: &u32| match self.way {
            TcWay::Tcx => !self.swept.contains(index),
            TcWay::Clsact => !wanted.contains(index),
        };
        let leftovers: Vec<u32> = self.qdiscs.keys().copied().filter(leftover).collect();
        for index in leftovers {
            let mut removed = 0;
            for hook in Hook::BOTH {
                removed += self.filters.remove(index, hook)?;
            }
            self.filters.remove_empty_qdisc(index)?;
            if removed > 0 {
                debug!("interface {index}: removed {removed} filters");
            }
            self.swept.insert(index);
        }
        Ok(())
    }

    /// Of these interfaces, those that have lost a filter: anybody may remove one, whereas a link is only its
    /// holder's to remove.
    pub(super) fn lost(
        &mut self,
        attached: impl Iterator<Item = u32>,
        now: Instant,
    ) -> Result<BTreeSet<u32>, FilterError> {
        match self.way {
            TcWay::Tcx => return Ok(BTreeSet::new()),
            TcWay::Clsact => self.look()?,
        }
        let each = self.audit <= now;
        if each {
            self.audit = now + AUDIT;
        }
        let mut lost = BTreeSet::new();
        for index in attached {
            let there = self.qdiscs.contains_key(&index) && (!each || self.are_on(index)?);
            if !there {
                lost.insert(index);
            }
        }
        Ok(lost)
    }

    fn are_on(&mut self, index: u32) -> Result<bool, FilterError> {
        let [ingress, egress] = Hook::BOTH;
        Ok(self.filters.is_on(index, ingress)? && self.filters.is_on(index, egress)?)
    }

    fn put_link(
        &mut self,
        programs: &mut Programs,
        device: Device<'_>,
        name: &'static str,
        hook: Hook,
    ) -> Result<(), AttachError> {
        let path = self.pins.link(name, device.name);
        let program = programs.tc(name)?;
        if let Some(link) = links::open_on(&path, Place::Interface(device.index))? {
            match program.attach_to_link(SchedClassifierLink::try_from(link)?) {
                Ok(id) => return program.take_link(id).map(drop).map_err(Into::into),
                Err(error) => not_swapped(&path, &error),
            }
        }
        links::remove(&path)?;
        let (attach_type, order) = match hook {
            Hook::Ingress => (TcAttachType::Ingress, LinkOrder::first()),
            Hook::Egress => (TcAttachType::Egress, LinkOrder::last()),
        };
        let id = program.attach(device.index, TcAttach::Tcx { attach_type, order })?;
        FdLink::try_from(program.take_link(id)?)?.pin(&path)?;
        Ok(())
    }

    fn put_filter(
        &mut self,
        programs: &mut Programs,
        device: Device<'_>,
        name: &'static str,
        hook: Hook,
    ) -> Result<(), AttachError> {
        let Device { index, .. } = device;
        self.filters.make_qdisc(index, &mut self.qdiscs)?;
        let program = programs.tc(name)?;
        self.filters.put(index, hook, name, program.fd()?.as_fd())?;
        links::remove(&self.pins.link(name, device.name))?;
        Ok(())
    }
}

/// The program that is attached cannot be replaced in place: it is taken off and ours put on.
pub(super) fn not_swapped(path: &Path, error: &ProgramError) {
    debug!("{}: attached afresh: {}", path.display(), chain(error));
}

//! The bits that spare packets for no service the lookup of a frontend.

use std::{collections::BTreeSet, io};

use lb_common::service::{ABSENT_BITS, FrontendKey};

use super::{Family, mmap::MappedArray};

/// Bits in a word that is stored at once.
const WORD: u32 = u32::BITS;

/// `ABSENT` of one family. A bit is cleared before a frontend that has it is programmed, and set
/// after the last such one is gone: programs may look in vain, but never miss a frontend.
#[derive(Debug)]
pub(super) struct Absent<A> {
    map: MappedArray,
    /// The frontends that may be programmed, each behind its bit.
    present: BTreeSet<(u32, FrontendKey<A>)>,
}

impl<A: Family> Absent<A> {
    /// Brings the map into line with the frontends that are programmed.
    pub(super) fn new(
        map: MappedArray,
        frontends: impl IntoIterator<Item = FrontendKey<A>>,
    ) -> io::Result<Self> {
        let frontends = frontends.into_iter();
        let present = frontends.map(|key| (key.absent_bit(), key)).collect();
        let absent = Self { map, present };
        let mut bits = absent.present.iter().map(|(bit, _)| *bit).peekable();
        for first in (0..ABSENT_BITS).step_by(WORD as usize) {
            let mut clear = 0;
            while let Some(bit) = bits.next_if(|bit| *bit < first + WORD) {
                clear |= 1 << (bit % WORD);
            }
            absent.store(first, !clear)?;
        }
        Ok(absent)
    }

    /// A frontend is about to be programmed.
    pub(super) fn before_put(&mut self, key: &FrontendKey<A>) -> io::Result<()> {
        let bit = key.absent_bit();
        self.store(bit, self.load(bit) & !(1 << (bit % WORD)))?;
        self.present.insert((bit, *key));
        Ok(())
    }

    /// A frontend has gone.
    pub(super) fn after_delete(&mut self, key: &FrontendKey<A>) -> io::Result<()> {
        let bit = key.absent_bit();
        let known = self.present.remove(&(bit, *key));
        let mut others = self
            .present
            .range((bit, FrontendKey::whole_address(A::default()))..);
        if known && others.next().is_none_or(|(other, _)| *other != bit) {
            self.store(bit, self.load(bit) | 1 << (bit % WORD))?;
        }
        Ok(())
    }

    /// The map's entries have 64 bits, as a program reads them on a little-endian machine.
    fn store(&self, bit: u32, word: u32) -> io::Result<()> {
        self.map.store(bit / 64, (bit / WORD % 2) as usize, word)
    }

    fn load(&self, bit: u32) -> u32 {
        self.map.load(bit / 64, (bit / WORD % 2) as usize)
    }
}

//! The bits that spare packets for no service the lookup of a frontend.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use lb_common::service::{ABSENT_BITS, FrontendKey};

use super::{Family, mmap::MappedArray};

/// Bits in a word that is stored at once.
const WORD: u32 = u32::BITS;

/// `ABSENT` of one family. A bit is cleared before a frontend that has it is programmed, and set
/// after the last such one is gone: programs may look in vain, but never miss a frontend.
#[derive(Debug)]
pub(super) struct Absent<A> {
    map: MappedArray,
    /// The frontends that may be programmed, by their bit.
    present: HashMap<u32, HashSet<FrontendKey<A>>>,
}

impl<A: Family> Absent<A> {
    /// Brings the map into line with the frontends that are programmed.
    pub(super) fn new(
        map: MappedArray,
        frontends: impl IntoIterator<Item = FrontendKey<A>>,
    ) -> io::Result<Self> {
        let mut present = HashMap::<_, HashSet<_>>::new();
        for key in frontends {
            present.entry(key.absent_bit()).or_default().insert(key);
        }
        let absent = Self { map, present };
        for first in (0..ABSENT_BITS).step_by(WORD as usize) {
            let bits = first..first + WORD;
            let clear = bits
                .filter(|bit| absent.present.contains_key(bit))
                .fold(0, |mask, bit| mask | 1 << (bit % WORD));
            absent.store(first, !clear)?;
        }
        Ok(absent)
    }

    /// A frontend is about to be programmed.
    pub(super) fn before_put(&mut self, key: &FrontendKey<A>) -> io::Result<()> {
        let bit = key.absent_bit();
        self.store(bit, self.load(bit) & !(1 << (bit % WORD)))?;
        self.present.entry(bit).or_default().insert(*key);
        Ok(())
    }

    /// A frontend has gone.
    pub(super) fn after_delete(&mut self, key: &FrontendKey<A>) -> io::Result<()> {
        let bit = key.absent_bit();
        let Some(keys) = self.present.get_mut(&bit) else {
            return Ok(());
        };
        keys.remove(key);
        if keys.is_empty() {
            self.present.remove(&bit);
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

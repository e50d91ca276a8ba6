//! Maglev tables: a table of slots in which each backend has its share, and which differs in little
//! else when a backend comes or goes. Pure: every node makes the same of the same endpoints.
//!
//! As in the paper (Eisenbud et al., NSDI 2016, 3.4), each backend goes through the slots in an
//! order of its own, and the backends take turns. There, one that finds its slot taken goes on to
//! a free one in the same turn. That makes shares equal to a slot, but what one finds taken moves
//! all that the others take after it: where there are a hundred slots to a backend, some 2 % of
//! them change hands without need when one goes. Here such a turn is lost. So a slot is that of
//! the backend that comes to it first, and who else there is makes no difference: none changes
//! hands without need, and shares are equal to within what chance makes of them, a few percent
//! where there are hundreds of slots to a backend.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::spread::Share;

/// How many slots a table has: a prime, so that every stride comes by all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct TableSize(u32);

impl TableSize {
    /// The sizes there are.
    pub const ALL: [u32; 10] = [
        251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071,
    ];

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl Default for TableSize {
    fn default() -> Self {
        Self(16_381)
    }
}

impl TryFrom<u32> for TableSize {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if Self::ALL.contains(&number) {
            return Ok(Self(number));
        }
        let sizes = Self::ALL.map(|size| size.to_string()).join(", ");
        Err(format!("{number} is not one of {sizes}"))
    }
}

impl FromStr for TableSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse::<u32>();
        number
            .map_err(|_| format!("{text:?} is not a number"))?
            .try_into()
    }
}

impl fmt::Display for TableSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number each of whose bits depends on all bits of another (the finaliser of `SplitMix64`).
pub(super) const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// One on its way through the slots. A backend has as many as its weight says, all alike.
struct Walker {
    /// Place of the backend in the list.
    position: u32,
    seed: u64,
    /// The slot it comes to next.
    at: u32,
    /// How far it goes with each step.
    stride: u32,
}

/// Who came to a slot first.
#[derive(Clone, Copy)]
struct Visit {
    round: u32,
    /// Place of the walker in the list.
    walker: usize,
}

/// The table of some backends: for each slot, the position of its backend among them. Costs some ten
/// steps a slot, however many there are.
pub(super) fn table(shares: &[Share], size: TableSize) -> Vec<u32> {
    let TableSize(size) = size;
    let walkers = (0..).zip(shares);
    let walkers = walkers.flat_map(|(position, share)| Walker::each(position, *share, size));
    let mut walkers: Vec<_> = walkers.collect();
    let mut slots: Vec<Option<Visit>> = vec![None; size as usize];
    let mut free = size;
    // In as many rounds as there are slots, each walker comes by all of them.
    for round in 0..size {
        if free == 0 {
            break;
        }
        for walker in 0..walkers.len() {
            let slot = walkers[walker].step(size);
            match &mut slots[slot as usize] {
                empty @ None => {
                    *empty = Some(Visit { round, walker });
                    free -= 1;
                }
                Some(first) => {
                    let meet = first.round == round;
                    if meet && walkers[walker].is_before(&walkers[first.walker], slot) {
                        first.walker = walker;
                    }
                }
            }
        }
    }
    let visits = slots.into_iter().flatten();
    visits.map(|visit| walkers[visit.walker].position).collect()
}

impl Walker {
    /// The walkers of a backend.
    fn each(position: u32, share: Share, size: u32) -> impl Iterator<Item = Self> {
        let Share { weight, seed } = share;
        (0..u64::from(weight.number())).map(move |number| {
            let seed = mix(seed ^ number);
            Self {
                position,
                seed,
                at: seed as u32 % size,
                stride: (seed >> u32::BITS) as u32 % (size - 1) + 1,
            }
        })
    }

    /// Goes on from a slot, which is told.
    const fn step(&mut self, size: u32) -> u32 {
        let slot = self.at;
        self.at = (slot + self.stride) % size;
        slot
    }

    /// Whether it has a slot rather than another that comes there at the same time.
    fn is_before(&self, other: &Self, slot: u32) -> bool {
        let slot = u64::from(slot);
        mix(self.seed ^ slot) < mix(other.seed ^ slot)
    }
}

#[cfg(test)]
mod tests;

//! From the endpoints of a list to its slots: how often each stands there, and where.

use lb_common::{Addr, service::frontend};

use super::{
    maglev::{self, TableSize},
    node::NodeView,
    select::Endpoint,
};
use crate::model::{Algorithm, Service, Weight};

/// How new flows are spread over the endpoints of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// By chance: an endpoint stands in as many slots as its weight says.
    Random,
    /// By the flow's hash, over a table of this size.
    Maglev(TableSize),
}

/// A backend of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Its index in the map.
    pub(super) index: u32,
    /// Its share of new flows, beside those of the others.
    pub(super) weight: Weight,
    /// What stands for the endpoint on every node: made of its address and port.
    pub(super) seed: u64,
}

impl Share {
    /// The share of an endpoint that has this index.
    pub(super) fn new<A: Addr>(endpoint: &Endpoint<A>, weight: Weight, index: u32) -> Self {
        let words = endpoint.addr.words().iter();
        let words = words.map(|word| u64::from(u32::from_be(*word)));
        let seed = words.fold(u64::from(endpoint.port), |seed, word| {
            maglev::mix(seed) ^ word
        });
        Self {
            index,
            weight,
            seed: maglev::mix(seed),
        }
    }
}

impl Spread {
    /// How a Service's flows are spread on a node.
    pub(super) fn of(service: &Service, node: &NodeView) -> Self {
        match service.algorithm.unwrap_or(node.algorithm) {
            Algorithm::Random => Self::Random,
            Algorithm::Maglev => Self::Maglev(node.table_size),
        }
    }

    /// The flag of [`frontend`]s whose slots are made so.
    pub(super) const fn flag(self) -> u32 {
        match self {
            Self::Random => 0,
            Self::Maglev(_) => frontend::HASHED,
        }
    }

    /// The backend index in each slot of a list. One that is alone needs but one slot, whatever is
    /// drawn or hashed.
    pub(super) fn slots(self, shares: &[Share]) -> Vec<u32> {
        match (self, shares) {
            (_, []) => Vec::new(),
            (_, [only]) => vec![only.index],
            (Self::Random, _) => repeated(shares),
            (Self::Maglev(size), _) => maglev::table(shares, size),
        }
    }
}

/// Each index as often as its weight says, in lowest terms.
fn repeated(shares: &[Share]) -> Vec<u32> {
    let weights = shares.iter().map(|share| share.weight.number());
    let common = weights.fold(0, gcd).max(1);
    let times = |share: &Share| usize::from(share.weight.number() / common);
    let slots = shares
        .iter()
        .flat_map(|share| std::iter::repeat_n(share.index, times(share)));
    slots.collect()
}

/// The greatest common divisor (Euclid).
const fn gcd(a: u8, b: u8) -> u8 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(weights: &[u8]) -> Vec<u32> {
        let share = |(index, weight): (usize, &u8)| Share {
            index: index as u32,
            weight: Weight::try_from(*weight).unwrap(),
            seed: index as u64,
        };
        let shares: Vec<_> = weights.iter().enumerate().map(share).collect();
        Spread::Random.slots(&shares)
    }

    #[test]
    fn chance_meets_a_backend_as_often_as_its_weight_says() {
        for (weights, expected) in [
            (&[][..], &[][..]),
            (&[7], &[0]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[3, 1], &[0, 0, 0, 1]),
            (&[100, 50, 25], &[0, 0, 0, 0, 1, 1, 2]),
        ] {
            assert_eq!(slots(weights), expected, "{weights:?}");
        }
    }
}

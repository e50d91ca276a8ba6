//! What share of new flows each backend of a list has, and how often it is drawn.

use lb_common::{Addr, service::frontend};

use super::{
    maglev::{TableSize, mix},
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
pub(super) struct Listed {
    /// Its index in the map.
    pub(super) index: u32,
    /// Its share of new flows.
    pub(super) share: Share,
}

/// An endpoint's share of new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Share {
    /// How large it is, beside those of the others.
    pub(super) weight: Weight,
    /// What stands for the endpoint on every node: made of its address and port.
    pub(super) seed: u64,
}

impl Share {
    /// The share of an endpoint of this weight.
    pub(super) fn new<A: Addr>(endpoint: &Endpoint<A>, weight: Weight) -> Self {
        let words = endpoint.addr.words().iter();
        let words = words.map(|word| u64::from(u32::from_be(*word)));
        let seed = words.fold(u64::from(endpoint.port), |seed, word| mix(seed) ^ word);
        Self {
            weight,
            seed: mix(seed),
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

    /// The flag of [`frontend`]s whose flows are spread so.
    pub(super) const fn flag(self) -> u32 {
        match self {
            Self::Random => 0,
            Self::Maglev(_) => frontend::HASHED,
        }
    }
}

/// The slots that chance draws from: each index as often as its weight says, in lowest terms.
pub(super) fn drawn(list: &[Listed]) -> Vec<u32> {
    let weight = |listed: &Listed| listed.share.weight.number();
    let common = list.iter().map(weight).fold(0, gcd).max(1);
    let times = |listed: &Listed| usize::from(weight(listed) / common);
    let slots = list
        .iter()
        .flat_map(|listed| std::iter::repeat_n(listed.index, times(listed)));
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
        let listed = |(index, weight): (usize, &u8)| Listed {
            index: index as u32,
            share: Share {
                weight: Weight::try_from(*weight).unwrap(),
                seed: index as u64,
            },
        };
        let list: Vec<_> = weights.iter().enumerate().map(listed).collect();
        drawn(&list)
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

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{Addr as _, V4};
use proptest::prelude::*;

use super::*;
use crate::{control::select::Endpoint, model::Weight};

/// The share of an endpoint of this number.
fn share(number: u32, weight: u8) -> Share {
    let [_, high, middle, low] = number.to_be_bytes();
    let addr = V4::from_ip(IpAddr::from([10, high, middle, low])).unwrap();
    let endpoint = Endpoint {
        addr,
        port: 8080,
        local: number.is_multiple_of(2),
    };
    Share::new(&endpoint, Weight::try_from(weight).unwrap())
}

/// The table of backends by number and weight: the number that each slot leads to.
fn led(backends: &[(u32, u8)], size: TableSize) -> Vec<u32> {
    let shares = backends.iter();
    let shares: Vec<_> = shares
        .map(|(number, weight)| share(*number, *weight))
        .collect();
    let positions = table(&shares, size).into_iter();
    positions
        .map(|position| backends[position as usize].0)
        .collect()
}

/// The same of backends in the order of their numbers.
fn made(backends: &BTreeMap<u32, u8>, size: TableSize) -> Vec<u32> {
    let backends = backends.iter();
    let backends: Vec<_> = backends
        .map(|(number, weight)| (*number, *weight))
        .collect();
    led(&backends, size)
}

fn size(number: u32) -> TableSize {
    number.try_into().unwrap()
}

fn counts(table: &[u32]) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for index in table {
        *counts.entry(*index).or_default() += 1;
    }
    counts
}

/// Slots that changed hands, though it was from and to others than the backend that changed.
fn needless(before: &[u32], after: &[u32], changed: u32) -> usize {
    assert_eq!(before.len(), after.len());
    let pairs = before.iter().zip(after);
    pairs
        .filter(|(a, b)| a != b && **a != changed && **b != changed)
        .count()
}

/// Tables of each size, and backends by number and weight.
fn tables() -> impl Strategy<Value = (TableSize, BTreeMap<u32, u8>)> {
    let sizes = proptest::sample::select(&TableSize::ALL[..7]).prop_map(size);
    let backends = proptest::collection::btree_map(1_u32..1 << 20, 1_u8..=100, 2..100);
    (sizes, backends)
}

proptest! {
    /// Every slot that changes hands does so because the backend that had it goes, or because the
    /// one that gets it comes.
    #[test]
    fn no_slot_changes_hands_without_need((size, backends) in tables()) {
        let before = made(&backends, size);
        for changed in [*backends.keys().next().unwrap(), *backends.keys().last().unwrap()] {
            let mut fewer = backends.clone();
            fewer.remove(&changed);
            prop_assert_eq!(needless(&before, &made(&fewer, size), changed), 0);
        }
    }

    /// Of a backend that gets another weight too.
    #[test]
    fn a_weight_that_changes_leaves_the_others_alone(
        (size, mut backends) in tables(), weight in 1_u8..=100,
    ) {
        let before = made(&backends, size);
        let (changed, old) = backends.first_key_value().map(|(n, w)| (*n, *w)).unwrap();
        backends.insert(changed, weight);
        let after = made(&backends, size);
        prop_assert_eq!(needless(&before, &after, changed), 0);
        let had = |table: &[u32]| table.iter().filter(|index| **index == changed).count();
        if weight >= old {
            prop_assert!(had(&after) >= had(&before));
        } else {
            prop_assert!(had(&after) <= had(&before));
        }
    }

    #[test]
    fn shares_are_as_the_weights_say(weights in proptest::collection::vec(1_u8..=100, 2..40)) {
        let size = TableSize::default();
        let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let list: Vec<_> = (1..).zip(weights.iter().copied()).collect();
        let table = led(&list, size);
        prop_assert_eq!(table.len(), size.number() as usize);
        let counts = counts(&table);
        for (weight, number) in weights.iter().zip(1..) {
            let due = f64::from(size.number()) * f64::from(*weight) / all;
            let count = f64::from(counts.get(&number).copied().unwrap_or(0));
            // Six deviations of independent draws: in practice never.
            prop_assert!((count - due).abs() <= 6.0 * due.sqrt() + 1.0, "{count} for {due}");
        }
    }
}

#[test]
fn a_table_is_the_same_wherever_it_is_made() {
    let here = led(&[(1, 1), (2, 1), (3, 1)], size(251));
    // Changed, nodes of two versions would lead one flow to two backends.
    let first = [1, 3, 1, 2, 2, 2, 3, 1, 2, 2, 2, 2, 3, 3, 1, 2];
    assert_eq!(here[..first.len()], first);
    // Endpoints are local to one node, and not to others.
    let local = |local| {
        let addr = V4::from_ip(IpAddr::from([10, 0, 0, 1])).unwrap();
        let (port, weight) = (8080, Weight::ONE);
        Share::new(&Endpoint { addr, port, local }, weight)
    };
    assert_eq!(local(true), local(false));
}

#[test]
fn the_order_of_the_endpoints_makes_no_difference() {
    let mut list: Vec<_> = (1..=7).map(|number| (number, number as u8)).collect();
    let before = led(&list, size(1021));
    list.reverse();
    assert_eq!(led(&list, size(1021)), before);
}

#[test]
fn more_backends_than_slots_fill_the_table_all_the_same() {
    let list: Vec<_> = (1..=1000).map(|number| (number, 100)).collect();
    assert_eq!(led(&list, size(251)).len(), 251);
}

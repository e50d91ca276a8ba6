//! 10,000 random changes, the maps equal to a plain model after every one, and sound between any
//! two operations: in memory, in memory with faults, and in the kernel.

#[cfg(test)]
mod churn;
#[cfg(test)]
mod expected;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod live;
#[cfg(test)]
mod watched;
#[cfg(test)]
mod world;

use churn::{Faults, churn};
use lb_userspace::maps::{Capacities, FamilyCapacities, Memory};

const FAMILY: FamilyCapacities = FamilyCapacities {
    frontends: 512,
    slots: 1024,
    backends: 1024,
    source_ranges: 1024,
};
const CAPACITIES: Capacities = Capacities {
    v4: FAMILY,
    v6: FAMILY,
    services: 1024,
};

#[test]
fn maps_in_memory_follow_10_000_changes() {
    churn(Memory::new(CAPACITIES), 10_000, 1, Faults::None);
}

#[test]
fn maps_in_memory_follow_10_000_changes_through_faults() {
    churn(Memory::new(CAPACITIES), 10_000, 2, Faults::Some);
}

#[test]
fn maps_in_the_kernel_follow_10_000_changes() {
    let pins = kernel::Pinned::create(CAPACITIES);
    churn(pins.open(), 10_000, 3, Faults::None);
}

#[test]
fn maps_in_the_kernel_follow_changes_through_faults() {
    let pins = kernel::Pinned::create(CAPACITIES);
    churn(pins.open(), 1_000, 4, Faults::Some);
}

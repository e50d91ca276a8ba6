//! 10,000 random changes, the maps equal to a plain model after every one, and sound between any
//! two operations: in memory, in memory with faults, and in the kernel.

#[cfg(test)]
mod churn;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod watched;
#[cfg(test)]
mod world;

use churn::{Faults, churn};
use lb_common::{
    Port, V6, proto,
    service::{Frontend, FrontendKey, ServiceName},
};
use lb_userspace::maps::{
    Capacities, Family, FamilyCapacities, FamilyOp, LbMaps, Memory, Network, Op,
};

const FAMILY: FamilyCapacities = FamilyCapacities {
    frontends: 512,
    slots: 1 << 14,
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

#[test]
fn a_dump_of_maps_in_the_kernel_has_every_entry() {
    const MANY: u32 = 10_000;
    let family = FamilyCapacities {
        frontends: MANY,
        source_ranges: MANY,
        ..FAMILY
    };
    let capacities = Capacities {
        v4: family,
        v6: family,
        services: MANY,
    };
    let pins = kernel::Pinned::create(capacities);
    let (mut kernel, mut model) = (pins.open(), Memory::new(capacities));
    assert_eq!(kernel.dump().unwrap(), model.dump().unwrap());
    for number in 0..MANY {
        let addr: V6 = [0, 0, 0, number];
        let key = FrontendKey::new(addr, Port::new(80), proto::TCP);
        let frontend = Frontend {
            service: number,
            ..Frontend::default()
        };
        let network = Network { addr, prefix: 128 };
        let name = ServiceName::new("default", &number.to_string(), "", proto::TCP, 6);
        for op in [
            Op::PutName(number, name),
            V6::op(FamilyOp::PutFrontend(key, frontend)),
            V6::op(FamilyOp::PutSourceRange(number, network)),
        ] {
            kernel.apply(&op).unwrap();
            model.apply(&op).unwrap();
        }
    }
    assert_eq!(kernel.dump().unwrap(), model.dump().unwrap());
}

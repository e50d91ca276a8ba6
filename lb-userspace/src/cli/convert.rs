//! One map value → the same for people. Pure.

use std::ops::Range;

use lb_common::{
    Addr, Port, Tick, config,
    counters::ServiceCounters,
    service::{self, ServiceName, Slots, backend, frontend, text},
};

use super::{
    endpoints::{Lists, Reference},
    snapshot::{BackendRef, Choice, Family, FamilyConfig, HostPort, Service, WithoutBackends},
};
use crate::model::{Algorithm, Protocol};

pub(super) fn host_port<A: Addr>(addr: A, port: Port) -> HostPort {
    HostPort {
        address: addr.to_ip(),
        port: port.number(),
    }
}

/// The name of an IP protocol; `ANY` for the 0 of a whole cluster address.
pub(super) fn protocol(number: u8) -> String {
    match (number, Protocol::from_number(number)) {
        (_, Some(protocol)) => protocol.to_string(),
        (0, None) => "ANY".to_owned(),
        (number, None) => number.to_string(),
    }
}

/// Where clients are led by this range of slots, or, if it is empty, what becomes of them.
pub(super) fn choice(range: Reference, drop: bool, lists: &Lists) -> Choice {
    Choice {
        first_slot: range.slots.offset,
        slot_count: range.slots.count,
        without_backends: if drop {
            WithoutBackends::Drop
        } else {
            WithoutBackends::Reject
        },
        backends: lists.get(&range).cloned().unwrap_or_default(),
    }
}

/// How backends of a frontend with these flags are chosen.
pub(super) const fn algorithm(flags: u32) -> Algorithm {
    if flags & frontend::HASHED == 0 {
        Algorithm::Random
    } else {
        Algorithm::Maglev
    }
}

pub(super) fn family_config<A: Addr>(config: &config::FamilyConfig<A>) -> FamilyConfig {
    let none = A::default();
    let networks: Vec<_> = config
        .cluster_nets
        .iter()
        .filter(|network| network.net != none)
        .map(network)
        .collect();
    FamilyConfig {
        node_address: (config.node != none).then(|| config.node.to_ip()),
        cluster_network: (!networks.is_empty()).then(|| networks.join(",")),
    }
}

fn network<A: Addr>(network: &config::Network<A>) -> String {
    let bits = network.mask.words().iter().map(|word| word.count_ones());
    format!("{}/{}", network.net.to_ip(), bits.sum::<u32>())
}

pub(super) fn backend_ref<A: Addr>(index: u32, entry: Option<service::Backend<A>>) -> BackendRef {
    let flags = entry.map_or(0, |entry| entry.flags);
    BackendRef {
        index,
        at: entry.map(|entry| host_port(entry.addr, entry.port)),
        alive: flags & backend::ALIVE != 0,
        local: flags & backend::LOCAL != 0,
        terminating: flags & backend::TERMINATING != 0,
    }
}

/// The service with this id, nothing counted.
pub(super) fn named(id: u32, name: &ServiceName) -> Service {
    Service {
        namespace: text(&name.namespace).to_owned(),
        name: text(&name.name).to_owned(),
        port: text(&name.port).to_owned(),
        protocol: protocol(name.proto),
        family: if name.family == 6 {
            Family::V6
        } else {
            Family::V4
        },
        id,
        packets: 0,
        bytes: 0,
        flows: 0,
        rejects: 0,
    }
}

/// `service` with the counts of every CPU.
pub(super) fn counted(service: &Service, cpus: &[ServiceCounters]) -> Service {
    let sum = |count: fn(&ServiceCounters) -> u64| cpus.iter().map(count).sum();
    Service {
        packets: sum(|cpu| cpu.packets),
        bytes: sum(|cpu| cpu.bytes),
        flows: sum(|cpu| cpu.flows),
        rejects: sum(|cpu| cpu.rejects),
        ..service.clone()
    }
}

/// The slots of a range that exist.
pub(super) fn range(slots: Slots, capacity: u32) -> Range<u32> {
    slots.offset.min(capacity)..slots.offset.saturating_add(slots.count).min(capacity)
}

/// Whole seconds from `then` to `now`; a moment that lies ahead, by the coarseness of the
/// programs' clock, is now.
pub(super) fn seconds(now: Tick, then: Tick) -> u64 {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    let ticks = now.since(then);
    if ticks > u32::MAX / 2 {
        return 0;
    }
    u64::from(ticks) * Tick::NANOS / NANOS_PER_SECOND
}

/// A MAC address of three words in memory order.
pub(super) fn mac(words: &[u16]) -> String {
    words
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_count_from_the_past_only() {
        let at = |ticks: u64| Tick::from_nanos(ticks * Tick::NANOS);
        assert_eq!(seconds(at(2000), at(1100)), 60);
        assert_eq!(seconds(at(2000), at(2001)), 0);
    }

    #[test]
    fn a_range_ends_where_the_map_ends() {
        let slots = |offset, count| Slots { offset, count };
        assert_eq!(range(slots(2, 3), 100), 2..5);
        assert_eq!(range(slots(98, 3), 100), 98..100);
        assert!(range(slots(u32::MAX, u32::MAX), 100).is_empty());
    }

    #[test]
    fn protocols_have_names_where_there_are() {
        assert_eq!(
            [6, 17, 132, 0, 47].map(protocol),
            ["TCP", "UDP", "SCTP", "ANY", "47"]
        );
    }
}

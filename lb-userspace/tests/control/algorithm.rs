//! How flows are spread, as it changes.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::{
    Addr as _, Port, V4,
    maps::SLOTS4,
    proto,
    service::{Frontend, FrontendKey, frontend, list},
};
use lb_userspace::{
    control::{Controller, Settings},
    maps::{Capacities, FamilyCapacities, LbMaps as _, Memory},
    model::{Algorithm, Change, Weight},
};

use crate::objects::{CAPACITIES, FAMILY, batch, service, slice};

const SIZE: u32 = 251;

fn settings() -> Settings {
    Settings {
        maglev_table_size: SIZE.try_into().unwrap(),
        ..Settings::new("here")
    }
}

fn controller(slots: u32) -> Controller<Memory> {
    let v4 = FamilyCapacities { slots, ..FAMILY };
    Controller::new(Memory::new(Capacities { v4, ..CAPACITIES }), settings())
}

/// A Service spread like this.
fn spread(algorithm: Option<Algorithm>) -> Change {
    let Change::Service(name, Some(mut object)) = service("dns", "10.96.0.1") else {
        panic!("service() makes a Service");
    };
    object.algorithm = algorithm;
    Change::Service(name, Some(object))
}

/// Its slice, with the weights of its endpoints.
fn weighted<const N: usize>(weights: [u8; N]) -> Change {
    let Change::Slice(name, Some(mut object)) = slice("dns", 1..=N as u8) else {
        panic!("slice() makes a slice");
    };
    for (endpoint, weight) in object.endpoints.iter_mut().zip(weights) {
        endpoint.weight = Weight::try_from(weight).unwrap();
    }
    Change::Slice(name, Some(object))
}

/// The frontend, and the endpoint of each slot.
fn slots(controller: &Controller<Memory>) -> (Frontend, Vec<IpAddr>) {
    let maps = &controller.maps().content().v4;
    let addr = V4::from_ip([10, 96, 0, 1].into()).unwrap();
    let key = FrontendKey::new(addr, Port::new(53), proto::UDP);
    let value = maps.frontends[&key];
    let range = |offset: u32, count: u32| &maps.slots[offset as usize..(offset + count) as usize];
    let mut slots = range(value.inside.offset, value.inside.count).to_vec();
    if value.flags & frontend::HASHED != 0 {
        let (backends, table) = (slots.split_off(list::HEADER as usize), slots);
        let positions = range(table[0], table[1]).iter();
        slots = positions
            .map(|position| backends[*position as usize])
            .collect();
    }
    let endpoints = slots.iter().map(|index| maps.backends[index].addr.to_ip());
    (value, endpoints.collect())
}

/// The frontend, and how many slots each of the two endpoints has.
fn found(controller: &Controller<Memory>) -> (Frontend, [usize; 2]) {
    let (value, slots) = slots(controller);
    let count = |host| slots.iter().filter(|it| **it == endpoint(host)).count();
    (value, [count(1), count(2)])
}

fn endpoint(host: u8) -> IpAddr {
    [10, 0, 0, host].into()
}

#[test]
fn q4_a_change_of_algorithm_replaces_flag_and_slots_at_once_and_leaves_the_backends() {
    let now = Instant::now();
    let mut controller = controller(1024);
    controller.apply(batch([spread(None), weighted([1, 1])]), now);
    let (chance, counts) = found(&controller);
    assert_eq!((chance.flags & frontend::HASHED, counts), (0, [1, 1]));
    let backends = controller.maps().content().v4.backends.clone();

    // Table, list and frontend: flows go on, for their backends are as they were.
    let outcome = controller.apply(batch([spread(Some(Algorithm::Maglev))]), now);
    assert_eq!(outcome.operations, 3);
    let (hashed, counts) = found(&controller);
    assert_eq!(hashed.flags, chance.flags | frontend::HASHED);
    assert_eq!(counts.iter().sum::<usize>(), SIZE as usize);
    assert_ne!(hashed.inside.offset, chance.inside.offset);
    assert_eq!(controller.maps().content().v4.backends, backends);

    controller.apply(batch([spread(Some(Algorithm::Random))]), now);
    assert_eq!(found(&controller).0.flags, chance.flags);
    assert_eq!(controller.maps().content().v4.backends, backends);
}

#[test]
fn q2_an_endpoint_that_goes_or_comes_moves_no_slot_but_its_own() {
    let gone = endpoint(3);
    let now = Instant::now();
    let mut controller = controller(1024);
    let all = || batch([spread(Some(Algorithm::Maglev)), weighted([1, 1, 1])]);
    controller.apply(all(), now);
    let (_, before) = slots(&controller);
    controller.apply(batch([weighted([1, 1])]), now);
    let (_, without) = slots(&controller);
    assert!(before.contains(&gone) && !without.contains(&gone));
    let mut moved = before.iter().zip(&without).filter(|(was, is)| was != is);
    assert!(moved.all(|(was, _)| *was == gone));
    controller.apply(all(), now);
    assert_eq!(slots(&controller).1, before);
}

#[test]
fn q3_weights_are_followed() {
    let now = Instant::now();
    let mut controller = controller(2048);
    controller.apply(batch([spread(None), weighted([2, 6])]), now);
    assert_eq!(found(&controller).1, [1, 3]);
    controller.apply(batch([weighted([5, 10])]), now);
    assert_eq!(found(&controller).1, [1, 2]);

    controller.apply(batch([spread(Some(Algorithm::Maglev))]), now);
    let even = found(&controller).1;
    controller.apply(batch([weighted([1, 20])]), now);
    let uneven = found(&controller).1;
    assert!(
        uneven[1] > even[1] && uneven[1] < SIZE as usize,
        "{uneven:?}"
    );
}

#[test]
fn a_new_agent_finds_its_tables_as_it_would_make_them() {
    let now = Instant::now();
    let mut controller = controller(1024);
    let all = || batch([spread(Some(Algorithm::Maglev)), weighted([3, 1])]);
    controller.apply(all(), now);
    let mut next = Controller::new(controller.into_maps(), settings());
    next.adopt().unwrap();
    assert_eq!(next.apply(all(), now).operations, 0);
    assert_eq!(next.audit(now).unwrap().0, 0);
    assert_eq!(next.maps().dump().unwrap().v4.frontends.len(), 2);
}

#[test]
fn q5_where_there_is_no_room_for_table_or_list_what_was_in_force_stays() {
    let now = Instant::now();
    for (slots, problem) in [
        (
            SIZE + 1,
            "Service default/dns (UDP), IPv4: no room for 251 more slots: 2 of 252 are taken",
        ),
        (
            SIZE + 5,
            "Service default/dns (UDP), IPv4: no room for 4 more slots: 253 of 256 are taken",
        ),
    ] {
        let mut controller = controller(slots);
        controller.apply(batch([spread(None), weighted([1, 1])]), now);
        let before = found(&controller).0;
        let maglev = || batch([spread(Some(Algorithm::Maglev))]);
        assert_eq!(controller.apply(maglev(), now).problems, [problem]);
        assert_eq!(found(&controller).0, before);

        // Chosen again, chance needs nothing new; and nothing is left behind.
        let outcome = controller.apply(batch([spread(None)]), now + Duration::from_secs(30));
        assert_eq!((outcome.operations, outcome.problems.len()), (0, 0));
        let usage = controller.usage(now);
        let used = usage.iter().find(|usage| usage.map == SLOTS4);
        assert_eq!(used.map(|usage| usage.used), Some(2));
    }
}

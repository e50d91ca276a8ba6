//! Maglev tables: one for all that have the same endpoints with the same weights.

use std::time::{Duration, Instant};

use lb_common::maps::SLOTS4;
use lb_userspace::{
    control::{Controller, Settings},
    maps::{Capacities, Dump, FamilyCapacities, Fault, Faulty, LbMaps, Memory},
    model::{Algorithm, Batch, Change, Protocol, Weight},
};

use crate::objects::{CAPACITIES, FAMILY, batch, service, slice};

const SIZE: u32 = 251;
/// Slots of the list of two backends.
const LIST: u32 = 2 + 2;

fn maps() -> Memory {
    let v4 = FamilyCapacities {
        slots: 2048,
        ..FAMILY
    };
    Memory::new(Capacities { v4, ..CAPACITIES })
}

fn controller() -> Controller<Memory> {
    Controller::new(maps(), settings())
}

fn settings() -> Settings {
    Settings {
        maglev_table_size: SIZE.try_into().unwrap(),
        algorithm: Algorithm::Maglev,
        ..Settings::new("here")
    }
}

/// A Service of this number, and its slice with two endpoints of these weights.
fn weighted(number: u8, weights: [u8; 2]) -> [Change; 2] {
    let name = format!("s{number}");
    let Change::Slice(slice_name, Some(mut object)) = slice(&name, [1, 2]) else {
        panic!("slice() makes a slice");
    };
    for (endpoint, weight) in object.endpoints.iter_mut().zip(weights) {
        endpoint.weight = Weight::try_from(weight).unwrap();
    }
    let service = service(&name, &format!("10.96.0.{number}"));
    [service, Change::Slice(slice_name, Some(object))]
}

fn even(number: u8) -> [Change; 2] {
    weighted(number, [1, 1])
}

/// Its Service is no more.
fn gone(number: u8) -> Batch {
    let [Change::Service(service, _), Change::Slice(slice, _)] = even(number) else {
        panic!("a Service and its slice");
    };
    batch([Change::Service(service, None), Change::Slice(slice, None)])
}

/// IPv4 slots that are taken.
fn used<M: LbMaps>(controller: &Controller<M>, now: Instant) -> u32 {
    let usage = controller.usage(now);
    let slots = usage.iter().find(|usage| usage.map == SLOTS4);
    slots.unwrap().used
}

#[test]
fn q6_services_with_the_same_endpoints_have_one_table() {
    let now = Instant::now();
    let mut controller = controller();
    controller.apply(batch(even(1)), now);
    assert_eq!(used(&controller, now), SIZE + LIST);
    // The second pays its list: name, two backends, list, two frontends.
    let outcome = controller.apply(batch(even(2)), now);
    assert_eq!(outcome.operations, 6);
    assert_eq!(used(&controller, now), SIZE + 2 * LIST);
    assert_eq!(controller.audit(now).unwrap().0, 0);
}

#[test]
fn q6_the_ports_of_one_number_of_a_service_have_one_table() {
    let now = Instant::now();
    let mut controller = controller();
    let [
        Change::Service(name, Some(mut dns)),
        Change::Slice(slice, Some(mut endpoints)),
    ] = even(1)
    else {
        panic!("a Service and its slice");
    };
    let mut tcp = dns.ports[0].clone();
    tcp.protocol = Protocol::Tcp;
    dns.ports.push(tcp);
    let mut tcp = endpoints.ports[0].clone();
    tcp.protocol = Protocol::Tcp;
    endpoints.ports.push(tcp);
    let both = [
        Change::Service(name, Some(dns)),
        Change::Slice(slice, Some(endpoints)),
    ];
    controller.apply(batch(both), now);
    assert_eq!(used(&controller, now), SIZE + 2 * LIST);
}

#[test]
fn q6_other_weights_have_a_table_of_their_own() {
    let now = Instant::now();
    let mut controller = controller();
    controller.apply(batch(even(1).into_iter().chain(weighted(2, [1, 2]))), now);
    assert_eq!(used(&controller, now), 2 * SIZE + 2 * LIST);
    // What comes to have the same is led by the other's; its own rests, with its list.
    controller.apply(batch(weighted(2, [1, 1])), now);
    let later = now + Duration::from_secs(5);
    assert_eq!(used(&controller, later), SIZE + 2 * LIST);
}

#[test]
fn lone_backends_share_a_table_of_one_slot() {
    let now = Instant::now();
    let mut controller = controller();
    let one = |number: u8| {
        let name = format!("s{number}");
        let service = service(&name, &format!("10.96.0.{number}"));
        [service, slice(&name, [number])]
    };
    controller.apply(batch(one(1).into_iter().chain(one(2))), now);
    assert_eq!(used(&controller, now), 1 + 2 * (2 + 1));
}

#[test]
fn q6_a_table_is_given_back_with_the_last_list_and_rests_like_it() {
    let now = Instant::now();
    let mut controller = controller();
    controller.apply(batch(even(1).into_iter().chain(even(2))), now);
    let table = table_of(controller.maps().content());
    controller.apply(gone(1), now);
    let later = now + Duration::from_secs(5);
    assert_eq!(used(&controller, later), SIZE + LIST);
    assert_eq!(controller.audit(later).unwrap().0, 0);
    assert_eq!(table_of(controller.maps().content()), table);

    controller.apply(gone(2), later);
    assert_eq!(used(&controller, later), SIZE + LIST);
    assert_eq!(used(&controller, later + Duration::from_secs(5)), 0);
}

/// First slot and size of the table of the first list.
fn table_of(dump: &Dump) -> [u32; 2] {
    let mut frontends = dump.v4.frontends.values();
    let frontend = frontends.find(|frontend| frontend.inside.count > 0);
    let list = frontend.unwrap().inside.offset as usize;
    [dump.v4.slots[list], dump.v4.slots[list + 1]]
}

#[test]
fn a_new_agent_takes_over_the_tables_there_are() {
    let now = Instant::now();
    let mut controller = controller();
    let all = || {
        let shared = even(1).into_iter().chain(even(2));
        batch(shared.chain(weighted(3, [1, 2])))
    };
    controller.apply(all(), now);
    let mut next = Controller::new(controller.into_maps(), settings());
    next.adopt().unwrap();
    assert_eq!(used(&next, now), 2 * SIZE + 3 * LIST);
    assert_eq!(next.apply(all(), now).operations, 0);
    // One that comes finds them, and who is the last gives them back.
    next.apply(batch(even(4)), now);
    assert_eq!(used(&next, now), 2 * SIZE + 4 * LIST);
    for number in 1..=4 {
        next.apply(gone(number), now);
    }
    assert_eq!(used(&next, now + Duration::from_secs(5)), 0);
}

#[test]
fn a_table_that_has_drifted_is_repaired_for_all_who_have_it() {
    let now = Instant::now();
    let mut controller = controller();
    controller.apply(batch(even(1).into_iter().chain(even(2))), now);
    let good = controller.maps().content().clone();
    let [first, _] = table_of(&good);
    controller.maps_mut().content_mut().v4.slots[first as usize] ^= 1;
    let (drifted, outcome) = controller.audit(now).unwrap();
    assert_eq!((drifted, outcome.operations), (1, 1));
    assert_eq!(*controller.maps().content(), good);
}

#[test]
fn a_table_that_one_could_not_write_is_written_for_the_next() {
    let now = Instant::now();
    let mut controller = Controller::new(Faulty::new(maps()), settings());
    // Behind name and two backends comes the table.
    let faults = [Fault::None, Fault::None, Fault::None, Fault::Refused];
    controller.maps_mut().inject(faults);
    let outcome = controller.apply(batch(even(1).into_iter().chain(even(2))), now);
    let problem = "Service default/s1 (UDP), IPv4: cannot put SLOTS4[0]: injected fault";
    assert_eq!(outcome.problems, [problem]);
    let led = |controller: &Controller<Faulty<Memory>>| {
        let frontends = controller.maps().inner().content().v4.frontends.values();
        frontends.filter(|value| value.inside.count > 0).count()
    };
    assert_eq!(led(&controller), 1);

    let later = now + Duration::from_millis(100);
    assert!(controller.tick(later).problems.is_empty());
    assert_eq!(
        (led(&controller), controller.audit(later).unwrap().0),
        (2, 0)
    );
    let later = later + Duration::from_secs(5);
    assert_eq!(used(&controller, later), SIZE + 2 * LIST);
}

/// What an earlier agent, or somebody else, left in the maps is believed only if it can be true.
#[test]
fn a_list_whose_table_cannot_be_is_made_anew() {
    let now = Instant::now();
    let breakages: [fn(&mut [u32], usize); 5] = [
        // Beyond the map, too large, empty, the list itself, a table of something else.
        |slots, list| slots[list] = u32::MAX,
        |slots, list| slots[list + 1] = u32::MAX,
        |slots, list| slots[list + 1] = 0,
        |slots, list| slots[list] = list as u32,
        |slots, list| slots[slots[list] as usize] = 77,
    ];
    for (number, break_it) in breakages.into_iter().enumerate() {
        let mut controller = controller();
        let all = || batch(even(1).into_iter().chain(even(2)));
        controller.apply(all(), now);
        let mut maps = controller.into_maps();
        let slots = &mut maps.content_mut().v4.slots;
        let list = slots.windows(2).position(|words| words == [0, SIZE]);
        break_it(slots, list.unwrap());

        let mut next = Controller::new(maps, settings());
        next.adopt().unwrap();
        assert_eq!(next.apply(all(), now).problems, [""; 0], "{number}");
        let later = now + Duration::from_secs(5);
        assert_eq!(next.audit(later).unwrap().0, 0, "{number}");
        assert_eq!(used(&next, later), SIZE + 2 * LIST, "{number}");
    }
}

//! What happens over time.

use std::time::{Duration, Instant};

use insta::assert_snapshot;
use lb_common::{
    Addr, V4,
    service::{Affinity, Frontend, FrontendKey, ServiceName, Slots, backend},
};
use lb_userspace::{
    control::{Controller, Outcome, Settings},
    maps::{Capacities, FamilyCapacities, Memory},
    model::Change,
};

use crate::{
    objects::{CAPACITIES, FAMILY, batch, name, service, slice},
    show::show,
};

fn controller(capacities: Capacities) -> Controller<Memory> {
    Controller::new(Memory::new(capacities), Settings::new("here"))
}

fn shown(controller: &Controller<Memory>) -> String {
    show(controller.maps().content())
}

#[test]
fn a_backend_that_goes_is_dead_at_once_and_its_index_rests() {
    let start = Instant::now();
    let mut controller = controller(CAPACITIES);
    controller.apply(
        batch([service("dns", "10.96.0.1"), slice("dns", [1, 2])]),
        start,
    );
    controller.apply(batch([slice("dns", [2, 3])]), start);
    assert_snapshot!(shown(&controller));
    let later = start + Duration::from_secs(5);
    controller.apply(batch([slice("dns", [2, 4])]), later);
    assert_snapshot!(shown(&controller));
}

#[test]
fn a_cluster_ip_that_changes_hands_within_a_batch_is_never_missing() {
    let now = Instant::now();
    let mut controller = controller(CAPACITIES);
    controller.apply(batch([service("a", "10.96.0.1"), slice("a", [1])]), now);
    let moved = [
        Change::Service(name("a"), None),
        service("b", "10.96.0.1"),
        slice("b", [2]),
    ];
    // Name, backend, slots and the two rows of the address; then the old backend and name go.
    assert_eq!(controller.apply(batch(moved), now).operations, 7);
    assert_snapshot!(shown(&controller));
}

#[test]
fn the_loser_of_an_address_takes_over_when_the_winner_goes() {
    let now = Instant::now();
    let mut controller = controller(CAPACITIES);
    let both = [
        service("a", "10.96.0.1"),
        service("b", "10.96.0.1"),
        slice("b", [1]),
    ];
    let outcome = controller.apply(batch(both), now);
    assert_eq!(
        outcome.problems,
        [
            "Service default/b (UDP): 10.96.0.1 is already taken by Service default/a (UDP)",
            "Service default/b (UDP): 10.96.0.1:53/UDP is already taken by Service default/a (UDP)",
        ]
    );
    let outcome = controller.apply(batch([Change::Service(name("a"), None)]), now);
    assert!(outcome.problems.is_empty());
    assert_snapshot!(shown(&controller));
}

#[test]
fn full_maps_are_a_problem_of_the_newcomer_only_until_there_is_room() {
    let small = |family: FamilyCapacities, services| Capacities {
        v4: family,
        v6: FAMILY,
        services,
    };
    let rows = [
        (
            "frontends",
            small(
                FamilyCapacities {
                    frontends: 3,
                    ..FAMILY
                },
                64,
            ),
            "Service default/b (UDP), IPv4: cannot put FRONTENDS4[10.96.0.2:53/UDP]: the map is full",
        ),
        (
            "slots",
            small(FamilyCapacities { slots: 3, ..FAMILY }, 64),
            "Service default/b (UDP), IPv4: no room for 2 more slots: 2 of 3 are taken",
        ),
        (
            "backends",
            small(
                FamilyCapacities {
                    backends: 4,
                    ..FAMILY
                },
                64,
            ),
            "Service default/b (UDP), IPv4: no room for 1 more backends: 3 of 3 are taken",
        ),
        (
            "services",
            small(FAMILY, 2),
            "Service default/b (UDP), IPv4: no room for 1 more service ids: 1 of 1 are taken",
        ),
    ];
    for (what, capacities, problem) in rows {
        let start = Instant::now();
        let mut controller = controller(capacities);
        controller.apply(
            batch([service("a", "10.96.0.1"), slice("a", [1, 2])]),
            start,
        );
        let before = controller.maps().content().v4.frontends.clone();
        let more = [service("b", "10.96.0.2"), slice("b", [3, 4])];
        let outcome = controller.apply(batch(more), start);
        assert_eq!(outcome.problems, [problem], "{what}");
        let after = &controller.maps().content().v4.frontends;
        let kept = before
            .iter()
            .all(|(key, value)| after.get(key) == Some(value));
        assert!(kept, "{what}: what was in force stays");

        controller.apply(batch([Change::Service(name("a"), None)]), start);
        let outcome = controller.tick(start + Duration::from_secs(30));
        assert_eq!(outcome.problems, [""; 0], "{what}");
        assert_eq!(controller.maps().content().v4.frontends.len(), 2, "{what}");
    }
}

#[test]
fn attempts_at_what_failed_grow_rarer() {
    let start = Instant::now();
    let mut controller = controller(Capacities {
        services: 1,
        ..CAPACITIES
    });
    controller.apply(batch([service("a", "10.96.0.1")]), start);
    assert!(controller.unfinished());
    let mut attempts = 0;
    // An attempt asks for a service id and gets no further: it is counted by its next due time.
    for tenth in 1..=600 {
        let before = format!("{controller:?}");
        controller.tick(start + Duration::from_millis(100 * tenth));
        attempts += usize::from(format!("{controller:?}") != before);
    }
    assert_eq!(
        attempts, 9,
        "after 0.1, 0.3, 0.7, 1.5 … 25.5 and 51.1 seconds"
    );
}

#[test]
fn a_restart_on_a_renamed_node_changes_what_is_local_only() {
    let now = Instant::now();
    let mut first = controller(CAPACITIES);
    let objects = batch([service("a", "10.96.0.1"), slice("a", [1])]);
    first.apply(objects.clone(), now);
    let mut second = Controller::new(first.into_maps(), Settings::new("there"));
    second.adopt().unwrap();
    assert_eq!(
        second.tick(now),
        Outcome::default(),
        "nothing before the first batch"
    );
    second.apply(objects, now);
    assert_snapshot!(shown(&second));
}

#[test]
fn foreign_entries_are_gone_after_the_first_batch() {
    let now = Instant::now();
    let mut first = controller(CAPACITIES);
    let objects = batch([service("a", "10.96.0.1"), slice("a", [1])]);
    first.apply(objects.clone(), now);
    let expected = shown(&first);
    let mut maps = first.into_maps();
    disturb(&mut maps);

    let mut second = Controller::new(maps, Settings::new("here"));
    second.adopt().unwrap();
    second.apply(objects, now);
    assert_eq!(live(&shown(&second)), live(&expected));
}

#[test]
fn an_audit_repairs_what_drifted() {
    let now = Instant::now();
    let mut controller = controller(CAPACITIES);
    controller.apply(batch([service("a", "10.96.0.1"), slice("a", [1])]), now);
    let expected = shown(&controller);
    disturb(controller.maps_mut());
    let dump = controller.maps_mut().content_mut();
    dump.v4.slots.fill(9);
    dump.v4.backends.remove(&1);
    dump.names.remove(&1);
    dump.v4.frontends.retain(|key, _| key.proto == 0);

    let (drifted, outcome) = controller.audit(now).unwrap();
    assert_eq!((drifted, outcome.problems.len()), (7, 0));
    assert_eq!(live(&shown(&controller)), live(&expected));
    assert_eq!(controller.audit(now).unwrap().0, 0);
}

/// Adds a frontend, a backend and a name that are nobody's.
fn disturb(maps: &mut Memory) {
    let dump = maps.content_mut();
    let addr = V4::from_ip([10, 96, 0, 77].into()).unwrap();
    let stray = Frontend {
        service: 50,
        flags: 0,
        inside: Slots {
            offset: 60,
            count: 9,
        },
        outside: Slots {
            offset: 0,
            count: 1,
        },
        affinity: Affinity::NONE,
    };
    dump.v4
        .frontends
        .insert(FrontendKey::whole_address(addr), stray);
    let backend = lb_common::service::Backend {
        addr,
        flags: backend::ALIVE,
        generation: 99,
        ..Default::default()
    };
    dump.v4.backends.insert(7, backend);
    dump.names.insert(51, ServiceName::new("", "", "", 0, 0));
}

/// Without the backends that are dead.
fn live(shown: &str) -> Vec<&str> {
    let dead = |line: &&str| line.starts_with("backend") && !line.contains("alive");
    shown.lines().filter(|line| !dead(line)).collect()
}

//! Flow tables made by hand, looked at.

use std::collections::HashMap;

use lb_common::{Port, V4, flow::Route, proto};

use super::*;
use crate::{agent::upkeep::lifetimes::Lifetimes, model::Protocol};

const CLIENT: (V4, u16) = ([1], 4000);
const SERVICE: (V4, u16) = ([2], 80);
const BACKEND: (V4, u16) = ([3], 8080);

/// A table that is a hash map, of which a look sees everything at once.
#[derive(Default)]
struct Table(HashMap<FlowKey<V4>, Flow<V4>>);

impl FlowRows<V4> for Table {
    fn capacity(&self) -> u32 {
        100
    }
    fn slice(&mut self) -> io::Result<Slice<V4>> {
        Ok(Slice {
            rows: self.0.clone().into_iter().collect(),
            is_last: true,
        })
    }
    fn row(&self, key: &FlowKey<V4>) -> io::Result<Option<Flow<V4>>> {
        Ok(self.0.get(key).copied())
    }
    fn replace(&mut self, key: &FlowKey<V4>, row: &Flow<V4>) -> io::Result<()> {
        self.0.entry(*key).and_modify(|old| *old = *row);
        Ok(())
    }
    fn remove(&mut self, key: &FlowKey<V4>) -> io::Result<()> {
        self.0.remove(key);
        Ok(())
    }
}

fn end_of((addr, port): (V4, u16)) -> (V4, Port) {
    (addr, Port::new(port))
}

fn at(seconds: u64) -> Tick {
    Tick::from_nanos((1_000_000 + seconds) * 1_000_000_000)
}

/// A flow's key, whose rows were used at these times.
fn open(table: &mut Table, proto: u8, ends: (u8, u8), seen: (u64, u64)) -> FlowKey<V4> {
    let (client, service) = (end_of(CLIENT), end_of(SERVICE));
    let key = FlowKey::new(lb_common::flow::Direction::Ingress, proto, client, service);
    let mut request = Flow::new(Half::Request, Route::Stack, client, end_of(BACKEND));
    let mut reply = Flow::new(Half::Reply, Route::Stack, service, client);
    for (row, seen) in [(&mut request, seen.0), (&mut reply, seen.1)] {
        row.set_end(Half::Request, ends.0);
        row.set_end(Half::Reply, ends.1);
        row.seen = at(seen);
        (row.service, row.backend, row.generation) = (5, 6, 7);
    }
    table.0.insert(key.mate(&request), reply);
    table.0.insert(key, request);
    key
}

fn look(table: &mut Table, seconds: u64, is_scarce: bool, departed: &[Departed<V4>]) -> Found {
    let lifetimes = Lifetimes::default();
    let rules = Rules::new(&lifetimes, is_scarce, departed.iter());
    let mut found = Found::default();
    assert!(rules.look(table, at(seconds), &mut found).unwrap());
    found
}

/// How long a flow of each protocol and stage stays unused, in seconds.
#[test]
fn a_flow_goes_when_it_has_not_been_used_for_its_lifetime() {
    const FIN: u8 = end::CLOSED;
    let cases = [
        (proto::TCP, (0, end::AWAITED), Stage::Opening, 120),
        (proto::TCP, (0, 0), Stage::Established, 86_400),
        (proto::TCP, (FIN, 0), Stage::Closing, 3_600),
        (proto::TCP, (FIN, FIN), Stage::Closed, 120),
        (proto::TCP, (0, end::RESET), Stage::Reset, 10),
        (proto::UDP, (0, end::AWAITED), Stage::Opening, 30),
        (proto::UDP, (0, 0), Stage::Established, 120),
        (proto::SCTP, (0, 0), Stage::Established, 210),
    ];
    for (proto, ends, stage, seconds) in cases {
        let mut table = Table::default();
        open(&mut table, proto, ends, (0, 0));
        let found = look(&mut table, seconds, false, &[]);
        assert_eq!(
            (found.rows[stage as usize], found.rows()),
            (2, 2),
            "{proto} {stage:?}"
        );
        let found = look(&mut table, seconds + 2, false, &[]);
        assert_eq!(
            (found.expired[stage as usize], found.rows()),
            (1, 0),
            "{proto} {stage:?}"
        );
        assert!(table.0.is_empty());
    }
}

/// Traffic in one direction stamps one row: it keeps both.
#[test]
fn a_flow_stays_while_one_half_of_it_is_used() {
    for seen in [(0, 100), (100, 0)] {
        let mut table = Table::default();
        open(&mut table, proto::UDP, (0, 0), seen);
        let found = look(&mut table, 150, false, &[]);
        assert_eq!((found.rows(), found.expired), (2, [0; 5]));
        assert_eq!(look(&mut table, 250, false, &[]).rows(), 0);
    }
}

/// A later flow of the same client's, to another backend, is not this row's other half.
#[test]
fn a_row_goes_without_its_flow_if_that_has_begun_anew() {
    let mut table = Table::default();
    let key = open(&mut table, proto::TCP, (end::CLOSED, end::CLOSED), (0, 0));
    let request = table.0.get_mut(&key).unwrap();
    (request.backend, request.seen) = (9, at(200));
    request.set_end(Half::Request, 0);
    let found = look(&mut table, 200, false, &[]);
    assert_eq!(
        (found.rows(), found.expired[Stage::Closed as usize]),
        (1, 1)
    );
    assert!(table.0.contains_key(&key));
}

/// The programs' clock and ours are read one after the other.
#[test]
fn a_row_that_was_used_just_now_is_not_taken_for_an_ancient_one() {
    let mut table = Table::default();
    open(&mut table, proto::UDP, (0, 0), (1, 1));
    assert_eq!(look(&mut table, 0, true, &[]).rows(), 2);
}

#[test]
fn flows_that_are_over_make_room_first() {
    let mut table = Table::default();
    open(&mut table, proto::TCP, (end::CLOSED, end::CLOSED), (0, 0));
    assert_eq!(look(&mut table, 5, false, &[]).rows(), 2);
    assert_eq!(look(&mut table, 5, true, &[]).rows(), 0);
    open(&mut table, proto::TCP, (0, 0), (0, 0));
    assert_eq!(look(&mut table, 5, true, &[]).rows(), 2);
}

#[test]
fn clients_of_a_deleted_pod_are_to_be_told() {
    let gone = Departed {
        protocol: Protocol::Tcp,
        addr: BACKEND.0,
        port: BACKEND.1,
        service: 5,
        backend: 6,
        generation: 7,
        pod_deleted: true,
    };
    let cases = [
        (gone, true),
        (
            Departed {
                pod_deleted: false,
                ..gone
            },
            false,
        ),
        (
            Departed {
                protocol: Protocol::Sctp,
                ..gone
            },
            false,
        ),
        (Departed { service: 4, ..gone }, false),
        (Departed { port: 8081, ..gone }, false),
        // It came back since.
        (
            Departed {
                generation: 6,
                ..gone
            },
            false,
        ),
        (
            Departed {
                generation: 8,
                ..gone
            },
            true,
        ),
    ];
    for (departed, is_told) in cases {
        let mut table = Table::default();
        let key = open(&mut table, proto::TCP, (0, 0), (0, 0));
        let found = look(&mut table, 1, false, &[departed]);
        assert_eq!(found.abandoned, u32::from(is_told), "{departed:?}");
        let told = table.0[&key].end(Half::Request) & end::ABANDONED != 0;
        assert_eq!(told, is_told, "{departed:?}");
        assert_eq!(look(&mut table, 1, false, &[departed]).abandoned, 0, "once");
    }
}

//! A frontend's flows go to its own backends, each as often as its slots say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::{proto, service::frontend};
use lb_ebpf::{Hook, Notice, Side, Verdict};
use proptest::{collection::vec, prelude::*, sample};

use crate::support::{
    OPENING,
    family::{Family, at},
    frame::Frame,
    node::Node,
    wire,
};

/// How many backends there are to choose from, half of them here.
const BACKENDS: u16 = 8;

fn backend(family: Family, number: u16) -> SocketAddr {
    if number.is_multiple_of(2) {
        at(family.local_pod(10 + number), 8000 + number)
    } else {
        at(family.remote_pod(10 + number), 8000 + number)
    }
}

/// What Services mean, told plainly: who may answer clients inside, who those outside.
type Model = BTreeMap<(SocketAddr, u8), [BTreeSet<SocketAddr>; 2]>;

/// One frontend: where, and the backends of either side by number.
#[derive(Clone, Debug)]
struct Wanted {
    family: Family,
    service: u16,
    port: u16,
    proto: u8,
    sides: [Vec<u16>; 2],
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let backends = || vec(0..BACKENDS, 0..6);
    let protocols = sample::select(&[proto::TCP, proto::UDP, proto::SCTP]);
    let families = sample::select(&Family::BOTH);
    (
        families,
        1_u16..4,
        80_u16..82,
        protocols,
        [backends(), backends()],
    )
        .prop_map(|(family, service, port, proto, sides)| Wanted {
            family,
            service,
            port,
            proto,
            sides,
        })
}

/// A node that serves what is wanted, and what is to be expected of it.
fn serve(all: &[Wanted]) -> (Node, Model) {
    let mut node = Node::new();
    for family in Family::BOTH {
        for number in 0..BACKENDS {
            let addr = backend(family, number);
            let index = if number.is_multiple_of(2) {
                node.local(addr)
            } else {
                node.remote(addr)
            };
            assert_eq!(index, u32::from(number));
        }
    }
    let mut model = Model::new();
    for wanted in all {
        let addr = at(wanted.family.service(wanted.service), wanted.port);
        let [inside, outside] = wanted
            .sides
            .each_ref()
            .map(|side| side.iter().map(|it| u32::from(*it)).collect::<Vec<_>>());
        node.serve(addr, wanted.proto, &inside, &outside);
        let sides = wanted
            .sides
            .each_ref()
            .map(|side| side.iter().map(|it| backend(wanted.family, *it)).collect());
        model.insert((addr, wanted.proto), sides);
    }
    (node, model)
}

/// A client that sends the first packet of a flow.
#[derive(Clone, Debug)]
struct Attempt {
    hook: Hook,
    family: Family,
    service: u16,
    port: u16,
    proto: u8,
    client_port: u16,
}

fn attempts() -> impl Strategy<Value = Attempt> {
    let protocols = sample::select(&[proto::TCP, proto::UDP, proto::SCTP]);
    let families = sample::select(&Family::BOTH);
    let hooks = sample::select(&OPENING);
    (hooks, families, 1_u16..4, 80_u16..82, protocols, 1_u16..).prop_map(
        |(hook, family, service, port, proto, client_port)| Attempt {
            hook,
            family,
            service,
            port,
            proto,
            client_port,
        },
    )
}

fn check(node: &mut Node, model: &Model, attempt: &Attempt) {
    let family = attempt.family;
    let client = match attempt.hook.side {
        Side::Inside => family.local_pod(1),
        Side::Outside => family.client(1),
    };
    let service = at(family.service(attempt.service), attempt.port);
    let frame = Frame::first(attempt.proto, at(client, attempt.client_port), service);
    let (verdict, bytes) = node.see(attempt.hook, &frame);
    let expected = model.get(&(service, attempt.proto));
    match expected.map(|[inside, outside]| match attempt.hook.side {
        Side::Inside => inside,
        Side::Outside => outside,
    }) {
        None => assert_eq!(verdict, Verdict::Drop, "no such cluster IP"),
        Some(backends) if backends.is_empty() => {
            assert_eq!(verdict, Verdict::Reject(Notice::NOBODY));
        }
        Some(backends) => {
            let (_, chosen) = wire::addresses(&bytes);
            assert!(backends.contains(&chosen), "{chosen} for {service}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_frontend_reaches_its_own_backends_only(
        wanted in vec(wanted(), 1..8), attempts in vec(attempts(), 1..24),
    ) {
        let (mut node, model) = serve(&wanted);
        for attempt in attempts {
            check(&mut node, &model, &attempt);
        }
    }
}

/// How often each backend is chosen for new flows, through a frontend with these flags.
fn draw(family: Family, slots: &[u32], flags: u32, draws: u16) -> BTreeMap<SocketAddr, u32> {
    let mut node = Node::new();
    for number in 0..100 {
        node.local(at(family.local_pod(number), 8080));
    }
    let service = at(family.service(1), 80);
    node.serve(service, proto::UDP, &[], slots);
    node.flag(service, proto::UDP, flags);
    let mut chosen = BTreeMap::new();
    for port in 1..=draws {
        let frame = Frame::udp(at(family.client(1), port), service);
        let (_, bytes) = node.see(Hook::XDP_EXTERNAL, &frame);
        *chosen.entry(wire::addresses(&bytes).1).or_default() += 1;
    }
    chosen
}

/// Pearson's statistic against what was expected of each.
fn chi_square(observed: &BTreeMap<SocketAddr, u32>, expected: &BTreeMap<SocketAddr, f64>) -> f64 {
    expected
        .iter()
        .map(|(addr, expected)| {
            let observed = observed.get(addr).copied().unwrap_or(0);
            (f64::from(observed) - expected).powi(2) / expected
        })
        .sum()
}

/// The statistic's bound that chance exceeds once in a thousand (Wilson and Hilferty).
fn bound(backends: usize) -> f64 {
    const QUANTILE: f64 = 3.09;
    let freedom = f64::from(backends as u32 - 1);
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + QUANTILE * spread.sqrt()).powi(3)
}

#[test]
fn the_choice_is_uniform_over_the_slots() {
    const DRAWS: u16 = 20_000;
    let services: [Vec<u32>; 4] = [
        vec![0, 1],
        (0..7).collect(),
        (0..100).collect(),
        // A weight is a backend's number of slots.
        vec![0, 0, 0, 1, 2, 2],
    ];
    let families = Family::BOTH.into_iter();
    let kinds = families.flat_map(|family| [(family, 0), (family, frontend::HASHED)]);
    for (slots, (family, flags)) in services
        .iter()
        .flat_map(|slots| kinds.clone().map(move |kind| (slots, kind)))
    {
        let mut expected = BTreeMap::new();
        for index in slots {
            let addr = at(family.local_pod(*index as u16), 8080);
            *expected.entry(addr).or_default() += f64::from(DRAWS) / f64::from(slots.len() as u32);
        }
        let chosen = draw(family, slots, flags, DRAWS);
        assert!(chosen.keys().all(|addr| expected.contains_key(addr)));
        let statistic = chi_square(&chosen, &expected);
        let bound = bound(expected.len());
        assert!(
            statistic < bound,
            "{statistic} of at most {bound}: {chosen:?}"
        );
    }
}

/// Whatever number is drawn, it stands for a slot of the range: the least for the first, the
/// greatest for the last.
#[test]
fn extreme_draws_stay_within_the_slots() {
    for (number, expected) in [(0, 1), (u32::MAX, 3)] {
        let family = Family::V4;
        let mut node = Node::new();
        for number in 0..5 {
            node.local(at(family.local_pod(number), 8080));
        }
        let service = at(family.service(1), 80);
        // Others' slots lie before and behind.
        node.serve(at(family.service(2), 80), proto::UDP, &[], &[0, 0]);
        node.serve(service, proto::UDP, &[], &[1, 2, 3]);
        node.serve(at(family.service(3), 80), proto::UDP, &[], &[4, 4]);
        node.tables.dice.borrow_mut().push_back(number);
        let frame = Frame::udp(at(family.client(1), 4000), service);
        let (_, bytes) = node.see(Hook::XDP_EXTERNAL, &frame);
        assert_eq!(
            wire::addresses(&bytes).1,
            at(family.local_pod(expected), 8080)
        );
    }
}

//! What it costs to begin flows.

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use lb_common::maps::programs;

use super::{
    Family, Row,
    measure::Carrier,
    packet::{Segment, Shape, segment},
    rows::{Case, Load, ROUNDS, Rounds, in_turn, lookup},
    world::{self, Backends, World},
};

/// Flows that are begun in one timing: all rounds together fill the table half.
const NEW_PACKETS: u32 = 8_000;
/// More flows than the table holds.
const OVERFILL: u32 = 400_000;

/// A primitive that a path pays: its target, the packets that make its keys, and how often.
type Price = (&'static str, Shape, f64);

/// Times the first packets of flows, with the table filling and with it full.
pub(super) fn begun(world: &mut World, load: Load, place: Backends) -> Result<Vec<Row>> {
    let Load {
        family,
        services,
        drawn,
    } = load;
    world.clear()?;
    world.serve(family, services, place)?;
    let paths: &[(&str, &str, Carrier, &str)] = match place {
        Backends::Local => &[
            (
                "new local",
                "new local, full",
                Carrier::Xdp,
                programs::XDP_EXTERNAL,
            ),
            (
                "new pod",
                "new pod, full",
                Carrier::Tc,
                programs::TC_POD_INGRESS,
            ),
        ],
        Backends::Remote => &[(
            "new remote",
            "new remote, full",
            Carrier::Xdp,
            programs::XDP_EXTERNAL,
        )],
    };
    let mut rows = Vec::new();
    let mut next = 0;
    for full in [false, true] {
        if full {
            // Filled to the brim by the path itself, and over.
            let target = world.program(programs::XDP_EXTERNAL)?;
            let packet = segment(family, &world::request(family, drawn, true))?;
            world.bench.aim(Carrier::Xdp, &target, &packet)?;
            world.bench.seek(next, u32::MAX)?;
            world.bench.time(Carrier::Xdp, &packet, OVERFILL)?;
            next += OVERFILL;
        }
        for (filling, brimful, carrier, program) in paths {
            let case = Case {
                path: if full { brimful } else { filling },
                carrier: *carrier,
                program,
                family,
                services,
                drawn,
                flows: next,
                shape: world::request(family, drawn, true),
                factor: 1.3,
            };
            rows.push(first(world, &case, place, &mut next)?);
        }
    }
    Ok(rows)
}

/// Times first packets against what they pay: a lookup in vain, a frontend, two rows, and the FIB
/// for a backend elsewhere.
pub(super) fn first(
    world: &mut World,
    case: &Case,
    place: Backends,
    next: &mut u32,
) -> Result<Row> {
    let target = world.program(case.program)?;
    let packet = segment(case.family, &case.shape)?;
    let nop = world.bench.nop(case.carrier)?;
    let xdp_nop = world.bench.nop(Carrier::Xdp)?;
    let v4 = case.family == Family::V4;
    // Ports of their own keep the primitives' keys apart from the path's.
    let other = |port| Shape {
        source: (case.shape.source.0, port),
        ..case.shape
    };
    let mut prices: Vec<Price> = vec![
        (lookup(case.family), other(50_001), 1.0),
        (if v4 { "frontend4" } else { "frontend6" }, case.shape, 1.0),
        (if v4 { "insert4" } else { "insert6" }, other(50_002), 2.0),
    ];
    if place == Backends::Remote {
        let fib = if v4 { "fib4" } else { "fib6" };
        prices.push((fib, world::straight(case.family), 1.0));
    }
    let prices = prices
        .into_iter()
        .map(|(name, shape, times)| {
            let packet = segment(case.family, &shape)?;
            Ok((world.bench.primitive(name)?, packet, times))
        })
        .collect::<Result<Vec<_>>>()?;
    let other = world.other(case.program)?;
    // Two programs share the flows, so that the table is as full as with one.
    let begun = if other.is_some() {
        NEW_PACKETS / 2
    } else {
        NEW_PACKETS
    };
    let (_, before) = world.counted(case.services)?;
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        let mut start = *next;
        *next += NEW_PACKETS;
        let mut run = |carrier, target: &ProgramFd, packet: &Segment, start| {
            world.bench.aim(carrier, target, packet)?;
            world.bench.seek(start, u32::MAX)?;
            world.bench.time(carrier, packet, begun)
        };
        let floor = run(case.carrier, &nop, &packet, start)?;
        let bare = run(Carrier::Xdp, &xdp_nop, &packet, start)?;
        let mut sum = 0.0;
        for (target, packet, times) in &prices {
            sum += (run(Carrier::Xdp, target, packet, start)? - bare) * times;
        }
        let paths = in_turn(round, &target, other.as_ref(), |target| {
            let figure = run(case.carrier, target, &packet, start);
            start += begun;
            figure
        })?;
        rounds.add(floor, paths, sum);
    }
    let (_, after) = world.counted(case.services)?;
    let expected = u64::from(NEW_PACKETS) * ROUNDS as u64;
    // Of flows that begin with the table full or ports taken, one may be refused.
    ensure!(
        (expected - expected / 10_000..=expected).contains(&(after - before)),
        "{}: {} flows were begun, not {expected}",
        case.path,
        after - before
    );
    Ok(rounds.row(case))
}

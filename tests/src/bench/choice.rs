//! What it costs to choose a backend by the flow's hash.

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use lb_common::bench::CHOICES;

use super::{
    Family, Row,
    measure::{Carrier, median},
    packet::segment,
    rows::{Case, PACKETS, ROUNDS, row},
    world::{self, World},
};

/// Nanoseconds that choosing by Maglev may cost more than by chance.
const MORE: f64 = 10.0;

/// Times what tells a Maglev slot from one that is drawn: the number it follows from, against a random
/// one. A share of reading the flow's key, which a packet's path pays anyway, is on top of it.
pub(super) fn hashed(world: &mut World, family: Family) -> Result<Row> {
    let case = Case {
        path: "hash",
        carrier: Carrier::Xdp,
        program: match family {
            Family::V4 => "hash4",
            Family::V6 => "hash6",
        },
        family,
        services: 0,
        drawn: 0,
        flows: 1,
        shape: world::request(family, 1, true),
        factor: 1.0,
    };
    let packet = segment(family, &case.shape)?;
    let targets = ["nop_xdp", case.program, "random"].map(|name| world.bench.primitive(name));
    let [nop, hash, random] = targets;
    let (nop, hash, random) = (nop?, hash?, random?);
    world.bench.aim(case.carrier, &hash, &packet)?;
    let made = world.bench.once(case.carrier, &packet)?.action;
    ensure!(made != 0, "{}: it has not made a number", case.program);
    let (mut gross, mut above_floor, mut price) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut run = |target: &ProgramFd| {
            world.bench.aim(case.carrier, target, &packet)?;
            world.bench.seek(0, 0)?;
            let run = world.bench.time(case.carrier, &packet, PACKETS)?;
            Ok::<_, anyhow::Error>(run / f64::from(CHOICES))
        };
        let (floor, path) = (run(&nop)?, run(&hash)?);
        gross.push(path);
        above_floor.push(path - floor);
        price.push(run(&random)? - floor);
    }
    let price = median(price);
    Ok(Row {
        limit_ns: Some(price + MORE),
        ..row(&case, &gross, &above_floor, price)
    })
}

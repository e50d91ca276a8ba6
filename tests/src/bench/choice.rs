//! What it costs to choose a backend by the flow's hash.

use anyhow::{Result, ensure};
use aya::{
    Pod,
    maps::{Array, HashMap},
    programs::ProgramFd,
};
use lb_common::{
    Addr, V4, V6,
    bench::{CHOICES, LISTED},
    maps::{self, programs},
    service::{Frontend, FrontendKey, Slots, frontend},
};
use lb_model::lists::listed;
use lb_userspace::control::TableSize;

use super::{
    Family, Row,
    begun::first,
    measure::Carrier,
    packet::segment,
    rows::{Case, PACKETS, ROUNDS, Rounds},
    world::{self, Backends, PER_SERVICE, World},
};

/// Nanoseconds that choosing by Maglev may cost more than by chance.
const MORE: f64 = 10.0;

/// Times new flows whose backends follow from their hash: beside "new local" it shows what a list and
/// its table cost.
pub(super) fn begun(world: &mut World, family: Family) -> Result<Row> {
    let case = Case {
        path: "new hashed",
        carrier: Carrier::Xdp,
        program: programs::XDP_EXTERNAL,
        family,
        services: 1,
        drawn: 1,
        flows: 0,
        shape: world::request(family, 1, true),
        factor: 1.3,
    };
    world.clear()?;
    world.serve(family, 1, Backends::Local)?;
    match family {
        Family::V4 => hash::<V4>(world, maps::SLOTS4, maps::FRONTENDS4)?,
        Family::V6 => hash::<V6>(world, maps::SLOTS6, maps::FRONTENDS6)?,
    }
    first(world, &case, Backends::Local, &mut 0)
}

/// Has all frontends lead to a list with a Maglev table.
fn hash<A: Addr>(world: &World, slots: &str, frontends: &str) -> Result<()>
where
    FrontendKey<A>: Pod,
{
    let list = put_list(world, slots)?;
    let mut frontends: HashMap<_, FrontendKey<A>, Frontend> = world::open(&world.pins, frontends)?;
    let rows = frontends.iter().collect::<Result<Vec<_>, _>>()?;
    for (key, row) in rows {
        let row = Frontend {
            flags: row.flags | frontend::HASHED,
            inside: list,
            outside: list,
            ..row
        };
        frontends.insert(&key, &row, 0)?;
    }
    Ok(())
}

/// Writes a list with a Maglev table where the target looks for it.
fn put_list(world: &World, slots: &str) -> Result<Slots> {
    let mut slots: Array<_, u32> = world::open(&world.pins, slots)?;
    let size = TableSize::default().number();
    let table: Vec<_> = (0..size).map(|slot| slot % PER_SERVICE).collect();
    let first = LISTED.offset - size;
    let (words, list) = listed(first, &table);
    ensure!(list == LISTED, "{list:?} is not where it is looked for");
    for (slot, word) in (first..).zip(&words) {
        slots.set(slot, word, 0)?;
    }
    Ok(list)
}

/// Times a choice by Maglev, from a flow's key to the backend's index, against one by chance. A share of
/// reading the key, which a packet's path pays anyway, is on top of it.
pub(super) fn hashed(world: &mut World, family: Family) -> Result<Row> {
    let case = Case {
        path: "choice by hash",
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
    world.clear()?;
    world.serve(family, 1, Backends::Local)?;
    put_list(world, maps::SLOTS4)?;
    let packet = segment(family, &case.shape)?;
    let targets = ["nop_xdp", case.program, "random"].map(|name| world.bench.primitive(name));
    let [nop, hash, random] = targets;
    let (nop, hash, random) = (nop?, hash?, random?);
    world.bench.aim(case.carrier, &hash, &packet)?;
    let made = world.bench.once(case.carrier, &packet)?.action;
    ensure!(made != 0, "{}: it has chosen nothing", case.program);
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let mut run = |target: &ProgramFd| {
            world.bench.aim(case.carrier, target, &packet)?;
            world.bench.seek(0, 0)?;
            let run = world.bench.time(case.carrier, &packet, PACKETS)?;
            Ok::<_, anyhow::Error>(run / f64::from(CHOICES))
        };
        let (floor, path) = (run(&nop)?, run(&hash)?);
        rounds.add(floor, (path, None), run(&random)? - floor);
    }
    let row = rounds.row(&case);
    Ok(Row {
        limit_ns: Some(row.primitives_ns + MORE),
        ..row
    })
}

//! The figures that are taken.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use lb_common::maps::programs;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{
    Extent, Family, Others, Report, Row,
    begun::begun,
    choice, maglev,
    measure::{Carrier, median},
    packet::{Segment, Shape, segment, tuple},
    world::{self, Backends, World},
};
use crate::site::Site;

/// What is programmed, and what traffic goes to.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) family: Family,
    /// Services programmed.
    pub(super) services: u32,
    /// Of these, how many flows are spread over.
    pub(super) drawn: u32,
}

/// Rounds a figure is the median of.
pub(super) const ROUNDS: usize = 11;
/// Packets of an established flow's timing; every flow has its turn at least once.
pub(super) const PACKETS: u32 = 200_000;

/// What 10,000 services may cost more than one.
const SCALE: f64 = 1.15;

/// A path under measurement.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) path: &'static str,
    pub(super) carrier: Carrier,
    pub(super) program: &'static str,
    pub(super) family: Family,
    pub(super) services: u32,
    pub(super) drawn: u32,
    pub(super) flows: u32,
    pub(super) shape: Shape,
    /// How many times its primitives' price it may cost.
    pub(super) factor: f64,
}

/// Where `cargo xtask build-ebpf` puts the objects.
pub fn built_objects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf")
}

/// Measures the objects of a folder; `progress` is called with what is measured next.
///
/// With `against`, the programs of that folder's object run on the same maps, each in the same round as ours: the rows then
/// say what they took ([`Others`]).
pub fn datapath(
    extent: Extent,
    objects: &Path,
    against: Option<&Path>,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Report> {
    let site = Site::new()?;
    let bpffs = site.dir().join("bpf");
    let netns = world::namespace(&site, &bpffs)?;
    // Test runs belong to the namespace, and to the CPU, of the thread that asks for them.
    netns.run(|| {
        pin_to_one_cpu()?;
        measure(extent, &|| World::load(&bpffs, objects, against), progress)
    })?
}

fn pin_to_one_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(rustix::thread::sched_getcpu());
    sched_setaffinity(None, &cpus).context("cannot stay on one CPU")
}

fn measure(
    extent: Extent,
    load: &dyn Fn() -> Result<World>,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Report> {
    let mut rows = Vec::new();
    for family in extent.families() {
        for services in extent.services() {
            // Loaded afresh: rows of a table that has been in use lie scattered in memory, and what
            // is to be compared must not differ in that.
            let mut world = load()?;
            for drawn in extent.drawn(*services) {
                let traffic = Load {
                    family: *family,
                    services: *services,
                    drawn,
                };
                let name = family.name();
                for flows in extent.flows() {
                    progress(&format!(
                        "{name}, {services} services, {flows} flows to {drawn}"
                    ));
                    rows.extend(established(&mut world, traffic, *flows)?);
                }
                for place in [Backends::Local, Backends::Remote] {
                    progress(&format!(
                        "{name}, {services} services, new flows to {drawn}, {place:?} backends"
                    ));
                    rows.extend(begun(&mut world, traffic, place)?);
                }
            }
        }
    }
    let mut world = load()?;
    hold_scale(&mut rows);
    for family in extent.families() {
        progress(&format!("{}, choice by hash", family.name()));
        rows.push(choice::hashed(&mut world, *family)?);
        rows.push(choice::begun(&mut world, *family)?);
    }
    progress("Maglev tables");
    let maglev_tables = maglev::turned()?;
    let floor_ns = floor(&mut world)?;
    let lookup_ns = rows.first().map_or(f64::NAN, |row: &Row| row.primitives_ns);
    Ok(Report {
        floor_ns,
        lookup_ns,
        verified_instructions: world.verified_instructions()?.into_iter().collect(),
        rows,
        maglev_tables,
    })
}

fn floor(world: &mut World) -> Result<f64> {
    let nop = world.bench.nop(Carrier::Xdp)?;
    let packet = segment(Family::V4, &world::request(Family::V4, 1, false))?;
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        world.bench.aim(Carrier::Xdp, &nop, &packet)?;
        figures.push(world.bench.time(Carrier::Xdp, &packet, PACKETS)?);
    }
    Ok(median(figures))
}

/// Packets of live flows, and of none.
fn established(world: &mut World, load: Load, flows: u32) -> Result<Vec<Row>> {
    let Load {
        family,
        services,
        drawn,
    } = load;
    let case = |path, carrier, program, shape, factor| Case {
        path,
        carrier,
        program,
        family,
        services,
        drawn,
        flows,
        shape,
        factor,
    };
    let request = world::request(family, drawn, false);
    let (xdp, tc) = (programs::XDP_EXTERNAL, programs::TC_POD_INGRESS);
    let mut rows = Vec::new();

    world.clear()?;
    world.serve(family, services, Backends::Local)?;
    begin(world, load, flows)?;
    let local = case("local", Carrier::Xdp, xdp, request, 1.5);
    rows.push(live(world, &local, request)?);
    let pod = case("pod", Carrier::Tc, tc, request, 2.0);
    rows.push(live(world, &pod, request)?);
    let none = world::stranger(family);
    let none = case("no service", Carrier::Xdp, xdp, none, 2.2);
    rows.push(live(world, &none, request)?);

    world.clear()?;
    world.serve(family, services, Backends::Remote)?;
    begin(world, load, flows)?;
    let remote = case("remote", Carrier::Xdp, xdp, request, 1.5);
    rows.push(live(world, &remote, request)?);
    world.reply_rows(family, flows)?;
    let reply = world::reply(family);
    let answer = case("reply", Carrier::Xdp, xdp, reply, 1.5);
    rows.push(live(world, &answer, reply)?);
    Ok(rows)
}

/// Opens the flows that are to live, by their first packets.
fn begin(world: &mut World, load: Load, flows: u32) -> Result<()> {
    let Load {
        family,
        services,
        drawn,
    } = load;
    let packet = segment(family, &world::request(family, drawn, true))?;
    let target = world.program(programs::XDP_EXTERNAL)?;
    let (_, before) = world.counted(services)?;
    world.bench.aim(Carrier::Xdp, &target, &packet)?;
    world.bench.seek(u32::MAX, flows - 1)?;
    world.bench.time(Carrier::Xdp, &packet, flows)?;
    let (_, after) = world.counted(services)?;
    ensure!(
        after - before == u64::from(flows),
        "{} flows of {flows} were begun",
        after - before
    );
    Ok(())
}

/// Times a path over live flows, against one lookup of one of `found`.
fn live(world: &mut World, case: &Case, found: Shape) -> Result<Row> {
    let target = world.program(case.program)?;
    let packet = segment(case.family, &case.shape)?;
    let lookup = lookup(case.family);
    let primitive = (
        world.bench.primitive(lookup)?,
        segment(case.family, &found)?,
    );
    let nop = world.bench.nop(case.carrier)?;
    let xdp_nop = world.bench.nop(Carrier::Xdp)?;
    check(world, case, &target, &packet)?;
    let other = world.other(case.program)?;
    if let Some(other) = &other {
        check(world, case, other, &packet)?;
    }
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        let mut run = |carrier, target: &ProgramFd, packet: &Segment| {
            world.bench.aim(carrier, target, packet)?;
            world.bench.seek(0, case.flows - 1)?;
            world.bench.time(carrier, packet, PACKETS)
        };
        let floor = run(case.carrier, &nop, &packet)?;
        let paths = in_turn(round, &target, other.as_ref(), |target| {
            run(case.carrier, target, &packet)
        })?;
        let bare = run(Carrier::Xdp, &xdp_nop, &primitive.1)?;
        let lookup = run(Carrier::Xdp, &primitive.0, &primitive.1)?;
        rounds.add(floor, paths, lookup - bare);
    }
    Ok(rounds.row(case))
}

/// Times a program, and another one in its place if there is one. Who goes first changes from round to round.
pub(super) fn in_turn(
    round: usize,
    target: &ProgramFd,
    other: Option<&ProgramFd>,
    mut time: impl FnMut(&ProgramFd) -> Result<f64>,
) -> Result<(f64, Option<f64>)> {
    let Some(other) = other else {
        return Ok((time(target)?, None));
    };
    if round.is_multiple_of(2) {
        let path = time(target)?;
        Ok((path, Some(time(other)?)))
    } else {
        let other = time(other)?;
        Ok((time(target)?, Some(other)))
    }
}

/// Runs one packet, and a few more, and makes sure that they took the path named.
fn check(world: &mut World, case: &Case, target: &ProgramFd, packet: &Segment) -> Result<()> {
    world.bench.aim(case.carrier, target, packet)?;
    world.bench.seek(u32::MAX, case.flows - 1)?;
    let output = world.bench.once(case.carrier, packet)?;
    let (from, to) = tuple(&output.bytes)?;
    let as_named = match case.path {
        "local" | "pod" => world::is_backend(case.family, Backends::Local, to),
        "remote" => {
            world::is_backend(case.family, Backends::Remote, to)
                && from.0 == world::node(case.family)
        }
        "reply" => from == world::service(case.family, 0, 1),
        _ => (from, to) == (case.shape.source, case.shape.destination),
    };
    ensure!(
        as_named,
        "{}: a packet came out {from:?} to {to:?}, action {}",
        case.path,
        output.action
    );
    let packets = case.flows.max(100);
    let (translated, begun) = world.counted(case.services)?;
    world.bench.time(case.carrier, packet, packets)?;
    let (now_translated, now_begun) = world.counted(case.services)?;
    let expected = if case.path == "no service" {
        0
    } else {
        packets
    };
    ensure!(
        now_translated - translated == u64::from(expected) && now_begun == begun,
        "{}: of {packets} packets {} were translated and {} began a flow",
        case.path,
        now_translated - translated,
        now_begun - begun
    );
    Ok(())
}

pub(super) const fn lookup(family: Family) -> &'static str {
    match family {
        Family::V4 => "lookup4",
        Family::V6 => "lookup6",
    }
}

/// What a path, and what it is held against, took in each round, in nanoseconds per packet.
#[derive(Default)]
pub(super) struct Rounds {
    gross: Vec<f64>,
    /// Net of the floor, as all that follows.
    net: Vec<f64>,
    /// The same path with the program of other objects.
    others: Vec<f64>,
    primitives: Vec<f64>,
}

impl Rounds {
    /// Adds a round: what no program took, what the path and the other objects' took, and its primitives' price.
    pub(super) fn add(&mut self, floor: f64, paths: (f64, Option<f64>), price: f64) {
        let (path, other) = paths;
        self.gross.push(path);
        self.net.push(path - floor);
        self.others.extend(other.map(|other| other - floor));
        self.primitives.push(price);
    }

    pub(super) fn row(&self, case: &Case) -> Row {
        let primitives_ns = median(self.primitives.clone());
        let ratios = self.net.iter().zip(&self.others);
        let ratios: Vec<_> = ratios.map(|(net, other)| net / other).collect();
        Row {
            path: case.path,
            hook: match case.carrier {
                Carrier::Xdp => "xdp",
                Carrier::Tc => "tc",
            },
            family: case.family.name(),
            services: case.services,
            drawn: case.drawn,
            flows: case.flows,
            ns: median(self.gross.clone()),
            net_ns: median(self.net.clone()),
            min_ns: self.net.iter().copied().fold(f64::INFINITY, f64::min),
            primitives_ns,
            others: (!ratios.is_empty()).then(|| Others {
                net_ns: median(self.others.clone()),
                ratio: median(ratios),
            }),
            // What is asked is asked of IPv4.
            limit_ns: (case.family == Family::V4).then_some(primitives_ns * case.factor),
        }
    }
}

/// Lowers the limits of the rows with most services, of which one is in use, to what the same path
/// costs with one alone. The bare primitive, timed in the same rounds, tells how much slower or
/// faster the memory was that the rows then lay in. (With all services in use, the primitives too
/// are measured over all.)
fn hold_scale(rows: &mut [Row]) {
    let alone: Vec<Row> = rows
        .iter()
        .filter(|row| row.services == 1)
        .cloned()
        .collect();
    for row in rows
        .iter_mut()
        .filter(|row| (row.services, row.drawn) == (10_000, 1))
    {
        let same = |one: &&Row| {
            (one.path, one.family) == (row.path, row.family)
                && (one.flows == row.flows || one.path.starts_with("new"))
        };
        if let (Some(one), Some(limit)) = (alone.iter().find(same), row.limit_ns.as_mut()) {
            let memory = row.primitives_ns / one.primitives_ns;
            *limit = limit.min(one.net_ns * memory * SCALE);
        }
    }
}

//! Services that change at random while clients talk.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{
    agent::metrics,
    checks::Check,
    cluster::{NODES, eventually},
    random::{self, Random},
};

use crate::{
    draw::{Draw, Pod},
    setup::PODS,
    traffic::{Manner, Traffic},
    world::{SOON, World},
    writes::Change,
};

/// The variable that has a run repeated: the same seed has the same changes follow.
const SEED: &str = "FAIRLEAD_SEED";
/// Most milliseconds between two steps.
const PAUSE: usize = 200;
/// How often all frontends are compared, instead of those that changed.
const COMPARED: Duration = Duration::from_secs(5);
/// How often people are told how it goes.
const TOLD: Duration = Duration::from_secs(10);

/// Metrics, and what they are to be at the end: the API server's own Service is always there.
const LEFT: [(&str, f64); 11] = [
    ("fairlead_map_entries{map=\"FRONTENDS4\"}", 2.0),
    ("fairlead_map_entries{map=\"FRONTENDS6\"}", 0.0),
    ("fairlead_map_entries{map=\"SLOTS4\"}", 1.0),
    ("fairlead_map_entries{map=\"SLOTS6\"}", 0.0),
    ("fairlead_map_entries{map=\"BACKENDS4\"}", 1.0),
    ("fairlead_map_entries{map=\"BACKENDS6\"}", 0.0),
    ("fairlead_map_entries{map=\"SERVICE_NAMES\"}", 1.0),
    ("fairlead_map_entries{map=\"SOURCE_RANGES4\"}", 0.0),
    ("fairlead_map_entries{map=\"SOURCE_RANGES6\"}", 0.0),
    ("fairlead_map_operation_failures_total", 0.0),
    ("fairlead_audit_repaired_entries_total", 0.0),
];

pub(crate) fn checks(length: Duration) -> Vec<Check<World>> {
    vec![Check::new("endurance::random_change", move |world| {
        let seed = match env::var(SEED) {
            Ok(seed) => seed.parse().with_context(|| format!("{SEED} is {seed}"))?,
            Err(_) => random::seed(),
        };
        println!("random change for {length:?}, seed {seed} ({SEED}={seed} repeats it)");
        random_change(world, length, seed).with_context(|| format!("with seed {seed}"))
    })]
}

fn random_change(world: &mut World, length: Duration, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let clients = world.clients(&mut random)?;
    let pods = PODS.map(|(pod, node)| anyhow::Ok((world.cluster.addresses(pod)?, node)));
    let pods: Result<Vec<_>> = pods.into_iter().collect();
    let pods = pods?.into_iter();
    let mut draw = Draw {
        random,
        pods: pods
            .map(|(addresses, node)| Pod { addresses, node })
            .collect(),
    };
    let mut run = Run::new();
    run.step(world, draw.all(&world.stock))?;
    run.tell(world);
    let traffic = Traffic::start(&world.shared, clients, Manner::Restless)?;
    while run.began.elapsed() < length {
        run.step(world, draw.step(&world.stock))?;
        thread::sleep(Duration::from_millis(draw.random.below(PAUSE) as u64));
    }
    run.tell(world);
    world.clear()?;
    // Connections to what is gone have their backends still.
    let kept = traffic.finish()?;
    println!("  all Services are gone, {kept} flows went on to the end");
    nothing_left(world)
}

/// How it goes.
struct Run {
    began: Instant,
    told: Instant,
    compared: Instant,
    steps: usize,
    changes: usize,
    /// How long the slowest step took to be in force.
    slowest: Duration,
}

impl Run {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            told: now,
            compared: now,
            steps: 0,
            changes: 0,
            slowest: Duration::ZERO,
        }
    }

    fn step(&mut self, world: &mut World, changes: Vec<Change>) -> Result<()> {
        self.steps += 1;
        self.changes += changes.len();
        self.slowest = self.slowest.max(world.step(changes)?);
        world.shared.check()?;
        if self.compared.elapsed() > COMPARED {
            world.compare()?;
            self.compared = Instant::now();
        }
        if self.told.elapsed() > TOLD {
            self.tell(world);
        }
        Ok(())
    }

    fn tell(&mut self, world: &World) {
        self.told = Instant::now();
        println!(
            "  {:.0?}: {} changes in {} steps, each in force within {:.0?}; {}",
            self.began.elapsed(),
            self.changes,
            self.steps,
            self.slowest,
            world.shared
        );
    }
}

/// Nothing of it is in the maps of either node, and nothing is wrong.
fn nothing_left(world: &World) -> Result<()> {
    world.nothing_else()?;
    world.no_problems()?;
    for node in NODES {
        let host = world.cluster.topology.node(node)?;
        // What is given back rests before it is free.
        eventually(SOON, || {
            let metrics = metrics(host)?;
            for (name, count) in LEFT {
                let found = metrics.get(name).copied();
                ensure!(found == Some(count), "{node}: {name} is {found:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

//! Every fixture of `tests/fixtures`, on the real programs in the kernel.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, ensure};
use tests::{
    checks::{Check, Checks},
    fixture::{
        Rigour,
        case::{self, Case, Event, Hook, Way},
        stage::Stage,
    },
    topology::Family,
};

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    let mut list = fixtures().unwrap_or_else(|error| {
        let message = format!("{error:#}");
        vec![Check::new("fixtures are read", move |_: &mut Stage| {
            anyhow::bail!("{message}")
        })]
    });
    list.extend(spreads());
    checks.group(list, Stage::build, |_| String::new());
    checks.finish()
}

fn fixtures() -> Result<Vec<Check<Stage>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut files: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let mut checks = Vec::new();
    for path in files {
        let topic = path.file_stem().unwrap_or_default().to_string_lossy();
        let cases = case::read(&path)?;
        for (rigour, name) in [(Rigour::Whole, "whole"), (Rigour::Truncated, "truncated")] {
            for case in &cases {
                checks.extend(plays(&format!("{name}::{topic}"), case, rigour));
            }
        }
    }
    Ok(checks)
}

/// A case in each family, by each way.
fn plays(prefix: &str, case: &Case, rigour: Rigour) -> Vec<Check<Stage>> {
    let mut checks = Vec::new();
    for family in case.families.clone() {
        for &way in ways(case) {
            let name = case.name.replace(' ', "_");
            let name = format!("{prefix}::{name}::{family:?}::{way:?}").to_lowercase();
            let case = case.clone();
            checks.push(Check::new(name, move |stage: &mut Stage| {
                stage.play(&case, family, way, rigour)
            }));
        }
    }
    checks
}

/// The ways of a case that make a difference to it.
fn ways(case: &Case) -> &[Way] {
    let differs = case.events.iter().any(|(_, event)| match event {
        Event::Packet(step) => step.hook == Hook::Enters(None),
        Event::Service(_)
        | Event::Snat(..)
        | Event::NoNode
        | Event::Pods(_)
        | Event::MasqueradeAll
        | Event::Epoch
        | Event::Reroute(_)
        | Event::Age
        | Event::Abandon
        | Event::Evict(_)
        | Event::Rows(_)
        | Event::Counts(..) => false,
    });
    if differs { &case.ways } else { &case.ways[..1] }
}

/// New flows spread evenly over the backends, by Pearson's chi-square test.
fn spreads() -> Vec<Check<Stage>> {
    const BACKENDS: u16 = 10;
    const FLOWS: u16 = 20_000;
    // Nine degrees of freedom: even choices go past this once in a million runs.
    const LIMIT: f64 = 45.0;
    let ways = [Way::Xdp, Way::Tc].into_iter();
    let kinds = ways.flat_map(|way| Family::BOTH.map(|family| (way, family)));
    let kinds = kinds.flat_map(|(way, family)| [false, true].map(|hashed| (way, family, hashed)));
    let check = |(way, family, hashed)| {
        let kind = if hashed { "hashed" } else { "new" };
        let name = format!("{kind}_flows_spread_evenly::{family:?}::{way:?}").to_lowercase();
        Check::new(name, move |stage: &mut Stage| {
            let counts = stage.spread(family, way, BACKENDS, FLOWS, hashed)?;
            let expected = f64::from(FLOWS) / f64::from(BACKENDS);
            let terms = counts.iter().map(|count| f64::from(*count) - expected);
            let chi_square: f64 = terms.map(|off| off * off / expected).sum();
            ensure!(chi_square < LIMIT, "chi-square is {chi_square}: {counts:?}");
            Ok(())
        })
    };
    kinds.map(check).collect()
}

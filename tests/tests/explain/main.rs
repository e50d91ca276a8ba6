//! `lbctl explain` on the real programs in the kernel.

mod dump;
mod packet;
mod world;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    checks::{Check, Checks},
    topology::Family,
};

use world::World;

/// What is asked, `--to` last; `node` and other names stand for addresses.
const SITUATIONS: [(&str, &[&str]); 22] = [
    ("a pod asks a cluster IP", &["pod", "web:80"]),
    ("a client asks a cluster IP", &["client", "web:80"]),
    ("a client asks a node port", &["client", "node:30080"]),
    (
        "the node port keeps to this node, which has no backend",
        &["client", "node:30081"],
    ),
    ("nobody is there", &["pod", "web:81"]),
    ("a wrong port", &["pod", "web:9"]),
    ("another protocol", &["pod", "web:80", "--proto", "udp"]),
    ("a cluster IP nobody has", &["pod", "free:80"]),
    ("an address of no service", &["pod", "remote:80"]),
    ("outside the source range", &["client", "balancer:443"]),
    ("inside the source range", &["other", "balancer:443"]),
    ("a remote backend", &["client", "node:30082"]),
    (
        "a remote backend, and a port that may be kept",
        &["client:61500", "node:30082"],
    ),
    ("a backend without a route", &["client", "node:30083"]),
    ("a pod that asks itself", &["pod%pod0", "web:83"]),
    (
        "one backend of a datagram",
        &["pod", "web:53", "--proto", "udp"],
    ),
    ("an association", &["pod", "web:9899", "--proto", "sctp"]),
    ("a process of the node", &["node", "web:80"]),
    (
        "a process of the node, and nobody is there",
        &["node", "web:81"],
    ),
    (
        "a process of the node, and a cluster IP nobody has",
        &["node", "free:80", "--hook", "host"],
    ),
    (
        "a hook and an interface that are named",
        &["remote%eth1", "web:80", "--hook", "external"],
    ),
    (
        "another side than the route says",
        &["client", "node:30081", "--hook", "pod"],
    ),
];

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    let list = vec![
        Check::new(
            "every_situation_is_answered_and_nothing_changes",
            every_situation_is_answered_and_nothing_changes,
        ),
        Check::new("people_are_told_the_same", people_are_told_the_same),
        Check::new(
            "what_cannot_be_answered_is_one_line",
            what_cannot_be_answered_is_one_line,
        ),
        Check::new(
            "a_client_that_is_remembered_is_told_its_backend",
            a_client_that_is_remembered_is_told_its_backend,
        ),
        Check::new(
            "a_hashed_flow_is_told_its_backend",
            a_hashed_flow_is_told_its_backend,
        ),
        Check::new(
            "a_flow_is_found_by_its_whole_tuple",
            a_flow_is_found_by_its_whole_tuple,
        ),
        Check::new("what_is_said_is_what_happens", what_is_said_is_what_happens),
    ];
    checks.group(list, World::new, |_| String::new());
    checks.finish()
}

fn every_situation_is_answered_and_nothing_changes(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        let mut answers = String::new();
        for (name, args) in SITUATIONS {
            let before = dump::every_map(world.pins())?;
            let answer = world.explain(family, args)?;
            ensure!(
                before == dump::every_map(world.pins())?,
                "{name}: maps have changed"
            );
            writeln!(answers, "# {name}: {}\n{answer}", args.join(" "))?;
        }
        insta::assert_snapshot!(format!("answers_{family:?}").to_lowercase(), answers);
    }
    Ok(())
}

fn what_is_said_is_what_happens(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        for (name, args) in SITUATIONS {
            let answer: Value = serde_json::from_str(&world.explain(family, args)?)?;
            if answer["seen"]["hook"] != "host" {
                world
                    .compare(&answer)
                    .with_context(|| format!("{family:?}: {name}: {answer}"))?;
            }
        }
    }
    Ok(())
}

fn a_client_that_is_remembered_is_told_its_backend(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        let args = ["client", "node:30084"];
        let answer = world.answer(family, &args)?;
        ensure!(answer["choice"] == "random", "{answer}");
        let led = world.send(&answer)?;
        for _ in 0..20 {
            let answer = world.answer(family, &args)?;
            ensure!(answer["choice"] == "affinity", "{answer}");
            let backend = answer["backend"]["address"].as_str();
            ensure!(backend == Some(&led), "{answer} instead of {led}");
            ensure!(
                answer["candidates"].as_array().map(Vec::len) == Some(2),
                "{answer}"
            );
        }
    }
    Ok(())
}

fn a_hashed_flow_is_told_its_backend(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        for port in 40_000..40_020 {
            let client = format!("client:{port}");
            let answer = world.answer(family, &[&client, "node:30085"])?;
            ensure!(answer["choice"] == "hash", "{answer}");
            let told = answer["backend"]["address"].as_str();
            let led = world.send(&answer)?;
            ensure!(told == Some(&led), "{answer} instead of {led}");
        }
        let answer = world.answer(family, &["client", "node:30085"])?;
        ensure!(answer["choice"] == "hash", "{answer}");
        ensure!(answer["backend"].is_null(), "{answer}");
        let candidates = answer["candidates"].as_array().map(Vec::len);
        ensure!(candidates == Some(2), "{answer}");
        // A socket is led by chance, over the same table.
        let answer = world.answer(family, &["node", "node:30085", "--hook", "host"])?;
        ensure!(answer["choice"] == "random", "{answer}");
        let candidates = answer["candidates"].as_array().into_iter().flatten();
        let slots: Vec<_> = candidates.map(|it| it["slots"].as_u64()).collect();
        ensure!(slots == [Some(1), Some(1)], "{answer}");
    }
    Ok(())
}

fn a_flow_is_found_by_its_whole_tuple(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        let args = ["client:40000", "node:30080"];
        let answer = world.answer(family, &args)?;
        ensure!(answer["choice"] == "random", "{answer}");
        let led = world.send(&answer)?;
        let before = dump::every_map(world.pins())?;
        for _ in 0..20 {
            let answer = world.answer(family, &args)?;
            ensure!(answer["established"] == true, "{answer}");
            let backend = answer["backend"]["address"].as_str();
            ensure!(backend == Some(&led), "{answer} instead of {led}");
        }
        ensure!(
            before == dump::every_map(world.pins())?,
            "maps have changed"
        );
        let answer = world.answer(family, &["client", "node:30080"])?;
        ensure!(answer["choice"] == "random", "{answer}");
    }
    Ok(())
}

fn people_are_told_the_same(world: &mut World) -> Result<()> {
    let mut answers = String::new();
    for args in [
        &["client:61500", "node:30080"][..],
        &["pod", "web:9"],
        &["client", "node:30083"],
        &["node", "web:80"],
    ] {
        let answer = world.lbctl(Family::V4, args, "table")?;
        writeln!(answers, "# {}\n{answer}", args.join(" "))?;
    }
    insta::assert_snapshot!("people_are_told_the_same", answers);
    Ok(())
}

fn what_cannot_be_answered_is_one_line(world: &mut World) -> Result<()> {
    let mut lines = Vec::new();
    for args in [
        &["client%eth9", "web:80"][..],
        &["client%eth9", "web:80", "--hook", "pod"],
        &["client%ovl0", "web:80"],
        &["client%eth0", "web:80", "--hook", "host"],
    ] {
        let error = world
            .lbctl(Family::V4, args, "json")
            .err()
            .with_context(|| format!("{args:?} was answered"))?;
        lines.push(format!("{}\n  {error}", args.join(" ")));
    }
    insta::assert_snapshot!("what_cannot_be_answered_is_one_line", lines.join("\n"));
    Ok(())
}

//! The demo as people run it: to its end, left up, and interrupted.

use std::{
    path::Path,
    process::{Child, Command, ExitCode, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::{
    agent::program,
    checks::{Check, Checks},
    cluster::eventually,
};

/// Where everything of the demo is.
const DIR: &str = "/run/fl-demo";
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    let list = vec![
        Check::new("it_runs_to_its_end_and_leaves_nothing", |()| to_its_end()),
        Check::new("kept_it_serves_until_it_is_taken_down", |()| kept()),
        Check::new("interrupted_it_leaves_nothing", |()| interrupted()),
    ];
    checks.group(list, || Ok(()), |()| String::new());
    checks.finish()
}

fn demo(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(program("demo")?);
    command.args(args).stdin(Stdio::null());
    Ok(command)
}

fn run(args: &[&str]) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = demo(args)?.output()?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(
        status.success(),
        "{status}\n{text}\n{}",
        String::from_utf8_lossy(&stderr)
    );
    Ok(text)
}

fn gone() -> Result<()> {
    ensure!(!Path::new(DIR).exists(), "{DIR} is still there");
    let namespaces = std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten();
    let left: Vec<_> = namespaces
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("fl-demo-"))
        .collect();
    ensure!(left.is_empty(), "namespaces are still there: {left:?}");
    Ok(())
}

/// What the demo promises to show is in what it prints; it is no terminal, so without colours.
fn to_its_end() -> Result<()> {
    let text = run(&[])?;
    let shown = [
        "pod-1 to itself",
        "NEXT-HOP",
        "UDP flows moved",
        "[fd00:10::1]:30080",
        "█",
    ];
    for expected in shown {
        ensure!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    ensure!(!text.contains('\x1b') && !text.contains('✗'), "{text}");
    gone()
}

/// The first command it suggests is answered, by agents and servers that outlive it.
fn kept() -> Result<()> {
    let text = run(&["--keep"])?;
    let outcome = try_suggestion(&text);
    run(&["--down"])?;
    outcome?;
    gone()
}

fn try_suggestion(text: &str) -> Result<()> {
    let suggestion = text.lines().find(|line| line.contains("/dev/tcp/"));
    let suggestion = suggestion.with_context(|| format!("nothing to try in\n{text}"))?;
    let output = Command::new("bash")
        .arg("-c")
        .arg(format!("timeout 5 {}", suggestion.trim()))
        .output()?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        answer.contains("\"server\":\"pod-"),
        "`{suggestion}` gave {output:?}"
    );
    Ok(())
}

/// Ctrl-C while the agents start: the worst moment, as everything is being made.
fn interrupted() -> Result<()> {
    let mut process = demo(&[])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = interrupt(&mut process);
    // Gone already, unless that failed.
    process.kill().ok();
    process.wait()?;
    outcome?;
    gone()
}

fn interrupt(process: &mut Child) -> Result<()> {
    let maps = Path::new(DIR).join("node-a/bpf/fairlead");
    eventually(LIMIT, || {
        maps.exists().then_some(()).context("no agent starts")
    })?;
    kill_process(Pid::from_child(process), Signal::INT)?;
    let status = eventually(LIMIT, || process.try_wait()?.context("it does not end"))?;
    if status.code() != Some(130) {
        bail!("it ended with {status}");
    }
    Ok(())
}

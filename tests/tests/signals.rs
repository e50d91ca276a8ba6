//! A process that ends badly leaves no topology behind.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::{
    checks::{Check, Checks},
    cluster::eventually,
    site::{self, Site},
    topology::{Links, Topology},
};

/// The argument that makes this program hold a topology until a signal ends it.
const HOLD: &str = "hold-a-topology";
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if env::args().nth(1).is_some_and(|arg| arg == HOLD) {
        return match hold() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        };
    }
    let mut checks = Checks::from_args();
    let list = vec![
        Check::new("interrupt_removes_everything", |()| {
            ended_by(Signal::INT, 130)
        }),
        Check::new("terminate_removes_everything", |()| {
            ended_by(Signal::TERM, 143)
        }),
        Check::new("hangup_removes_everything", |()| ended_by(Signal::HUP, 129)),
        Check::new("the_next_process_removes_what_a_killed_one_left", |()| {
            killed()
        }),
    ];
    checks.group(list, || Ok(()), |()| String::new());
    checks.finish()
}

/// Builds a topology with a process inside, says where it is, and waits to be ended.
fn hold() -> Result<()> {
    let topology = Topology::build(Site::new()?, Links::STANDARD)?;
    let inside = topology
        .client
        .netns
        .spawn(Command::new("sleep").arg("1000"))?;
    println!(
        "{} {} {}",
        topology.dir().display(),
        topology.client.netns.name(),
        inside.id()
    );
    thread::sleep(Duration::from_secs(1000));
    bail!("nobody ended this process")
}

/// A process that holds a topology, and what belongs to it.
struct Holder {
    process: Child,
    dir: PathBuf,
    namespace: PathBuf,
    inside: u32,
}

impl Holder {
    fn start() -> Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .arg(HOLD)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("there is no pipe")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let mut word = || {
            words
                .next()
                .with_context(|| format!("the holder said {line:?}"))
        };
        let (dir, namespace, inside) = (word()?.into(), word()?, word()?.parse()?);
        let holder = Self {
            process,
            dir,
            namespace: Path::new("/run/netns").join(namespace),
            inside,
        };
        ensure!(
            holder.left() == [true; 3],
            "it does not stand: {:?}",
            holder.left()
        );
        Ok(holder)
    }

    /// Whether its directory, its namespace and the process inside are there.
    fn left(&self) -> [bool; 3] {
        [
            self.dir.exists(),
            self.namespace.exists(),
            site::alive(self.inside),
        ]
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.process), signal)?;
        eventually(LIMIT, || {
            self.process.try_wait()?.context("the holder does not end")
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn ended_by(signal: Signal, code: i32) -> Result<()> {
    let mut holder = Holder::start()?;
    let status = holder.end(signal)?;
    ensure!(
        status.code() == Some(code),
        "the holder ended with {status}"
    );
    ensure!(holder.left() == [false; 3], "it left {:?}", holder.left());
    Ok(())
}

fn killed() -> Result<()> {
    let mut holder = Holder::start()?;
    holder.end(Signal::KILL)?;
    ensure!(
        holder.left() == [true; 3],
        "a killed process cleans up after itself?"
    );
    Holder::start()?.end(Signal::TERM)?;
    ensure!(
        holder.left() == [false; 3],
        "the next process left {:?}",
        holder.left()
    );
    Ok(())
}

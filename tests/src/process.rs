//! A program that runs in a network namespace and writes a log, until it is told to end.

use std::{
    fmt, fs,
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{netns::Netns, patience::patient};

/// How long a program may take to end when asked to.
const STOP: Duration = Duration::from_secs(5);
/// How much of a log a failure shows.
const TAIL_LINES: usize = 30;

/// A running program. Dropped, it is killed and waited for.
pub struct Process {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, child, log } = self;
        f.debug_struct("Process")
            .field("name", name)
            .field("pid", &child.as_ref().map(Child::id))
            .field("log", log)
            .finish()
    }
}

/// What a program has taken of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, of the program, of those it started that have ended, and of the kernel for them,
    /// in steps of a clock tick.
    pub cpu: Duration,
    /// Bytes of memory that are its own or shared, and present.
    pub resident: u64,
    /// Those among them that no file and no shared memory is behind.
    pub anonymous: u64,
    /// The most bytes that were ever present.
    pub peak: u64,
}

impl Process {
    /// Starts a program; its output goes to a new log in `dir`.
    pub fn start(name: &str, netns: &Netns, dir: &Path, command: &mut Command) -> Result<Self> {
        let log = new_log(dir, name)?;
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = netns.spawn(
            command
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                // A terminal's Ctrl-C is for us to answer.
                .process_group(0),
        )?;
        Ok(Self {
            name: name.to_owned(),
            child: Some(child),
            log,
        })
    }

    /// Its process id, if it has not been ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Fails when it has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?;
        if let Some(status) = ended.flatten() {
            bail!("{} ended ({status}):\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Waits until it ends by itself; how it did.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        let (name, child) = (&self.name, self.child.as_mut());
        let child = child.with_context(|| format!("{name} does not run"))?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{name} runs on after {limit:?}:\n{}", self.tail());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tries until it succeeds. The last failure and the end of the log, when it has not by `limit`
    /// or when the program has ended.
    pub fn until<T>(
        &mut self,
        limit: Duration,
        mut attempt: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        loop {
            let failure = match attempt(self) {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            self.check_alive()?;
            if Instant::now() > deadline {
                let (name, tail) = (&self.name, self.tail());
                bail!("{name} is not ready after {limit:?}: {failure:#}\n{tail}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of what it has said so far.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// What it has taken so far.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self
            .pid()
            .with_context(|| format!("{} does not run", self.name))?;
        Usage::of(pid).with_context(|| format!("cannot tell what {} takes", self.name))
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it is gone already.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        if child.try_wait()?.is_none() {
            kill_process(Pid::from_child(child), Signal::TERM)?;
        }
        self.ended(STOP).context("it was asked to end")?;
        Ok(())
    }

    /// Lets it run on after this process.
    pub fn keep(mut self) {
        drop(self.child.take());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let bytes = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().next());
            let kilobytes = kilobytes.with_context(|| format!("there is no {name}"))?;
            Ok(kilobytes.parse::<u64>()? * 1024)
        };
        // The name, in parentheses, may hold anything; utime, stime and those of children are
        // fields 14 to 17 of all.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name
            .split_whitespace()
            .skip(11)
            .take(4)
            .try_fold(0, |sum, ticks| {
                Ok::<_, anyhow::Error>(sum + ticks.parse::<u64>()?)
            })?;
        let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok(Self {
            cpu: tick * u32::try_from(ticks)?,
            resident: bytes("VmRSS:")?,
            anonymous: bytes("RssAnon:")?,
            peak: bytes("VmHWM:")?,
        })
    }
}

fn new_log(dir: &Path, name: &str) -> Result<PathBuf> {
    let number = fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .count();
    Ok(dir.join(format!("{name}.{number}.log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_takes() -> Result<()> {
        let usage = Usage::of(std::process::id())?;
        assert!(
            usage.resident > 0 && usage.peak >= usage.resident,
            "{usage:?}"
        );
        Ok(())
    }
}

//! Which CPU does what. Two are enough: all contestants have the same, one at a time.

use std::{fs, num::NonZero, thread, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// A CPU, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cpu(usize);

impl Cpu {
    /// That of clients, of what a node receives from outside and of what takes what it sends there.
    pub(super) const CLIENT: Self = Self(0);
    /// That of servers.
    pub(super) const SERVER: Self = Self(1);

    fn set(self) -> CpuSet {
        let mut set = CpuSet::new();
        set.set(self.0);
        set
    }
}

/// How many there are for this process.
pub(super) fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Keeps the calling thread on a CPU.
pub(super) fn pin(cpu: Cpu) -> Result<()> {
    sched_setaffinity(None, &cpu.set()).with_context(|| format!("cannot run on CPU {}", cpu.0))
}

/// Keeps another thread there.
pub(super) fn pin_other(thread: u32, cpu: Cpu) -> Result<()> {
    let pid = i32::try_from(thread).ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{thread} is no thread"))?;
    sched_setaffinity(Some(pid), &cpu.set())
        .with_context(|| format!("cannot keep thread {thread} on CPU {}", cpu.0))
}

/// How long the calling thread has been on a CPU.
pub(super) fn own_time() -> Duration {
    // It cannot be negative.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// How long another has; while it is, up to the last tick of the clock.
pub(super) fn time_of(thread: u32) -> Result<Duration> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let first = text.split_whitespace().next().unwrap_or_default();
    let nanoseconds = first.parse();
    let nanoseconds = nanoseconds.with_context(|| format!("{path} says {text}"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

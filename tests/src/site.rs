//! A topology's place on the machine, and the certainty that nothing of it stays.
//!
//! Everything a topology makes carries the site's prefix: network namespaces `<prefix>-<part>`,
//! files and mounts below `/run/<prefix>`, a cgroup, processes inside the namespaces. So one sweep removes
//! it all, whoever calls it: `Drop` (also on panic), the signal thread (Ctrl-C, SIGTERM, SIGHUP)
//! or, after a SIGKILL, the next process that makes a site.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    mem,
    path::{Path, PathBuf},
    process::{Command, exit},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, geteuid, kill_process},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{cgroup, command, patience::patient};

const NAMESPACES: &str = "/run/netns";
const RUN: &str = "/run";
/// How long killed processes may take to go.
const EXIT: Duration = Duration::from_secs(5);

/// Sites of this process that a signal must sweep.
static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// Held for reading by whoever makes something, for writing (for good) by the signal thread: what
/// is being made is finished before the sweep, and nothing is made after it.
static GATE: RwLock<()> = RwLock::new(());

/// A prefix and a run directory; swept when dropped.
#[derive(Debug)]
pub struct Site {
    prefix: String,
}

impl Site {
    /// A site of this process alone; sites of processes that are gone are swept first.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        prepare()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::make(format!("fl-{}-{number}", std::process::id()))
    }

    /// A site with a fixed name, for people; what an earlier one left is swept first. Its owner
    /// may exist once only: it is an error if that process still lives.
    pub fn named(prefix: &str) -> Result<Self> {
        prepare()?;
        if let Some(owner) = owner(prefix).filter(|owner| alive(*owner)) {
            bail!("{prefix} is in use by process {owner}: stop that one first");
        }
        sweep(prefix)?;
        let site = Self::make(prefix.to_owned())?;
        let file = site.dir().join("owner");
        fs::write(&file, std::process::id().to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(site)
    }

    fn make(prefix: String) -> Result<Self> {
        let _making = making();
        let site = Self { prefix };
        live().insert(site.prefix.clone());
        fs::create_dir(site.dir())
            .with_context(|| format!("cannot make {}", site.dir().display()))?;
        cgroup::make(&site.prefix)?;
        Ok(site)
    }

    /// Where files of the site go.
    pub fn dir(&self) -> PathBuf {
        Path::new(RUN).join(&self.prefix)
    }

    /// The site's cgroup; none where there is no cgroup2 hierarchy.
    pub fn cgroup(&self) -> Option<PathBuf> {
        cgroup::dir(&self.prefix)
    }

    /// The full name of a namespace of the site.
    pub fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// Leaves the site standing after this process; [`sweep`] its prefix to remove it.
    pub fn keep(self) {
        live().remove(&self.prefix);
        mem::forget(self);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A sweep by the signal thread that is under way is not disturbed: it ends the process.
        let _making = making();
        if let Err(error) = sweep(&self.prefix) {
            eprintln!(
                "warning: {} is not removed completely: {error:#}",
                self.prefix
            );
        }
        live().remove(&self.prefix);
    }
}

/// To be held while making something that a sweep would remove.
pub(crate) fn making() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

fn live() -> MutexGuard<'static, BTreeSet<String>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that we may do what follows, and sees to signals and to what others left; once.
fn prepare() -> Result<()> {
    static PREPARED: OnceLock<Result<(), String>> = OnceLock::new();
    PREPARED
        .get_or_init(|| prepare_once().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn prepare_once() -> Result<()> {
    if !geteuid().is_root() {
        bail!("network namespaces and BPF need root: run this as root (for example with sudo)");
    }
    sweep_on_signals().context("cannot handle signals")?;
    for prefix in abandoned() {
        sweep(&prefix)?;
    }
    Ok(())
}

fn sweep_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let context = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(context);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let number = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = hangup.recv() => SignalKind::hangup(),
                }
            });
            leave(number.as_raw_value())
        })?;
    Ok(())
}

/// Sweeps every live site and exits as a shell would after this signal.
fn leave(signal: i32) -> ! {
    let _gate = GATE.write().unwrap_or_else(PoisonError::into_inner);
    eprintln!("\ninterrupted: cleaning up");
    for prefix in live().iter() {
        if let Err(error) = sweep(prefix) {
            eprintln!("warning: {prefix} is not removed completely: {error:#}");
        }
    }
    exit(128 + signal)
}

/// Removes everything with this prefix: processes, mounts, namespaces, cgroup, files. It is no error if
/// there is nothing, or if another process sweeps the same at the same time.
pub fn sweep(prefix: &str) -> Result<()> {
    let namespaces = namespaces(prefix);
    for namespace in &namespaces {
        unless_gone(namespace, kill_inside(namespace))?;
    }
    let dir = Path::new(RUN).join(prefix);
    unmount_below(&dir)?;
    for namespace in &namespaces {
        let deleted = command::run(Command::new("ip").args(["netns", "del", namespace]));
        unless_gone(namespace, deleted.map(drop))?;
    }
    cgroup::remove(prefix)?;
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A failure counts only while the namespace is there.
fn unless_gone(namespace: &str, outcome: Result<()>) -> Result<()> {
    if Path::new(NAMESPACES).join(namespace).exists() {
        outcome
    } else {
        Ok(())
    }
}

fn entries(dir: &str) -> impl Iterator<Item = String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

fn namespaces(prefix: &str) -> Vec<String> {
    let start = format!("{prefix}-");
    entries(NAMESPACES)
        .filter(|name| name.starts_with(&start))
        .collect()
}

/// Prefixes made by [`Site::new`] in processes that are gone.
fn abandoned() -> BTreeSet<String> {
    entries(NAMESPACES)
        .chain(entries(RUN))
        .filter_map(|name| {
            let mut parts = name.strip_prefix("fl-")?.split('-');
            let (pid, number) = (
                parts.next()?.parse().ok()?,
                parts.next()?.parse::<u32>().ok()?,
            );
            (!alive(pid)).then(|| format!("fl-{pid}-{number}"))
        })
        .collect()
}

fn owner(prefix: &str) -> Option<u32> {
    let text = fs::read_to_string(Path::new(RUN).join(prefix).join("owner")).ok()?;
    text.trim().parse().ok()
}

/// Whether a process runs: neither gone nor a zombie that nobody has waited for.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}

fn kill_inside(namespace: &str) -> Result<()> {
    let output = command::run(Command::new("ip").args(["netns", "pids", namespace]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pids: Vec<u32> = text
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    for pid in &pids {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            // Gone by itself in the meantime is as good: what counts is checked below.
            kill_process(pid, Signal::KILL).ok();
        }
    }
    let deadline = Instant::now() + patient(EXIT);
    while let Some(pid) = pids.iter().find(|pid| alive(**pid)) {
        if Instant::now() > deadline {
            bail!("process {pid} in {namespace} does not die");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|target| Path::new(target).starts_with(dir));
    for target in below {
        match unmount(target, UnmountFlags::DETACH) {
            // Not a mount any more: another sweep was faster.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {target}")),
        }
    }
    Ok(())
}

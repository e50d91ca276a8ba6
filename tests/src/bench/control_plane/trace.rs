//! The system calls of a process.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapInfo;
use serde::Serialize;

use crate::{process::Process, topology::Host};

/// How long `strace` may take to hold every thread.
const ATTACH: Duration = Duration::from_secs(10);

/// How often what was called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// `bpf()` that changes a map, by the map's name.
    pub map_writes: BTreeMap<String, u64>,
    /// `bpf()` that reads a map, by the map's name.
    pub map_reads: BTreeMap<String, u64>,
    /// Every other one.
    pub other: u64,
}

/// A trace that goes on.
pub(super) struct Trace {
    strace: Process,
    file: PathBuf,
    /// The names of maps, by descriptor.
    maps: HashMap<u32, String>,
}

impl Trace {
    /// Begins one, of every thread of a process on a node.
    pub(super) fn start(pid: u32, node: &Host) -> Result<Self> {
        let file = node.dir.join("trace");
        let mut command = Command::new("strace");
        // Of arguments nothing but those of `bpf` is looked into.
        command.args(["-f", "-e", "verbose=bpf", "-s", "0"]);
        command.arg("-o").arg(&file).arg("-p").arg(pid.to_string());
        let mut strace = Process::start("strace", &node.netns, &node.dir, &mut command)?;
        strace.until(ATTACH, |_| {
            let free = untraced(pid)?;
            ensure!(free == 0, "{free} threads are not traced");
            Ok(())
        })?;
        Ok(Self {
            strace,
            file,
            maps: maps(pid)?,
        })
    }

    /// What there was so far.
    pub(super) fn calls(&self) -> Result<Calls> {
        let trace = fs::read_to_string(&self.file);
        let trace = trace.with_context(|| format!("cannot read {}", self.file.display()))?;
        Ok(Calls::of(&trace, &self.maps))
    }

    /// Ends it; what there was.
    pub(super) fn end(mut self) -> Result<Calls> {
        self.strace.stop()?;
        self.calls()
    }
}

/// How many threads of a process nobody traces.
fn untraced(pid: u32) -> Result<usize> {
    let mut free = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        free += usize::from(status.lines().any(|line| line == "TracerPid:\t0"));
    }
    Ok(free)
}

/// The maps that a process has open, by descriptor.
fn maps(pid: u32) -> Result<HashMap<u32, String>> {
    let mut maps = HashMap::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let descriptor = descriptor?;
        // It may have been closed meanwhile.
        let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"));
        if let (Some(id), Some(number)) = (id, descriptor.file_name().to_str()) {
            let map = MapInfo::from_id(id.trim().parse()?)?;
            let name = map.name_as_str().unwrap_or_default();
            maps.insert(number.parse()?, name.to_owned());
        }
    }
    Ok(maps)
}

impl Calls {
    /// Writes to maps of this name, or of a family with this name.
    pub(super) fn writes_to(&self, map: &str) -> u64 {
        let of_map = |name: &&String| name.trim_end_matches(['4', '6']) == map;
        let writes = self.map_writes.iter();
        writes
            .filter(|(name, _)| of_map(name))
            .map(|(_, n)| n)
            .sum()
    }

    /// Every call that reads or changes a map.
    pub(super) fn of_maps(&self) -> u64 {
        self.map_writes.values().sum::<u64>() + self.reads()
    }

    /// Reads of maps.
    pub(super) fn reads(&self) -> u64 {
        self.map_reads.values().sum()
    }

    /// Counts those in the output of `strace -f`: a line each, after the thread's id. One that
    /// another thread interrupted has a second line, which begins `<...`.
    fn of(trace: &str, maps: &HashMap<u32, String>) -> Self {
        let mut calls = Self::default();
        for line in trace.lines() {
            let call = line.split_once(' ').map_or("", |(_, call)| call);
            let Some((name, arguments)) = call.trim_start().split_once('(') else {
                continue;
            };
            let kind = arguments.strip_prefix("BPF_MAP_").filter(|_| name == "bpf");
            let count = match kind {
                Some(kind) if kind.starts_with("UPDATE") || kind.starts_with("DELETE") => {
                    calls.map_writes.entry(map(arguments, maps))
                }
                Some(_) => calls.map_reads.entry(map(arguments, maps)),
                None => {
                    calls.other += u64::from(!name.starts_with(['<', '+', '-']));
                    continue;
                }
            };
            *count.or_default() += 1;
        }
        calls
    }
}

/// The name of the map that a call is about.
fn map(arguments: &str, maps: &HashMap<u32, String>) -> String {
    let number = arguments.split_once("map_fd=").and_then(|(_, rest)| {
        let end = rest.find(|digit: char| !digit.is_ascii_digit());
        rest.get(..end?)?.parse().ok()
    });
    let name = number.and_then(|number: u32| maps.get(&number));
    name.map_or_else(|| "unknown".to_owned(), Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let trace = "\
101 epoll_wait(3, 0x1, 1024, 10) = 1
101 bpf(BPF_MAP_UPDATE_ELEM, {map_fd=12, key=0x1, value=0x2, flags=BPF_ANY}, 32) = 0
102 recvfrom(9,  <unfinished ...>
101 bpf(BPF_MAP_DELETE_ELEM, {map_fd=12, key=0x1}, 32 <unfinished ...>
102 <... recvfrom resumed>\"\"..., 8192, 0, NULL, NULL) = 12
101 <... bpf resumed>)                  = 0
101 bpf(BPF_MAP_UPDATE_ELEM, {map_fd=7, key=0x1, value=0x2, flags=BPF_ANY}, 32) = 0
101 bpf(BPF_MAP_GET_NEXT_KEY, {map_fd=13, key=NULL, next_key=0x1}, 32) = 0
101 bpf(BPF_MAP_LOOKUP_ELEM, {map_fd=99, key=0x1, value=0x2}, 32) = -1 ENOENT (No such file)
101 bpf(BPF_OBJ_GET, {pathname=\"\"..., bpf_fd=0}, 32) = 5
101 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER} ---
101 +++ exited with 0 +++
";
        let maps = [(12, "FRONTENDS4"), (13, "FRONTENDS6"), (7, "STATUS")];
        let maps = maps.map(|(number, name)| (number, name.to_owned()));
        let calls = Calls::of(trace, &HashMap::from(maps));
        assert_eq!(calls.writes_to("FRONTENDS"), 2);
        assert_eq!(calls.writes_to("STATUS"), 1);
        let reads = [("FRONTENDS6", 1), ("unknown", 1)];
        let reads = reads.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(calls.map_reads, BTreeMap::from(reads));
        assert_eq!(calls.other, 3);
    }
}

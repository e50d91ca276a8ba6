//! What the kernel's verifier says of each program of an object, also of those that it refuses.
//!
//! aya makes the maps. The programs are loaded here once more, for aya keeps no log of a program that was
//! accepted, and kernels before 5.16 tell the count of instructions nowhere else.

mod chains;
mod log;
mod raw;
mod stack_reads;

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
};
use aya_obj::{
    Object, Program, ProgramSection,
    btf::BtfFeature,
    generated::{bpf_attach_type, bpf_prog_type},
};
use lb_common::{dry_run, maps::programs};
use serde::Serialize;

/// A program that was given to the verifier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its name; that of a dry-run copy begins with `dry:`.
    pub program: String,
    /// Whether the kernel took it.
    pub loaded: bool,
    /// Milliseconds of the system call.
    pub ms: u64,
    /// Instructions that the verifier walked through, if it said so.
    pub instructions: Option<u64>,
    /// Bytes of stack of the deepest chain of calls, each frame rounded up to 32.
    pub stack: Option<u32>,
    /// Bytes of stack of each function.
    pub frames: Vec<u32>,
    /// The error of the system call, and the end of the log, on one line; empty if it was loaded.
    pub error: String,
}

/// Loads every program of an object, then those of dry runs, and reports on each as soon as it is known.
pub fn load_all(object: &Path, mut report: impl FnMut(&Report) -> Result<()>) -> Result<()> {
    for dry in [false, true] {
        let set = Set::open(object, dry)
            .with_context(|| format!("cannot load the maps of {}", object.display()))?;
        for name in set.names(dry) {
            report(&set.load(&name, dry)?)?;
        }
    }
    Ok(())
}

/// Numbers that functions of an object's programs read from their caller's stack: an older kernel may take a branch
/// that depends on one for dead. A line each.
pub fn stack_reads(object: &Path) -> Result<Vec<String>> {
    let set = Set::open(object, false)
        .with_context(|| format!("cannot load the maps of {}", object.display()))?;
    let mut found = Vec::new();
    for name in set.names(false) {
        let (outcome, log) = set.verify(&name, raw::Wanted::Walk)?;
        outcome.with_context(|| format!("cannot load program {name}"))?;
        ensure!(!log.is_empty(), "the verifier wrote no log of {name}");
        let reads = stack_reads::find(&log);
        found.extend(reads.into_iter().map(|read| format!("{name}: {read}")));
    }
    Ok(found)
}

/// An object whose maps are in the kernel.
struct Set {
    object: Object,
    btf: OwnedFd,
    /// Holds the maps.
    _maps: Ebpf,
}

impl Set {
    fn open(path: &Path, dry: bool) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        let value = u32::from(dry);
        let mut maps = EbpfLoader::new();
        // An object of something else, as that of the benchmark, has no dry runs.
        maps.override_global(dry_run::GLOBAL, &value, dry);
        let maps = maps.load(&bytes)?;
        let (mut object, btf) = typed(&Object::parse(&bytes)?)?;
        let descriptors: Vec<(String, RawFd)> = maps
            .maps()
            .map(|(name, map)| Ok((name.to_owned(), data(map)?.fd().as_fd().as_raw_fd())))
            .collect::<Result<_>>()?;
        object.resolve_externs(None)?;
        let known = object.maps.clone();
        let placed = descriptors.iter().map(|(name, fd)| {
            let map = known.get(name).context("a map that the object lacks")?;
            Ok((name.as_str(), *fd, map))
        });
        let placed: Vec<_> = placed.collect::<Result<_>>()?;
        let sections: HashSet<_> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        object.relocate_maps(placed.into_iter(), &sections)?;
        object.relocate_calls(&sections)?;
        Ok(Self {
            object,
            btf,
            _maps: maps,
        })
    }

    /// The programs to load, sorted.
    fn names(&self, dry: bool) -> Vec<String> {
        let wanted = |name: &&String| !dry || programs::DRY.contains(&name.as_str());
        let mut names: Vec<_> = self
            .object
            .programs
            .keys()
            .filter(wanted)
            .cloned()
            .collect();
        names.sort();
        names
    }

    fn load(&self, name: &str, dry: bool) -> Result<Report> {
        let begun = Instant::now();
        let (outcome, log) = self.verify(name, raw::Wanted::Statistics)?;
        let took = begun.elapsed();
        let name = if dry {
            format!("dry:{name}")
        } else {
            name.to_owned()
        };
        tell(name, &outcome, &log::parse(&log), took)
    }

    /// Gives a program to the verifier. What it says of the program, and its log.
    fn verify(&self, name: &str, wanted: raw::Wanted) -> Result<(io::Result<OwnedFd>, String)> {
        let program = self.object.programs.get(name).context("no such program")?;
        let function = self.object.functions.get(&program.function_key());
        let (kind, attach) = kind(name, program)?;
        let load = raw::Load {
            kind: kind as u32,
            attach: attach.map_or(0, |attach| attach as u32),
            license: &program.license,
            function: function.context("no code")?,
            btf: self.btf.as_fd(),
        };
        Ok(raw::load(&load, wanted))
    }
}

fn tell(
    program: String,
    outcome: &io::Result<OwnedFd>,
    log: &log::Log,
    took: Duration,
) -> Result<Report> {
    let (stack, error) = match outcome {
        Ok(loaded) => {
            let code =
                raw::code(loaded).with_context(|| format!("cannot read the code of {program}"))?;
            (code.deepest(&log.frames), String::new())
        }
        Err(error) if log.reason.is_empty() => (None, error.to_string()),
        Err(error) => (None, format!("{error}: {}", log.reason)),
    };
    Ok(Report {
        program,
        loaded: outcome.is_ok(),
        ms: took.as_millis() as u64,
        instructions: log.instructions,
        stack,
        frames: log.frames.clone(),
        error,
    })
}

fn kind(name: &str, program: &Program) -> Result<(bpf_prog_type, Option<bpf_attach_type>)> {
    Ok(match &program.section {
        ProgramSection::Xdp { attach_type, .. } => (
            bpf_prog_type::BPF_PROG_TYPE_XDP,
            Some((*attach_type).into()),
        ),
        ProgramSection::SchedClassifier => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, None),
        ProgramSection::CgroupSockAddr { attach_type } => (
            bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            Some((*attach_type).into()),
        ),
        other => bail!("program {name} is of a kind that is not expected: {other:?}"),
    })
}

/// The object's types in the kernel, and the object as it goes with them: older kernels do not know all kinds.
fn typed(object: &Object) -> Result<(Object, OwnedFd)> {
    let mut refusal = None;
    for newest in [true, false] {
        let mut object = object.clone();
        let knows = move |feature| match feature {
            BtfFeature::Func | BtfFeature::FuncGlobal | BtfFeature::DataSec => true,
            BtfFeature::DataSecZero
            | BtfFeature::Float
            | BtfFeature::DeclTag
            | BtfFeature::TypeTag
            | BtfFeature::Enum64 => newest,
        };
        let types = object.fixup_and_sanitize_btf(|| Some(knows))?;
        let types = types.context("the object has no type information")?;
        match raw::load_btf(&types.to_bytes()) {
            Ok(btf) => return Ok((object, btf)),
            Err(error) => refusal = Some(error),
        }
    }
    let refusal = refusal.context("nothing was tried")?;
    Err(refusal).context("the kernel refused the object's type information")
}

fn data(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data) => Ok(data),
        other => bail!("a map of a kind that is not expected: {other:?}"),
    }
}

impl Report {
    /// For people, on one line.
    pub fn line(&self) -> String {
        let Self {
            program,
            loaded,
            ms,
            instructions,
            stack,
            frames,
            error,
        } = self;
        let outcome = if *loaded { "loaded" } else { "REFUSED" };
        let number = |it: Option<u64>| it.map_or_else(|| "-".to_owned(), |it| it.to_string());
        let frames: Vec<_> = frames.iter().map(u32::to_string).collect();
        let line = format!(
            "{program:<24} {outcome:<8} {ms:>7} ms {:>9} instructions, stack {:>4} ({}) {error}",
            number(*instructions),
            number(stack.map(u64::from)),
            frames.join("+"),
        );
        line.trim_end().to_owned()
    }
}

/// Fails when nothing was loaded or something was refused.
pub fn judge(reports: &[Report]) -> Result<()> {
    ensure!(!reports.is_empty(), "the object has no programs");
    let refused: Vec<_> = reports.iter().filter(|it| !it.loaded).collect();
    let names: Vec<_> = refused.iter().map(|it| it.program.as_str()).collect();
    ensure!(
        names.is_empty(),
        "the kernel refused {} of {} programs: {}",
        names.len(),
        reports.len(),
        names.join(", ")
    );
    Ok(())
}

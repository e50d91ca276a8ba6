//! The BPF object: its programs and maps, brought into the kernel.

use std::{
    error::Error as StdError,
    io,
    num::NonZero,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, MapData, MapError},
    programs::{CgroupSockAddr, Program, ProgramError, SchedClassifier, Xdp},
};
use lb_common::{
    Jiffy,
    config::Config,
    dry_run, kernel,
    maps::{self, programs},
};
use rustix::time::{ClockId, clock_getres};
use thiserror::Error;
use tracing::{Level, debug, enabled, info};

use super::account::Account;
use crate::{
    full_path::{self, FullPathError},
    pins::Pins,
};

/// The object `cargo xtask build-ebpf` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("FAIRLEAD_EBPF_OBJECT"));

/// The value of the `STATUS` map.
pub(super) type StatusValue = [u8; maps::STATUS_SIZE as usize];

/// The object could not be brought into the kernel.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    /// Not root, and without the capabilities.
    #[error(
        "no permission to load BPF programs: run as root, \
         or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Permission,
    /// The pinned map is another build's.
    #[error(
        "pinned map {path}: {property} is {actual}, this lb-agent needs {expected}: it was made by \
         another build; `lb-agent cleanup` removes it (services stop until the agent runs again)"
    )]
    Shape {
        /// The pin.
        path: String,
        /// What differs.
        property: &'static str,
        /// As it is in the kernel.
        actual: u64,
        /// As it is in the object.
        expected: u64,
    },
    /// The verifier refused a program.
    #[error(
        "the kernel's verifier refused program {program}: {source}: {reason}; \
         report it with the kernel's version (--log-level debug shows the verifier's whole log)"
    )]
    Verifier {
        /// The program.
        program: &'static str,
        /// What the verifier wrote last.
        reason: String,
        /// What the system call returned.
        source: io::Error,
    },
    /// The verifier took a program, and the kernel's JIT compiler did not.
    #[error(
        "the kernel's JIT compiler gave up on program {program}, which the verifier had taken: \
         report what the kernel's log says of bpf_jit, with the kernel's version and the CPU's model"
    )]
    Jit {
        /// The program.
        program: &'static str,
    },
    /// The object has no such program, or of another type.
    #[error("the BPF object has no fit program {0}")]
    NoProgram(&'static str),
    /// The object has no such map, or of another type.
    #[error("the BPF object has no fit map {0}")]
    NoMap(&'static str),
    /// The programs cannot be led to one another.
    #[error(transparent)]
    FullPath(#[from] FullPathError),
    /// Loading the object failed in another way.
    #[error("cannot load the BPF object: {}", chain(.0))]
    Object(#[source] EbpfError),
    /// Loading a program failed in another way.
    #[error("cannot load program {program}: {}", chain(source))]
    Program {
        /// The program.
        program: &'static str,
        /// What went wrong.
        source: ProgramError,
    },
}

/// The object with its maps in the kernel.
pub(super) struct Opened {
    /// The programs, yet to be loaded.
    pub(super) programs: Unloaded,
    /// `CONFIG`.
    pub(super) config: Array<MapData, Config>,
    /// `LINKS`.
    pub(super) links: HashMap<MapData, u32, u32>,
    /// `STATUS`.
    pub(super) status: Array<MapData, StatusValue>,
}

/// What is in the kernel once the programs are loaded.
pub(super) struct Loaded {
    /// The programs, not yet attached.
    pub(super) programs: Programs,
    /// `CONFIG`.
    pub(super) config: Array<MapData, Config>,
    /// `LINKS`.
    pub(super) links: HashMap<MapData, u32, u32>,
    /// What is written to `STATUS`.
    pub(super) account: Account,
}

/// The programs, none of them in the kernel.
#[derive(Debug)]
pub(super) struct Unloaded {
    ebpf: Ebpf,
}

/// The programs: those of packets loaded, those of sockets once they are asked for.
#[derive(Debug)]
pub(super) struct Programs {
    ebpf: Ebpf,
}

/// Opens the object for a kernel that lacks this ([`kernel`]). Maps pinned by an earlier agent are adopted with all
/// they hold, if their shape is the same; the others are made and pinned.
pub(super) fn open(pins: &Pins, lacks: u32) -> Result<Opened, LoadError> {
    let mut ebpf = load_object(pins, lacks, Purpose::Traffic)?;
    Ok(Opened {
        config: take_map(&mut ebpf, maps::CONFIG)?,
        links: take_map(&mut ebpf, maps::LINKS)?,
        status: take_map(&mut ebpf, maps::STATUS)?,
        programs: Unloaded { ebpf },
    })
}

/// Loads the object a second time, on the same maps, with programs that answer what they would do
/// and do nothing.
pub(super) fn load_dry(pins: &Pins, lacks: u32) -> Result<Programs, LoadError> {
    let mut ebpf = load_object(pins, lacks, Purpose::DryRuns)?;
    load_all(&mut ebpf, &programs::DRY, 1)?;
    Ok(Programs { ebpf })
}

/// What programs are loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Traffic,
    DryRuns,
}

fn load_object(pins: &Pins, lacks: u32, purpose: Purpose) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // With the walk through a refused program the verifier takes minutes where it takes seconds without.
    loader.verifier_log_level(if enabled!(Level::DEBUG) {
        VerifierLogLevel::DEBUG | VerifierLogLevel::STATS
    } else {
        VerifierLogLevel::STATS
    });
    for name in maps::ALL.into_iter().chain(maps::PROGRAM_ARRAYS) {
        loader.map_pin_path(name, pins.map(name));
    }
    let jiffy = jiffy();
    loader.override_global(Jiffy::GLOBAL, &jiffy, true);
    let dry = u32::from(purpose == Purpose::DryRuns);
    loader.override_global(dry_run::GLOBAL, &dry, true);
    loader.override_global(kernel::GLOBAL, &lacks, true);
    loader.load(OBJECT).map_err(|error| match error {
        EbpfError::MapError(MapError::IncompatiblePinnedMap {
            name,
            property,
            expected,
            actual,
        }) => LoadError::Shape {
            path: pins.map(&name).display().to_string(),
            property,
            actual,
            expected,
        },
        error if is_denied(&error) => LoadError::Permission,
        error => LoadError::Object(error),
    })
}

/// How this kernel's jiffies run.
fn jiffy() -> Jiffy {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    Jiffy::with_nanos(resolution.tv_nsec.unsigned_abs().max(1))
}

fn take_map<T: TryFrom<aya::maps::Map>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::NoMap(name))?;
    T::try_from(map).map_err(|_| LoadError::NoMap(name))
}

impl Programs {
    /// The XDP program.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, LoadError> {
        let name = programs::XDP_EXTERNAL;
        match self.ebpf.program_mut(name) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => Err(LoadError::NoProgram(name)),
        }
    }

    /// A tc program.
    pub(super) fn tc(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        match self.ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(LoadError::NoProgram(name)),
        }
    }

    /// A program of sockets. It is loaded when asked for first: a kernel without cgroups, or
    /// without these hooks, serves packets all the same.
    pub(super) fn socket(&mut self, name: &'static str) -> Result<&mut CgroupSockAddr, LoadError> {
        match self.ebpf.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => {
                if program.fd().is_err() {
                    program.load().map_err(|error| refused(name, error))?;
                }
                Ok(program)
            }
            _ => Err(LoadError::NoProgram(name)),
        }
    }
}

impl Unloaded {
    /// Loads the programs of packets, on all CPUs, and puts those of the slow path behind those of the fast one.
    pub(super) fn load(mut self) -> Result<Programs, LoadError> {
        // The slow path takes longest: it goes first, so that no CPU is left with it at the end.
        let names: Vec<_> = programs::FULL
            .into_iter()
            .chain(programs::PACKETS)
            .collect();
        let begun = Instant::now();
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        info!("loading {} programs, {threads} at a time", names.len());
        load_all(&mut self.ebpf, &names, threads)?;
        full_path::connect(&mut self.ebpf)?;
        info!(
            "{} programs loaded in {} ms",
            names.len(),
            begun.elapsed().as_millis()
        );
        Ok(Programs { ebpf: self.ebpf })
    }
}

/// Loads these programs in the order given, so many at a time.
fn load_all(ebpf: &mut Ebpf, names: &[&'static str], threads: usize) -> Result<(), LoadError> {
    let place = |name: &str| names.iter().position(|it| *it == name);
    let mut queue: Vec<_> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| Some((place(name)?, program)))
        .collect();
    queue.sort_by_key(|(place, _)| *place);
    let missing = (0..names.len()).find(|place| queue.iter().all(|(it, _)| it != place));
    if let Some(name) = missing.and_then(|place| names.get(place)) {
        return Err(LoadError::NoProgram(name));
    }
    let queue = Mutex::new(queue.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        std::iter::from_fn(next).try_for_each(|(place, program)| {
            names
                .get(place)
                .map_or(Ok(()), |name| load_one(name, program))
        })
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(names.len()))
            .map(|_| scope.spawn(work))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// From here on the loading of a program is told in the log.
const SLOW: Duration = Duration::from_secs(1);

fn load_one(name: &'static str, program: &mut Program) -> Result<(), LoadError> {
    let begun = Instant::now();
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(LoadError::NoProgram(name)),
    };
    loaded.map_err(|error| refused(name, error))?;
    let took = begun.elapsed();
    // Where the verifier is slow people are to see how far it has got.
    if took >= SLOW {
        info!("program {name}: loaded in {} ms", took.as_millis());
    } else {
        debug!("program {name}: loaded in {} ms", took.as_millis());
    }
    Ok(())
}

fn refused(program: &'static str, error: ProgramError) -> LoadError {
    match error {
        error if is_denied(&error) => LoadError::Permission,
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(ENOTSUPP) => {
            LoadError::Jit { program }
        }
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            debug!("{program}: verifier log:\n{log}");
            LoadError::Verifier {
                program,
                reason: reason(&log).to_owned(),
                source: io_error,
            }
        }
        source => LoadError::Program { program, source },
    }
}

/// The last line of a verifier's log that is no statistics: why it refused the program.
fn reason(log: &str) -> &str {
    const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let is_statistics = |line: &&str| STATISTICS.iter().any(|it| line.starts_with(it));
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .rfind(|line| !is_statistics(line))
        .unwrap_or("it gave no reason")
}

/// What the kernel says when a program that it checked has no machine code (`bpf_prog_select_runtime`).
/// Its own number, which the C library has no name for.
const ENOTSUPP: i32 = 524;

/// Whether the kernel said `EPERM`. The verifier's own refusals are `EACCES`.
fn is_denied(error: &(dyn StdError + 'static)) -> bool {
    const EPERM: i32 = 1;
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.raw_os_error() == Some(EPERM))
}

/// The error and what it came from, on one line.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = String::new();
    for text in causes(error).map(ToString::to_string) {
        // Some errors already show their cause.
        if !line.ends_with(&text) {
            let colon = if line.is_empty() { "" } else { ": " };
            line.push_str(colon);
            line.push_str(&text);
        }
    }
    line
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_refusal_stands_before_the_statistics() {
        let log = "R2 pointer arithmetic on map_value_or_null prohibited, null-check it first\n\
                   verification time 412 usec\nstack depth 136+0\nprocessed 812 insns (limit 1000000)\n\n";
        assert_eq!(
            reason(log),
            "R2 pointer arithmetic on map_value_or_null prohibited, null-check it first"
        );
        assert_eq!(reason("processed 3 insns\n"), "it gave no reason");
        assert_eq!(reason(""), "it gave no reason");
    }
}

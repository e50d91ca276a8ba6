//! `cargo xtask kernels`: Fairlead on other kernels than this machine's, each booted in QEMU.
//!
//! A kernel comes as a Debian package ([`catalogue`], [`apt`], [`modules`]). A guest's file system is three
//! archives: Debian's packages ([`base`]), the kernel's modules, and what this tree adds ([`programs`]). The
//! guest ([`boot`]) runs the steps of a [`plan`], and says on its [`console`] how they went; [`result`] reads
//! that, [`report`] shows it.

mod apt;
mod archive;
mod base;
mod boot;
mod catalogue;
mod console;
mod modules;
mod page;
mod plan;
mod programs;
mod progress;
mod report;
mod result;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use self::{
    apt::Apt,
    boot::Guest,
    catalogue::{Flavour, Kernel, Suite},
    modules::Bootable,
    plan::{Choice, Step},
    programs::Programs,
    progress::Progress,
    result::{Cases, Outcome, Subject},
};
use crate::{
    budgets::Budgets,
    ebpf,
    exec::root,
    kube_assets,
    static_build::{Arch, Choice as Archs},
    tools,
};

/// Guests at the same time: development machines and CI have two cores.
const JOBS: usize = 2;

/// Processors of a guest: programs of the agent that are loaded side by side, and tests of what happens at once.
const CPUS: u32 = 2;

/// What to run, and on which kernels.
#[derive(Args)]
pub(crate) struct Options {
    /// Loads and a smoke test of connections on the oldest supported kernel and one in the middle.
    #[arg(long)]
    quick: bool,
    /// Run a suite of tests/tests, or its cases whose names contain FILTER, in place of the usual steps; `loads` gives
    /// every program to the verifier.
    #[arg(long = "suite", value_name = "NAME[:FILTER,…]")]
    suites: Vec<String>,
    /// CPU of the guests [default: this machine's].
    #[arg(long)]
    arch: Option<Archs>,
    /// Print a table, or JSON.
    #[arg(short, long, default_value = "table")]
    output: Format,
    /// Guests that run at the same time.
    #[arg(long, default_value_t = JOBS)]
    jobs: usize,
    /// Processors of a guest.
    #[arg(long, default_value_t = CPUS)]
    cpus: u32,
    /// Put the results into docs/kernels.md.
    #[arg(long)]
    write: bool,
    /// Kernels such as 6.12, or `host` for this machine's own, without a guest [default: all supported ones].
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Runs what was asked for and prints what came out; fails when anything did.
pub(crate) fn kernels(options: Options) -> Result<()> {
    let Options {
        quick,
        suites,
        arch,
        output,
        jobs,
        cpus,
        write,
        kernels,
    } = options;
    let own = catalogue::own_arch()?;
    let archs = arch.map_or(vec![own], |archs| archs.archs().to_vec());
    let choices = suites.iter().map(|suite| Choice::parse(suite));
    let steps = plan::steps(quick, choices.collect::<Result<_>>()?);
    let usual = if quick {
        catalogue::QUICK
    } else {
        catalogue::USUAL
    };
    let kernels: Result<Vec<_>> = if kernels.is_empty() {
        usual.iter().map(|name| Kernel::find(name)).collect()
    } else {
        kernels.iter().map(|name| Kernel::find(name)).collect()
    };
    let kernels = kernels?;
    let mut outcomes = Vec::new();
    for arch in archs {
        let mut of_arch = kernels.clone();
        of_arch.retain(|kernel| arch == own || !matches!(kernel, Kernel::Host));
        if of_arch.is_empty() {
            bail!("`host` is of {own}, and no other kernel is named for {arch}");
        }
        let run = Run::prepare(arch, quick, cpus, steps.clone())?;
        outcomes.extend(run.all(&of_arch, jobs));
    }
    match output {
        Format::Table => println!("\n{}", report::tables(&outcomes)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&outcomes)?),
    }
    if write {
        page::write(&outcomes)?;
    }
    for line in report::ignored(&outcomes) {
        eprintln!("{line}");
    }
    let problems = report::problems(&outcomes);
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    Ok(())
}

/// What `cargo xtask test` runs in guests: as `--quick` does, on every supported kernel if it may take `long`.
pub(crate) fn tests(long: bool) -> Result<Cases> {
    let kernels = if long {
        catalogue::USUAL
    } else {
        catalogue::QUICK
    };
    let kernels = kernels.iter().map(|name| Kernel::find(name));
    // The machine's own kernel has had all tests by now.
    let guests = kernels.filter(|kernel| !matches!(kernel, Ok(Kernel::Host)));
    let guests = guests.collect::<Result<Vec<_>>>()?;
    let run = Run::prepare(
        catalogue::own_arch()?,
        true,
        CPUS,
        plan::steps(true, Vec::new()),
    )?;
    let outcomes = run.all(&guests, JOBS);
    println!("\n{}", report::tables(&outcomes));
    for problem in report::problems(&outcomes) {
        println!("{problem}");
    }
    let counts = outcomes.iter().map(Outcome::counts);
    Ok(counts.fold(Cases::default(), Cases::and))
}

/// What all kernels have in common.
struct Run {
    arch: Arch,
    flavour: Flavour,
    cpus: u32,
    steps: Vec<Step>,
    programs: Programs,
    /// Whose libraries the programs take.
    suite: Suite,
    cache: PathBuf,
    /// For what this run makes.
    work: archive::Scratch,
    /// Where what guests say is kept.
    logs: PathBuf,
    /// One at a time works on the cache.
    fetching: Mutex<()>,
}

impl Run {
    fn prepare(arch: Arch, quick: bool, cpus: u32, steps: Vec<Step>) -> Result<Self> {
        let emulator = match arch {
            Arch::Amd64 => tools::QEMU_AMD64,
            Arch::Arm64 => tools::QEMU_ARM64,
        };
        [tools::GUESTS, &[emulator], tools::NETWORK]
            .into_iter()
            .try_for_each(tools::debian_packages)?;
        ebpf::build(&[])?;
        if steps.iter().any(Step::needs_kubernetes) {
            if arch != catalogue::own_arch()? {
                bail!("Kubernetes' own programs are built for this machine's CPU, not for {arch}");
            }
            kube_assets::provide()?;
        }
        let progress = Progress::of("all kernels");
        let (programs, suite) = if quick && arch == catalogue::own_arch()? {
            (programs::of_this_machine(&progress)?, Suite::of_machine()?)
        } else {
            (programs::without_libraries(arch, &progress)?, Suite::ANY)
        };
        let cache = tools::cache_directory()?.join("kernels");
        let work = archive::of_this_run(&root().join("target/kernels/runs"))?;
        let logs = root().join("target/kernels/logs");
        for folder in [&cache.join("images"), &cache.join("bases"), &logs] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self {
            arch,
            flavour: if quick {
                Flavour::Cloud
            } else {
                Flavour::Generic
            },
            cpus,
            steps,
            programs,
            suite,
            cache,
            work,
            logs,
            fetching: Mutex::new(()),
        })
    }

    /// Runs all kernels, some at the same time; what came out, in the order they were asked for.
    fn all(&self, kernels: &[Kernel], jobs: usize) -> Vec<Outcome> {
        let queue = Mutex::new(kernels.iter().copied().enumerate());
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, kernels.len().max(1)) {
                scope.spawn(|| {
                    loop {
                        // A lock in the head of `while let` would be held through its body.
                        let next = locked(&queue).next();
                        let Some((place, kernel)) = next else {
                            break;
                        };
                        let outcome = self.one(kernel);
                        locked(&outcomes).push((place, outcome));
                    }
                });
            }
        });
        let mut outcomes = locked(&outcomes);
        outcomes.sort_by_key(|(place, _)| *place);
        outcomes.drain(..).map(|(_, outcome)| outcome).collect()
    }

    fn one(&self, kernel: Kernel) -> Outcome {
        let progress = Progress::of(format!("{} {}", kernel.name(), self.arch));
        let outcome = match kernel {
            Kernel::Host => self.here(&progress),
            Kernel::Debian { number, suite } => self.guest(number, suite, &progress),
        };
        let outcome = outcome.and_then(|mut outcome| {
            outcome.check(&Budgets::of(&root())?);
            Ok(outcome)
        });
        outcome.unwrap_or_else(|error| {
            progress.say(&format!("failed: {error:#}"));
            Outcome::failed(kernel.name(), self.arch, &error)
        })
    }

    fn here(&self, progress: &Progress) -> Result<Outcome> {
        let begun = Instant::now();
        let transcript = boot::run_here(&self.programs, &self.steps, progress)?;
        let subject = Subject {
            kernel: Kernel::Host.name(),
            arch: self.arch,
            flavour: None,
            lacks: &[],
            seconds: begun.elapsed().as_secs_f64(),
        };
        Ok(Outcome::read(subject, &self.steps, &transcript))
    }

    fn guest(&self, number: &str, suite: Suite, progress: &Progress) -> Result<Outcome> {
        let (kernel, base) = {
            let _fetching = locked(&self.fetching);
            (self.fetch(number, suite, progress)?, self.base(progress)?)
        };
        if !kernel.lacks.is_empty() {
            progress.say(&format!("it lacks {}", kernel.lacks.join(", ")));
        }
        let initrd = self.initrd(number, &[&base, &kernel.modules])?;
        let begun = Instant::now();
        let log = format!("{number}-{}-{}.log", self.arch, self.flavour);
        let log = self.logs.join(log);
        let guest = Guest {
            arch: self.arch,
            image: &kernel.image,
            initrd: initrd.path(),
            cpus: self.cpus,
            has_nics: self.flavour.has_drivers(),
            log: &log,
        };
        progress.say(&format!(
            "booting {}; all that it says is in {}",
            kernel.release,
            log.strip_prefix(root()).unwrap_or(&log).display()
        ));
        let transcript = guest.run(&self.steps, progress)?;
        let subject = Subject {
            kernel: number,
            arch: self.arch,
            flavour: Some(kernel.flavour.to_string()),
            lacks: &kernel.lacks,
            seconds: begun.elapsed().as_secs_f64(),
        };
        Ok(Outcome::read(subject, &self.steps, &transcript))
    }

    fn fetch(&self, number: &str, suite: Suite, progress: &Progress) -> Result<Bootable> {
        let apt = Apt::of(&self.cache, suite, self.arch, progress)?;
        let available = apt.available()?;
        let release = catalogue::newest(&available, number, self.flavour, self.arch)?;
        modules::provide(&self.cache, &apt, &release, self.flavour, progress)
    }

    fn base(&self, progress: &Progress) -> Result<PathBuf> {
        let apt = Apt::of(&self.cache, self.suite, self.arch, progress)?;
        base::provide(&self.cache, &apt, self.arch, progress)
    }

    /// The whole initial file system of a guest.
    fn initrd(&self, number: &str, archives: &[&Path]) -> Result<archive::Temporary> {
        let name = format!("{number}-{}", self.arch);
        let own = archive::Temporary::new(self.work.path().join(format!("{name}.cpio")));
        self.programs
            .archive(&self.steps, self.flavour.has_drivers(), own.path())?;
        let whole = archive::Temporary::new(self.work.path().join(format!("{name}.initrd")));
        let parts: Vec<_> = archives.iter().copied().chain([own.path()]).collect();
        archive::join(&parts, whole.path())?;
        Ok(whole)
    }
}

/// A panic elsewhere leaves nothing half done in what these locks guard.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

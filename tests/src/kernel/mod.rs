//! The real BPF object in the real kernel, without an agent: maps are written directly, programs
//! are run on single packets by `BPF_PROG_TEST_RUN`.

mod family;

use std::{ffi::CString, path::Path};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    programs::{Program, SchedClassifier, TestRun, TestRunOptions, Xdp, XdpMode},
    util::nr_cpus,
};
use lb_common::{
    V4, V6,
    config::Config,
    counters::{Allowance, Reason, ServiceCounters},
    dry_run,
    maps::{self, programs},
};

use family::FamilyMaps;
pub use family::{Endpoint, Rows, Typed};

use lb_userspace::{full_path, pins::Pins};

use crate::topology::Family;

/// Where `cargo xtask build-ebpf` puts the object.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/fairlead");

/// Capacities here: small ones load fast.
const CAPACITIES: [(&str, u32); 16] = [
    (maps::FRONTENDS4, 1 << 10),
    (maps::FRONTENDS6, 1 << 10),
    (maps::SLOTS4, 1 << 10),
    (maps::SLOTS6, 1 << 10),
    (maps::BACKENDS4, 1 << 10),
    (maps::BACKENDS6, 1 << 10),
    (maps::FLOWS4, 1 << 14),
    (maps::FLOWS6, 1 << 14),
    (maps::AFFINITY4, 1 << 10),
    (maps::AFFINITY6, 1 << 10),
    (maps::SOURCE_RANGES4, 1 << 6),
    (maps::SOURCE_RANGES6, 1 << 6),
    (maps::LINKS, 1 << 6),
    (maps::SERVICE_COUNTERS, SERVICES),
    (maps::SERVICE_NAMES, SERVICES),
    (maps::STATUS, 1),
];
/// How many services there can be.
const SERVICES: u32 = 1 << 6;

/// Most bytes of a packet that comes back.
const ROOM: usize = 1 << 13;

/// A packet about to be run through a program.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Interface it is seen on.
    pub ifindex: u32,
    /// Its bytes, from the Ethernet header on.
    pub frame: &'a [u8],
    /// Payload of each segment it will be cut into; 0 if it will not. tc only.
    pub segment: u32,
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its answer, an XDP action or a `TC_ACT_*`.
    pub action: u32,
    /// The packet as it left it.
    pub frame: Vec<u8>,
}

/// The object, loaded, with maps of its own.
pub struct Kernel {
    object: Ebpf,
    v4: FamilyMaps<V4>,
    v6: FamilyMaps<V6>,
    config: Array<MapData, Config>,
    links: HashMap<MapData, u32, u32>,
    services: PerCpuArray<MapData, ServiceCounters>,
    reasons: PerCpuArray<MapData, u64>,
    allowance: PerCpuArray<MapData, Allowance>,
}

impl Kernel {
    /// Loads the object and all its programs.
    pub fn load() -> Result<Self> {
        Self::of(open(None, 0)?)
    }

    /// The same with the maps pinned, and beside it, pinned as well, the programs of dry runs.
    pub fn load_pinned(pins: &Pins) -> Result<Self> {
        let kernel = Self::of(open(Some(pins), 0)?)?;
        let mut dry = open(Some(pins), 1)?;
        for name in programs::DRY {
            load(&mut dry, name).with_context(|| format!("cannot load program {name} dry"))?;
            let program = dry.program_mut(name).context("there is none")?;
            program.pin(pins.program(name))?;
        }
        Ok(kernel)
    }

    fn of(mut object: Ebpf) -> Result<Self> {
        for name in programs::PACKETS.into_iter().chain(programs::FULL) {
            load(&mut object, name).with_context(|| format!("cannot load program {name}"))?;
        }
        full_path::connect(&mut object)?;
        Ok(Self {
            v4: FamilyMaps {
                frontends: take(&mut object, maps::FRONTENDS4)?,
                absent: take(&mut object, maps::ABSENT4)?,
                slots: take(&mut object, maps::SLOTS4)?,
                backends: take(&mut object, maps::BACKENDS4)?,
                flows: take(&mut object, maps::FLOWS4)?,
                fragments: take(&mut object, maps::FRAGMENTS4)?,
                affinity: take(&mut object, maps::AFFINITY4)?,
                source_ranges: take(&mut object, maps::SOURCE_RANGES4)?,
            },
            v6: FamilyMaps {
                frontends: take(&mut object, maps::FRONTENDS6)?,
                absent: take(&mut object, maps::ABSENT6)?,
                slots: take(&mut object, maps::SLOTS6)?,
                backends: take(&mut object, maps::BACKENDS6)?,
                flows: take(&mut object, maps::FLOWS6)?,
                fragments: take(&mut object, maps::FRAGMENTS6)?,
                affinity: take(&mut object, maps::AFFINITY6)?,
                source_ranges: take(&mut object, maps::SOURCE_RANGES6)?,
            },
            config: take(&mut object, maps::CONFIG)?,
            links: take(&mut object, maps::LINKS)?,
            services: take(&mut object, maps::SERVICE_COUNTERS)?,
            reasons: take(&mut object, maps::REASONS)?,
            allowance: take(&mut object, maps::ALLOWANCE)?,
            object,
        })
    }

    /// Attaches the XDP program to an interface of the caller's namespace: the kernel runs
    /// XDP programs on behalf of an interface only if it is prepared for XDP.
    pub fn attach_xdp(&mut self, interface: &str) -> Result<()> {
        let name = CString::new(interface)?;
        let program: &mut Xdp = self
            .object
            .program_mut(programs::XDP_EXTERNAL)
            .context("no XDP program")?
            .try_into()?;
        program
            .attach(name.as_c_str(), XdpMode::Driver)
            .with_context(|| format!("cannot attach XDP to {interface}"))?;
        Ok(())
    }

    /// Runs a program, by its name in [`programs`], on a packet. The caller must be in the network
    /// namespace of the packet's interface.
    pub fn run(&self, program: &str, input: Input<'_>) -> Result<Output> {
        let mut frame = vec![0; ROOM];
        let context = match self.object.program(program) {
            Some(Program::Xdp(_)) => xdp_context(input),
            _ => tc_context(input),
        };
        let options = TestRunOptions {
            data_in: Some(input.frame),
            data_out: Some(&mut frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match self.object.program(program) {
            Some(Program::Xdp(program)) => program.test_run(options),
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            other => anyhow::bail!("{program} is {other:?}, not an XDP or tc program"),
        };
        let result = result.with_context(|| {
            format!(
                "cannot run {program} on a packet of {} bytes",
                input.frame.len()
            )
        })?;
        frame.truncate(result.data_size_out as usize);
        Ok(Output {
            action: result.return_value,
            frame,
        })
    }

    /// The maps of one family.
    pub fn family(&mut self, family: Family) -> &mut dyn Rows {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Tells the programs about the node.
    pub fn configure(&mut self, config: Config) -> Result<(), MapError> {
        self.config.set(0, &config, 0)
    }

    /// What the programs were last told.
    pub fn config(&self) -> Result<Config, MapError> {
        self.config.get(&0, 0)
    }

    /// Tells the programs what they may do with an interface.
    pub fn link(&mut self, ifindex: u32, flags: u32) -> Result<(), MapError> {
        self.links.insert(&ifindex, &flags, 0)
    }

    /// How often a reason was counted.
    pub fn reason(&self, reason: Reason) -> Result<u64, MapError> {
        let values = self.reasons.get(&(reason as u32), 0)?;
        Ok(values.iter().sum())
    }

    /// The counters of a service.
    pub fn service(&self, id: u32) -> Result<ServiceCounters, MapError> {
        let values = self.services.get(&id, 0)?;
        let mut total = ServiceCounters::default();
        for ServiceCounters {
            packets,
            bytes,
            flows,
            rejects,
        } in values.iter()
        {
            total.packets += packets;
            total.bytes += bytes;
            total.flows += flows;
            total.rejects += rejects;
        }
        Ok(total)
    }

    /// Begins anew: no frontend, no flow, all counters zero.
    pub fn clear(&mut self) -> Result<()> {
        for family in Family::BOTH {
            self.family(family).clear()?;
        }
        self.forget()
    }

    /// Begins anew with the same frontends: no flow, no remembered client, all counters zero, and as
    /// many rejects allowed as can be.
    pub fn forget(&mut self) -> Result<()> {
        for family in Family::BOTH {
            self.family(family).forget()?;
        }
        for id in 0..SERVICES {
            self.services.set(id, zero()?, 0)?;
        }
        for reason in Reason::ALL {
            self.reasons.set(*reason as u32, zero()?, 0)?;
        }
        self.allowance.set(0, zero()?, 0)?;
        Ok(())
    }
}

fn open(pins: Option<&Pins>, dry: u32) -> Result<Ebpf> {
    ensure!(
        Path::new(OBJECT).exists(),
        "there is no {OBJECT}: run `cargo xtask build-ebpf`"
    );
    let mut loader = EbpfLoader::new();
    for (name, entries) in CAPACITIES {
        loader.map_max_entries(name, entries);
    }
    if let Some(pins) = pins {
        for name in maps::ALL.into_iter().chain(maps::PROGRAM_ARRAYS) {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader.override_global(dry_run::GLOBAL, &dry, true);
    loader
        .load_file(OBJECT)
        .with_context(|| format!("cannot load {OBJECT}; this needs root and BPF"))
}

fn load(object: &mut Ebpf, name: &str) -> Result<()> {
    match object.program_mut(name).context("there is none")? {
        Program::Xdp(program) => program.load()?,
        program => <&mut SchedClassifier>::try_from(program)?.load()?,
    }
    Ok(())
}

fn take<M: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &str) -> Result<M> {
    let map = object
        .take_map(name)
        .with_context(|| format!("there is no map {name}"))?;
    M::try_from(map).with_context(|| format!("map {name} has another shape"))
}

fn zero<T: Pod + Default>() -> Result<PerCpuValues<T>> {
    let cpus = nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
    let values: Vec<T> = (0..cpus.get()).map(|_| T::default()).collect();
    PerCpuValues::try_from(values).context("not one value per CPU")
}

/// `struct xdp_md`: `data`, `data_end`, `data_meta`, `ingress_ifindex`, `rx_queue_index`,
/// `egress_ifindex`.
fn xdp_context(input: Input<'_>) -> Vec<u8> {
    words(&[0, input.frame.len() as u32, 0, input.ifindex, 0, 0])
}

/// `struct __sk_buff`, of which a test run takes a few fields.
fn tc_context(input: Input<'_>) -> Vec<u8> {
    const IFINDEX: usize = 40 / 4;
    const GSO_SEGS: usize = 164 / 4;
    const GSO_SIZE: usize = 176 / 4;
    let mut context = [0; 192 / 4];
    context[IFINDEX] = input.ifindex;
    context[GSO_SIZE] = input.segment;
    if input.segment != 0 {
        context[GSO_SEGS] = (input.frame.len() as u32).div_ceil(input.segment);
    }
    words(&context)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

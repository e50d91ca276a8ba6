//! Timing a program by `BPF_PROG_TEST_RUN`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, Xdp},
    util::nr_cpus,
};
use lb_common::bench::{Cursor, Template};
use rustix::time::{ClockId, clock_gettime};

use super::packet::Segment;

/// Which outer program carries a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Xdp,
    Tc,
}

/// The outer programs, ready to call any target.
pub(super) struct Bench {
    object: Ebpf,
    template: Array<MapData, Template>,
    cursor: PerCpuArray<MapData, Cursor>,
    xdp_target: ProgramArray<MapData>,
    tc_target: ProgramArray<MapData>,
    xdp_context: Vec<u8>,
}

/// A run's output.
pub(super) struct Output {
    pub(super) action: u32,
    pub(super) bytes: Vec<u8>,
}

impl Bench {
    /// Takes over the loaded measuring object; packets are seen on interface `ifindex`.
    pub(super) fn new(mut object: Ebpf, ifindex: u32) -> Result<Self> {
        let mut map = |name: &str| {
            object
                .take_map(name)
                .with_context(|| format!("no map {name}"))
        };
        let (template, cursor) = (map("TEMPLATE")?, map("CURSOR")?);
        let (xdp_target, tc_target) = (map("XDP_TARGET")?, map("TC_TARGET")?);
        for (_, program) in object.programs_mut() {
            match program {
                aya::programs::Program::Xdp(program) => program.load()?,
                aya::programs::Program::SchedClassifier(program) => program.load()?,
                other => anyhow::bail!("unexpected program type {:?}", other.prog_type()),
            }
        }
        Ok(Self {
            object,
            template: template.try_into()?,
            cursor: cursor.try_into()?,
            xdp_target: xdp_target.try_into()?,
            tc_target: tc_target.try_into()?,
            xdp_context: xdp_context(ifindex),
        })
    }

    /// One of the primitive targets.
    pub(super) fn primitive(&self, name: &str) -> Result<ProgramFd> {
        Ok(self.xdp(name)?.fd()?.try_clone()?)
    }

    /// The target that does nothing.
    pub(super) fn nop(&self, carrier: Carrier) -> Result<ProgramFd> {
        match carrier {
            Carrier::Xdp => self.primitive("nop_xdp"),
            Carrier::Tc => Ok(self.tc("nop_tc")?.fd()?.try_clone()?),
        }
    }

    /// Sets what is called, and with which packet.
    pub(super) fn aim(
        &mut self,
        carrier: Carrier,
        target: &ProgramFd,
        segment: &Segment,
    ) -> Result<()> {
        match carrier {
            Carrier::Xdp => self.xdp_target.set(0, target, 0)?,
            Carrier::Tc => self.tc_target.set(0, target, 0)?,
        }
        self.template.set(0, &segment.template, 0)?;
        Ok(())
    }

    /// Goes on with this flow, out of `mask + 1`.
    pub(super) fn seek(&mut self, next: u32, mask: u32) -> Result<()> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let values = PerCpuValues::try_from(vec![Cursor { next, mask }; cpus.get() as usize])?;
        Ok(self.cursor.set(0, values, 0)?)
    }

    /// Runs this many packets, and yields nanoseconds per packet.
    ///
    /// The thread's own time is taken, so that what else runs on the CPU does not count; and from
    /// outside, since the kernel's figure is a whole number of nanoseconds.
    pub(super) fn time(&self, carrier: Carrier, segment: &Segment, packets: u32) -> Result<f64> {
        let start = thread_nanos();
        self.run(carrier, segment, packets, None)?;
        Ok((thread_nanos() - start) / f64::from(packets))
    }

    /// Runs one packet, and yields what became of it.
    pub(super) fn once(&self, carrier: Carrier, segment: &Segment) -> Result<Output> {
        let mut bytes = vec![0; segment.bytes.len() + 64];
        let (action, length) = self.run(carrier, segment, 1, Some(&mut bytes))?;
        bytes.truncate(length as usize);
        Ok(Output { action, bytes })
    }

    fn run(
        &self,
        carrier: Carrier,
        segment: &Segment,
        repeat: u32,
        data_out: Option<&mut [u8]>,
    ) -> Result<(u32, u32)> {
        let mut context = self.xdp_context.clone();
        context[4..8].copy_from_slice(&(segment.bytes.len() as u32).to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&segment.bytes),
            data_out,
            repeat,
            ctx_in: (carrier == Carrier::Xdp).then_some(&context),
            ..TestRunOptions::default()
        };
        let result = match carrier {
            Carrier::Xdp => self.xdp("outer_xdp")?.test_run(options)?,
            Carrier::Tc => self.tc("outer_tc")?.test_run(options)?,
        };
        Ok((result.return_value, result.data_size_out))
    }

    fn xdp(&self, name: &str) -> Result<&Xdp> {
        let program = self.object.program(name);
        Ok(program
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }

    fn tc(&self, name: &str) -> Result<&SchedClassifier> {
        let program = self.object.program(name);
        Ok(program
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }
}

/// `struct xdp_md` of a packet that came in on an interface; the length is filled in later.
fn xdp_context(ifindex: u32) -> Vec<u8> {
    const FIELDS: usize = 6;
    const INGRESS_IFINDEX: usize = 3;
    let mut fields = [0_u32; FIELDS];
    fields[INGRESS_IFINDEX] = ifindex;
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

fn thread_nanos() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let time = Duration::try_from(time).unwrap_or_default();
    time.as_secs_f64() * 1e9
}

/// The middle of a set of figures.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    figures.get(half).copied().unwrap_or(f64::NAN)
}

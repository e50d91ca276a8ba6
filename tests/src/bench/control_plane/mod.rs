//! `cargo xtask bench control-plane`: what it costs to follow a cluster, beside kube-proxy.
//!
//! A real control plane holds as many objects as a [`Size`] says, and each [`Proxy`] in turn programs
//! the node of a topology of its own with them. All but one Service have endpoints nobody is at; the
//! last one in every list is probed from a pod, and leads to one of two pods that answer.

mod changes;
pub(super) mod objects;
mod probe;
mod report;
mod requirements;
mod resync;
mod said;
mod size;
pub(super) mod stage;
mod trace;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use self::{
    changes::{Changes, Plan},
    stage::{Feed, Stage, Start, backends},
};
use crate::{
    kube::{self, ControlPlane, iptables_version},
    process::Usage,
    site::Site,
};

pub use changes::Spread;
pub use report::{Floor, Report, Row};
pub use requirements::Requirement;
pub use resync::Resync;
pub use size::{Proxy, Size};
pub use trace::Calls;

/// How long changes are made with Fairlead, and how long with another, at most.
const LIMITS: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(180));
/// What starting and ending a control plane and a stage takes, and what a resync takes.
pub(super) const AROUND: Duration = Duration::from_secs(20);
const RESYNC: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many objects.
    pub sizes: Vec<Size>,
    /// With whom.
    pub proxies: Vec<Proxy>,
    /// Programs that are Fairlead, each measured in turn; when empty, the one that is built beside this.
    pub agents: Vec<PathBuf>,
    /// How often a slice is changed, if there is time.
    pub changes: usize,
}

impl Options {
    /// About how long it takes, if kube-proxy starts at once.
    pub fn estimate(&self) -> Duration {
        let changing = changes::PAUSE * u32::try_from(self.changes).unwrap_or(u32::MAX);
        let of_proxy = |proxy: &Proxy| match proxy {
            Proxy::Fairlead => changing.min(LIMITS.0) + AROUND + RESYNC,
            Proxy::Nftables | Proxy::Iptables => changing.min(LIMITS.1) + AROUND,
        };
        let proxies: Duration = self.contestants().map(|it| of_proxy(&it.proxy)).sum();
        let of_size = |size: &Size| size.making() + AROUND + proxies;
        self.sizes.iter().map(of_size).sum()
    }

    fn contestants(&self) -> impl Iterator<Item = Contestant<'_>> {
        self.proxies.iter().flat_map(|&proxy| {
            let agents = match proxy {
                Proxy::Fairlead => &self.agents[..],
                Proxy::Nftables | Proxy::Iptables => &[],
            };
            let chosen = agents.iter().map(|agent| Some(agent.as_path()));
            let usual = agents.is_empty().then_some(None);
            chosen
                .chain(usual)
                .map(move |agent| Contestant { proxy, agent })
        })
    }
}

/// Who is measured.
#[derive(Clone, Copy)]
struct Contestant<'a> {
    proxy: Proxy,
    /// The program, if it is Fairlead and one was chosen.
    agent: Option<&'a Path>,
}

impl Contestant<'_> {
    /// The name in a report: for a chosen program its path.
    fn name(self) -> String {
        self.agent.map_or_else(
            || self.proxy.name().to_owned(),
            |agent| agent.display().to_string(),
        )
    }
}

/// Measures; `progress` is told what is at hand.
pub fn measure(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let iptables = if options.proxies.contains(&Proxy::Iptables) {
        iptables_version()?
    } else {
        String::new()
    };
    let (mut floors, mut rows) = (Vec::new(), Vec::new());
    for size in &options.sizes {
        progress(&format!("{size}: making the objects"));
        let began = Instant::now();
        let mut control = ControlPlane::start(Site::new()?, kube::Options::default())?;
        let [first, _] = backends();
        objects::make(&control, *size, first.address)?;
        progress(&format!("{size}: made after {:.1?}", began.elapsed()));
        floors.extend(floor(&control, *size, options.changes)?);
        for contestant in options.contestants() {
            let name = contestant.name();
            let mut tell = |what: &str| progress(&format!("{size}, {name}: {what}"));
            let row = one(&mut control, *size, contestant, options.changes, &mut tell);
            rows.push(row.with_context(|| format!("with {name} at {size}"))?);
        }
    }
    Ok(Report::new(iptables, floors, rows))
}

fn floor(control: &ControlPlane, size: Size, count: usize) -> Result<Option<Floor>> {
    let Changes { taken, writes, .. } = changes::alone(control, count)?;
    let both = Spread::of(&taken).zip(Spread::of(&writes));
    Ok(both.map(|(told_ms, write_ms)| Floor {
        size,
        told_ms,
        write_ms,
    }))
}

fn one(
    control: &mut ControlPlane,
    size: Size,
    contestant: Contestant<'_>,
    count: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<Row> {
    let Contestant { proxy, agent } = contestant;
    progress("starting");
    let [first, _] = backends();
    control.run(|client| objects::lead_to(client, first.address))?;
    let (mut stage, start) = Stage::start(Feed::Api(control), proxy, agent)?;
    progress(&match start.programming {
        Some(taken) => format!("programmed in {taken:.3?}"),
        None => format!("not programmed within {:?}", stage::START),
    });
    let received = stage.received()?;
    let idle = stage.settle()?;
    let changes = match start.programming {
        Some(_) => {
            let limit = if proxy == Proxy::Fairlead {
                LIMITS.0
            } else {
                LIMITS.1
            };
            changes::measure(control, &mut stage, Plan { count, limit })?
        }
        None => Changes::default(),
    };
    progress(&format!(
        "{} changes{}",
        changes.taken.len(),
        shown(&changes)
    ));
    let settled = stage.process().usage()?;
    let resync = match proxy {
        Proxy::Fairlead => Some(resync::measure(control, &mut stage, received)?),
        Proxy::Nftables | Proxy::Iptables => None,
    };
    let ever = stage.process().usage()?;
    let row = row(size, proxy, &start, &changes, [idle, settled]);
    Ok(Row {
        name: contestant.name(),
        peak_mb: megabytes(ever.peak),
        resync,
        ..row
    })
}

/// How long they took, for who watches.
fn shown(changes: &Changes) -> String {
    Spread::of(&changes.taken).map_or_else(String::new, |Spread { p50, p99, max }| {
        format!(" in {p50:.1} ms (p50), {p99:.1} ms (p99), at most {max:.1} ms")
    })
}

/// What it had taken when it had nothing more to do, and what it had taken after the changes.
type Usages = [Usage; 2];

#[expect(clippy::cast_precision_loss, reason = "all are far below 2^52")]
fn row(size: Size, proxy: Proxy, start: &Start, changes: &Changes, usages: Usages) -> Row {
    let [idle, settled] = usages;
    let Changes {
        taken,
        writes,
        given_up,
    } = changes;
    let seconds = |taken: Option<Duration>| taken.map(|taken| taken.as_secs_f64());
    let changing = settled.cpu.saturating_sub(idle.cpu);
    let each = (!taken.is_empty()).then(|| changing.as_secs_f64() * 1e3 / taken.len() as f64);
    Row {
        size,
        proxy,
        name: proxy.name().to_owned(),
        programmed_s: seconds(start.programming),
        answered_s: seconds(start.traffic),
        cpu_s: idle.cpu.as_secs_f64(),
        changes: taken.len(),
        change_ms: Spread::of(taken),
        given_up: *given_up,
        write_ms: Spread::of(writes),
        change_cpu_ms: each,
        resident_mb: megabytes(settled.resident),
        anonymous_mb: megabytes(settled.anonymous),
        peak_mb: megabytes(settled.peak),
        resync: None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "all are far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

//! `lbctl status`.

use std::{fs, path::PathBuf};

use clap::Args as Arguments;
use lb_common::{
    V4, V6,
    flow::{Flow, FlowKey},
    maps::{self as names},
    service::{Frontend, FrontendKey, ServiceName},
    socket::{SocketKey, SocketPeer},
};
use serde::Serialize;

use super::{
    Error, Paint,
    collect::Collector,
    kernel,
    output::{Detail, Format, list, printable, table, text},
    pinned::{MapFamily, PinnedMaps, Use},
    snapshot::{PortRange, Reason},
};
use crate::status::{Interface, Loading, Mode, Role, SocketMode, Sockets, Status};

/// From here on a map counts as nearly full.
const NEARLY_FULL_PERCENT: u64 = 80;

const EXAMPLES: &str = "\
MODE is how packets are seen on an interface: xdp (native XDP, with tc behind it), tc (tc alone) or
none; WHY says what stands in the way of a better one. A KERNEL FEATURE is shown that the kernel lacks, with
what is done WITHOUT IT; -o wide shows also those it has. A map counts as nearly full from 80 %.
REASON counts packets since the maps were made; -o wide shows also those that never occurred.

The exit status is 0 whatever there is to report; scripts look at `.warnings` and `.agent`.

Examples:
  lbctl status
  lbctl status -o json | jq -e '.warnings == [] and .agent.problems == []'";

/// Shows whether all is well on this node.
#[derive(Debug, Arguments)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// All that `lbctl status` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) pins: PathBuf,
    pub(super) agent_running: bool,
    pub(super) agent: Option<Status>,
    pub(super) snat_ports: PortRange,
    pub(super) capacities: Vec<MapUse>,
    /// Bytes of the slots in use, of both families.
    pub(super) table_bytes: u64,
    pub(super) maglev_tables: MaglevTables,
    pub(super) reasons: Vec<Reason>,
    /// What lbctl itself finds wrong.
    pub(super) warnings: Vec<String>,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MapUse {
    pub(super) map: &'static str,
    pub(super) used: u32,
    pub(super) capacity: u32,
    pub(super) percent: u64,
    pub(super) nearly_full: bool,
}

/// The Maglev tables of both families, which take part of the slots in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct MaglevTables {
    pub(super) count: u32,
    pub(super) bytes: u64,
}

impl Args {
    pub(super) fn run(&self, maps: &PinnedMaps, paint: Paint) -> Result<String, Error> {
        let report = read(maps)?;
        self.output
            .render(&report, |report, detail| render(report, detail, paint))
    }
}

fn read(maps: &PinnedMaps) -> Result<Report, Error> {
    let (agent, unreadable) = match maps.status() {
        Ok(agent) => (agent, None),
        // The rest is worth showing.
        Err(Error::Status(error)) => (
            None,
            Some(format!("the agent's status is unreadable: {error}")),
        ),
        Err(error) => return Err(error),
    };
    let collector = Collector::new(maps)?;
    let (slots4, tables4) = collector.slot_use::<V4>()?;
    let (slots6, tables6) = collector.slot_use::<V6>()?;
    let capacities = capacities(maps, &collector, slots4, slots6)?;
    let mut report = Report {
        pins: maps.root().to_owned(),
        agent_running: agent.as_ref().is_some_and(|agent| is_running(agent.pid)),
        agent,
        snat_ports: collector.config()?.snat_ports,
        table_bytes: table_bytes(&capacities),
        maglev_tables: MaglevTables {
            count: tables4.tables + tables6.tables,
            bytes: slot_bytes(u64::from(tables4.slots) + u64::from(tables6.slots)),
        },
        capacities,
        reasons: collector.reasons()?,
        warnings: unreadable.into_iter().collect(),
    };
    report.warnings.extend(warnings(&report));
    Ok(report)
}

/// Whether this process lives and is an agent: numbers are used again.
fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("lb-agent"))
}

fn capacities(
    maps: &PinnedMaps,
    collector: &Collector,
    slots4: Use,
    slots6: Use,
) -> Result<Vec<MapUse>, Error> {
    let hash4 = maps.hash_use::<FrontendKey<V4>, Frontend>(V4::FRONTENDS)?;
    let hash6 = maps.hash_use::<FrontendKey<V6>, Frontend>(V6::FRONTENDS)?;
    let flows4 = maps.hash_use::<FlowKey<V4>, Flow<V4>>(V4::FLOWS)?;
    let flows6 = maps.hash_use::<FlowKey<V6>, Flow<V6>>(V6::FLOWS)?;
    let sockets4 = maps.hash_use::<SocketKey<V4>, SocketPeer<V4>>(V4::SOCKETS)?;
    let sockets6 = maps.hash_use::<SocketKey<V6>, SocketPeer<V6>>(V6::SOCKETS)?;
    let services = maps.hash_use::<u32, ServiceName>(names::SERVICE_NAMES)?;
    let links = maps.hash_use::<u32, u32>(names::LINKS)?;
    Ok(vec![
        MapUse::new(V4::FRONTENDS, hash4),
        MapUse::new(V6::FRONTENDS, hash6),
        MapUse::new(V4::SLOTS, slots4),
        MapUse::new(V6::SLOTS, slots6),
        MapUse::new(V4::BACKENDS, collector.backend_use::<V4>()?),
        MapUse::new(V6::BACKENDS, collector.backend_use::<V6>()?),
        MapUse::new(names::SERVICE_NAMES, services),
        MapUse::new(V4::FLOWS, flows4),
        MapUse::new(V6::FLOWS, flows6),
        MapUse::new(V4::SOCKETS, sockets4),
        MapUse::new(V6::SOCKETS, sockets6),
        MapUse::new(names::LINKS, links),
    ])
}

/// The memory of the tables that lead to backends.
pub(super) fn table_bytes(capacities: &[MapUse]) -> u64 {
    let slots = capacities
        .iter()
        .filter(|row| [V4::SLOTS, V6::SLOTS].contains(&row.map));
    slot_bytes(slots.map(|row| u64::from(row.used)).sum())
}

const fn slot_bytes(slots: u64) -> u64 {
    slots * size_of::<u32>() as u64
}

impl MapUse {
    pub(super) fn new(map: &'static str, Use { used, capacity }: Use) -> Self {
        let percent = u64::from(used) * 100 / u64::from(capacity.max(1));
        Self {
            map,
            used,
            capacity,
            percent,
            nearly_full: percent >= NEARLY_FULL_PERCENT,
        }
    }
}

/// What an operator should look at.
pub(super) fn warnings(report: &Report) -> Vec<String> {
    let agent = match &report.agent {
        None => Some("no agent has written its status yet".to_owned()),
        Some(_) if report.agent_running => None,
        Some(agent) => Some(format!(
            "lb-agent (pid {}) is not running: traffic goes on, but changes are not followed",
            agent.pid
        )),
    };
    let interfaces = report.agent.iter().flat_map(|agent| &agent.interfaces);
    let unattached = interfaces
        .filter(|interface| interface.mode == Mode::None)
        .map(|interface| {
            let (name, reason) = (&interface.name, &interface.reason);
            format!("packets are not seen on interface {name}: {reason}")
        });
    let full = report
        .capacities
        .iter()
        .filter(|capacity| capacity.nearly_full)
        .map(|capacity| format!("{} is {} % full", capacity.map, capacity.percent));
    agent.into_iter().chain(unattached).chain(full).collect()
}

/// The report for people.
pub(super) fn render(report: &Report, detail: Detail, paint: Paint) -> String {
    let Report {
        pins,
        agent_running,
        agent,
        snat_ports,
        capacities,
        table_bytes,
        maglev_tables,
        reasons,
        warnings,
    } = report;
    let mut head = agent.as_ref().map_or_else(Vec::new, account);
    if agent.is_some() {
        let running = if *agent_running {
            paint.good("running")
        } else {
            paint.problem("not running")
        };
        head.push(fact("State", &running));
    }
    head.push(fact("SNAT ports", &snat_ports.to_string()));
    head.push(fact(
        "Backend tables",
        &memory(*table_bytes, *maglev_tables),
    ));
    head.push(fact("Pins", &printable(&pins.display().to_string())));

    let problems = agent.as_ref().map_or(&[][..], |agent| &agent.problems);
    let mut blocks = vec![head];
    blocks.extend(agent.as_ref().map(|agent| interfaces(agent, paint)));
    let features = agent
        .as_ref()
        .and_then(|it| kernel::feature_lines(it, detail));
    blocks.extend(features);
    blocks.push(capacity_lines(capacities, paint));
    blocks.push(reason_lines(reasons, detail));
    blocks.push(listed("Warnings", warnings, |line| paint.warning(line)));
    blocks.push(listed("Problems", problems, |line| paint.problem(line)));
    blocks.into_iter().map(text).collect::<Vec<_>>().join("\n")
}

/// The agent's own account, whole.
pub(super) fn agent_lines(agent: &Status) -> Vec<String> {
    let mut lines = account(agent);
    lines.extend(interfaces(agent, Paint::OFF));
    lines.extend(kernel::feature_lines(agent, Detail::Full).unwrap_or_default());
    lines.extend(listed("Problems", &agent.problems, str::to_owned));
    lines
}

/// What the agent says of itself and the node.
fn account(agent: &Status) -> Vec<String> {
    let last_sync = agent.last_sync.as_deref().unwrap_or("never");
    let without_ipv6 = agent.without_ipv6.iter();
    let without_ipv6 = without_ipv6.map(|reason| ("IPv6", format!("not served: {reason}")));
    let unusual_tc = kernel::unusual_tc(agent).map(|way| ("tc programs", way));
    let loading = loading(agent.loading).map(|which| ("Loading", which));
    [
        ("Node", agent.node.clone()),
        ("Addresses", list(&agent.node_addresses, Detail::Full)),
        (
            "Node ports on",
            list(&agent.node_port_addresses, Detail::Full),
        ),
        ("Sockets", sockets(&agent.sockets)),
        ("Source", agent.source.clone()),
        ("Last sync", last_sync.to_owned()),
        (
            "Agent",
            format!(
                "lb-agent {}, pid {}, since {}",
                agent.version, agent.pid, agent.started
            ),
        ),
    ]
    .into_iter()
    .chain(without_ipv6)
    .chain(unusual_tc)
    .chain(loading)
    .map(|(name, value)| fact(name, &printable(&value)))
    .collect()
}

/// Which programs the agent is loading.
fn loading(loading: Loading) -> Option<String> {
    match loading {
        Loading::DataPath => Some(
            "the programs of the data path; till then this node is served as an earlier agent left it"
                .to_owned(),
        ),
        Loading::DryRuns => {
            Some("the programs that `lbctl explain` asks; traffic is served".to_owned())
        }
        Loading::Nothing => None,
    }
}

/// Whose sockets are led to services, and by which cgroup.
fn sockets(sockets: &Sockets) -> String {
    let Sockets {
        mode,
        cgroup,
        pods_led,
        pods_left,
    } = sockets;
    let whose = match mode {
        SocketMode::All => format!(
            "of the node's processes and of {pods_led} pods are led to services, {pods_left} pods are \
             left to tc"
        ),
        SocketMode::Host => "of the node's processes are led to services".to_owned(),
        SocketMode::Off => "left alone".to_owned(),
        SocketMode::None => "left alone, see problems".to_owned(),
    };
    match cgroup {
        Some(cgroup) => format!("{whose} (cgroup {})", cgroup.display()),
        None => whose,
    }
}

fn memory(
    bytes: u64,
    MaglevTables {
        count,
        bytes: maglev,
    }: MaglevTables,
) -> String {
    let [all, maglev] = [bytes, maglev].map(|bytes| bytes.div_ceil(1024));
    match count {
        0 => format!("{all} KiB in use, no Maglev table"),
        1 => format!("{all} KiB in use, {maglev} KiB by 1 Maglev table"),
        _ => format!("{all} KiB in use, {maglev} KiB by {count} Maglev tables"),
    }
}

fn fact(name: &str, value: &str) -> String {
    format!("{:<15} {value}", format!("{name}:"))
}

/// The agent's interfaces.
fn interfaces(agent: &Status, paint: Paint) -> Vec<String> {
    let rows = agent.interfaces.iter().map(|interface| {
        let Interface {
            name,
            index,
            role,
            mode,
            reason,
        } = interface;
        let role = match role {
            Role::External => "external",
            Role::Pod => "pod",
        };
        let mode = match mode {
            Mode::Xdp => "xdp",
            Mode::Tc => "tc",
            Mode::None => "none",
        };
        let why = if reason.is_empty() { "-" } else { reason };
        vec![
            name.clone(),
            index.to_string(),
            role.to_owned(),
            mode.to_owned(),
            why.to_owned(),
        ]
    });
    let lines = table(&["INTERFACE", "INDEX", "ROLE", "MODE", "WHY"], rows);
    let unattached = agent.interfaces.iter().map(|it| it.mode == Mode::None);
    marked(lines, unattached, |line| paint.warning(line))
}

fn capacity_lines(capacities: &[MapUse], paint: Paint) -> Vec<String> {
    let rows = capacities.iter().map(|row| {
        vec![
            row.map.to_owned(),
            row.used.to_string(),
            row.capacity.to_string(),
            format!("{} %", row.percent),
        ]
    });
    let lines = table(&["MAP", "USED", "CAPACITY", "FULL"], rows);
    let full = capacities.iter().map(|row| row.nearly_full);
    marked(lines, full, |line| paint.warning(line))
}

/// Paints the lines below the header that are to be noticed.
fn marked(
    lines: Vec<String>,
    notice: impl Iterator<Item = bool>,
    paint: impl Fn(&str) -> String,
) -> Vec<String> {
    let notice = std::iter::once(false).chain(notice);
    lines
        .into_iter()
        .zip(notice)
        .map(|(line, notice)| if notice { paint(&line) } else { line })
        .collect()
}

fn reason_lines(reasons: &[Reason], detail: Detail) -> Vec<String> {
    let shown = reasons.iter().filter(|reason| match detail {
        Detail::Brief => reason.packets > 0,
        Detail::Full => true,
    });
    table(
        &["REASON", "PACKETS"],
        shown.map(|row| vec![row.reason.to_owned(), row.packets.to_string()]),
    )
}

fn listed(title: &str, lines: &[String], paint: impl Fn(&str) -> String) -> Vec<String> {
    if lines.is_empty() {
        return vec![format!("{title}: none")];
    }
    let items = lines
        .iter()
        .map(|line| format!("  {}", paint(&printable(line))));
    std::iter::once(format!("{title}:")).chain(items).collect()
}

//! The answer, for people and scripts.

use std::net::IpAddr;

use lb_common::dry_run::Outcome;
use serde::Serialize;

use super::{
    super::{
        collect::Collector,
        output::{Detail, printable, table, text},
        snapshot::{BackendRef, HostPort, Service},
    },
    inquiry::{Candidate, Choice, Found, SourceAfter, Way, verdict_name},
    packet::Tuple,
    place::{Hook, Place},
};
use crate::{
    model::Protocol,
    status::{SocketMode, Status},
};

/// All that `lbctl explain` says. The field names are `-o json`'s contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) from: From,
    pub(super) to: HostPort,
    pub(super) protocol: String,
    pub(super) seen: Seen,
    #[serde(flatten)]
    pub(super) way: Way,
    pub(super) service: Option<ServiceRef>,
    /// Whether the packet is of a flow that is in the table.
    pub(super) established: bool,
    pub(super) choice: Option<Choice>,
    pub(super) backend: Option<BackendRef>,
    pub(super) candidates: Vec<Candidate>,
    /// What else is worth knowing.
    pub(super) notes: Vec<String>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct From {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
}

/// Where the packet is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Seen {
    pub(super) hook: Hook,
    pub(super) interface: Option<String>,
    pub(super) because: &'static str,
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ServiceRef {
    pub(super) id: u32,
    /// None if the id has no name.
    #[serde(flatten)]
    pub(super) name: Option<PortName>,
}

/// The name of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PortName {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: String,
    #[serde(skip)]
    full: String,
}

impl PortName {
    fn of(service: &Service) -> Self {
        Self {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: service.port.clone(),
            full: service.full_name(),
        }
    }
}

impl Report {
    pub(super) fn new(
        tuple: &Tuple,
        from_port: Option<u16>,
        place: Place,
        found: Found,
        collector: &Collector<'_>,
        status: &Status,
    ) -> Self {
        let Found {
            way,
            service,
            choice,
            backend,
            candidates,
        } = found;
        let notes = notes(&place, tuple.protocol, &candidates, status);
        Self {
            from: From {
                address: tuple.from.0,
                port: from_port,
            },
            to: HostPort {
                address: tuple.to.0,
                port: tuple.to.1,
            },
            protocol: tuple.protocol.to_string(),
            seen: Seen {
                hook: place.hook,
                interface: place.interface,
                because: place.because,
            },
            way,
            service: service.map(|id| ServiceRef {
                id,
                name: collector.service(id).map(PortName::of),
            }),
            established: choice == Some(Choice::Flow),
            choice,
            backend,
            candidates,
            notes,
        }
    }
}

fn notes(
    place: &Place,
    protocol: Protocol,
    candidates: &[Candidate],
    status: &Status,
) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(interface) = place.interface.as_ref().filter(|_| !place.attached) {
        notes.push(format!(
            "Fairlead is not on interface {interface}: packets there pass untouched"
        ));
    }
    if place.hook == Hook::Host {
        if !matches!(status.sockets.mode, SocketMode::All | SocketMode::Host) {
            notes.push(
                "sockets of the node's processes are not led to services: see --socket-lb of \
                 lb-agent, and `lbctl status`"
                    .to_owned(),
            );
        } else if protocol == Protocol::Sctp {
            notes.push("sockets of the node's processes are led for TCP and UDP only".to_owned());
        }
    }
    if place.hook == Hook::Pod && status.sockets.mode == SocketMode::All {
        notes.push(
            "sockets of pods that `lbctl maps dump netns` lists are led straight to a backend: of \
             theirs no packet comes here"
                .to_owned(),
        );
    }
    let lost: Vec<_> = candidates
        .iter()
        .filter_map(|candidate| candidate.way.as_ref())
        .filter(|way| way.verdict != Outcome::Forward)
        .collect();
    if !lost.is_empty() && lost.len() < candidates.len() {
        notes.push(format!(
            "{} of {} candidates would not be reached",
            lost.len(),
            candidates.len()
        ));
    }
    notes
}

pub(super) fn render(report: &Report, _: Detail) -> String {
    let Report {
        from,
        to,
        protocol,
        seen,
        way,
        service,
        established: _,
        choice,
        backend,
        candidates,
        notes,
    } = report;
    let mut lines = vec![("Verdict", verdict(way))];
    lines.push(("Service", service.as_ref().map_or_else(none, service_name)));
    lines.push(("From", from.to_string()));
    lines.push(("To", format!("{to} {protocol}")));
    lines.push(("Seen at", seen.to_string()));
    if let Some(choice) = choice {
        let text = chosen(*choice, backend.as_ref(), candidates.len());
        lines.push(("Backend", text));
    }
    if way.verdict == Outcome::Forward {
        lines.push(("Source", source(way.source.as_ref())));
    }
    lines.extend(notes.iter().map(|note| ("Note", note.clone())));
    let mut output = text(
        lines
            .into_iter()
            .map(|(title, value)| format!("{:9}{}", format!("{title}:"), printable(&value))),
    );
    if !candidates.is_empty() {
        output.push('\n');
        output.push_str(&text(candidate_table(candidates)));
    }
    output
}

fn none() -> String {
    "none".to_owned()
}

fn verdict(way: &Way) -> String {
    let name = verdict_name(way.verdict);
    way.reason.map_or_else(
        || name.to_owned(),
        |reason| format!("{name} ({})", reason.name()),
    )
}

fn service_name(service: &ServiceRef) -> String {
    service.name.as_ref().map_or_else(
        || format!("id {}, without a name", service.id),
        |name| name.full.clone(),
    )
}

fn chosen(choice: Choice, backend: Option<&BackendRef>, candidates: usize) -> String {
    let by_port = choice == Choice::Hash && backend.is_none();
    let backend = backend.map_or_else(none, ToString::to_string);
    match choice {
        Choice::Hash if by_port => format!("one of {candidates}, by the hash of the client's port"),
        Choice::Hash => format!("{backend}, by the hash of the flow"),
        Choice::Random => format!("chosen at random among {candidates}"),
        Choice::Only => format!("{backend}, the only one"),
        Choice::Affinity => format!("{backend}, by session affinity"),
        Choice::Flow => format!("{backend}, of an established flow"),
    }
}

fn source(source: Option<&SourceAfter>) -> String {
    let Some(SourceAfter {
        rewritten,
        address,
        port,
        drawn_from,
    }) = source
    else {
        return "depends on the backend".to_owned();
    };
    match (rewritten, port, drawn_from) {
        (false, _, _) => "unchanged".to_owned(),
        (true, _, Some(ports)) => format!("{address}, a port of {ports}"),
        (true, Some(port), None) => HostPort {
            address: *address,
            port: *port,
        }
        .to_string(),
        (true, None, None) => address.to_string(),
    }
}

fn candidate_table(candidates: &[Candidate]) -> Vec<String> {
    let rows = candidates.iter().map(|candidate| {
        let Candidate {
            backend,
            slots,
            way,
        } = candidate;
        let marks = backend.marks();
        let address = backend.at.map_or_else(none, |at| at.to_string());
        let marks = if marks.is_empty() {
            "-".to_owned()
        } else {
            marks.join(", ")
        };
        let (verdict, source) = match way {
            Some(way) if way.verdict == Outcome::Forward => {
                (verdict(way), source(way.source.as_ref()))
            }
            Some(way) => (verdict(way), "-".to_owned()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        vec![address, marks, slots.to_string(), verdict, source]
    });
    table(&["CANDIDATE", "MARKS", "SLOTS", "VERDICT", "SOURCE"], rows)
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, port } = *self;
        match port {
            Some(port) => HostPort { address, port }.fmt(f),
            None => write!(f, "{address}, any port"),
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            hook,
            interface,
            because,
        } = self;
        f.write_str(hook.name())?;
        if let Some(interface) = interface {
            write!(f, " {interface}")?;
        }
        write!(f, " ({because})")
    }
}

//! Asks a program until everything is known that may become of a packet.

use std::net::IpAddr;

use lb_common::{
    V4, V6,
    counters::Reason,
    dry_run::{Answer, Considered, Outcome},
};
use serde::Serialize;

use super::{
    super::{
        Error,
        endpoints::{Choices, Endpoints, Reference},
        pinned::PinnedMaps,
        snapshot::{BackendRef, PortRange},
    },
    ask::{Oracle, Told, leading_to},
    packet::{self, Tuple},
};

/// How often it is begun anew when the service changes meanwhile.
const ATTEMPTS: u32 = 5;

/// A question, and who answers it.
pub(super) struct Inquiry {
    pub(super) oracle: Oracle,
    pub(super) tuple: Tuple,
    pub(super) from_port: Option<u16>,
    pub(super) frame: Vec<u8>,
    /// Ports that source translation draws from.
    pub(super) snat_ports: PortRange,
}

/// All there is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Of the whole; where there are several candidates, of the first that is forwarded.
    pub(super) way: Way,
    /// Service id.
    pub(super) service: Option<u32>,
    pub(super) choice: Option<Choice>,
    /// The backend, if only one can be it.
    pub(super) backend: Option<BackendRef>,
    pub(super) candidates: Vec<Candidate>,
}

/// What decides on the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Choice {
    /// Chance, among all candidates.
    Random,
    /// There is but one.
    Only,
    /// The hash of the flow.
    Hash,
    /// The client is remembered.
    Affinity,
    /// The packet is of a flow there is.
    Flow,
}

/// A backend that could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate {
    #[serde(flatten)]
    pub(super) backend: BackendRef,
    /// How many of the slots are its.
    pub(super) slots: u32,
    /// Where it leads; none if it is not asked for, another being remembered.
    #[serde(flatten)]
    pub(super) way: Option<Way>,
}

/// What becomes of the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Way {
    #[serde(serialize_with = "verdict")]
    pub(super) verdict: Outcome,
    #[serde(serialize_with = "reason")]
    pub(super) reason: Option<Reason>,
    /// What its source becomes; none unless it is forwarded.
    pub(super) source: Option<SourceAfter>,
}

/// The source of a packet that goes on to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SourceAfter {
    /// Whether it is another than before.
    pub(super) rewritten: bool,
    pub(super) address: IpAddr,
    /// None if the question names none, or it is drawn.
    pub(super) port: Option<u16>,
    /// What it is drawn from.
    pub(super) drawn_from: Option<PortRange>,
}

/// The name of a verdict.
pub(super) const fn verdict_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Forward => "forward",
        Outcome::Reject => "reject",
        Outcome::Drop => "drop",
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn verdict<S: serde::Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict_name(*outcome))
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn reason<S: serde::Serializer>(reason: &Option<Reason>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.map(Reason::name).serialize(serializer)
}

impl Inquiry {
    /// Asks.
    pub(super) fn make(&self, maps: &PinnedMaps) -> Result<Found, Error> {
        let backends = Backends::open(maps, self.tuple.to.0)?;
        for _ in 0..ATTEMPTS {
            if let Some(found) = self.attempt(&backends)? {
                return Ok(found);
            }
        }
        Err(Error::Restless)
    }

    /// None if the service changed while it was asked about.
    fn attempt(&self, backends: &Backends) -> Result<Option<Found>, Error> {
        let first = self.oracle.ask(&self.frame, 0)?;
        let Answer { frontend, flow, .. } = first.answer;
        let mut found = Found {
            way: self.way(&first, frontend.is_none()),
            service: frontend
                .map(|frontend| frontend.service)
                .or(flow.map(|flow| flow.service)),
            choice: None,
            backend: None,
            candidates: Vec::new(),
        };
        match (frontend, flow) {
            (Some(frontend), Some(flow)) if frontend.hashed => {
                let choices = backends.choices(&frontend)?;
                let asked = self.from_port.map(|_| flow.backend);
                found.follow_hash(&choices.backends, asked);
            }
            (Some(frontend), _) if frontend.drawn && !frontend.hashed => {
                let Some(candidates) = self.every(&frontend, backends)? else {
                    return Ok(None);
                };
                found.candidates = candidates;
                found.settle();
            }
            (Some(frontend), Some(flow)) => {
                found.choice = Some(Choice::Affinity);
                found.backend = Some(backends.backend(flow.backend)?);
                let choices = backends.choices(&frontend)?;
                found.list(&choices.backends, Some(flow.backend));
            }
            (None, Some(flow)) => {
                found.choice = Some(Choice::Flow);
                found.backend = Some(backends.backend(flow.backend)?);
            }
            (Some(_) | None, None) => {}
        }
        Ok(Some(found))
    }

    /// Asks for each backend that can be drawn. None if they changed meanwhile.
    fn every(
        &self,
        frontend: &Considered,
        backends: &Backends,
    ) -> Result<Option<Vec<Candidate>>, Error> {
        let choices = backends.choices(frontend)?;
        let mut candidates = Vec::new();
        for (position, backend, slots) in first_positions(&choices.backends) {
            let number = leading_to(position, choices.count);
            let told = self.oracle.ask(&self.frame, number)?;
            let same = |now: Considered| now.drawn && now.slots == frontend.slots;
            if !told.answer.frontend.is_some_and(same) {
                return Ok(None);
            }
            candidates.push(Candidate {
                backend,
                slots,
                way: Some(self.way(&told, false)),
            });
        }
        Ok(Some(candidates))
    }

    fn way(&self, told: &Told, of_a_flow: bool) -> Way {
        let Answer {
            outcome, reason, ..
        } = told.answer;
        let forwarded = outcome == Outcome::Forward;
        Way {
            verdict: outcome,
            // What is forwarded may have been counted on the way, for the neighbour it lacks.
            reason: reason.filter(|_| !forwarded),
            source: forwarded
                .then(|| packet::source(&told.frame))
                .flatten()
                .map(|(address, port)| self.source(address, port, of_a_flow)),
        }
    }

    fn source(&self, address: IpAddr, port: u16, of_a_flow: bool) -> SourceAfter {
        let moved = (address, port) != self.tuple.from;
        let drawn = port != self.tuple.from.1 && !of_a_flow;
        SourceAfter {
            rewritten: moved,
            address,
            port: if drawn {
                None
            } else {
                self.from_port.map(|_| port)
            },
            drawn_from: drawn.then_some(self.snat_ports),
        }
    }
}

impl Found {
    /// Lists the backends in these slots, of which the one with this index is asked for.
    fn list(&mut self, slots: &[BackendRef], asked: Option<u32>) {
        let candidates = first_positions(slots).into_iter();
        let candidate = |(_, backend, slots): (u32, BackendRef, u32)| Candidate {
            way: (Some(backend.index) == asked).then(|| self.way.clone()),
            backend,
            slots,
        };
        self.candidates = candidates.map(candidate).collect();
    }

    /// The backend that the flow's hash leads to; any of them if the question names no port, which
    /// is hashed too.
    fn follow_hash(&mut self, slots: &[BackendRef], asked: Option<u32>) {
        if asked.is_none() {
            self.way.source = None;
        }
        self.list(slots, asked);
        let mut candidates = self.candidates.iter();
        let chosen = candidates.find(|candidate| Some(candidate.backend.index) == asked);
        self.backend = chosen.map(|candidate| candidate.backend.clone());
        self.choice = Some(Choice::Hash);
    }

    /// What the candidates have in common is what is said of the whole.
    fn settle(&mut self) {
        let forwarded = |candidate: &&Candidate| {
            let way = candidate.way.as_ref();
            way.is_some_and(|way| way.verdict == Outcome::Forward)
        };
        let best = self.candidates.iter().find(forwarded);
        if let Some(way) = best.and_then(|candidate| candidate.way.clone()) {
            self.way = way;
        }
        let sources = |candidate: &&Candidate| candidate.way.clone().map(|way| way.source);
        let differ = self
            .candidates
            .iter()
            .filter(forwarded)
            .any(|candidate| sources(&candidate) != Some(self.way.source.clone()));
        if differ {
            self.way.source = None;
        }
        self.choice = Some(match self.candidates.as_slice() {
            [only] => {
                self.backend = Some(only.backend.clone());
                Choice::Only
            }
            _ => Choice::Random,
        });
    }
}

/// Each backend with the position of its first slot and the number of its slots.
fn first_positions(slots: &[BackendRef]) -> Vec<(u32, BackendRef, u32)> {
    let mut distinct: Vec<(u32, BackendRef, u32)> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for (position, backend) in slots.iter().enumerate() {
        let place = *known.entry(backend.index).or_insert_with(|| {
            distinct.push((position as u32, backend.clone(), 0));
            distinct.len() - 1
        });
        distinct[place].2 += 1;
    }
    distinct
}

/// Slots and backends of the packet's family.
enum Backends {
    V4(Endpoints<V4>),
    V6(Endpoints<V6>),
}

impl Backends {
    fn open(maps: &PinnedMaps, family: IpAddr) -> Result<Self, Error> {
        Ok(match family {
            IpAddr::V4(_) => Self::V4(Endpoints::open(maps)?),
            IpAddr::V6(_) => Self::V6(Endpoints::open(maps)?),
        })
    }

    fn backend(&self, index: u32) -> Result<BackendRef, Error> {
        match self {
            Self::V4(endpoints) => endpoints.backend(index),
            Self::V6(endpoints) => endpoints.backend(index),
        }
    }

    /// The backends that a client may be led to by a frontend.
    fn choices(&self, frontend: &Considered) -> Result<Choices, Error> {
        let range = Reference {
            slots: frontend.slots,
            list: frontend.list,
        };
        match self {
            Self::V4(endpoints) => endpoints.choices(range),
            Self::V6(endpoints) => endpoints.choices(range),
        }
    }
}

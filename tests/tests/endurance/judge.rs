//! Whether what a client met is what it may have met.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use tests::frontends::{Key, Leads};

use crate::history::{History, Window};

/// How a client's packets come to a frontend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The node whose frontend it is: its number in [`tests::cluster::NODES`].
    pub(crate) node: usize,
    /// Whether the client is inside for that node.
    pub(crate) inside: bool,
    /// The client's address as it appears there.
    pub(crate) client: IpAddr,
    /// Whether a socket of the node is led, so that refusals are no packets.
    pub(crate) socket: bool,
}

/// Namespace, Service, port, protocol.
pub(crate) type PortId = (String, String, String, u8);

/// What a client met.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// A server answered: its address.
    Answered(SocketAddr),
    /// The client was told that nobody is there.
    Refused,
    /// Nobody said anything.
    Silence,
    /// Something else is wrong.
    Failure,
}

impl Outcome {
    /// What an error tells of.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Silence,
            _ => Self::Failure,
        }
    }

    /// Who answered.
    pub(crate) const fn server(&self) -> Option<SocketAddr> {
        match self {
            Self::Answered(server) => Some(*server),
            Self::Refused | Self::Silence | Self::Failure => None,
        }
    }
}

/// A question at a frontend.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) key: Key,
    pub(crate) way: Way,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    pub(crate) outcome: Outcome,
}

/// What a client has to reckon with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// It is answered, or told that nobody is there.
    Word,
    /// It waits in vain.
    None,
}

impl History {
    /// What is to be expected of a frontend now.
    pub(crate) fn prospect(&self, key: &Key, way: &Way) -> Prospect {
        let now = Instant::now();
        let leads = self.leads(way.node, key, *self.window(now, now).end());
        match leads.map(|leads| may_meet(leads, way)) {
            Some(Meets::Server(_) | Meets::Refusal) => Prospect::Word,
            Some(Meets::Silence) | None => Prospect::None,
        }
    }

    /// Judges the first question of a flow that none was like before.
    pub(crate) fn judge_new(&self, asked: &Asked) -> Result<(), String> {
        let window = self.window(asked.from, asked.to);
        if self.is_certain(asked) {
            exactly(self.leads(asked.way.node, &asked.key, *window.end()), asked)
        } else {
            self.roughly(asked, &window)
        }
    }

    /// Whether a connection, that `last` answered on, was broken off because that pod is deleted.
    pub(crate) fn is_cut_off(&self, asked: &Asked, last: Option<(SocketAddr, Instant)>) -> bool {
        matches!(asked.outcome, Outcome::Failure)
            && last.is_some_and(|(server, when)| {
                self.may_be_deleted(&server, &self.window(when, asked.to))
            })
    }

    /// Judges a question on a flow of datagrams that goes on, or goes on where another one, of the
    /// same addresses and ports, ended: `last` is who answered last, and when that was asked.
    pub(crate) fn judge_datagrams(
        &self,
        asked: &Asked,
        last: Option<(SocketAddr, Instant)>,
    ) -> Result<(), String> {
        let window = self.window(asked.from, asked.to);
        let is_certain = self.is_certain(asked);
        let in_state = |state| self.leads(asked.way.node, &asked.key, state);
        let leads = in_state(*window.end());
        if is_certain && let Some((server, when)) = last {
            let since = self.window(when, asked.to);
            let serves = leads.is_some_and(|leads| serves(leads, &asked.way, &server));
            if serves && !self.claimants(&asked.key, &since).changed {
                return expect(
                    asked,
                    "the server it had",
                    asked.outcome.server() == Some(server),
                );
            }
        }
        // A row may lead where the list does not, as long as the Service has that endpoint; that also
        // while nobody has the frontend any more.
        let ever = 0..=*window.end();
        let is_given_up = window.clone().any(|state| in_state(state).is_none());
        let since = if is_given_up { &ever } else { &window };
        let names = self.claimants(&asked.key, since).names;
        match asked.outcome.server() {
            Some(server) if self.have(&names, &server, &window) => Ok(()),
            Some(_) | None if is_certain => exactly(leads, asked),
            Some(_) | None => self.roughly(asked, &window),
        }
    }

    /// Whether the client's last server has to be this one's too: there is affinity, and nothing of
    /// the Service has changed since.
    pub(crate) fn is_bound(&self, asked: &Asked, server: &SocketAddr, since: Instant) -> bool {
        let window = self.window(since, asked.to);
        let now = self.leads(asked.way.node, &asked.key, *window.end());
        now.is_some_and(|leads| leads.affinity > 0 && serves(leads, &asked.way, server))
            && !self.claimants(&asked.key, &window).changed
    }

    /// The Service port that has the frontend, if that has affinity.
    pub(crate) fn affine(&self, asked: &Asked) -> Option<&PortId> {
        let window = self.window(asked.from, asked.to);
        let leads = self.leads(asked.way.node, &asked.key, *window.end())?;
        (leads.affinity > 0).then_some(&leads.port)
    }

    /// Whether it can be told where the frontend led: all the while there.
    pub(crate) fn is_certain(&self, asked: &Asked) -> bool {
        let window = self.window(asked.from, asked.to);
        window.start() == window.end() || !self.claimants(&asked.key, &window).changed
    }

    /// While things change: no server but those of the Services that have to do with it.
    fn roughly(&self, asked: &Asked, window: &Window) -> Result<(), String> {
        let claimants = self.claimants(&asked.key, window);
        let server = asked.outcome.server();
        let fits = server.is_none_or(|server| claimants.endpoints.contains(&server));
        let what = format!("an endpoint of {:?}, which changed", claimants.names);
        expect(asked, &what, fits)
    }
}

/// What there is for a client at a frontend.
enum Meets<'l> {
    Server(BTreeSet<&'l SocketAddr>),
    Refusal,
    Silence,
}

fn may_meet<'l>(leads: &'l Leads, way: &Way) -> Meets<'l> {
    let (list, dropped) = if way.inside {
        (&leads.inside, leads.drop_inside)
    } else {
        (&leads.outside, leads.drop_outside)
    };
    let admitted = |ranges: &BTreeSet<ipnet::IpNet>| {
        let mut ranges = ranges.iter();
        ranges.any(|range| range.contains(&way.client))
    };
    match &leads.open_to {
        Some(ranges) if !admitted(ranges) => Meets::Silence,
        Some(_) | None if !list.is_empty() => {
            Meets::Server(list.iter().map(|(server, ..)| server).collect())
        }
        Some(_) | None if dropped => Meets::Silence,
        Some(_) | None => Meets::Refusal,
    }
}

fn serves(leads: &Leads, way: &Way, server: &SocketAddr) -> bool {
    match may_meet(leads, way) {
        Meets::Server(list) => list.contains(server),
        Meets::Refusal | Meets::Silence => false,
    }
}

fn exactly(leads: Option<&Leads>, asked: &Asked) -> Result<(), String> {
    let outcome = &asked.outcome;
    let answered = outcome.server().is_some();
    let Some(leads) = leads else {
        return expect(asked, "nobody: no Service has it", !answered);
    };
    let (_, service, port, _) = &leads.port;
    let of = |what: String| format!("{what} of {service}/{port}");
    match may_meet(leads, &asked.way) {
        Meets::Server(list) => {
            let fits = outcome
                .server()
                .is_some_and(|server| list.contains(&server));
            expect(asked, &of(format!("one of {list:?}")), fits)
        }
        Meets::Refusal | Meets::Silence if asked.way.socket => {
            expect(asked, &of("a refusal".to_owned()), !answered)
        }
        Meets::Refusal => {
            let fits = matches!(outcome, Outcome::Refused);
            expect(asked, &of("a refusal".to_owned()), fits)
        }
        Meets::Silence => {
            let fits = matches!(outcome, Outcome::Silence);
            expect(asked, &of("silence".to_owned()), fits)
        }
    }
}

fn expect(asked: &Asked, what: &str, fits: bool) -> Result<(), String> {
    if fits {
        return Ok(());
    }
    let Asked {
        key: (address, port, protocol),
        way,
        from,
        to,
        outcome,
    } = asked;
    let to_whom = SocketAddr::new(*address, *port);
    let took = to.duration_since(*from);
    Err(format!(
        "{to_whom}, protocol {protocol}, by {way:?}: {outcome:?} after {took:?} instead of {what}"
    ))
}

//! What the clients and the test know of each other.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    net::SocketAddr,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, bail};
use lb_userspace::model::ObjectName;
use tests::{
    echo::Answer,
    frontends::Key,
    random::Random,
    topology::{Addresses, Family},
};

use crate::{
    history::{Differences, History, Part},
    judge::{Asked, Outcome, Way},
};

/// Faults after which no more are told.
const ENOUGH: usize = 5;
/// How many frontends that are gone are still asked.
const GONE: usize = 60;
/// Ports that datagrams come from.
const PORTS: Range<u16> = 33_000..60_000;

/// See the [module](self).
pub(crate) struct Shared {
    history: RwLock<History>,
    targets: Mutex<Targets>,
    pods: BTreeMap<String, Addresses>,
    /// The nodes' addresses.
    pub(crate) nodes: [Addresses; 2],
    faults: Mutex<Vec<String>>,
    counts: Counts,
    /// How many ports have been given out.
    ports: AtomicUsize,
}

/// Frontends to ask.
#[derive(Default)]
struct Targets {
    present: Vec<Key>,
    gone: VecDeque<Key>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    refused: AtomicUsize,
    unanswered: AtomicUsize,
}

impl Shared {
    /// Servers are in these pods.
    pub(crate) fn new(pods: BTreeMap<String, Addresses>, nodes: [Addresses; 2]) -> Self {
        Self {
            history: RwLock::default(),
            targets: Mutex::default(),
            pods,
            nodes,
            faults: Mutex::default(),
            counts: Counts::default(),
            ports: AtomicUsize::new(0),
        }
    }

    pub(crate) fn history(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins, with what becomes other by it; clients are to ask at these frontends from now on.
    pub(crate) fn begin(
        &self,
        differences: Differences,
        parts: BTreeMap<ObjectName, Part>,
        targets: BTreeSet<Key>,
    ) {
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        history.begin(differences, parts);
        let Targets { present, gone } = &mut *locked(&self.targets);
        gone.retain(|key| !targets.contains(key));
        gone.extend(present.iter().filter(|key| !targets.contains(key)));
        gone.drain(..gone.len().saturating_sub(GONE));
        *present = targets.into_iter().collect();
    }

    /// What the step led to is in force on both nodes.
    pub(crate) fn settle(&self) {
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        history.settle();
    }

    /// Frontends that clients are to ask at.
    pub(crate) fn targets(&self) -> Vec<Key> {
        locked(&self.targets).present.clone()
    }

    /// One of the frontends that there are or, now and then, were; none if there are none.
    pub(crate) fn target(&self, random: &mut Random) -> Option<Key> {
        let Targets { present, gone } = &mut *locked(&self.targets);
        if !gone.is_empty() && random.one_in(16) {
            return gone.get(random.below(gone.len())).copied();
        }
        (!present.is_empty()).then(|| random.pick(present))
    }

    /// A port for datagrams that none came from for as long as possible.
    pub(crate) fn port(&self) -> u16 {
        let number = self.ports.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        PORTS.start + number as u16
    }

    /// What a client met that asked until now.
    pub(crate) fn asked(
        &self,
        key: Key,
        way: Way,
        from: Instant,
        answered: io::Result<Answer>,
    ) -> Result<Asked, String> {
        let family = if key.0.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let outcome = match answered {
            Ok(answer) => match self.pods.get(&answer.server) {
                Some(pod) => Outcome::Answered(SocketAddr::new(pod.of(family), answer.port)),
                None => return Err(format!("{answer:?} is of no pod")),
            },
            Err(error) => Outcome::of(&error),
        };
        let count = match &outcome {
            Outcome::Answered(_) => &self.counts.answered,
            Outcome::Refused => &self.counts.refused,
            Outcome::Silence | Outcome::Failure => &self.counts.unanswered,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Asked {
            key,
            way,
            from,
            to: Instant::now(),
            outcome,
        })
    }

    /// Takes down what must not be.
    pub(crate) fn fault(&self, what: String) {
        locked(&self.faults).push(what);
    }

    /// Fails with what must not be, each once.
    pub(crate) fn check(&self) -> Result<()> {
        let faults = std::mem::take(&mut *locked(&self.faults));
        if faults.is_empty() {
            return Ok(());
        }
        let first = &faults[..faults.len().min(ENOUGH)];
        bail!("{} faults:\n{}", faults.len(), first.join("\n"))
    }
}

/// What has been asked so far.
impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            answered,
            refused,
            unanswered,
        } = &self.counts;
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} answers, {} refusals, {} times nobody",
            count(answered),
            count(refused),
            count(unanswered)
        )
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Upkeep of the flow tables: rows that have not been used for long go, and clients whose pod is deleted
//! are to be told.
//!
//! Both take a look at every row. A thread does that for good, some thousands of rows at a time with a
//! rest between, so that it takes a small and steady share of a CPU however many there are; for a deleted
//! pod it does not rest. A flow goes with both of its rows, by the time since either was used. Once a
//! table is nearly full, flows that are over go at once, for what does not fit pushes out others.

mod lifetimes;
mod sweep;

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use aya::Pod;
use lb_common::{
    Tick, V4, V6,
    flow::{Flow, FlowKey},
};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

use crate::{
    agent::programs::chain,
    control::{Departed, Departures, Usage},
    maps::{Family, FlowRows as _, FlowTable, KernelError},
    pins::Pins,
};

pub(super) use lifetimes::{Lifetime, Lifetimes};
pub(super) use sweep::Found;
use sweep::Rules;

/// Rest between two looks at some rows: with it, a full table is gone through in seven seconds.
const REST: Duration = Duration::from_millis(50);
/// Rest between two looks at all of them.
const PAUSE: Duration = Duration::from_secs(5);
/// For how long rows are looked for that lead to a deleted pod: longer than the pause, since a packet that
/// was under way may have made one after the first look.
const MEMORY: Duration = Duration::from_secs(8);
/// From here on a table counts as nearly full.
const NEARLY_FULL_PERCENT: u64 = 80;

/// A flow table cannot be looked after.
#[derive(Debug, Error)]
pub(super) enum UpkeepError {
    /// It is not there.
    #[error("flows do not expire by time: {}", chain(.0))]
    Open(#[from] KernelError),
    /// It cannot be read or written.
    #[error("flows do not expire by time: cannot go through map {map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("flows do not expire by time: cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// It has ended.
    #[error("flows do not expire by time: the thread has ended")]
    Ended,
}

/// A look at all rows of both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sweep {
    /// IPv4.
    pub(super) v4: Found,
    /// IPv6.
    pub(super) v6: Found,
}

/// The thread, from outside.
#[derive(Debug)]
pub(super) struct Upkeep {
    departures: Sender<Departures>,
    reports: Receiver<Result<Sweep, UpkeepError>>,
    /// How full the tables were when last looked at.
    usage: [Usage; 2],
}

impl Upkeep {
    /// Starts it.
    pub(super) fn start(pins: &Pins, lifetimes: Lifetimes) -> Result<Self, UpkeepError> {
        let mut tables = Tables {
            v4: Table::open(pins)?,
            v6: Table::open(pins)?,
        };
        let usage = [tables.v4.usage(), tables.v6.usage()];
        let (departures, told) = channel();
        let (tell, reports) = channel();
        let keep = move || {
            let mut orders = Orders::new(told);
            loop {
                let report = tables.sweep(&lifetimes, &mut orders);
                // Nobody listens or tells only if the agent is about to end.
                if tell.send(report).is_err() || !orders.rest(PAUSE) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("flows".to_owned());
        thread.spawn(keep).map_err(UpkeepError::Thread)?;
        Ok(Self {
            departures,
            reports,
            usage,
        })
    }

    /// How full the tables are.
    pub(super) const fn usage(&self) -> &[Usage; 2] {
        &self.usage
    }

    /// These backends are gone.
    pub(super) fn departed(&self, departures: &Departures) {
        let departures = Departures {
            v4: deleted(&departures.v4),
            v6: deleted(&departures.v6),
        };
        if !departures.is_empty() {
            // If it has ended, that is told by `poll`.
            let _ = self.departures.send(departures);
        }
    }

    /// What the next look came to that has not been told yet.
    pub(super) fn poll(&mut self) -> Option<Result<Sweep, UpkeepError>> {
        match self.reports.try_recv() {
            Ok(Ok(sweep)) => {
                let [v4, v6] = &mut self.usage;
                (v4.used, v6.used) = (sweep.v4.rows(), sweep.v6.rows());
                Some(Ok(sweep))
            }
            Ok(Err(error)) => Some(Err(error)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(UpkeepError::Ended)),
        }
    }
}

/// Those whose pods are deleted.
fn deleted<A: Copy>(departed: &[Departed<A>]) -> Vec<Departed<A>> {
    let deleted = departed.iter().filter(|it| it.pod_deleted);
    deleted.copied().collect()
}

/// Which pods are deleted, as the agent tells.
struct Orders {
    told: Receiver<Departures>,
    /// Those that are looked for, and until when.
    deleted: Vec<(Instant, Departures)>,
    /// Whether some have yet to be looked for in all rows.
    is_urgent: bool,
}

impl Orders {
    const fn new(told: Receiver<Departures>) -> Self {
        Self {
            told,
            deleted: Vec::new(),
            is_urgent: false,
        }
    }

    /// Rests, unless there is something urgent. False if there will never be any again.
    fn rest(&mut self, time: Duration) -> bool {
        if self.is_urgent {
            return true;
        }
        match self.told.recv_timeout(time) {
            Ok(departures) => {
                self.take(departures, Instant::now());
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    fn take(&mut self, departures: Departures, now: Instant) {
        self.deleted.push((now + MEMORY, departures));
        self.is_urgent = true;
    }

    /// Begins a look at all rows, which those that are told while it lasts are no part of.
    fn begin(&mut self, now: Instant) {
        while let Ok(departures) = self.told.try_recv() {
            self.take(departures, now);
        }
        self.is_urgent = false;
        self.deleted.retain(|(until, _)| *until > now);
    }
}

struct Tables {
    v4: Table<V4>,
    v6: Table<V6>,
}

impl Tables {
    fn sweep(&mut self, lifetimes: &Lifetimes, orders: &mut Orders) -> Result<Sweep, UpkeepError> {
        orders.begin(Instant::now());
        let deleted: Vec<_> = orders.deleted.iter().map(|(_, it)| it.clone()).collect();
        let v4 = deleted.iter().flat_map(|it| &it.v4);
        let v6 = deleted.iter().flat_map(|it| &it.v6);
        Ok(Sweep {
            v4: self.v4.sweep(lifetimes, v4, orders)?,
            v6: self.v6.sweep(lifetimes, v6, orders)?,
        })
    }
}

struct Table<A> {
    rows: FlowTable<A>,
    /// Whether it was nearly full when last looked at.
    is_scarce: bool,
}

impl<A: Family> Table<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    fn open(pins: &Pins) -> Result<Self, UpkeepError> {
        Ok(Self {
            rows: FlowTable::open(pins)?,
            is_scarce: false,
        })
    }

    /// How full it is, before it is looked at.
    fn usage(&self) -> Usage {
        Usage {
            map: A::FLOWS,
            used: 0,
            capacity: self.rows.capacity(),
        }
    }

    fn sweep<'d>(
        &mut self,
        lifetimes: &Lifetimes,
        deleted: impl Iterator<Item = &'d Departed<A>>,
        orders: &mut Orders,
    ) -> Result<Found, UpkeepError> {
        let rules = Rules::new(lifetimes, self.is_scarce, deleted);
        let failed = |source| UpkeepError::Map {
            map: A::FLOWS,
            source,
        };
        let mut found = Found::default();
        while !rules
            .look(&mut self.rows, now(), &mut found)
            .map_err(failed)?
        {
            if rules.is_patient() && !orders.rest(REST) {
                return Err(UpkeepError::Ended);
            }
        }
        let full = u64::from(self.rows.capacity()) * NEARLY_FULL_PERCENT / 100;
        self.is_scarce = u64::from(found.rows()) >= full;
        Ok(found)
    }
}

/// The time, as rows are stamped.
fn now() -> Tick {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
    let nanos = seconds + Duration::from_nanos(time.tv_nsec.unsigned_abs());
    Tick::from_nanos(u64::try_from(nanos.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At once, and once more after the pause: a packet that was under way may have made a row.
    #[test]
    fn flows_to_a_deleted_pod_are_looked_for_twice() {
        let (tell, told) = channel();
        let mut orders = Orders::new(told);
        tell.send(Departures::default()).unwrap();
        let begun = Instant::now();
        let is_looked_for = |orders: &mut Orders, after| {
            orders.begin(begun + after);
            !orders.deleted.is_empty()
        };
        assert!(is_looked_for(&mut orders, Duration::ZERO));
        assert!(is_looked_for(&mut orders, PAUSE + Duration::from_secs(1)));
        assert!(!is_looked_for(&mut orders, 2 * PAUSE));
    }
}

//! Which pods' sockets are led: the content of `NETNS`.
//!
//! The pods are those whose interfaces the node has. A thread enters their network namespaces and
//! looks at what is there; one that has not been looked at yet is left to tc, and so is one where
//! something else has a hand in what becomes of packets. It looks when interfaces come and go, and
//! again every now and then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    net::IpAddr,
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use lb_common::{
    Addr,
    maps::NETNS,
    socket::{Cookie, PodAddresses},
};
use thiserror::Error;
use tracing::info;

use super::look::{Seen, look};
use crate::{
    agent::{netns, programs::chain, table::Address},
    maps::{KernelError, netns_map},
    pins::Pins,
};

/// Time between two looks at all namespaces.
const INTERVAL: Duration = Duration::from_secs(30);
/// Time until the first look after one that found less than there has to be, doubled up to
/// [`INTERVAL`]: a pod's interface comes before its address.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Time between two looks at a thread that is running.
const POLL: Duration = Duration::from_millis(20);

/// Pods' interfaces: by the number of the network namespace their other ends are in, the indices of
/// those.
pub(in crate::agent) type Ends = BTreeMap<i32, BTreeSet<u32>>;

/// Why a pod's sockets are not led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aside {
    /// The pod says so.
    Asked,
    /// It holds a virtual machine, or a process that takes packets.
    Tap,
    /// It has rules that what is sent may have to meet unchanged.
    Rules,
    /// Nothing says who its processes are to services.
    NoAddress,
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "its annotation fairlead.dev/socket-lb says so",
            Self::Tap => "it has a tap or TUN device",
            Self::Rules => "it has rules of nftables or iptables",
            Self::NoAddress => "its interface has no address",
        })
    }
}

/// The pods could not be looked at, or not be told of.
#[derive(Debug, Error)]
enum PodError {
    /// The kernel cannot be asked.
    #[error("cannot look for network namespaces: {0}")]
    Find(#[source] io::Error),
    /// No thread could be started.
    #[error("cannot start a thread that looks at network namespaces")]
    NoThread,
    /// `NETNS` is not there.
    #[error("{}", chain(.0))]
    Open(#[from] KernelError),
    /// `NETNS` cannot be written.
    #[error("cannot write map {NETNS}: {}", chain(.0))]
    Write(#[source] MapError),
}

/// What a look has found, by the number of the namespace; an error of one is none of the others'.
type Looked = io::Result<BTreeMap<i32, io::Result<Seen>>>;

/// The pods, and which of them are led.
#[derive(Debug)]
pub(super) struct Pods {
    pins: Pins,
    ends: Ends,
    asked: BTreeSet<IpAddr>,
    seen: BTreeMap<i32, Seen>,
    /// What stands in `NETNS`; none before that was read.
    written: Option<HashMap<Cookie, PodAddresses>>,
    aside: BTreeMap<i32, Aside>,
    running: Option<Receiver<Looked>>,
    /// Whether interfaces have come or gone since it was started.
    outdated: bool,
    due: Instant,
    pause: Duration,
    /// What is wrong with `NETNS`, or with all namespaces.
    failure: Option<String>,
    /// That some namespaces are not known.
    unseen: Option<String>,
}

impl Pods {
    /// None yet.
    pub(super) fn new(pins: Pins) -> Self {
        Self {
            pins,
            ends: Ends::new(),
            asked: BTreeSet::new(),
            seen: BTreeMap::new(),
            written: None,
            aside: BTreeMap::new(),
            running: None,
            outdated: false,
            due: Instant::now(),
            pause: FIRST_PAUSE,
            failure: None,
            unseen: None,
        }
    }

    /// These are the pods' interfaces. What has gone is not led any more; what has come is looked
    /// at.
    pub(super) fn follow(&mut self, ends: Ends, now: Instant) {
        if ends == self.ends {
            return;
        }
        self.seen
            .retain(|number, _| ends.get(number) == self.ends.get(number));
        self.ends = ends;
        self.outdated = true;
        (self.due, self.pause) = (now, FIRST_PAUSE);
        self.write();
    }

    /// The pods of these addresses ask to be left to tc.
    pub(super) fn leave(&mut self, asked: BTreeSet<IpAddr>) {
        if asked != self.asked {
            self.asked = asked;
            self.write();
        }
    }

    /// Numbers of the pods' network namespaces.
    pub(super) fn numbers(&self) -> BTreeSet<i32> {
        self.ends.keys().copied().collect()
    }

    /// How many are led, and how many are not.
    pub(super) fn counts(&self) -> (usize, usize) {
        let led = self.written.as_ref().map_or(0, HashMap::len);
        (led, self.ends.len().saturating_sub(led))
    }

    /// What is wrong.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.failure.iter().chain(&self.unseen)
    }

    /// When [`Self::poll`] has something to do.
    pub(super) fn due(&self, now: Instant) -> Instant {
        match self.running {
            Some(_) => now + POLL,
            None => self.due,
        }
    }

    /// Looks if it is time to, and takes in what was found.
    pub(super) fn poll(&mut self, now: Instant) {
        if let Some(running) = &self.running {
            match running.try_recv() {
                Ok(looked) => self.take_in(looked, now),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    self.running = None;
                    self.fail(&PodError::NoThread);
                }
            }
        } else if self.due <= now {
            self.due = now + INTERVAL;
            self.start();
        }
    }

    fn start(&mut self) {
        let (sender, receiver) = channel();
        let numbers = self.numbers();
        self.outdated = false;
        let look = move || {
            // Nobody listens only if the agent is about to end.
            let _ = sender.send(look_at(&numbers));
        };
        let name = "netns".to_owned();
        // Without a thread nothing is ever sent, which `poll` takes for a failure.
        let _ = thread::Builder::new().name(name).spawn(look);
        self.running = Some(receiver);
    }

    fn take_in(&mut self, looked: Looked, now: Instant) {
        self.running = None;
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) => return self.fail(&PodError::Find(error)),
        };
        let mut failed = None;
        self.seen.clear();
        for (number, seen) in looked {
            match seen {
                Ok(seen) if self.ends.contains_key(&number) => drop(self.seen.insert(number, seen)),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        self.write();
        let missing = self.ends.len() - self.seen.len();
        let nameless = self.aside.values().any(|it| *it == Aside::NoAddress);
        if self.outdated {
            self.due = now;
        } else if missing > 0 || nameless {
            self.due = now + self.pause;
            self.pause = (self.pause * 2).min(INTERVAL);
        } else {
            self.pause = FIRST_PAUSE;
            self.due = now + INTERVAL;
        }
        if missing == 0 {
            self.unseen = None;
        } else if self.pause == INTERVAL || failed.as_ref().is_some_and(is_forbidden) {
            // Else it may be a pod that comes or goes, which is not worth a line.
            self.unseen = Some(self.tell_of_unseen(missing, failed));
        }
    }

    fn tell_of_unseen(&self, missing: usize, failed: Option<io::Error>) -> String {
        let why = failed.map_or_else(
            || "neither /run/netns nor /proc shows them".to_owned(),
            |error| format!("cannot look at them, which takes CAP_SYS_ADMIN: {error}"),
        );
        let all = self.ends.len();
        format!(
            "sockets: {missing} of {all} pods are left to tc, for their network namespaces are not \
             known: {why}"
        )
    }

    /// Has `NETNS` tell of those pods that are led.
    fn write(&mut self) {
        let mut led = HashMap::new();
        let mut aside = BTreeMap::new();
        for (number, seen) in &self.seen {
            let ends = self.ends.get(number);
            match decide(seen, ends.unwrap_or(&BTreeSet::new()), &self.asked) {
                Ok(addresses) => drop(led.insert(seen.netns, addresses)),
                Err(reason) => drop(aside.insert(*number, reason)),
            }
            if let Some(reason) = aside.get(number)
                && self.aside.get(number) != Some(reason)
            {
                let who = seen.addresses.first();
                let who = who.map_or_else(|| "a pod".to_owned(), |it| format!("pod {}", it.ip));
                info!("sockets: {who} is left to tc: {reason}");
            }
        }
        self.aside = aside;
        match self.bring(&led) {
            Ok(()) => self.failure = None,
            Err(error) => self.fail(&error),
        }
    }

    fn bring(&mut self, led: &HashMap<Cookie, PodAddresses>) -> Result<(), PodError> {
        if self.written.as_ref() == Some(led) {
            return Ok(());
        }
        let mut map = netns_map(&self.pins)?;
        let there = map.iter().collect::<Result<HashMap<_, _>, _>>();
        let there = there.map_err(PodError::Write)?;
        for netns in there.keys().filter(|netns| !led.contains_key(netns)) {
            map.remove(netns).map_err(PodError::Write)?;
        }
        for (netns, addresses) in led {
            if there.get(netns) != Some(addresses) {
                map.insert(netns, addresses, 0).map_err(PodError::Write)?;
            }
        }
        self.written = Some(led.clone());
        Ok(())
    }

    fn fail(&mut self, error: &PodError) {
        self.written = None;
        self.failure = Some(format!(
            "sockets: which pods are led stays as it is: {error}; all are served by tc"
        ));
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Enters the namespaces of these numbers, one after the other. The thread is not to be used after.
fn look_at(numbers: &BTreeSet<i32>) -> Looked {
    if numbers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = netns::find(numbers)?;
    let seen = found.into_iter().map(|(number, netns)| {
        let seen = netns::enter(&netns).and_then(|()| look());
        (number, seen)
    });
    Ok(seen.collect())
}

/// Whether the sockets of a pod are led, and whom its processes are to services: the addresses of
/// the interface that leads to the node. That of a socket is not known when it connects.
fn decide(
    seen: &Seen,
    ends: &BTreeSet<u32>,
    asked: &BTreeSet<IpAddr>,
) -> Result<PodAddresses, Aside> {
    let Seen {
        netns: _,
        addresses,
        tap,
        rules,
    } = seen;
    if addresses.iter().any(|address| asked.contains(&address.ip)) {
        return Err(Aside::Asked);
    }
    if *tap {
        return Err(Aside::Tap);
    }
    if *rules {
        return Err(Aside::Rules);
    }
    let own = PodAddresses {
        v4: own(addresses, ends),
        v6: own(addresses, ends),
    };
    if own == PodAddresses::default() {
        return Err(Aside::NoAddress);
    }
    Ok(own)
}

fn own<A: Addr>(addresses: &[Address], ends: &BTreeSet<u32>) -> A {
    let mut here = addresses.iter().filter(|it| ends.contains(&it.interface));
    here.find_map(|it| A::from_ip(it.ip)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: u32, ip: &str) -> Address {
        Address {
            interface,
            ip: ip.parse().unwrap(),
            global: true,
            lesser: false,
        }
    }

    /// A pod with an interface, number 2, that leads to the node, and another one.
    fn pod() -> Seen {
        Seen {
            netns: Cookie::new(7),
            addresses: vec![
                address(3, "192.0.2.1"),
                address(2, "10.1.1.1"),
                address(2, "fd00::1"),
            ],
            tap: false,
            rules: false,
        }
    }

    #[test]
    fn a_pod_is_known_by_the_addresses_of_the_interface_that_leads_to_the_node() {
        let decided = decide(&pod(), &[2].into(), &BTreeSet::new());
        let own = PodAddresses {
            v4: Addr::from_ip("10.1.1.1".parse().unwrap()).unwrap(),
            v6: Addr::from_ip("fd00::1".parse().unwrap()).unwrap(),
        };
        assert_eq!(decided, Ok(own));
    }

    #[test]
    fn where_something_else_has_a_hand_in_packets_tc_is_left_to_translate() {
        let decide = |seen: Seen, asked: &[&str]| {
            let asked = asked.iter().map(|ip| ip.parse().unwrap());
            decide(&seen, &[2].into(), &asked.collect()).unwrap_err()
        };
        let tap = Seen { tap: true, ..pod() };
        let rules = Seen {
            rules: true,
            ..pod()
        };
        let nameless = Seen {
            addresses: vec![address(3, "192.0.2.1")],
            ..pod()
        };
        assert_eq!(decide(pod(), &["fd00::1"]), Aside::Asked);
        assert_eq!(decide(tap, &["10.1.1.2"]), Aside::Tap);
        assert_eq!(decide(rules, &[]), Aside::Rules);
        assert_eq!(decide(nameless, &[]), Aside::NoAddress);
    }
}

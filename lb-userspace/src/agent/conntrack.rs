//! Entries of the kernel's connection tracking that lead UDP clients of a service to what does not
//! serve it (SEMANTICS G1 to G8).
//!
//! Our own flows need none of this: they are rows of ours, and a row whose backend is gone is not
//! followed. But kube-proxy, or whoever else translated services on this host, leaves entries that
//! live on for as long as a client keeps sending. They are looked for at take-over, and again when
//! services change, until none that concerns a service is left.

mod netlink;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use tracing::{debug, info};

use crate::{
    control::index::Index,
    model::{Protocol, Service, ServicePort},
};

/// An entry of a UDP flow: where its client sent to, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    destination: SocketAddr,
    answers: SocketAddr,
}

/// UDP services: by the addresses that clients send to, the endpoints that serve them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Services {
    endpoints: HashMap<SocketAddr, HashSet<SocketAddr>>,
}

/// What an entry is to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// Nothing.
    Foreign,
    /// It leads to an endpoint that serves.
    Good,
    /// It leads elsewhere.
    Stale,
}

impl Services {
    /// Those of the objects. Node ports are served on these addresses, and an entry is theirs only
    /// if its client sent to one of them: the same port of another host is not ours. An address that
    /// several services claim is the oldest one's (B16).
    pub(super) fn of(index: &Index, node_port_addresses: &BTreeSet<IpAddr>) -> Self {
        let mut services = Self::default();
        let mut by_age: Vec<_> = index.services().collect();
        by_age.sort_by_key(|service| (service.created, &service.name));
        for service in by_age {
            let udp = service
                .ports
                .iter()
                .filter(|it| it.protocol == Protocol::Udp);
            for port in udp {
                let serving = serving(index, service, port);
                for address in addresses(service, port, node_port_addresses) {
                    let endpoints = services.endpoints.entry(address);
                    endpoints.or_insert_with(|| serving.clone());
                }
            }
        }
        services
    }

    /// Adds what used to be a service's and no longer is: nothing serves it.
    fn and_former(mut self, former: &Self) -> Self {
        for address in former.endpoints.keys() {
            self.endpoints.entry(*address).or_default();
        }
        self
    }

    fn relation(&self, entry: &Entry) -> Relation {
        match self.endpoints.get(&entry.destination) {
            None => Relation::Foreign,
            Some(endpoints) if endpoints.contains(&entry.answers) => Relation::Good,
            Some(_) => Relation::Stale,
        }
    }
}

/// Where clients send to for a port.
fn addresses(
    service: &Service,
    port: &ServicePort,
    node_port_addresses: &BTreeSet<IpAddr>,
) -> Vec<SocketAddr> {
    let Service {
        cluster_ips,
        external_ips,
        ingress_ips,
        ..
    } = service;
    let ips = cluster_ips.iter().chain(external_ips).chain(ingress_ips);
    let own = ips.map(|ip| SocketAddr::new(*ip, port.port));
    let at_node = node_port_addresses.iter().filter(|_| port.node_port != 0);
    let at_node = at_node.map(|ip| SocketAddr::new(*ip, port.node_port));
    own.chain(at_node).collect()
}

/// The endpoints that serve, whatever the policies: what goes on is not cut off (G2).
fn serving(index: &Index, service: &Service, port: &ServicePort) -> HashSet<SocketAddr> {
    let mut serving = HashSet::new();
    for slice in index.slices(&service.name) {
        let fits = slice
            .ports
            .iter()
            .filter(|it| it.name == port.name && it.protocol == port.protocol);
        for number in fits.map(|it| it.port) {
            let endpoints = slice.endpoints.iter().filter(|it| it.serving);
            serving.extend(endpoints.map(|it| SocketAddr::new(it.addr, number)));
        }
    }
    serving
}

/// What a look at one family's entries came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Entries deleted.
    pub(super) deleted: usize,
    /// Entries of services that are left.
    pub(super) left: usize,
    /// Whether the kernel told of all entries.
    pub(super) complete: bool,
    /// How long it took.
    pub(super) took: Duration,
}

/// Reports of both families, IPv4 first.
pub(super) type Reports = io::Result<[Report; 2]>;

/// Looks at entries in the background: there may be a million.
#[derive(Debug)]
pub(super) struct Cleaner {
    running: Option<Receiver<Reports>>,
    /// Whether to look, at all and soon.
    state: State,
    known: Services,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Services have changed.
    Due,
    /// There were entries of services; they may turn stale.
    Watching,
    /// There are none left.
    Done,
}

impl Cleaner {
    /// One that has not looked yet.
    pub(super) fn new() -> Self {
        Self {
            running: None,
            state: State::Due,
            known: Services::default(),
        }
    }

    /// Services have changed.
    pub(super) fn services_changed(&mut self) {
        if self.state == State::Watching {
            self.state = State::Due;
        }
    }

    /// Whether it is time for [`Self::start`].
    pub(super) fn is_due(&self) -> bool {
        self.running.is_none() && self.state == State::Due
    }

    /// Looks, by these services, which are in force.
    pub(super) fn start(&mut self, services: Services) {
        let services = services.and_former(&self.known);
        self.known = services.clone();
        self.state = State::Watching;
        let (sender, receiver) = channel();
        let look = move || {
            // Nobody listens only if the agent is about to end.
            let _ = sender.send(look(&services));
        };
        let name = "conntrack".to_owned();
        // Without a thread nothing is ever sent, which `poll` takes for a failure.
        let _ = thread::Builder::new().name(name).spawn(look);
        self.running = Some(receiver);
    }

    /// What the last look came to, once.
    pub(super) fn poll(&mut self) -> Option<Reports> {
        let reports = match self.running.as_ref()?.try_recv() {
            Ok(reports) => reports,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(io::Error::other("no thread to look at it")),
        };
        self.running = None;
        match &reports {
            Ok(reports) if reports.iter().all(|report| report.complete) => {
                let none_left = reports.iter().all(|report| report.left == 0);
                if none_left && self.state == State::Watching {
                    self.state = State::Done;
                }
            }
            Ok(_) | Err(_) => self.state = State::Due,
        }
        Some(reports)
    }
}

/// Deletes what is stale.
fn look(services: &Services) -> Reports {
    let mut socket = netlink::Conntrack::open()?;
    let v4 = look_at(&mut socket, services, netlink::Family::V4)?;
    let v6 = look_at(&mut socket, services, netlink::Family::V6)?;
    Ok([v4, v6])
}

fn look_at(
    socket: &mut netlink::Conntrack,
    services: &Services,
    family: netlink::Family,
) -> io::Result<Report> {
    let started = Instant::now();
    let mut left = 0;
    let mut stale = Vec::new();
    let complete = socket.each(family, |entry, handle| match services.relation(&entry) {
        Relation::Foreign => {}
        Relation::Good => left += 1,
        Relation::Stale => stale.push((entry, handle)),
    })?;
    if !complete {
        debug!("conntrack: the kernel left entries out of its list; it will be asked again");
    }
    let mut deleted = 0;
    for (entry, handle) in stale {
        match socket.delete(family, handle) {
            Ok(()) => {
                deleted += 1;
                let Entry {
                    destination,
                    answers,
                } = entry;
                debug!("conntrack: deleted a flow to {destination} that {answers} answered");
            }
            // It timed out meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                left += 1;
                debug!(
                    "conntrack: cannot delete a flow to {}: {error}",
                    entry.destination
                );
            }
        }
    }
    if deleted > 0 {
        info!("conntrack: deleted {deleted} UDP flows that led to no endpoint of their service");
    }
    Ok(Report {
        deleted,
        left,
        complete,
        took: started.elapsed(),
    })
}

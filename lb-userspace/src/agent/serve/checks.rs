//! The health check ports of Services: a server for each, family by family (SEMANTICS H1, H2, H7 to
//! H9).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    select,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    Key, Shared,
    http::{Connections, serve},
    problems::Spot,
    sites::ServiceSite,
    socket::{Bind, Family},
};
use crate::{
    control::{ByFamily, HealthCheck, NodePortAddresses},
    model::ObjectName,
    source::kubernetes::Event,
};

/// When what could not be opened is tried again, should no sync come before.
const RETRY: Duration = Duration::from_secs(5);

/// Connections to all health check ports together.
const CONNECTIONS: usize = 256;

/// Every health check port there is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct HealthChecks {
    /// By the Service they are of.
    pub(in crate::agent) services: BTreeMap<ObjectName, HealthCheck>,
    /// Where they are.
    pub(in crate::agent) listen: ByFamily<Listen>,
}

/// Addresses of a family that health check ports are open on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) enum Listen {
    /// All of them, those to come included.
    #[default]
    Any,
    /// These.
    On(BTreeSet<IpAddr>),
}

impl HealthChecks {
    /// The number of endpoints, by Service and family.
    pub(super) fn counts(&self) -> BTreeMap<Key, usize> {
        let services = self.services.iter();
        services
            .flat_map(|(service, check)| {
                families(&check.local_endpoints)
                    .filter_map(|(family, local)| Some((Key::new(service, family), (*local)?)))
            })
            .collect()
    }

    fn binds(&self) -> BTreeMap<Key, BTreeSet<Bind>> {
        let services = self.services.iter();
        services
            .flat_map(|(service, check)| {
                families(&check.local_endpoints)
                    .filter(|(_, local)| local.is_some())
                    .map(|(family, _)| {
                        let binds = self.listen(family).binds(family, check.port);
                        (Key::new(service, family), binds)
                    })
            })
            .collect()
    }

    const fn listen(&self, family: Family) -> &Listen {
        match family {
            Family::V4 => &self.listen.v4,
            Family::V6 => &self.listen.v6,
        }
    }
}

fn families<T>(of: &ByFamily<T>) -> impl Iterator<Item = (Family, &T)> {
    [(Family::V4, &of.v4), (Family::V6, &of.v6)].into_iter()
}

impl Listen {
    /// Where node ports are: on the addresses `chosen` by the setting.
    pub(in crate::agent) fn at(
        setting: &NodePortAddresses,
        chosen: &BTreeSet<IpAddr>,
    ) -> ByFamily<Self> {
        let of = |v6| {
            if setting.takes_all(v6) {
                Self::Any
            } else {
                Self::On(chosen.clone())
            }
        };
        ByFamily {
            v4: of(false),
            v6: of(true),
        }
    }

    fn binds(&self, family: Family, port: u16) -> BTreeSet<Bind> {
        match self {
            Self::Any => BTreeSet::from([Bind::AnyOf(family, port)]),
            Self::On(addresses) => {
                let of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
                let addresses = addresses.iter().filter(of_family);
                addresses
                    .map(|ip| Bind::One(SocketAddr::new(*ip, port)))
                    .collect()
            }
        }
    }
}

/// Keeps the servers as the latest [`HealthChecks`] have them.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    open: BTreeMap<Key, BTreeMap<Bind, JoinHandle<()>>>,
    failed: BTreeSet<Key>,
    connections: Connections,
}

impl Keeper {
    /// No server is open.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            open: BTreeMap::new(),
            failed: BTreeSet::new(),
            connections: Connections::at_most(CONNECTIONS),
        }
    }

    /// Follows `wanted` until nobody can change it any more.
    pub(super) async fn follow(mut self, mut wanted: watch::Receiver<Arc<HealthChecks>>) {
        loop {
            let latest = Arc::clone(&wanted.borrow_and_update());
            self.bring_about(&latest).await;
            let retry = Instant::now() + RETRY;
            select! {
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(retry), if !self.failed.is_empty() => {}
            }
        }
    }

    /// Closes first: what is to be opened may need the ports.
    async fn bring_about(&mut self, wanted: &HealthChecks) {
        let binds = wanted.binds();
        self.shared.set_local_endpoints(wanted.counts());
        let none = BTreeSet::new();
        let mut closing = Vec::new();
        for (key, servers) in &mut self.open {
            let binds = binds.get(key).unwrap_or(&none);
            closing.extend(servers.extract_if(.., |bind, _| !binds.contains(bind)));
        }
        for (_, server) in closing {
            close(server).await;
        }
        self.open.retain(|key, _| binds.contains_key(key));
        for key in self.failed.iter().filter(|key| !binds.contains_key(key)) {
            let spot = Spot::Service(key.clone());
            self.shared.problems.set(spot, None);
        }
        self.failed.clear();
        for (key, binds) in &binds {
            if let Err((bind, error)) = self.open_all(key, binds).await {
                self.tell(key, bind, &error);
                self.failed.insert(key.clone());
            } else {
                let spot = Spot::Service(key.clone());
                self.shared.problems.set(spot, None);
            }
        }
        self.shared.set_checks_failed(!self.failed.is_empty());
        let (open, failed) = (self.open.len() - self.failed.len(), self.failed.len());
        let metrics = &self.shared.metrics;
        metrics.observe(|state| state.health_checks = (open, failed));
    }

    /// Opens the servers that are not; if one cannot be, none is left (H9).
    async fn open_all(
        &mut self,
        key: &Key,
        binds: &BTreeSet<Bind>,
    ) -> Result<(), (Bind, io::Error)> {
        let servers = self.open.entry(key.clone()).or_default();
        for bind in binds {
            if servers.contains_key(bind) {
                continue;
            }
            match bind.open() {
                Ok(listener) => {
                    let site = ServiceSite {
                        shared: Arc::clone(&self.shared),
                        key: key.clone(),
                    };
                    let server = tokio::spawn(serve(listener, site, self.connections.clone()));
                    servers.insert(*bind, server);
                }
                Err(error) => {
                    for server in std::mem::take(servers).into_values() {
                        close(server).await;
                    }
                    return Err((*bind, error));
                }
            }
        }
        Ok(())
    }

    fn tell(&self, key: &Key, bind: Bind, error: &io::Error) {
        let Key { service, .. } = key;
        let why = format!(
            "node {}: cannot open the health check port of Service {service} on {bind}: {error}; it is tried again",
            self.shared.node_name
        );
        let spot = Spot::Service(key.clone());
        if self.shared.problems.set(spot, Some(why.clone())) {
            (self.shared.notify)(Event::health_check_failed(service, why));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for server in self.open.values().flat_map(BTreeMap::values) {
            server.abort();
        }
    }
}

/// Closes a server and waits until its socket is.
async fn close(server: JoinHandle<()>) {
    server.abort();
    // The error says that it was aborted.
    drop(server.await);
}

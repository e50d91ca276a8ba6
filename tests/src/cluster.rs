//! A topology at work: servers in its pods, an agent on each node, all on one source of objects.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    agent::Agent,
    echo::Servers,
    manifests::Manifests,
    netns::Netns,
    patience::patient,
    site::Site,
    topology::{Addresses, Family, Host, Links, Topology},
};

/// The nodes.
pub const NODES: [&str; 2] = ["node-a", "node-b"];
/// Ports every pod serves.
pub const POD_PORTS: [u16; 2] = [8080, 9090];

/// Where the agents of a cluster have their objects from.
pub trait Source {
    /// The arguments of `lb-agent run` that name it on a node.
    fn arguments(&self, node: &Host) -> Result<Vec<OsString>>;
}

impl Source for Manifests {
    fn arguments(&self, _: &Host) -> Result<Vec<OsString>> {
        Ok(vec!["--manifests".into(), self.dir().into()])
    }
}

/// See the [module](self). Fields are in the order they are to be dropped in.
#[derive(Debug)]
pub struct Cluster<S = Manifests> {
    /// The agent of each node, by the node's name.
    pub agents: BTreeMap<&'static str, Agent>,
    servers: BTreeMap<String, Servers>,
    /// What the agents serve.
    pub source: S,
    /// What it all runs on.
    pub topology: Topology,
}

impl Cluster {
    /// Builds the topology, serves in its pods, and starts an agent on each node with a copy of
    /// the manifests in `manifests`.
    pub fn start(site: Site, links: Links, manifests: &Path) -> Result<Self> {
        let mut cluster = Self::build(site, links, manifests)?;
        cluster.start_agents()?;
        Ok(cluster)
    }

    /// The same without agents.
    pub fn build(site: Site, links: Links, manifests: &Path) -> Result<Self> {
        let topology = Topology::build(site, links)?;
        let manifests = Manifests::copy(manifests, topology.dir().join("manifests"))?;
        Self::of(manifests, topology)
    }
}

impl<S: Source> Cluster<S> {
    /// Serves in the pods of a topology; without agents.
    pub fn of(source: S, topology: Topology) -> Result<Self> {
        let mut cluster = Self {
            agents: BTreeMap::new(),
            servers: BTreeMap::new(),
            source,
            topology,
        };
        for name in ["pod-1", "pod-2", "pod-3"] {
            cluster.serve(name)?;
        }
        Ok(cluster)
    }

    /// Starts (or starts again) the agent of each node and waits until they are ready.
    pub fn start_agents(&mut self) -> Result<()> {
        self.start_agents_with(&[])
    }

    /// The same, with more options than usual.
    pub fn start_agents_with(&mut self, options: &[&str]) -> Result<()> {
        for node in NODES {
            let agent = self.launch(node, options)?;
            self.agents.insert(node, agent);
        }
        self.agents.values_mut().try_for_each(Agent::wait_ready)
    }

    /// An agent started on a node, and ready.
    pub fn agent_on(&self, node: &str) -> Result<(&'static str, Agent)> {
        let mut agent = self.launch(node, &[])?;
        agent.wait_ready()?;
        Ok((self.topology.node(node)?.name, agent))
    }

    /// An agent started on a node, with more options than usual.
    pub fn launch(&self, node: &str, options: &[&str]) -> Result<Agent> {
        let node = self.topology.node(node)?;
        Agent::launch(node, &self.arguments(node, options)?)
    }

    /// An agent run by these words on a node, with more options than usual, but not told its node's
    /// name.
    pub fn launch_by(&self, by: &[&str], node: &str, options: &[&str]) -> Result<Agent> {
        let node = self.topology.node(node)?;
        Agent::launch_by(by, node, &self.arguments(node, options)?)
    }

    fn arguments(&self, node: &Host, options: &[&str]) -> Result<Vec<OsString>> {
        let mut arguments = self.source.arguments(node)?;
        arguments.extend(options.iter().map(OsString::from));
        Ok(arguments)
    }

    /// The agent of a node.
    pub fn agent(&mut self, node: &str) -> Result<&mut Agent> {
        self.agents
            .get_mut(node)
            .with_context(|| format!("no agent on {node}"))
    }

    /// Adds a pod and its servers; its manifest is the caller's to write.
    pub fn add_pod(&mut self, name: &str, node: &str, addresses: Addresses) -> Result<()> {
        self.topology.add_pod(name, node, addresses)?;
        self.serve(name)
    }

    /// Removes a pod and its servers.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.servers.remove(name);
        self.topology.remove_pod(name)
    }

    /// Stops the servers of a pod; the pod stays.
    pub fn silence(&mut self, pod: &str) {
        self.servers.remove(pod);
    }

    /// Leaves everything standing after this process, but for the servers in the pods.
    pub fn keep(self) {
        let Self {
            agents,
            servers,
            source: _,
            topology,
        } = self;
        drop(servers);
        agents.into_values().for_each(Agent::keep);
        topology.keep();
    }

    /// Starts the servers of a pod.
    pub fn serve(&mut self, pod: &str) -> Result<()> {
        let servers = Servers::start(&self.topology.pod(pod)?.netns, pod, &POD_PORTS)?;
        self.servers.insert(pod.to_owned(), servers);
        Ok(())
    }

    /// The namespace of the client, a node or a pod.
    pub fn netns(&self, name: &str) -> Result<&Netns> {
        match name {
            "client" => Ok(&self.topology.client.netns),
            "node-a" | "node-b" => Ok(&self.topology.node(name)?.netns),
            pod => Ok(&self.topology.pod(pod)?.netns),
        }
    }

    /// The address of the client, a node or a pod.
    pub fn address(&self, name: &str, family: Family) -> Result<IpAddr> {
        Ok(self.addresses(name)?.of(family))
    }

    /// Both addresses of the client, a node or a pod.
    pub fn addresses(&self, name: &str) -> Result<Addresses> {
        Ok(match name {
            "client" => self.topology.client.addresses,
            "node-a" | "node-b" => self.topology.node(name)?.addresses,
            pod => self.topology.pod(pod)?.addresses,
        })
    }

    /// Gives a node a route for services, as its default route would be: on it the packets of the node's own stack come
    /// to where they are translated.
    pub fn route_services(&self, node: &str) -> Result<()> {
        let netns = &self.topology.node(node)?.netns;
        for (family, networks) in [
            (Family::V4, ["10.96.0.0/16", "192.0.2.0/24"]),
            (Family::V6, ["fd00:96::/112", "2001:db8:1::/64"]),
        ] {
            let gateway = self.address("client", family)?;
            for network in networks {
                netns.ip(&format!("route add {network} via {gateway} dev eth0"))?;
            }
        }
        Ok(())
    }

    /// What the agents have said.
    pub fn logs(&self) -> String {
        self.agents
            .iter()
            .fold(String::new(), |text, (node, agent)| {
                text + &format!(
                    "--- log of the agent on {node}
{}",
                    agent.log()
                )
            })
    }
}

/// A service address and port, of either family.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// IPv4 address.
    pub v4: &'static str,
    /// IPv6 address.
    pub v6: &'static str,
    /// Port.
    pub port: u16,
}

impl Target {
    /// The addresses in either family, and the port.
    pub const fn new(v4: &'static str, v6: &'static str, port: u16) -> Self {
        Self { v4, v6, port }
    }

    /// The socket address in a family.
    pub fn of(&self, family: Family) -> Result<SocketAddr> {
        let text = match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        };
        let address = text
            .parse()
            .with_context(|| format!("{text} is not an address"))?;
        Ok(SocketAddr::new(address, self.port))
    }
}

/// Tries until it succeeds; the last failure when it has not by `limit`.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => bail!("after {limit:?}: {error:#}"),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

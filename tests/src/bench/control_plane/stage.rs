//! A node, pods that serve, and a proxy at work there.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{Proxy, probe::Prober, said};
use crate::{
    agent::Agent,
    echo::Servers,
    kube::{ADDRESS, ControlPlane, INTERFACE, KubeProxy, node_object},
    manifests::Manifests,
    process::{Process, Usage},
    site::Site,
    topology::{Host, Links, Topology, pod_addresses},
};

/// The node that is measured.
const NODE: &str = "node-a";
/// The pod that asks, on that node.
const CLIENT: &str = "pod-1";
/// The pods that answer: one on the same node, one on another.
const BACKENDS: [&str; 2] = ["pod-2", "pod-3"];
/// The port they answer at.
const PORT: u16 = 8080;
/// How long a proxy may take until it has programmed everything; what takes longer is not awaited.
pub(in crate::bench) const START: Duration = Duration::from_secs(300);
/// How long a proxy may take until it has nothing more to do.
const SETTLE: Duration = Duration::from_secs(60);
/// It has nothing to do when in so much time it takes no more of a CPU than this.
const IDLE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(60));
/// Between two looks at a log.
const LOOK: Duration = Duration::from_millis(20);

/// See the [module](self). Fields are in the order they are to be dropped in.
pub(in crate::bench) struct Stage {
    proxy: Proxy,
    running: Running,
    prober: Prober,
    _servers: Vec<Servers>,
    topology: Topology,
}

enum Running {
    Fairlead(Agent),
    KubeProxy(KubeProxy),
}

/// Where a proxy has its objects from.
pub(in crate::bench) enum Feed<'a> {
    /// From the API server, as all can.
    Api(&'a mut ControlPlane),
    /// From files, as only Fairlead can.
    Manifests(&'a Manifests),
}

/// How a proxy started.
pub(in crate::bench) struct Start {
    /// From when it knew all objects to when it had programmed them; none if it was not in time.
    pub(in crate::bench) programming: Option<Duration>,
    /// From its start to when the probed Service answered; none if it did not in time.
    pub(super) traffic: Option<Duration>,
}

/// A pod that answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backend {
    /// Its name, by which it answers.
    pub(super) name: &'static str,
    /// Its address.
    pub(super) address: IpAddr,
}

/// The pods that answer.
pub(super) fn backends() -> [Backend; 2] {
    let [near, far] = BACKENDS;
    [(near, pod_addresses(1, 2)), (far, pod_addresses(2, 1))].map(|(name, addresses)| Backend {
        name,
        address: addresses.v4.into(),
    })
}

impl Stage {
    /// Builds the stage and starts a proxy there, until it is through or out of time.
    ///
    /// Fairlead is `agent`, or without one the program that is built beside this.
    pub(in crate::bench) fn start(
        mut feed: Feed<'_>,
        proxy: Proxy,
        agent: Option<&Path>,
    ) -> Result<(Self, Start)> {
        let topology = Topology::build(Site::new()?, Links::STANDARD)?;
        let servers = BACKENDS
            .iter()
            .map(|pod| Servers::start(&topology.pod(pod)?.netns, pod, &[PORT]))
            .collect::<Result<_>>()?;
        let node = topology.node(NODE)?;
        feed.tell(&topology)?;
        let began = Instant::now();
        let running = Running::start(&feed, node, proxy, agent)?;
        let mut stage = Self {
            proxy,
            running,
            prober: Prober::new(),
            _servers: servers,
            topology,
        };
        let start = stage.wait(began)?;
        Ok((stage, start))
    }

    fn wait(&mut self, began: Instant) -> Result<Start> {
        let deadline = began + START;
        let answered = self.probe(|prober| prober.until(deadline, |_| true))?;
        // A proxy that serves may have something to do still before it says that it is through.
        let mut programming = None;
        while answered.is_some() && programming.is_none() && Instant::now() < deadline {
            thread::sleep(LOOK);
            self.process().check_alive()?;
            programming = said::programming(self.proxy, &self.process().log());
        }
        self.process().check_alive()?;
        Ok(Start {
            programming,
            traffic: answered.map(|at| at - began),
        })
    }

    /// Waits until the proxy has nothing more to do, for a while; what it has taken.
    pub(in crate::bench) fn settle(&mut self) -> Result<Usage> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let before = self.process().usage()?.cpu;
            thread::sleep(IDLE.0);
            self.process().check_alive()?;
            let usage = self.process().usage()?;
            if usage.cpu.saturating_sub(before) <= IDLE.1 || Instant::now() > deadline {
                return Ok(usage);
            }
        }
    }

    /// Does something in the namespace of the pod that asks.
    pub(super) fn probe<T: Send>(
        &mut self,
        ask: impl FnOnce(&mut Prober) -> T + Send,
    ) -> Result<T> {
        let netns = &self.topology.pod(CLIENT)?.netns;
        netns.run(|| ask(&mut self.prober))
    }

    /// The proxy.
    pub(in crate::bench) const fn process(&mut self) -> &mut Process {
        match &mut self.running {
            Running::Fairlead(agent) => agent.process(),
            Running::KubeProxy(kube_proxy) => &mut kube_proxy.process,
        }
    }

    /// What it is all built on.
    pub(in crate::bench) const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The node it is on.
    pub(super) fn node(&self) -> Result<&Host> {
        self.topology.node(NODE)
    }

    /// Bytes that have come to the node from the API server.
    pub(super) fn received(&self) -> Result<u64> {
        Ok(self.node()?.netns.received(INTERFACE)?.bytes)
    }
}

impl Feed<'_> {
    /// Lets the nodes of a topology have their objects here, their own ones among them.
    fn tell(&mut self, topology: &Topology) -> Result<()> {
        let nodes = [&topology.node_a, &topology.node_b].map(node_object);
        match self {
            Self::Api(control) => {
                control.join(&topology.node(NODE)?.netns)?;
                control.apply(&nodes)
            }
            Self::Manifests(manifests) => manifests.write_objects("nodes.yaml", &nodes),
        }
    }
}

impl Running {
    fn start(feed: &Feed<'_>, node: &Host, proxy: Proxy, agent: Option<&Path>) -> Result<Self> {
        match (feed, proxy.mode()) {
            (Feed::Api(control), None) => {
                let kubeconfig = control.kubeconfig("system:kube-proxy", None, ADDRESS)?;
                Self::fairlead(node, agent, "--kubeconfig", kubeconfig.into())
            }
            (Feed::Manifests(manifests), None) => {
                Self::fairlead(node, agent, "--manifests", manifests.dir().into())
            }
            (Feed::Api(control), Some(mode)) => {
                let kube_proxy = KubeProxy::start(control, &node.netns, node.name, mode)?;
                Ok(Self::KubeProxy(kube_proxy))
            }
            (Feed::Manifests(_), Some(_)) => bail!("kube-proxy needs an API server"),
        }
    }

    fn fairlead(node: &Host, agent: Option<&Path>, option: &str, from: OsString) -> Result<Self> {
        let arguments = [option.into(), from];
        Ok(Self::Fairlead(match agent {
            Some(agent) => Agent::launch_program(agent, node, &arguments)?,
            None => Agent::launch(node, &arguments)?,
        }))
    }
}

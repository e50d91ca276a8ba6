//! The topology of one contestant: servers in its pods, and whoever leads clients there.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::{
    ask::{self, Span},
    contestant::{Case, Client, Contestant},
    figures::Run,
    node_port::Receiver,
    objects::NEAR,
    serve::Servers,
    source::Source,
};
use crate::{
    bench::control_plane::stage::{self, Stage},
    cgroup::Member,
    site::Site,
    topology::{Links, Topology, pod_addresses},
};

/// The pod that asks, on `node-a`.
const CLIENT: &str = "pod-1";
/// The pod that answers, on the same node: the shortest way there is, to which a proxy adds most.
const NEAR_POD: &str = "pod-2";
/// The pod that takes what comes to the node port, on `node-b`.
const FAR_POD: &str = "pod-3";

/// What every node has. Where packets are led, not sockets, a process of the node that asks for a service
/// needs a route to its address first.
const DEFAULT_ROUTE: &str = "route add default via 10.10.0.9";

/// See the [module](self). Fields are in the order they are to be dropped in.
pub(super) struct Ground {
    contestant: Contestant,
    receiver: Option<Receiver>,
    _servers: [Servers; 2],
    led: Led,
}

enum Led {
    ByNobody(Box<Topology>),
    By(Box<Stage>),
}

/// What came of starting a contestant.
pub(super) enum Start {
    /// It leads clients.
    Ready(Box<Ground>),
    /// It does not, and why.
    Absent(String),
}

/// The addresses of the pods that answer, and that take what comes to the node port.
pub(super) fn pods() -> [Ipv4Addr; 2] {
    [pod_addresses(1, 2).v4, pod_addresses(2, 1).v4]
}

impl Ground {
    /// Builds it and waits until clients are led.
    pub(super) fn start(source: &mut Source, contestant: Contestant) -> Result<Start> {
        let led = match contestant.proxy() {
            None => Led::ByNobody(Box::new(Topology::build(Site::new()?, Links::STANDARD)?)),
            Some(proxy) if !source.is_for(proxy) => {
                let why = "target/kube-assets is not complete: run `cargo xtask kube-assets` first";
                return Ok(Start::Absent(why.to_owned()));
            }
            Some(proxy) => {
                let (mut stage, start) = source.start(proxy)?;
                if start.programming.is_none() {
                    let limit = stage::START;
                    let why = format!("it had not programmed all within {limit:?}");
                    return Ok(Start::Absent(why));
                }
                stage.settle()?;
                Led::By(Box::new(stage))
            }
        };
        let topology = led.topology();
        topology.node_a.netns.ip(DEFAULT_ROUTE)?;
        // Sockets belong to the group of the process that makes them.
        let _member = member(topology)?;
        let serve = |pod| Servers::start(&topology.pod(pod)?.netns);
        let servers = [serve(NEAR_POD)?, serve(FAR_POD)?];
        let receiver = match contestant.proxy() {
            None => None,
            Some(_) => Some(Receiver::new(topology)?),
        };
        Ok(Start::Ready(Box::new(Self {
            contestant,
            receiver,
            _servers: servers,
            led,
        })))
    }

    /// Who it is of.
    pub(super) const fn contestant(&self) -> Contestant {
        self.contestant
    }

    /// Does one thing for a while.
    pub(super) fn run(&self, case: Case, span: Span) -> Result<Run> {
        let run = self.measure(case, span);
        run.with_context(|| format!("{} with {}", case.name(), self.contestant.name()))
    }

    /// Fails when the proxy has ended: what it left in the kernel leads clients on.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match &mut self.led {
            Led::ByNobody(_) => Ok(()),
            Led::By(stage) => stage.process().check_alive(),
        }
    }

    fn measure(&self, case: Case, span: Span) -> Result<Run> {
        let topology = self.led.topology();
        let _member = member(topology)?;
        let [pod, _] = pods();
        let to = match self.contestant.proxy() {
            None => pod,
            Some(_) => NEAR,
        };
        let node = &topology.node_a;
        match case.client {
            Client::Host => ask::ask(&node.netns, case.measure, to, span),
            Client::Pod => ask::ask(&topology.pod(CLIENT)?.netns, case.measure, to, span),
            Client::External => {
                let receiver = self.receiver.as_ref().context("there is no node port")?;
                receiver.flood(topology, node.addresses.v4, span)
            }
        }
    }
}

impl Led {
    fn topology(&self) -> &Topology {
        match self {
            Self::ByNobody(topology) => topology,
            Self::By(stage) => stage.topology(),
        }
    }
}

/// This process in the group of a topology, where Fairlead's hooks are, if there are any.
fn member(topology: &Topology) -> Result<Member> {
    let group = topology.node_a.cgroup.as_ref();
    Member::enter(group.context("no cgroup2 hierarchy is mounted: sockets cannot be led")?)
}

//! Fairlead on a running topology, with real sockets: every path, refusals, errors, changes, and agents
//! that come and go; once with XDP and once where only tc can be had.

mod change;
mod errors;
mod explain;
mod flows;
mod hashed;
mod life;
mod paths;
mod refusals;
mod tagged;

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, ensure};
use lb_userspace::status::{Mode, Status};
use tests::{
    agent,
    capture::Capture,
    checks::{Check, Checks},
    cluster::Cluster,
    echo::{Answer, Protocol},
    manifests::examples,
    site::Site,
    talk::Conversation,
    topology::{Family, Links},
};

/// A cluster under check, and what is on its wires.
struct World {
    wire: Option<Capture>,
    client: Option<Capture>,
    cluster: Cluster,
}

/// Who asks whom: a namespace and a service address.
#[derive(Clone, Copy)]
struct Question {
    from: &'static str,
    protocol: Protocol,
    to: std::net::SocketAddr,
}

impl World {
    fn start(links: Links) -> Result<Self> {
        let cluster = Cluster::build(Site::new()?, links, &examples())?;
        cluster
            .source
            .add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"))?;
        let mut world = Self {
            wire: Some(Capture::start(&cluster.topology.switch)?),
            client: Some(Capture::start(&cluster.topology.client.netns)?),
            cluster,
        };
        world.cluster.start_agents()?;
        world.cluster.route_services("node-a")?;
        Ok(world)
    }

    /// What the agent of a node says of itself, as `lbctl` shows it.
    fn status(&self, node: &str) -> Result<Status> {
        agent::status(self.cluster.topology.node(node)?)
    }

    fn open(&self, question: Question) -> Result<Conversation> {
        let Question { from, protocol, to } = question;
        Conversation::open(self.cluster.netns(from)?, protocol, to, 0)
            .with_context(|| format!("{from} cannot open {protocol:?} to {to}"))
    }

    fn ask(&self, question: Question) -> Result<Answer> {
        let Question { from, protocol, to } = question;
        let mut conversation = self.open(question)?;
        conversation
            .ask()
            .with_context(|| format!("{from} asked {to} over {protocol:?}"))
    }
}

/// Both protocols over both families.
fn kinds() -> impl Iterator<Item = (Family, Protocol)> {
    let families = Family::BOTH.into_iter();
    families.flat_map(|family| Protocol::BOTH.map(|protocol| (family, protocol)))
}

/// The external interfaces are attached as they have to be here.
fn mode(expected: Mode) -> impl Fn(&mut World) -> Result<()> {
    move |world| {
        for node in ["node-a", "node-b"] {
            let status = world.status(node)?;
            let eth0 = status
                .interfaces
                .iter()
                .find(|interface| interface.name == "eth0");
            let eth0 = eth0.context("eth0 is not there")?;
            ensure!(eth0.mode == expected, "eth0 of {node}: {eth0:?}");
        }
        Ok(())
    }
}

/// Ends the captures: all checksums were right, and no client ever saw a pod's address.
fn clean_wire(world: &mut World) -> Result<()> {
    let wire = world.wire.take().context("there is no capture")?.finish()?;
    ensure!(
        wire.faults().is_empty(),
        "bad packets on the wire:\n{}",
        wire.faults().join("\n")
    );
    ensure!(
        wire.packets > 1000,
        "only {} packets on the wire",
        wire.packets
    );
    let client = world
        .client
        .take()
        .context("there is no capture")?
        .finish()?;
    let pods: Vec<_> = world
        .cluster
        .topology
        .pods
        .iter()
        .map(|pod| pod.addresses)
        .collect();
    for (_, from, to) in &client.flows {
        let pod = pods
            .iter()
            .any(|pod| from.ip() == pod.v4 || from.ip() == pod.v6);
        ensure!(!pod, "untranslated: {from} to {to} at the client");
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    for (name, links, expected) in [
        ("xdp", Links::STANDARD, Mode::Xdp),
        ("tc", Links::JUMBO, Mode::Tc),
    ] {
        let mut list = vec![Check::new(format!("{name}::mode"), mode(expected))];
        list.extend(paths::checks(name));
        list.extend(refusals::checks(name));
        list.extend(errors::checks(name));
        list.extend(tagged::checks(name));
        list.push(Check::new(format!("{name}::clean_wire"), clean_wire));
        if links == Links::JUMBO {
            // XDP would see packets without their checksums.
            list.extend(errors::merged(name));
        }
        list.extend(change::checks(name));
        list.extend(hashed::checks(name));
        list.extend(flows::checks(name));
        list.extend(explain::checks(name));
        list.extend(life::checks(name));
        checks.group(list, || World::start(links), |world| world.cluster.logs());
    }
    checks.finish()
}

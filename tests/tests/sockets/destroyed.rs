//! Sockets whose backend is gone are destroyed; those that were not led there are not.

use std::{io, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use tests::{
    agent::metrics,
    checks::Check,
    cluster::{Target, eventually},
    echo::Protocol,
    talk::Conversation,
};

use crate::{
    World,
    change::{SOON, WEB, conversation_with},
    paths::Socket,
};

/// The pod that goes: a backend of `web`, and its own address.
const POD: &str = "pod-3";
const OWN: Target = Target {
    v4: "10.1.2.1",
    v6: "fd00:1:2::1",
    port: 8080,
};

pub(crate) fn checks() -> Vec<Check<World>> {
    let mut checks = Vec::new();
    for socket in Socket::ALL {
        let udp_name = format!("sockets::m3_m4_destroyed::{socket:?}::udp").to_lowercase();
        checks.push(Check::new(udp_name, move |world: &mut World| {
            udp(world, "node-a", socket)
        }));
        let tcp_name = format!("sockets::m2_m3_destroyed::{socket:?}::tcp").to_lowercase();
        checks.push(Check::new(tcp_name, move |world: &mut World| {
            tcp(world, "node-a", socket)
        }));
    }
    checks
}

/// Sockets of a process on node-a, or in a pod there, that talk to the pod: one led by a service, one straight.
struct Sockets {
    led: Conversation,
    straight: Conversation,
}

impl Sockets {
    fn open(world: &World, from: &str, socket: Socket, protocol: Protocol) -> Result<Self> {
        let family = socket.family();
        let web = socket.address(WEB.of(family)?);
        let own = socket.address(OWN.of(family)?);
        let mut straight = world.open(from, protocol, own)?;
        straight.ask().context("the pod itself")?;
        Ok(Self {
            led: conversation_with(world, from, protocol, POD, web)?,
            straight,
        })
    }

    /// Waits until the one that was led is destroyed. The other one goes on.
    fn one_is_destroyed(&mut self) -> Result<()> {
        eventually(SOON, || match self.led.ask() {
            Ok(answer) => bail!("{} still answers", answer.server),
            Err(error) if is_destroyed(&error) => Ok(()),
            Err(error) => bail!("instead of having been destroyed: {error}"),
        })?;
        let answer = self.straight.ask().context("who asked the pod itself")?;
        ensure!(answer.server == POD, "{} answered", answer.server);
        Ok(())
    }
}

/// A destroyed socket tells so once; then, over UDP, it is connected to nobody.
fn is_destroyed(error: &io::Error) -> bool {
    [Errno::CONNABORTED, Errno::DESTADDRREQ]
        .contains(&Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// How many sockets node-a's agent has destroyed.
fn counted(world: &World, protocol: &str) -> Result<f64> {
    let metrics = metrics(world.cluster.topology.node("node-a")?)?;
    let name = format!("fairlead_sockets_destroyed_total{{protocol=\"{protocol}\"}}");
    metrics.get(&name).copied().context("no such metric")
}

/// A connected UDP socket goes with its backend at once, whatever becomes of the pod: a client that asks a
/// DNS server hears so instead of waiting, and asks another.
pub(crate) fn udp(world: &mut World, from: &str, socket: Socket) -> Result<()> {
    let manifest = world.cluster.source.read("pod-3.yaml")?;
    let before = counted(world, "UDP")?;
    let mut sockets = Sockets::open(world, from, socket, Protocol::Udp)?;
    world.cluster.source.remove("pod-3.yaml")?;
    sockets.one_is_destroyed()?;
    let web = socket.address(WEB.of(socket.family())?);
    let answer = world.ask(from, Protocol::Udp, web)?;
    ensure!(answer.server != POD, "asked anew, {POD} answered");
    eventually(SOON, || {
        let after = counted(world, "UDP")?;
        ensure!(after > before, "{after} are counted, as before");
        Ok(())
    })?;
    back(world, &manifest, web)
}

/// A TCP connection goes with its pod: while that terminates, and also if it has only stopped to be
/// a backend, it goes on.
pub(crate) fn tcp(world: &mut World, from: &str, socket: Socket) -> Result<()> {
    let manifest = world.cluster.source.read("pod-3.yaml")?;
    let web = socket.address(WEB.of(socket.family())?);
    let mut sockets = Sockets::open(world, from, socket, Protocol::Tcp)?;
    world.cluster.source.remove("pod-3.yaml")?;
    left(world, web)?;
    sockets.led.ask().context("the pod has left, and lives")?;
    back(world, &manifest, web)?;
    let terminating = manifest.replace(
        "\n  name: pod-3\n",
        "\n  name: pod-3\n  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n",
    );
    ensure!(terminating != manifest, "the manifest has no name");
    world.cluster.source.write("pod-3.yaml", &terminating)?;
    left(world, web)?;
    sockets.led.ask().context("the pod terminates")?;
    world.cluster.source.remove("pod-3.yaml")?;
    sockets.one_is_destroyed()?;
    back(world, &manifest, web)
}

/// Waits until no new connection goes to the pod.
fn left(world: &World, web: SocketAddr) -> Result<()> {
    eventually(SOON, || {
        // As in `conversation_with`: chance must not hide a backend that is still there.
        for _ in 0..40 {
            let answer = world.ask("node-a", Protocol::Tcp, web)?;
            ensure!(answer.server != POD, "new connections go to {POD}");
        }
        Ok(())
    })
}

/// Brings the pod back.
fn back(world: &World, manifest: &str, web: SocketAddr) -> Result<()> {
    world.cluster.source.write("pod-3.yaml", manifest)?;
    let comes = || conversation_with(world, "node-a", Protocol::Tcp, POD, web);
    eventually(SOON, comes).map(drop)
}

//! Packets from outside to a node port whose pod is on another node, as many as there can be.
//!
//! A packet passes the switch, the node that is measured, the switch again, the other node, and
//! is counted where it arrives in the pod. The pod says nothing. What is measured is the time on a CPU of
//! the thread by which the node's `eth0` receives (threaded NAPI, with GRO as a NIC has it): it runs XDP
//! with Fairlead, and the whole way of a packet through the kernel, to the link again, with kube-proxy.
//! Other threads' time is not counted. The sender has the same CPU and sends as many packets at a time as a
//! NAPI poll takes, so that the thread finds a whole poll's worth as under load, and is not woken for each.
//! What the node sends is taken by a thread on that CPU too, when the node is through: to wake another CPU
//! takes longer than a packet does, above all in a virtual machine.
//!
//! The node receives frames as the driver of a NIC has them, with kube-proxy as with Fairlead: a page each, of
//! which a `struct sk_buff` is made if XDP passes it, or if there is none. A veth as it is would hand on what the
//! sender's stack has made, and all that XDP saves would have been paid before; so the switch forwards them
//! by XDP.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    ask::Span,
    cpu::{self, Cpu},
    figures::Run,
    objects::NODE_PORT,
    serve::MESSAGE,
};
use crate::{
    command,
    netns::{Netns, interface_index},
    raw,
    topology::Topology,
};

/// How many flows take their turns.
const FLOWS: usize = 16;
/// How many packets are sent before others on the CPU may run: what a NAPI poll takes at most.
const POLL: usize = 64;
/// Where the program by which the switch forwards is pinned, below the topology's directory.
const PROGRAM: &str = "switch/forward";
/// Fewer packets than these tell nothing.
const LEAST: u64 = 1000;

/// The threads that receive for a node.
#[derive(Debug)]
pub(super) struct Receiver {
    threads: BTreeSet<u32>,
}

impl Receiver {
    /// Has `node-a` of a topology receive by a thread of its own, and the switch from there by another.
    pub(super) fn new(topology: &Topology) -> Result<Self> {
        let node = &topology.node_a.netns;
        node.offload("eth0", &["gro", "on"])?;
        let threads = threaded(node, "eth0")?;
        pin(&threads, Cpu::CLIENT)?;
        pin(&threaded(&topology.switch, "to-node-a")?, Cpu::CLIENT)?;
        forward(topology)?;
        Ok(Self { threads })
    }

    /// Floods the node port for a while.
    pub(super) fn flood(&self, topology: &Topology, to: Ipv4Addr, span: Span) -> Result<Run> {
        let (client, pod) = (&topology.client.netns, &topology.pod("pod-3")?.netns);
        let to = SocketAddr::from((to, NODE_PORT));
        let ended = AtomicBool::new(false);
        let [before, after] = thread::scope(|scope| {
            let sender = scope.spawn(|| client.run(|| send(to, &ended))?);
            thread::sleep(span.warm_up);
            let before = self.look(pod);
            thread::sleep(span.length);
            let after = self.look(pod);
            ended.store(true, Ordering::Relaxed);
            match sender.join() {
                Ok(sent) => sent?,
                Err(_) => bail!("the sender panicked"),
            }
            Ok([before?, after?])
        })?;
        let packets = after.packets - before.packets;
        ensure!(
            packets >= LEAST,
            "of the packets to {to} only {packets} arrived: is the node port served?"
        );
        Ok(Run::of_cpu(packets, after.time.saturating_sub(before.time)))
    }

    fn look(&self, pod: &Netns) -> Result<Look> {
        let times = self.threads.iter().map(|thread| cpu::time_of(*thread));
        Ok(Look {
            packets: pod.received("eth0")?.packets,
            time: times.sum::<Result<_>>()?,
        })
    }
}

/// What there had been at a time.
struct Look {
    packets: u64,
    time: Duration,
}

fn send(to: SocketAddr, ended: &AtomicBool) -> Result<()> {
    cpu::pin(Cpu::CLIENT)?;
    let socket = |_| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        Ok(socket)
    };
    let sockets = (0..FLOWS).map(socket).collect::<io::Result<Vec<_>>>()?;
    while !ended.load(Ordering::Relaxed) {
        for socket in sockets.iter().cycle().take(POLL) {
            let sent = socket.send(&[0; MESSAGE]);
            sent.with_context(|| format!("cannot send to {to}"))?;
        }
        thread::yield_now();
    }
    Ok(())
}

/// Has the switch hand `node-a` what the client sends without the kernel's bridge.
fn forward(topology: &Topology) -> Result<()> {
    let switch = &topology.switch;
    let program = topology.dir().join(PROGRAM);
    let node = switch.run(|| interface_index("to-node-a"))??;
    raw::pin_udp_redirect(node, &program)?;
    switch.ip(&format!(
        "link set to-client xdpdrv off\n\
         link set to-client xdpdrv pinned {}",
        program.display()
    ))
}

/// Has an interface receive by threads of its own; which they are.
fn threaded(netns: &Netns, interface: &str) -> Result<BTreeSet<u32>> {
    let before = receiving_threads()?;
    // Its files are seen from inside its namespace alone.
    let script = format!("echo 1 > /sys/class/net/{interface}/threaded");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name(), "sh", "-c", &script]);
    command::run(&mut command)?;
    let threads = &receiving_threads()? - &before;
    ensure!(
        !threads.is_empty(),
        "{interface} of {} does not receive by a thread: it has no NAPI",
        netns.name()
    );
    Ok(threads)
}

/// All threads of the kernel that receive for an interface.
fn receiving_threads() -> Result<BTreeSet<u32>> {
    let processes = fs::read_dir("/proc").context("cannot read /proc")?;
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_receiving = |id: &u32| {
        let name = fs::read_to_string(format!("/proc/{id}/comm"));
        name.is_ok_and(|name| name.starts_with("napi/"))
    };
    Ok(ids.filter(is_receiving).collect())
}

fn pin(threads: &BTreeSet<u32>, to: Cpu) -> Result<()> {
    let mut threads = threads.iter();
    threads.try_for_each(|thread| cpu::pin_other(*thread, to))
}

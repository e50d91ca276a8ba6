//! Frames with VLAN tags. tc sees none in the frame: the device or the kernel has taken them off and says
//! so. XDP sees those that the device leaves, as it is told to here.

use std::{net::UdpSocket, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_model::frame::Frame;
use serde_json::Value;
use tests::{
    agent,
    checks::Check,
    cluster::eventually,
    echo::Answer,
    netns::Netns,
    raw,
    talk::{patience, unspecified},
    topology::Family,
};

use crate::{World, paths::POD_1_AT_NODE_A};

/// A tag with a priority and no VLAN, and one of VLAN 7.
const PRIORITY: u16 = 0xa000;
const VLAN: u16 = 7;
/// Where frames of VLANs are counted.
const PASSED: &str = r#"fairlead_packets_total{verdict="pass",reason="vlan"}"#;

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    let hooks = if group == "xdp" { 2.0 } else { 1.0 };
    let mut checks = Vec::new();
    for family in Family::BOTH {
        let name =
            format!("{group}::r2_tags_of_a_priority_change_nothing::{family:?}").to_lowercase();
        checks.push(Check::new(name, move |world| priority(world, family)));
        let name = format!("{group}::r2_frames_of_a_vlan_are_not_of_its_device::{family:?}")
            .to_lowercase();
        checks.push(Check::new(name, move |world| vlan(world, family, hooks)));
    }
    checks
}

fn priority(world: &mut World, family: Family) -> Result<()> {
    let socket = asked(world, family, PRIORITY)?;
    let mut datagram = [0; 1500];
    let (length, from) = socket.recv_from(&mut datagram).context("no answer")?;
    let answer: Answer = serde_json::from_slice(&datagram[..length])?;
    let service = POD_1_AT_NODE_A.of(family)?;
    ensure!(
        (&*answer.server, from) == ("pod-1", service),
        "{from} answered {answer:?}"
    );
    Ok(())
}

/// It belongs to another device, which this node does not even have: each hook there is says so.
fn vlan(world: &mut World, family: Family, hooks: f64) -> Result<()> {
    let counted = |world: &World| -> Result<f64> {
        let metrics = agent::metrics(world.cluster.topology.node("node-a")?)?;
        Ok(metrics.get(PASSED).copied().unwrap_or(0.0))
    };
    let before = counted(world)?;
    let socket = asked(world, family, VLAN)?;
    eventually(Duration::from_secs(5), || {
        ensure!(counted(world)? >= before + hooks, "not counted as {PASSED}");
        Ok(())
    })?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    ensure!(socket.recv(&mut [0; 1500]).is_err(), "it was answered");
    Ok(())
}

/// A socket of the client's, from which a service was asked by a frame with a tag.
fn asked(world: &World, family: Family, tag: u16) -> Result<UdpSocket> {
    let switch = &world.cluster.topology.switch;
    for port in ["to-client", "to-node-a"] {
        switch.offload(port, &["txvlan", "off"])?;
    }
    let client = world.cluster.netns("client")?;
    let macs = [mac(world.cluster.netns("node-a")?)?, mac(client)?].concat();
    let to = POD_1_AT_NODE_A.of(family)?;
    let socket = client.run(|| UdpSocket::bind((unspecified(to.ip()), 0)))??;
    socket.set_read_timeout(Some(patience()))?;
    let mut from = socket.local_addr()?;
    from.set_ip(world.cluster.address("client", family)?);
    let frame = Frame {
        macs: macs.try_into().ok().context("two MACs are twelve bytes")?,
        tag: Some(tag),
        ..Frame::udp(from, to)
    };
    let bytes = frame.build();
    client.run(|| raw::send_frame("eth0", &bytes))??;
    Ok(socket)
}

/// The MAC of a host's `eth0`.
fn mac(host: &Netns) -> Result<Vec<u8>> {
    let said = host.output(Command::new("ip").args(["-json", "link", "show", "eth0"]))?;
    let links: Value = serde_json::from_slice(&said.stdout)?;
    let text = links[0]["address"].as_str().context("eth0 has no MAC")?;
    let byte = |part| u8::from_str_radix(part, 16).context("no MAC");
    text.split(':').map(byte).collect()
}

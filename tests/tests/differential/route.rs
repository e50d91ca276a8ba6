//! The ways out of the fixtures' namespace, as the kernel's tables of routes and neighbours have them.

use std::{collections::BTreeMap, net::IpAddr, process::Command};

use anyhow::{Context, Result};
use lb_ebpf::Reach;
use lb_model::tables::Way;
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use serde_json::Value;
use tests::{command, fixture::names, topology::Family};

/// Whom the nodes of the world are reached by: interface and neighbour. No neighbour is known of
/// `silent`, and the overlay's interface has a MAC nobody gave it: none is written there.
const VIA: [(&str, &str, Option<&str>); 11] = [
    ("remote", "eth0", Some("node2")),
    ("remote2", "eth0", Some("node2")),
    ("across", "eth1", Some("router1")),
    ("narrow", "eth1", Some("router1")),
    ("narrow-client", "eth0", Some("gateway")),
    ("no-xdp", "eth2", Some("router2")),
    ("pod", "pod0", Some("pod")),
    ("pod2", "pod0", Some("pod")),
    ("pod-like-web", "eth0", Some("gateway")),
    ("overlay", "ovl0", None),
    ("silent", "eth0", None),
];

/// Whom no route of their own leads to.
pub(crate) const BY_DEFAULT: [&str; 6] = ["client", "other", "web", "free", "external", "balancer"];

/// The way to everybody else.
pub(crate) fn out(interfaces: &BTreeMap<&'static str, u32>) -> Result<Way> {
    Ok(Way {
        reach: Reach::Neighbour,
        ifindex: interfaces["eth0"],
        macs: Some(macs("gateway", "eth0")?),
        source: None,
        mtu: 1500,
    })
}

/// The ways that differ.
pub(crate) fn ways(
    family: Family,
    interfaces: &BTreeMap<&'static str, u32>,
) -> Result<Vec<(IpAddr, Way)>> {
    let mut ways = Vec::new();
    for (name, interface, neighbour) in VIA {
        let address = names::address(name, family)?;
        // Without a neighbour the FIB says no more than the route.
        let (reach, mtu) = if name == "silent" {
            (Reach::Route, 0)
        } else {
            (Reach::Neighbour, names::mtu(name))
        };
        let way = Way {
            reach,
            mtu,
            ifindex: index(interface, interfaces)?,
            macs: neighbour.map(|by| macs(by, interface)).transpose()?,
            source: Some(source(address)?),
        };
        ways.push((address, way));
    }
    for (name, reach) in [
        ("prohibited", Reach::Unreachable),
        ("node", Reach::NotForwarded),
    ] {
        ways.push((names::address(name, family)?, Way::reaching(reach)));
    }
    Ok(ways)
}

/// The overlay's interface is not one the programs are told of.
fn index(interface: &str, known: &BTreeMap<&'static str, u32>) -> Result<u32> {
    if let Some(index) = known.get(interface) {
        return Ok(*index);
    }
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(name_to_index(&socket, interface)?)
}

/// Destination and source, as they begin a frame.
fn macs(to: &str, from: &str) -> Result<[u8; 12]> {
    let macs = [names::mac(to)?, names::mac(from)?].concat();
    macs.try_into().ok().context("two MACs are twelve bytes")
}

/// The source address the kernel prefers on the way to an address.
fn source(to: IpAddr) -> Result<IpAddr> {
    let to = to.to_string();
    let mut command = Command::new("ip");
    let said = command::run(command.args(["-json", "route", "get", &to]))?;
    let routes: Value = serde_json::from_slice(&said.stdout)?;
    let source = routes[0]["prefsrc"].as_str();
    let source = source.with_context(|| format!("no source address toward {to}: {routes}"))?;
    Ok(source.parse()?)
}

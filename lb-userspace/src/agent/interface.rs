//! Network interfaces, and what they are to us.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr};

use clap::ValueEnum;
use glob::Pattern;
use serde::{Deserialize, Serialize};

use super::{
    table::{Address, Table},
    values,
};
use crate::status::Role;

/// A network interface, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the kernel tells them"
)]
pub(super) struct Interface {
    /// Its index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// Frames have Ethernet headers.
    pub(super) ethernet: bool,
    /// A loopback device.
    pub(super) loopback: bool,
    /// Administratively up.
    pub(super) up: bool,
    /// A veth.
    pub(super) veth: bool,
    /// Belongs to a bond.
    pub(super) bonded: bool,
    /// Hardware, or one of the kinds that stand for hardware: a bond, a VLAN and such.
    pub(super) uplink: bool,
    /// A VLAN of the device below.
    pub(super) vlan: bool,
    /// Ethernet frames carried by IP packets: VXLAN and such.
    pub(super) tunnel: bool,
    /// Index of the bridge or bond it belongs to.
    pub(super) master: Option<u32>,
    /// Number of the network namespace that the other end, or the device below, is in, if that is
    /// another one.
    pub(super) peer_netns: Option<i32>,
    /// Index of the other end, or of the device below.
    pub(super) peer: Option<u32>,
    /// Largest packet.
    pub(super) mtu: u32,
    /// Its MAC address.
    pub(super) mac: Vec<u8>,
}

/// Which interfaces are ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// The external interfaces.
    pub(super) external: External,
    /// Names that pod interfaces may have.
    pub(super) pods: Vec<Pattern>,
    /// Name of the bridge that all pod interfaces belong to, if they do.
    pub(super) bridge: Option<String>,
    /// Where XDP may be used.
    pub(super) xdp: Xdp,
}

/// Which interfaces are external.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum External {
    /// Those that can be, and have a default route or an address of the Node.
    #[default]
    Auto,
    /// Those of these names.
    Named(Vec<String>),
}

/// What a [`Selection`] comes to on the node as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Names of the external interfaces, the most important first.
    pub(super) external: Vec<String>,
    /// Names of the overlay's devices.
    overlay: Vec<String>,
    /// Indices of the devices that VLANs are on.
    trunks: BTreeSet<u32>,
    /// Index of the pods' bridge; none if it does not exist.
    bridge: Option<u32>,
}

/// Where XDP may be used, of the external interfaces whose driver has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Xdp {
    /// On all but veths, and devices that VLANs are on: what XDP sends back out of a veth is lost
    /// without a trace unless its other end runs XDP too (`veth_xdp_flush`), and a driver may hide
    /// VLANs from it; neither can be asked.
    #[default]
    Auto,
    /// On all.
    Always,
    /// On none.
    Off,
}

/// An interface that packets are to be seen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// What it is to us.
    pub(super) role: Role,
    /// Why packets cannot be seen there.
    pub(super) obstacle: Option<&'static str>,
    /// Largest packet: drivers refuse native XDP for large ones.
    pub(super) mtu: u32,
    /// Why XDP is not even tried.
    pub(super) no_xdp: Option<&'static str>,
}

impl Selection {
    /// Looks for the interfaces that are not told by name.
    pub(super) fn find(&self, table: &Table, node: &[IpAddr]) -> Found {
        Found {
            external: match &self.external {
                External::Named(names) => names.clone(),
                External::Auto => uplinks(table, node),
            },
            overlay: overlay(table),
            trunks: trunks(table),
            bridge: self
                .bridge
                .as_ref()
                .and_then(|name| Some(table.link(name)?.index)),
        }
    }

    /// What of it there is not, one line each.
    pub(super) fn missing(&self, found: &Found, table: &Table) -> Vec<String> {
        let mut lines: Vec<_> = self.missing_names(table).map(|name| format!(
            "interface {name}: there is none of that name; it is attached to when it appears"
        )).collect();
        if self.external == External::Auto && found.external.is_empty() {
            lines.push(
                "interfaces: none that could be external has a default route or an address of the \
                 Node, so nothing from outside is served; name one by --external-interface"
                    .to_owned(),
            );
        }
        if let (Some(bridge), None) = (&self.bridge, found.bridge) {
            lines.push(format!(
                "bridge {bridge}: there is none of that name, so no interface is a pod's yet"
            ));
        }
        lines
    }

    /// External interfaces that are named and do not exist.
    pub(super) fn missing_names(&self, table: &Table) -> impl Iterator<Item = &String> {
        let names = match &self.external {
            External::Auto => &[],
            External::Named(names) => names.as_slice(),
        };
        names.iter().filter(|name| table.link(name).is_none())
    }

    /// What the interface is to us, if anything: external when found so, or when an overlay's; else a
    /// pod's when it is a veth that leads to another network namespace, its name fits and it is on
    /// the pods' bridge, if they have one.
    fn role(&self, interface: &Interface, found: &Found) -> Option<Role> {
        let mut external = found.external.iter().chain(&found.overlay);
        if external.any(|name| *name == interface.name) {
            return Some(Role::External);
        }
        let leads_away = interface.veth && interface.peer_netns.is_some();
        let fits = || self.pods.iter().any(|glob| glob.matches(&interface.name));
        let bridged = || {
            let on = |bridge| interface.master == Some(bridge);
            self.bridge.is_none() || found.bridge.is_some_and(on)
        };
        (leads_away && fits() && bridged()).then_some(Role::Pod)
    }

    /// The interface as one to attach to; none if it does not concern us.
    pub(super) fn wanted(&self, interface: &Interface, found: &Found) -> Option<Wanted> {
        Some(Wanted {
            index: interface.index,
            name: interface.name.clone(),
            role: self.role(interface, found)?,
            obstacle: obstacle(interface),
            mtu: interface.mtu,
            no_xdp: self.no_xdp(interface, found),
        })
    }

    fn no_xdp(&self, interface: &Interface, found: &Found) -> Option<&'static str> {
        match self.xdp {
            Xdp::Off => Some("--xdp off"),
            Xdp::Auto | Xdp::Always if interface.tunnel => Some("the driver of a tunnel has none"),
            Xdp::Auto if interface.veth => Some(
                "a veth loses what XDP sends unless its other end runs XDP too; \
                 if it does, give --xdp always",
            ),
            Xdp::Auto if found.trunks.contains(&interface.index) => Some(
                "VLANs are on it, and a driver may hide from XDP which of them a frame is of; \
                 if it does not (`ethtool -K` with rxvlan off), give --xdp always",
            ),
            Xdp::Auto | Xdp::Always => None,
        }
    }
}

/// Names of the interfaces that packets from outside arrive on: those with a default route first,
/// then those with an address of the Node.
fn uplinks(table: &Table, node: &[IpAddr]) -> Vec<String> {
    let has_address = |link: &Interface| {
        let own = |address: &Address| address.interface == link.index && node.contains(&address.ip);
        table.addresses().iter().any(own)
    };
    let routed = table
        .links()
        .filter(|link| table.default_routes().contains(&link.index));
    let addressed = table.links().filter(|link| has_address(link));
    let names = routed
        .chain(addressed)
        .filter(|link| may_be_external(link))
        .map(|link| link.name.clone());
    values::unique(names.collect())
}

/// Names of the devices that pods of other nodes are behind where a CNI has tunnels for them (flannel,
/// Calico): what is forwarded to them leaves there, so their answers enter there, whichever interfaces
/// are named. A tunnel without an address is not one that this node sends by, and one on a bridge is
/// that network's.
fn overlay(table: &Table) -> Vec<String> {
    let has_address = |link: &Interface| {
        let own = |address: &Address| address.interface == link.index && address.global;
        table.addresses().iter().any(own)
    };
    table
        .links()
        .filter(|link| link.tunnel && link.master.is_none() && has_address(link))
        .map(|link| link.name.clone())
        .collect()
}

/// Indices of the devices that VLANs of this node are on. Most hardware takes a tag off the frame and
/// tells the stack of it, but not XDP: to that, all would be frames of the device itself.
fn trunks(table: &Table) -> BTreeSet<u32> {
    table
        .links()
        .filter(|link| link.vlan && link.peer_netns.is_none())
        .filter_map(|link| link.peer)
        .collect()
}

/// Bridges, tunnels and dummies carry what has come in elsewhere. A veth is the way out of a node
/// that is itself in a container.
fn may_be_external(link: &Interface) -> bool {
    let leads_out = link.uplink || (link.veth && link.peer_netns.is_some());
    leads_out && obstacle(link).is_none()
}

fn obstacle(interface: &Interface) -> Option<&'static str> {
    if interface.loopback {
        Some("a loopback device: nothing from outside arrives there")
    } else if !interface.ethernet {
        Some("not an Ethernet device")
    } else if interface.bonded {
        Some("part of a bond: name the bond as the external interface")
    } else {
        None
    }
}

//! The topology: a client, two nodes and their pods, dual-stack, joined by a switch.
//!
//! ```text
//!                     switch (bridge)  10.10.0.0/24  fd00:10::/64
//!            ┌──────────────┬────────────────┐
//!      eth0 .9│        eth0 .1│          eth0 .2│
//!         client         node-a           node-b
//!                    veth-pod-1  veth-pod-2    veth-pod-3
//!                      pod-1      pod-2          pod-3
//!                    10.1.1.1   10.1.1.2       10.1.2.1
//! ```
//!
//! Pods are routed (a host route each, on the node), so the nodes' own stack does what a CNI's
//! would. The client has routes for pods and for service addresses through node-a, as a router
//! in front of a cluster would.
//!
//! That is [`Links::STANDARD`]; the switch can also be the machine's own NICs, and `eth0` a VLAN or a bond.
//!
//! On the wire (client, switch, nodes' `eth0`) transmit offloads are off, unless the links say otherwise, so that what
//! XDP and a capture see has its checksums in place. The switch's ports take what XDP sends from the other end, and
//! merge nothing. Pods keep their offloads.

pub mod links;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};

pub use self::links::Links;
use self::links::Switch;
use crate::{
    netns::Netns,
    raw,
    site::{self, Site},
};

/// Where cluster IPs are from.
pub const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:96::/112";
/// Where the addresses of all pods are from.
pub const CLUSTER_CIDRS: &str = "10.1.0.0/16,fd00:1::/32";

/// Everything but the nodes' and pods' own routes: what the client sends through node-a.
const CLIENT_ROUTES: [&str; 10] = [
    "10.1.1.0/24 via 10.10.0.1",
    "10.1.2.0/24 via 10.10.0.2",
    "10.96.0.0/16 via 10.10.0.1",
    "192.0.2.0/24 via 10.10.0.1",
    "198.51.100.0/24 via 10.10.0.1",
    "fd00:1:1::/64 via fd00:10::1",
    "fd00:1:2::/64 via fd00:10::2",
    "fd00:96::/112 via fd00:10::1",
    "2001:db8:1::/64 via fd00:10::1",
    "2001:db8:2::/64 via fd00:10::1",
];

/// The IPv4 gateway of every pod, held by the node's end of its veth. IPv6 has `fe80::1`.
const POD_GATEWAY: &str = "169.254.1.1";

/// Where the program for the switch's ports is pinned, below the site's directory.
const XDP_PASS: &str = "switch/pass";

/// An address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// The address of a family.
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// A host on the external network.
#[derive(Debug)]
pub struct Host {
    /// Its name, e.g. `node-a`.
    pub name: &'static str,
    /// Its namespace; the external interface is `eth0`.
    pub netns: Netns,
    /// Its addresses on the external network.
    pub addresses: Addresses,
    /// The cgroup whose processes its agent sees the sockets of; none where there are no cgroups.
    pub cgroup: Option<PathBuf>,
    /// Its own directory, with a private bpffs at [`Host::bpffs`].
    pub dir: PathBuf,
}

impl Host {
    /// A bpffs of its own.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The node it runs on.
    pub node: &'static str,
    /// Its namespace; its interface is `eth0`.
    pub netns: Netns,
    /// Its addresses.
    pub addresses: Addresses,
}

impl Pod {
    /// The node's end of its veth.
    pub fn interface(&self) -> String {
        format!("veth-{}", self.name)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Topology {
    /// The outside world.
    pub client: Host,
    /// The first node.
    pub node_a: Host,
    /// The second node.
    pub node_b: Host,
    /// The pods that exist, by name.
    pub pods: Vec<Pod>,
    /// The bridge between client and nodes: what crosses its ports was on the wire.
    pub switch: Netns,
    /// Last, so that it is dropped last.
    site: Site,
}

impl Topology {
    /// Client, nodes and the pods `pod-1` and `pod-2` (on node-a) and `pod-3` (on node-b).
    pub fn build(site: Site, links: Links) -> Result<Self> {
        let switch = Netns::create(site.name("switch"))?;
        let program = site.dir().join(XDP_PASS);
        mount_bpffs(&site.dir().join("switch"))?;
        raw::pin_pass(&program)?;
        quiet_ipv6(&switch)?;
        switch.ip("link set lo up\n\
             link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set br0 up")?;
        let host = |name, number| plug(&site, &switch, links, name, number);
        let (client, node_a, node_b) = (host("client", 9)?, host("node-a", 1)?, host("node-b", 2)?);
        let routes: String = CLIENT_ROUTES
            .map(|route| format!("route add {route}\n"))
            .concat();
        client.netns.ip(&routes)?;
        make_node(
            &node_a,
            "10.1.2.0/24 via 10.10.0.2",
            "fd00:1:2::/64 via fd00:10::2",
        )?;
        make_node(
            &node_b,
            "10.1.1.0/24 via 10.10.0.1",
            "fd00:1:1::/64 via fd00:10::1",
        )?;
        let mut topology = Self {
            client,
            node_a,
            node_b,
            pods: Vec::new(),
            switch,
            site,
        };
        topology.add_pod("pod-1", "node-a", pod_addresses(1, 1))?;
        topology.add_pod("pod-2", "node-a", pod_addresses(1, 2))?;
        topology.add_pod("pod-3", "node-b", pod_addresses(2, 1))?;
        Ok(topology)
    }

    /// Adds a pod to a node.
    pub fn add_pod(&mut self, name: &str, node: &str, addresses: Addresses) -> Result<()> {
        let node = self.node(node)?;
        let pod = Pod {
            name: name.to_owned(),
            node: node.name,
            netns: Netns::create(self.site.name(name))?,
            addresses,
        };
        connect_pod(node, &pod)?;
        self.pods.push(pod);
        Ok(())
    }

    /// Removes a pod: namespace, veth and routes.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let index = self.pods.iter().position(|pod| pod.name == name);
        let pod = self
            .pods
            .remove(index.with_context(|| format!("no pod {name}"))?);
        // The node's end goes at once; with the namespace alone it would go some time later.
        let line = format!("link del {}", pod.interface());
        self.node(pod.node)?.netns.ip(&line)?;
        pod.netns.remove()
    }

    /// Puts a pod on a bridge of its node, which is made for it and is its gateway from then on.
    pub fn bridge(&self, pod: &str, bridge: &str) -> Result<()> {
        let pod = self.pod(pod)?;
        let (node, interface) = (self.node(pod.node)?, pod.interface());
        node.netns.ip(&format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             addr flush dev {interface}\n\
             link set {interface} master {bridge}"
        ))?;
        lead_to_pod(node, pod, bridge)?;
        // The gateway has another MAC.
        pod.netns.ip("neigh flush dev eth0")
    }

    /// Takes the bridge away again.
    pub fn unbridge(&self, pod: &str, bridge: &str) -> Result<()> {
        let pod = self.pod(pod)?;
        let node = self.node(pod.node)?;
        node.netns.ip(&format!("link del {bridge}"))?;
        lead_to_pod(node, pod, &pod.interface())?;
        pod.netns.ip("neigh flush dev eth0")
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Host> {
        match [&self.node_a, &self.node_b]
            .into_iter()
            .find(|node| node.name == name)
        {
            Some(node) => Ok(node),
            None => bail!("no node {name}"),
        }
    }

    /// The pod of this name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.name == name)
            .with_context(|| format!("no pod {name}"))
    }

    /// Where files of the topology go.
    pub fn dir(&self) -> PathBuf {
        self.site.dir()
    }

    /// Leaves everything standing after this process, see [`Site::keep`].
    pub fn keep(self) {
        self.site.keep();
    }
}

/// Addresses of pod `number` on node `node`.
pub fn pod_addresses(node: u8, number: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(10, 1, node, number),
        v6: Ipv6Addr::new(0xfd00, 1, node.into(), 0, 0, 0, 0, number.into()),
    }
}

/// Makes a host, whose `eth0` is on the external network.
fn plug(site: &Site, switch: &Netns, links: Links, name: &'static str, number: u8) -> Result<Host> {
    let netns = Netns::create(site.name(name))?;
    quiet_ipv6(&netns)?;
    let addresses = Addresses {
        v4: Ipv4Addr::new(10, 10, 0, number),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, number.into()),
    };
    let program = site.dir().join(XDP_PASS);
    links.make_eth0(
        &netns,
        &Switch {
            netns: switch,
            program: &program,
        },
        name,
    )?;
    netns.ip(&format!(
        "link set lo up\n\
         addr add {}/24 dev eth0\n\
         addr add {}/64 dev eth0 nodad\n\
         link set eth0 up",
        addresses.v4, addresses.v6
    ))?;
    let dir = site.dir().join(name);
    Ok(Host {
        name,
        netns,
        addresses,
        cgroup: site.cgroup(),
        dir,
    })
}

/// Lets a host route, and gives it a bpffs.
fn make_node(node: &Host, v4_route: &str, v6_route: &str) -> Result<()> {
    node.netns.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        // The strictest that real nodes use: a packet with an unexpected source is dropped.
        ("net/ipv4/conf/all/rp_filter", "1"),
    ])?;
    node.netns
        .ip(&format!("route add {v4_route}\nroute add {v6_route}"))?;
    mount_bpffs(&node.bpffs())
}

/// Mounts a bpffs, which goes with the site it is in.
pub(crate) fn mount_bpffs(target: &Path) -> Result<()> {
    let _making = site::making();
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    mount("bpffs", target, "bpf", MountFlags::empty(), None)
        .with_context(|| format!("cannot mount a bpffs at {}", target.display()))
}

fn connect_pod(node: &Host, pod: &Pod) -> Result<()> {
    let (netns, interface, Addresses { v4, v6 }) = (&pod.netns, pod.interface(), pod.addresses);
    quiet_ipv6(netns)?;
    node.netns.ip(&format!(
        "link add {interface} type veth peer name eth0 netns {}",
        netns.name()
    ))?;
    netns.ip(&format!(
        "link set lo up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         route add {POD_GATEWAY} dev eth0 scope link\n\
         route add default via {POD_GATEWAY} dev eth0\n\
         route add default via fe80::1 dev eth0",
    ))?;
    lead_to_pod(node, pod, &interface)
}

/// Makes an interface of the node the pod's gateway, and the way to it.
fn lead_to_pod(node: &Host, pod: &Pod, interface: &str) -> Result<()> {
    let Addresses { v4, v6 } = pod.addresses;
    node.netns.ip(&format!(
        "addr add {POD_GATEWAY}/32 dev {interface}\n\
         addr add fe80::1/64 dev {interface} nodad\n\
         link set {interface} up\n\
         route replace {v4}/32 dev {interface} src {}\n\
         route replace {v6}/128 dev {interface} src {}",
        node.addresses.v4, node.addresses.v6
    ))
}

/// No duplicate address detection: addresses are usable at once.
fn quiet_ipv6(netns: &Netns) -> Result<()> {
    netns.sysctl(&[
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/dad_transmits", "0"),
    ])
}

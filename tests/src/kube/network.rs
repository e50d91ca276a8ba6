//! The network a control plane is reached by.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::{netns::Netns, site::Site};

/// Where the API server is, for all who have joined.
pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(HOST), 6443);
/// The interface by which a namespace has joined.
pub const INTERFACE: &str = "mgmt0";

/// The control plane's own address.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// The control plane's namespace, with a bridge for those who join.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) netns: Netns,
    joined: u8,
}

impl Network {
    pub(super) fn new(site: &Site) -> Result<Self> {
        let netns = Netns::create(site.name("control"))?;
        netns.ip(&format!(
            "link set lo up\n\
             link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             addr add {HOST}/24 dev br0\n\
             link set br0 up"
        ))?;
        Ok(Self { netns, joined: 1 })
    }

    pub(super) fn join(&mut self, netns: &Netns) -> Result<()> {
        self.joined = self
            .joined
            .checked_add(1)
            .context("no address is left for another to join")?;
        let (number, name) = (self.joined, netns.name());
        self.netns.ip(&format!(
            "link add to-{number} type veth peer name {INTERFACE} netns {name}\n\
             link set to-{number} master br0\n\
             link set to-{number} up"
        ))?;
        // IPv4 is enough to manage with.
        let disable_ipv6 = format!("net/ipv6/conf/{INTERFACE}/disable_ipv6");
        netns.sysctl(&[(&disable_ipv6, "1")])?;
        netns.ip(&format!(
            "addr add 172.30.0.{number}/24 dev {INTERFACE}\n\
             link set {INTERFACE} up"
        ))
    }
}

//! What the programs are told about the node.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{
    Addr,
    config::{Config, FamilyConfig, flags},
    socket::Cookie,
};

use super::addresses::NodeAddresses;

/// Which sockets are led to services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Led {
    /// Those of this network namespace.
    pub(super) netns: Cookie,
    /// To node ports on loopback addresses too.
    pub(super) localhost_node_ports: bool,
}

/// The value of `CONFIG`.
pub(super) fn config(
    epoch: u32,
    snat: (u16, u16),
    node: &NodeAddresses,
    cluster_ranges: &[IpNet],
    sockets: &Led,
) -> Config {
    Config {
        epoch,
        snat_first: snat.0,
        snat_last: snat.1,
        flags: if sockets.localhost_node_ports {
            flags::LOCALHOST_NODE_PORTS
        } else {
            0
        },
        netns: sockets.netns,
        v4: family(node.v4.map(IpAddr::V4), cluster_ranges, NO_RANGE_V4),
        v6: family(node.v6.map(IpAddr::V6), cluster_ranges, NO_RANGE_V6),
    }
}

/// Zero, with a mask of all ones: no packet's destination.
const NO_RANGE_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 32));
const NO_RANGE_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 128));

fn family<A: Addr>(
    node: Option<IpAddr>,
    cluster_ranges: &[IpNet],
    no_range: IpNet,
) -> FamilyConfig<A> {
    let range = cluster_ranges
        .iter()
        .find(|range| A::from_ip(range.addr()).is_some())
        .unwrap_or(&no_range);
    FamilyConfig {
        node: node.and_then(A::from_ip).unwrap_or_default(),
        cluster_net: A::from_ip(range.network()).unwrap_or_default(),
        cluster_mask: A::from_ip(range.netmask()).unwrap_or_default(),
        pod_net: A::default(),
        pod_mask: A::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_masked_and_absent_ones_match_nothing() {
        let node = NodeAddresses {
            v4: Some("192.0.2.1".parse().unwrap()),
            ..NodeAddresses::default()
        };
        let led = Led {
            netns: Cookie::new(9),
            localhost_node_ports: true,
        };
        let ranges = ["10.96.1.1/12".parse().unwrap()];
        let config = config(7, (1024, 29999), &node, &ranges, &led);
        assert_eq!(config.netns, led.netns);
        assert_eq!(config.flags, flags::LOCALHOST_NODE_PORTS);
        assert_eq!(
            (config.epoch, config.snat_first, config.snat_last),
            (7, 1024, 29999)
        );
        let v4 = [
            config.v4.node,
            config.v4.cluster_net,
            config.v4.cluster_mask,
        ];
        let v6 = [
            config.v6.node,
            config.v6.cluster_net,
            config.v6.cluster_mask,
        ];
        let shown = v4.map(|addr| addr.to_ip().to_string());
        assert_eq!(shown, ["192.0.2.1", "10.96.0.0", "255.240.0.0"]);
        let ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(v6.map(|addr| addr.to_ip().to_string()), ["::", "::", ones]);
    }
}

//! What the programs are told about the node.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use lb_common::{
    Addr, V4, V6,
    config::{CLUSTER_NETS_MAX, Config, FamilyConfig, Network, flags},
    socket::Cookie,
};

use super::addresses::NodeAddresses;

/// Which sockets are led to services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Led {
    /// Those of this network namespace.
    pub(super) netns: Cookie,
    /// Those of pods in `NETNS` too.
    pub(super) pods: bool,
    /// To node ports on loopback addresses too.
    pub(super) localhost_node_ports: bool,
}

/// The value of `CONFIG`.
pub(super) fn config(
    epoch: u32,
    snat: (u16, u16),
    node: &NodeAddresses,
    networks: &BTreeSet<IpNet>,
    masquerade_all: bool,
    inside: Option<&[IpNet]>,
    sockets: &Led,
) -> Config {
    let flags = [
        (sockets.localhost_node_ports, flags::LOCALHOST_NODE_PORTS),
        (sockets.pods, flags::POD_SOCKETS),
        (masquerade_all, flags::MASQUERADE_ALL),
        (inside.is_some(), flags::PODS_BY_ADDRESS),
    ];
    let flags = flags.iter().filter(|(on, _)| *on);
    let pods = inside.unwrap_or_default();
    let (v4, v6) = (node.v4.map(IpAddr::V4), node.v6.map(IpAddr::V6));
    Config {
        epoch,
        snat_first: snat.0,
        snat_last: snat.1,
        flags: flags.fold(0, |flags, (_, flag)| flags | flag),
        netns: sockets.netns,
        v4: family(v4, networks, pods),
        v6: family(v6, networks, pods),
    }
}

fn family<A: Addr>(
    node: Option<IpAddr>,
    networks: &BTreeSet<IpNet>,
    pods: &[IpNet],
) -> FamilyConfig<A> {
    let mut cluster_nets = [Network::default(); CLUSTER_NETS_MAX];
    let mut cover: Option<IpNet> = None;
    for (place, net) in cluster_nets.iter_mut().zip(of_family::<A>(networks)) {
        *place = network(net);
        let mut wider = cover.unwrap_or(net);
        while !wider.contains(&net)
            && let Some(next) = wider.supernet()
        {
            wider = next;
        }
        cover = Some(wider);
    }
    let mut pods = pods.iter().copied();
    let pods = pods.find(|net| A::from_ip(net.addr()).is_some());
    FamilyConfig {
        node: node.and_then(A::from_ip).unwrap_or_default(),
        cluster_cover: cover.map(network).unwrap_or_default(),
        cluster_nets,
        pods: pods.map(network).unwrap_or_default(),
    }
}

/// The networks of one family, those within others left out.
fn of_family<A: Addr>(networks: &BTreeSet<IpNet>) -> impl Iterator<Item = IpNet> {
    let own = networks
        .iter()
        .map(IpNet::trunc)
        .filter(|net| A::from_ip(net.addr()).is_some());
    IpNet::aggregate(&own.collect()).into_iter()
}

fn network<A: Addr>(net: IpNet) -> Network<A> {
    Network {
        net: A::from_ip(net.network()).unwrap_or_default(),
        mask: A::from_ip(net.netmask()).unwrap_or_default(),
    }
}

/// What to tell of networks that there is no room for.
pub(super) fn too_many(networks: &BTreeSet<IpNet>) -> BTreeSet<String> {
    let surplus = of_family::<V4>(networks)
        .skip(CLUSTER_NETS_MAX)
        .chain(of_family::<V6>(networks).skip(CLUSTER_NETS_MAX));
    surplus
        .map(|net| {
            format!(
                "ServiceCIDR {net}: {CLUSTER_NETS_MAX} networks a family are known already; its \
                 services are served, but packets to its other addresses and ports are neither \
                 dropped nor rejected"
            )
        })
        .collect()
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
            pods: false,
            localhost_node_ports: true,
        };
        let networks = networks(&["10.96.1.1/12"]);
        let pods = ["10.7.0.0/16".parse().unwrap()];
        let inside = Some(pods.as_slice());
        let config = config(7, (1024, 29999), &node, &networks, true, inside, &led);
        assert_eq!(config.netns, led.netns);
        let all = flags::LOCALHOST_NODE_PORTS | flags::MASQUERADE_ALL | flags::PODS_BY_ADDRESS;
        assert_eq!(config.flags, all);
        assert_eq!(
            (config.epoch, config.snat_first, config.snat_last),
            (7, 1024, 29999)
        );
        assert_eq!(config.v4.node.to_ip().to_string(), "192.0.2.1");
        assert_eq!(shown(&config.v4.cluster_cover), "10.96.0.0/255.240.0.0");
        assert_eq!(config.v4.cluster_nets[0], config.v4.cluster_cover);
        assert_eq!(config.v4.cluster_nets[1..], [Network::default(); 3]);
        assert_eq!(shown(&config.v4.pods), "10.7.0.0/255.255.0.0");
        assert_eq!(config.v6, FamilyConfig::default());
    }

    fn networks(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shown<A: Addr>(network: &Network<A>) -> String {
        format!("{}/{}", network.net.to_ip(), network.mask.to_ip())
    }

    #[test]
    fn several_networks_have_the_smallest_cover() {
        let networks = networks(&["10.96.0.0/24", "10.97.0.0/24", "fd00:96::/112"]);
        let v4 = family::<V4>(None, &networks, &[]);
        assert_eq!(shown(&v4.cluster_cover), "10.96.0.0/255.254.0.0");
        let nets = v4.cluster_nets.each_ref().map(shown);
        let none = "0.0.0.0/0.0.0.0";
        let first = ["10.96.0.0/255.255.255.0", "10.97.0.0/255.255.255.0"];
        assert_eq!(nets, [first[0], first[1], none, none]);
        let v6 = family::<V6>(None, &networks, &[]);
        assert_eq!(v6.cluster_cover, v6.cluster_nets[0]);
    }

    #[test]
    fn networks_there_is_no_room_for_are_told() {
        let five: Vec<_> = (0..5)
            .map(|n| format!("10.{}.0.0/16", 90 + 2 * n))
            .collect();
        let five: Vec<_> = five.iter().map(String::as_str).collect();
        assert!(too_many(&networks(&five[..4])).is_empty());
        let told = too_many(&networks(&five));
        assert_eq!(told.len(), 1);
        assert!(told.iter().all(|line| line.contains("10.98.0.0/16")));
    }
}

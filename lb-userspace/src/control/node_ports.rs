//! The addresses node ports are served on (SEMANTICS B5 to B9).

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

/// Whether an address is of the family.
type Family = fn(&IpAddr) -> bool;

/// Which of the node's own addresses take traffic to node ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The primary address of each family.
    #[default]
    Primary,
    /// All of them.
    All,
    /// Those inside one of the networks. A family without a network takes all: what kube-proxy
    /// does with a list that names one family only.
    Cidrs(Vec<IpNet>),
}

impl NodePortAddresses {
    /// The addresses chosen, given the Node's addresses (`status.addresses`) and those on the
    /// node's interfaces, each with the primary one of a family first. Loopback addresses are
    /// never among them: node ports are not to be reached there from outside.
    pub fn choose(&self, node: &[IpAddr], own: &[IpAddr]) -> BTreeSet<IpAddr> {
        let families = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        let chosen = families.into_iter().flat_map(|family| {
            let own = own.iter().filter(move |ip| family(ip) && !ip.is_loopback());
            let chosen: Vec<IpAddr> = match self {
                Self::Primary => {
                    let stated = node.iter().filter(|ip| family(ip) && !ip.is_loopback());
                    stated.chain(own).take(1).copied().collect()
                }
                Self::All => own.copied().collect(),
                Self::Cidrs(networks) => {
                    let networks: Vec<_> = of_family(networks, family).collect();
                    own.filter(|ip| {
                        networks.is_empty() || networks.iter().any(|net| net.contains(*ip))
                    })
                    .copied()
                    .collect()
                }
            };
            chosen
        });
        chosen.collect()
    }

    /// A warning for each family that serves node ports on all of the node's addresses only
    /// because no network of it was given.
    pub fn warnings(&self, own: &[IpAddr]) -> Vec<String> {
        let Self::Cidrs(networks) = self else {
            return Vec::new();
        };
        let families: [(&str, Family); 2] = [("IPv4", IpAddr::is_ipv4), ("IPv6", IpAddr::is_ipv6)];
        families
            .into_iter()
            .filter(|(_, family)| of_family(networks, *family).next().is_none())
            .filter(|(_, family)| own.iter().any(|ip| family(ip) && !ip.is_loopback()))
            .map(|(name, _)| {
                format!(
                    "node port addresses: no {name} network is given, so node ports are served on \
                     every {name} address of the node"
                )
            })
            .collect()
    }
}

fn of_family(networks: &[IpNet], family: Family) -> impl Iterator<Item = &IpNet> {
    networks
        .iter()
        .filter(move |network| family(&network.addr()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "127.0.0.1 192.0.2.1 198.51.100.1 ::1 2001:db8::1 2001:db8:1::1";

    fn ips(list: &str) -> Vec<IpAddr> {
        list.split_whitespace()
            .map(|ip| ip.parse().unwrap())
            .collect()
    }

    fn cidrs(list: &str) -> NodePortAddresses {
        NodePortAddresses::Cidrs(
            list.split_whitespace()
                .map(|net| net.parse().unwrap())
                .collect(),
        )
    }

    #[test]
    fn addresses_are_chosen_by_setting() {
        let every = "192.0.2.1 198.51.100.1 2001:db8::1 2001:db8:1::1";
        let rows = [
            (NodePortAddresses::Primary, "", "192.0.2.1 2001:db8::1"),
            (
                NodePortAddresses::Primary,
                "198.51.100.1",
                "198.51.100.1 2001:db8::1",
            ),
            (NodePortAddresses::All, "", every),
            (
                cidrs("192.0.0.0/8 2001:db8:1::/48"),
                "",
                "192.0.2.1 2001:db8:1::1",
            ),
            (
                cidrs("192.0.0.0/8"),
                "",
                "192.0.2.1 2001:db8::1 2001:db8:1::1",
            ),
            (
                cidrs("203.0.113.0/24 127.0.0.0/8"),
                "",
                "2001:db8::1 2001:db8:1::1",
            ),
        ];
        for (setting, node, expected) in rows {
            let expected: BTreeSet<_> = ips(expected).into_iter().collect();
            assert_eq!(
                setting.choose(&ips(node), &ips(OWN)),
                expected,
                "{setting:?} {node}"
            );
        }
    }

    #[test]
    fn a_list_of_one_family_is_warned_of_where_the_node_has_the_other() {
        let warnings = cidrs("192.0.2.0/24").warnings(&ips(OWN));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("no IPv6 network"), "{warnings:?}");
        let none: [String; 0] = [];
        assert_eq!(cidrs("192.0.2.0/24").warnings(&ips("192.0.2.1 ::1")), none);
        assert_eq!(NodePortAddresses::All.warnings(&ips(OWN)), none);
    }
}

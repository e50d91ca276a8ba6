//! The addresses node ports are served on (SEMANTICS B5 to B9).

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

/// Whether an address is of the family.
type Family = fn(&IpAddr) -> bool;

/// Which of the node's own addresses take traffic to node ports: those that any entry names (B9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses(Vec<NodePortAddress>);

/// An entry of [`NodePortAddresses`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// The primary address of each family.
    Primary,
    /// All of them.
    All,
    /// Those inside the network. A family that no entry is for takes all: what kube-proxy does
    /// with a list that names one family only (B7).
    Network(IpNet),
}

impl Default for NodePortAddresses {
    /// The primary ones.
    fn default() -> Self {
        Self(vec![NodePortAddress::Primary])
    }
}

impl FromIterator<NodePortAddress> for NodePortAddresses {
    /// The addresses that any of the entries names; the default if there are none.
    fn from_iter<T: IntoIterator<Item = NodePortAddress>>(entries: T) -> Self {
        let entries = Vec::from_iter(entries);
        if entries.is_empty() {
            Self::default()
        } else {
            Self(entries)
        }
    }
}

impl NodePortAddresses {
    /// The addresses chosen, given those that an option or the Node states and those on the node's
    /// interfaces, each with the primary one of a family first. Loopback addresses are
    /// never among them: node ports are not to be reached there from outside.
    pub fn choose(&self, stated: &[IpAddr], own: &[IpAddr]) -> BTreeSet<IpAddr> {
        let primary = |ip: &IpAddr| primary(stated, own).any(|primary| primary == *ip);
        let is_own = |entry: &NodePortAddress, ip: &IpAddr| match entry {
            NodePortAddress::Primary => primary(ip),
            NodePortAddress::All => true,
            NodePortAddress::Network(network) => network.contains(ip),
        };
        let chosen = own.iter().filter(|ip| {
            let unnamed = !self.names(ip.is_ipv6());
            !ip.is_loopback() && (unnamed || self.0.iter().any(|entry| is_own(entry, ip)))
        });
        let mut chosen: BTreeSet<_> = chosen.copied().collect();
        // What is stated counts even before an interface has the address.
        if self.0.contains(&NodePortAddress::Primary) {
            chosen.extend(self::primary(stated, own));
        }
        chosen
    }

    /// A warning for each family that serves node ports on all of the node's addresses only
    /// because no network of it was given.
    pub fn warnings(&self, own: &[IpAddr]) -> Vec<String> {
        let families: [(&str, Family); 2] = [("IPv4", IpAddr::is_ipv4), ("IPv6", IpAddr::is_ipv6)];
        families
            .into_iter()
            .filter(|(name, _)| !self.names(*name == "IPv6"))
            .filter(|(_, family)| own.iter().any(|ip| family(ip) && !ip.is_loopback()))
            .map(|(name, _)| {
                format!(
                    "node port addresses: no {name} network is given, so node ports are served on \
                     every {name} address of the node"
                )
            })
            .collect()
    }

    /// Whether every address of a family is chosen, those to come included.
    pub fn takes_all(&self, v6: bool) -> bool {
        let all = |entry: &NodePortAddress| match entry {
            NodePortAddress::Primary => false,
            NodePortAddress::All => true,
            NodePortAddress::Network(network) => {
                network.addr().is_ipv6() == v6 && network.prefix_len() == 0
            }
        };
        !self.names(v6) || self.0.iter().any(all)
    }

    /// Whether an entry is for the family.
    fn names(&self, v6: bool) -> bool {
        self.0.iter().any(|entry| match entry {
            NodePortAddress::Primary | NodePortAddress::All => true,
            NodePortAddress::Network(network) => network.addr().is_ipv6() == v6,
        })
    }
}

/// The primary address of each family: the first that is stated, else the first on the interfaces.
pub(super) fn primary(stated: &[IpAddr], own: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let families: [Family; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
    families.into_iter().filter_map(move |family| {
        let mut known = stated.iter().chain(own);
        known.find(|ip| family(ip) && !ip.is_loopback()).copied()
    })
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

    fn addresses(list: &str) -> NodePortAddresses {
        list.split_whitespace()
            .map(|entry| match entry {
                "primary" => NodePortAddress::Primary,
                "all" => NodePortAddress::All,
                network => NodePortAddress::Network(network.parse().unwrap()),
            })
            .collect()
    }

    #[test]
    fn addresses_are_chosen_by_setting() {
        let every = "192.0.2.1 198.51.100.1 2001:db8::1 2001:db8:1::1";
        let v6 = "2001:db8::1 2001:db8:1::1";
        let rows = [
            ("", "", "192.0.2.1 2001:db8::1"),
            ("primary", "", "192.0.2.1 2001:db8::1"),
            ("primary", "198.51.100.1", "198.51.100.1 2001:db8::1"),
            ("primary", "203.0.113.9", "203.0.113.9 2001:db8::1"),
            ("all", "", every),
            ("all primary", "", every),
            ("192.0.0.0/8 2001:db8:1::/48", "", "192.0.2.1 2001:db8:1::1"),
            ("192.0.0.0/8", "", &format!("192.0.2.1 {v6}")),
            ("203.0.113.0/24 127.0.0.0/8", "", v6),
            ("127.0.0.0/8 ::1/128", "", ""),
            (
                "primary 198.51.100.0/24",
                "",
                "192.0.2.1 198.51.100.1 2001:db8::1",
            ),
        ];
        for (setting, node, expected) in rows {
            let expected: BTreeSet<_> = ips(expected).into_iter().collect();
            let chosen = addresses(setting).choose(&ips(node), &ips(OWN));
            assert_eq!(chosen, expected, "{setting} {node}");
        }
    }

    #[test]
    fn a_list_of_one_family_is_warned_of_where_the_node_has_the_other() {
        let warnings = addresses("192.0.2.0/24").warnings(&ips(OWN));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("no IPv6 network"), "{warnings:?}");
        let none: [String; 0] = [];
        assert_eq!(
            addresses("192.0.2.0/24").warnings(&ips("192.0.2.1 ::1")),
            none
        );
        assert_eq!(addresses("primary 192.0.2.0/24").warnings(&ips(OWN)), none);
        assert_eq!(addresses("all").warnings(&ips(OWN)), none);
    }
}

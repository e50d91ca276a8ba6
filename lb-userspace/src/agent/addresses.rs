//! Which addresses the node has, and which are its own face to the cluster.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::table::Table;

/// The node's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeAddresses {
    /// Every one, the primary of each family first.
    pub(super) all: Vec<IpAddr>,
    /// The primary IPv4 address: source of translated packets.
    pub(super) v4: Option<Ipv4Addr>,
    /// The primary IPv6 address.
    pub(super) v6: Option<Ipv6Addr>,
    /// What is odd about them, one line each.
    pub(super) problems: BTreeSet<String>,
}

/// Sorts out the node's addresses.
///
/// The primary address of a family is the Node object's first `InternalIP` that the node really
/// has, else the first global address of the first external interface that has one.
pub(super) fn node_addresses(
    table: &Table,
    external: &[String],
    internal_ips: &[IpAddr],
) -> NodeAddresses {
    let own = own_addresses(table, external);
    let mut problems = BTreeSet::new();
    let mut preferred = Vec::new();
    for ip in internal_ips {
        if own.contains(ip) {
            preferred.push(*ip);
        } else {
            problems.insert(format!(
                "node address {ip} is on no interface of this node, so packets are not sent from it"
            ));
        }
    }
    let ranked: Vec<IpAddr> = preferred.iter().chain(&own).copied().collect();
    let v4 = ranked.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let v6 = ranked.iter().find_map(|ip| match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(*ip),
    });
    let primaries = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
    let mut seen = BTreeSet::new();
    NodeAddresses {
        all: primaries
            .chain(ranked.iter().copied())
            .filter(|ip| seen.insert(*ip))
            .collect(),
        v4,
        v6,
        problems,
    }
}

/// Global addresses, those of the external interfaces first. The kernel lists IPv4 addresses in a
/// meaningful order; IPv6 ones in none, so the lowest goes first.
fn own_addresses(table: &Table, external: &[String]) -> Vec<IpAddr> {
    let rank = |index: u32| {
        let link = table.links().find(|link| link.index == index)?;
        external.iter().position(|name| *name == link.name)
    };
    let mut own: Vec<_> = table.addresses().iter().filter(|a| a.global).collect();
    own.sort_by_key(|address| {
        let rank = rank(address.interface).unwrap_or(external.len());
        let numeric = match address.ip {
            IpAddr::V4(_) => 0,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        (rank, address.lesser, numeric)
    });
    own.into_iter().map(|address| address.ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{
        interface::Interface,
        table::{Address, Event},
    };

    fn table(addresses: &[(u32, &str)]) -> Table {
        let mut table = Table::default();
        for (index, name) in [(1, "lo"), (2, "eth0"), (3, "eth1"), (4, "cni0")] {
            table.apply(Event::Link(Interface {
                index,
                name: name.into(),
                ..Interface::default()
            }));
        }
        for (interface, ip) in addresses {
            table.apply(Event::Address(Address {
                interface: *interface,
                ip: ip.trim_end_matches('*').parse().unwrap(),
                global: *interface != 1,
                lesser: ip.ends_with('*'),
            }));
        }
        table
    }

    fn all(table: &Table, internal_ips: &[&str]) -> String {
        let internal: Vec<_> = internal_ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let found = node_addresses(table, &["eth1".into(), "eth0".into()], &internal);
        let ips: Vec<_> = found.all.iter().map(ToString::to_string).collect();
        let problems: Vec<_> = found.problems.into_iter().collect();
        [ips.join(" "), problems.join("; ")].join(" | ")
    }

    #[test]
    fn primary_addresses_come_from_the_external_interfaces_in_their_order() {
        let table = table(&[
            (1, "127.0.0.1"),
            (4, "10.1.0.1"),
            (2, "192.0.2.1"),
            (3, "198.51.100.9*"),
            (3, "198.51.100.2"),
            (3, "198.51.100.1"),
            (2, "2001:db8::2"),
            (2, "2001:db8::1"),
        ]);
        insta::assert_snapshot!(
            all(&table, &[]),
            @"198.51.100.2 2001:db8::1 198.51.100.1 198.51.100.9 192.0.2.1 2001:db8::2 10.1.0.1 | "
        );
    }

    #[test]
    fn the_node_object_decides_if_it_names_an_address_the_node_has() {
        let table = table(&[(2, "192.0.2.1"), (2, "192.0.2.2")]);
        insta::assert_snapshot!(all(&table, &["192.0.2.2"]), @"192.0.2.2 192.0.2.1 | ");
        insta::assert_snapshot!(
            all(&table, &["203.0.113.1"]),
            @"192.0.2.1 192.0.2.2 | node address 203.0.113.1 is on no interface of this node, so packets are not sent from it"
        );
    }
}

//! Which address families there are, and whether the networks of pods are of them (SEMANTICS K11,
//! K12).

use std::{fs, net::IpAddr, path::Path};

use ipnet::IpNet;

use super::options::Inside;

/// Why this host has no IPv6; none if it has. `root` is `/` but in tests.
pub(super) fn without_ipv6(root: &Path) -> Option<&'static str> {
    let Ok(addresses) = fs::read_to_string(root.join("proc/self/net/if_inet6")) else {
        return Some("the kernel has no IPv6");
    };
    let switch = root.join("proc/sys/net/ipv6/conf/all/disable_ipv6");
    let is_off = fs::read_to_string(switch).is_ok_and(|text| text.trim() == "1");
    // An interface may have it all the same, and then an address.
    (is_off && addresses.trim().is_empty())
        .then_some("IPv6 is switched off (net.ipv6.conf.all.disable_ipv6 is 1)")
}

/// What is wrong with the networks that tell who is inside, on a node whose first address is
/// `primary`: kube-proxy ends for some of it, but a Node may change.
pub(super) fn pod_networks_problem(
    inside: &Inside,
    of_node: &[IpNet],
    primary: Option<IpAddr>,
) -> Option<String> {
    let (what, networks) = match inside {
        Inside::Interfaces => return None,
        Inside::Networks(networks) => ("clusterCIDR", networks.as_slice()),
        Inside::NodeNetworks => ("the Node's podCIDRs", of_node),
    };
    if networks.is_empty() {
        return Some(
            "detectLocalMode NodeCIDR: the Node has no podCIDRs, so every client is taken for one \
             outside the cluster"
                .to_owned(),
        );
    }
    let primary = primary?;
    let v4 = primary.is_ipv4();
    if networks
        .iter()
        .any(|network| network.addr().is_ipv4() == v4)
    {
        return None;
    }
    let family = if v4 { "IPv4" } else { "IPv6" };
    let listed: Vec<_> = networks.iter().map(IpNet::to_string).collect();
    Some(format!(
        "{what} {}: no {family} network, but {primary} is the node's first address: every {family} \
         client is taken for one outside the cluster",
        listed.join(",")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k11_ipv6_is_there_unless_it_is_missing_or_switched_off_everywhere() {
        let address = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let rows = [
            (None, "0", Some("the kernel has no IPv6")),
            (Some(address), "0", None),
            (Some(""), "0", None),
            (Some(address), "1", None),
            (
                Some(""),
                "1",
                Some("IPv6 is switched off (net.ipv6.conf.all.disable_ipv6 is 1)"),
            ),
        ];
        for (addresses, switch, expected) in rows {
            let root = tempfile::tempdir().unwrap();
            let write = |file: &str, text: &str| {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            };
            if let Some(addresses) = addresses {
                write("proc/self/net/if_inet6", addresses);
            }
            let switched = format!("{switch}\n");
            write("proc/sys/net/ipv6/conf/all/disable_ipv6", &switched);
            let found = without_ipv6(root.path());
            assert_eq!(found, expected, "{addresses:?} {switch}");
        }
    }

    #[test]
    fn k12_pod_networks_of_the_other_family_alone_are_named() {
        let networks = |text: &str| -> Vec<IpNet> {
            let each = text.split_whitespace();
            each.map(|network| network.parse().unwrap()).collect()
        };
        let problem = |given: &str, primary: &str| {
            let inside = Inside::Networks(networks(given));
            pod_networks_problem(&inside, &[], primary.parse().ok())
        };
        for (given, primary) in [
            ("10.1.0.0/16", "192.0.2.1"),
            ("10.1.0.0/16 fd00:1::/48", "2001:db8::1"),
            ("fd00:1::/48", "2001:db8::1"),
            ("fd00:1::/48", "unknown"),
        ] {
            assert_eq!(problem(given, primary), None, "{given} {primary}");
        }
        insta::assert_snapshot!(problem("fd00:1::/48", "192.0.2.1").unwrap(), @"clusterCIDR fd00:1::/48: no IPv4 network, but 192.0.2.1 is the node's first address: every IPv4 client is taken for one outside the cluster");
        insta::assert_snapshot!(problem("10.1.0.0/16", "2001:db8::1").unwrap(), @"clusterCIDR 10.1.0.0/16: no IPv6 network, but 2001:db8::1 is the node's first address: every IPv6 client is taken for one outside the cluster");
    }

    #[test]
    fn k12_the_nodes_own_networks_are_looked_at_as_they_stand() {
        let problem = |of_node: &[IpNet]| {
            let primary = Some(IpAddr::from([192, 0, 2, 1]));
            pod_networks_problem(&Inside::NodeNetworks, of_node, primary)
        };
        assert_eq!(problem(&["10.1.0.0/24".parse().unwrap()]), None);
        insta::assert_snapshot!(problem(&["fd00:1::/64".parse().unwrap()]).unwrap(), @"the Node's podCIDRs fd00:1::/64: no IPv4 network, but 192.0.2.1 is the node's first address: every IPv4 client is taken for one outside the cluster");
        insta::assert_snapshot!(problem(&[]).unwrap(), @"detectLocalMode NodeCIDR: the Node has no podCIDRs, so every client is taken for one outside the cluster");
        assert_eq!(pod_networks_problem(&Inside::Interfaces, &[], None), None);
    }
}

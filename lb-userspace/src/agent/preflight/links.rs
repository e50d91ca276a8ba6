//! Interfaces: which the agent would attach to, and how long their packets may be.

use std::net::IpAddr;

use super::{finding::NodeFinding, names_of};
use crate::{
    agent::{
        interface::{External, Found, Interface, Selection, Wanted},
        table::{Address, Table},
    },
    status::Role,
};

/// Bytes that VXLAN over IPv4 puts before a packet: Ethernet, IP, UDP and VXLAN headers.
const VXLAN_OVERHEAD: u32 = 50;

/// Names of devices that a CNI's overlay without Ethernet frames has.
///
/// Each name is one in the source of Antrea, Calico or flannel as of August 2026. kube-router's IP-in-IP
/// tunnels have no fixed names.
const IP_TUNNELS: [&str; 8] = [
    "antrea-wg0",
    "flannel-wg",
    "flannel-wg-v6",
    "flannel.ipip",
    "flannel0",
    "tunl0",
    "wg-v6.cali",
    "wireguard.cali",
];

/// The node's interfaces, as the agent would sort them.
#[derive(Debug)]
pub(super) struct Sorted<'a> {
    selection: &'a Selection,
    table: &'a Table,
    found: Found,
    /// Those to attach to.
    pub(super) wanted: Vec<(&'a Interface, Wanted)>,
}

impl<'a> Sorted<'a> {
    /// Sorts them. `node` are the addresses of the Node that the options tell; the API may tell more.
    pub(super) fn new(selection: &'a Selection, table: &'a Table, node: &[IpAddr]) -> Self {
        let found = selection.find(table, node);
        let wanted = table
            .links()
            .filter_map(|link| Some((link, selection.wanted(link, &found)?)))
            .collect();
        Self {
            selection,
            table,
            found,
            wanted,
        }
    }

    /// External interfaces that are no tunnels.
    pub(super) fn uplinks(&self) -> impl Iterator<Item = (&'a Interface, &Wanted)> {
        let external = self
            .wanted
            .iter()
            .filter(|(_, it)| it.role == Role::External);
        external
            .filter(|(link, _)| !link.tunnel)
            .map(|(link, it)| (*link, it))
    }

    /// Those of them that packets can be seen on.
    pub(super) fn usable(&self) -> impl Iterator<Item = (&'a Interface, &Wanted)> {
        self.uplinks().filter(|(_, it)| it.obstacle.is_none())
    }

    /// Ethernet tunnels of an overlay.
    fn tunnels(&self) -> impl Iterator<Item = &'a Interface> {
        self.wanted
            .iter()
            .map(|(link, _)| *link)
            .filter(|link| link.tunnel)
    }

    /// Interfaces of pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &'a Interface> {
        let pods = self.wanted.iter().filter(|(_, it)| it.role == Role::Pod);
        pods.map(|(link, _)| *link)
    }

    /// Whether an interface has an address that others reach, of the family.
    pub(super) fn has_address(&self, link: &Interface, v6: bool) -> bool {
        let own = |address: &Address| {
            address.interface == link.index && address.global && address.ip.is_ipv6() == v6
        };
        self.table.addresses().iter().any(own)
    }
}

/// What the interfaces mean.
pub(super) fn check(sorted: &Sorted) -> Vec<NodeFinding> {
    let mut findings = missing(sorted);
    findings.extend(
        sorted
            .uplinks()
            .map(|(link, wanted)| uplink(sorted, link, wanted)),
    );
    findings.extend(sorted.tunnels().map(|link| {
        let found = format!("an overlay's tunnel, by tc, MTU {}", link.mtu);
        NodeFinding::ok("external", found).on(&link.name)
    }));
    findings.push(pods(sorted));
    findings.extend(ip_tunnels(sorted));
    findings.extend(mtu(sorted));
    findings
}

fn missing(sorted: &Sorted) -> Vec<NodeFinding> {
    let Sorted {
        selection,
        table,
        found,
        wanted: _,
    } = sorted;
    let mut findings: Vec<_> = selection
        .missing_names(table)
        .map(|name| {
            let there_are_others = sorted.uplinks().next().is_some();
            let state = if there_are_others {
                NodeFinding::warning
            } else {
                NodeFinding::failure
            };
            state(
                "external",
                "no interface has this name".to_owned(),
                "nothing from outside is served by it until it appears".to_owned(),
                "name another by --external-interface, or leave the option out".to_owned(),
            )
            .on(name)
        })
        .collect();
    if selection.external == External::Auto && found.external.is_empty() {
        findings.push(none_external(sorted));
    }
    if let Some(bridge) = &selection.bridge
        && table.link(bridge).is_none()
    {
        let finding = NodeFinding::warning(
            "pods",
            "no bridge has this name",
            "no interface is a pod's until it appears",
            "correct detectLocal.bridgeInterface, or wait for the CNI to make it",
        );
        findings.push(finding.on(bridge));
    }
    findings
}

fn none_external(sorted: &Sorted) -> NodeFinding {
    let routed: Vec<_> = sorted
        .table
        .links()
        .filter(|link| sorted.table.default_routes().contains(&link.index))
        .map(|link| link.name.clone())
        .collect();
    let found = if routed.is_empty() {
        "no interface has a default route".to_owned()
    } else {
        format!(
            "the default route leads out of {}, which is not hardware",
            routed.join(", ")
        )
    };
    NodeFinding::failure(
        "external",
        found,
        "nothing from outside is served, unless an interface has an address of the Node object",
        "name the interface that clients are behind by --external-interface",
    )
}

fn uplink(sorted: &Sorted, link: &Interface, wanted: &Wanted) -> NodeFinding {
    let routed = sorted.table.default_routes().contains(&link.index);
    let route = if routed { ", default route" } else { "" };
    let found = format!("MTU {}{route}", link.mtu);
    let finding = match wanted.obstacle {
        Some(obstacle) => NodeFinding::failure(
            "external",
            obstacle,
            "packets that arrive there are not seen",
            "name another interface by --external-interface",
        ),
        None if !link.up => NodeFinding::warning(
            "external",
            format!("{found}, down"),
            "nothing arrives there",
            format!("ip link set {} up", link.name),
        ),
        None => NodeFinding::ok("external", found),
    };
    finding.on(&link.name)
}

fn pods(sorted: &Sorted) -> NodeFinding {
    let names = names_of(sorted.pods().map(|link| link.name.as_str()));
    let found = names.map_or_else(
        || "no pod's interface yet".to_owned(),
        |names| format!("interfaces of pods: {names}"),
    );
    NodeFinding::ok("pods", found)
}

/// Overlays whose devices have no Ethernet frames: nothing can be attached to them.
fn ip_tunnels(sorted: &Sorted) -> Vec<NodeFinding> {
    let in_use = |link: &&Interface| {
        let address = sorted.has_address(link, false) || sorted.has_address(link, true);
        IP_TUNNELS.contains(&link.name.as_str()) && link.up && address
    };
    let tunnels = sorted.table.links().filter(in_use);
    tunnels
        .map(|link| {
            let finding = NodeFinding::failure(
                "overlay",
                "the overlay's tunnel carries IP packets without Ethernet headers",
                "answers of pods on other nodes enter there unseen, so clients outside do not get them",
                "have the CNI use VXLAN (Calico: vxlanMode Always, ipipMode Never), or routes",
            );
            finding.on(&link.name)
        })
        .collect()
}

fn mtu(sorted: &Sorted) -> Vec<NodeFinding> {
    let uplink = sorted
        .usable()
        .map(|(link, _)| link)
        .min_by_key(|link| link.mtu);
    let tunnel = sorted.tunnels().min_by_key(|link| link.mtu);
    let pod = sorted.pods().max_by_key(|link| link.mtu);
    let Some(uplink) = uplink else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if let Some(tunnel) = tunnel
        && tunnel.mtu.saturating_add(VXLAN_OVERHEAD) > uplink.mtu
    {
        let finding = NodeFinding::warning(
            "mtu",
            format!(
                "MTU {}, and {} below it {}",
                tunnel.mtu, uplink.name, uplink.mtu
            ),
            format!("a tunnel adds {VXLAN_OVERHEAD} bytes, so full packets are fragmented or lost"),
            format!(
                "set the CNI's MTU to {} or less",
                uplink.mtu.saturating_sub(VXLAN_OVERHEAD)
            ),
        );
        findings.push(finding.on(&tunnel.name));
    }
    let narrow = tunnel.unwrap_or(uplink);
    if let Some(pod) = pod
        && pod.mtu > narrow.mtu
    {
        let finding = NodeFinding::warning(
            "mtu",
            format!(
                "a pod's MTU {}, and {} {}",
                pod.mtu, narrow.name, narrow.mtu
            ),
            "long packets of pods are answered by ICMP (fragmentation needed), which not all obey",
            format!("set the CNI's MTU to {} or less", narrow.mtu),
        );
        findings.push(finding.on(&pod.name));
    }
    if findings.is_empty() {
        let others = [tunnel, pod].into_iter().flatten();
        let others = others.map(|link| format!(", {} {}", link.name, link.mtu));
        let found = format!(
            "{} {}{}",
            uplink.name,
            uplink.mtu,
            others.collect::<String>()
        );
        findings.push(NodeFinding::ok("mtu", found));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            finding::FindingState,
            recorded::{address, link, table},
        },
        *,
    };

    fn named(names: &[&str]) -> Selection {
        Selection {
            external: External::Named(names.iter().map(|name| (*name).to_owned()).collect()),
            pods: vec![glob::Pattern::new("*").unwrap()],
            ..Selection::default()
        }
    }

    fn worst(findings: &[NodeFinding], check: &str) -> Option<FindingState> {
        let of_check = findings.iter().filter(|it| it.check == check);
        of_check.map(|it| it.state).max()
    }

    #[test]
    fn a_name_that_is_missing_is_worse_when_no_other_is_there() {
        let table = table(vec![link(2, "eth0")], &[], &[2]);
        for (names, expected) in [
            (["eth0"].as_slice(), FindingState::Ok),
            (["eth0", "eth9"].as_slice(), FindingState::Warning),
            (["eth9"].as_slice(), FindingState::Failure),
        ] {
            let selection = named(names);
            let findings = check(&Sorted::new(&selection, &table, &[]));
            assert_eq!(worst(&findings, "external"), Some(expected), "{names:?}");
        }
    }

    #[test]
    fn without_a_default_route_nothing_is_external() {
        let selection = Selection::default();
        let empty = table(vec![link(2, "eth0")], &[], &[]);
        let finding = check(&Sorted::new(&selection, &empty, &[])).remove(0);
        assert_eq!(finding.state, FindingState::Failure);
        assert_eq!(finding.found, "no interface has a default route");
        let bridge = Interface {
            uplink: false,
            ..link(2, "br0")
        };
        let bridged = table(vec![bridge], &[], &[2]);
        let finding = check(&Sorted::new(&selection, &bridged, &[])).remove(0);
        assert_eq!(
            finding.found,
            "the default route leads out of br0, which is not hardware"
        );
    }

    #[test]
    fn part_of_a_bond_is_refused_and_a_device_that_is_down_is_warned_of() {
        let bonded = Interface {
            bonded: true,
            ..link(2, "eth0")
        };
        let down = Interface {
            up: false,
            ..link(2, "eth0")
        };
        for (device, expected) in [
            (bonded, FindingState::Failure),
            (down, FindingState::Warning),
        ] {
            let table = table(vec![device], &[], &[2]);
            let selection = named(&["eth0"]);
            let findings = check(&Sorted::new(&selection, &table, &[]));
            assert_eq!(worst(&findings, "external"), Some(expected));
        }
    }

    #[test]
    fn a_tunnel_without_ethernet_frames_that_is_in_use_is_a_failure() {
        let tunnel = Interface {
            ethernet: false,
            uplink: false,
            ..link(3, "tunl0")
        };
        let selection = named(&["eth0"]);
        let links = vec![link(2, "eth0"), tunnel];
        let unused = table(links.clone(), &[], &[2]);
        assert_eq!(
            worst(&check(&Sorted::new(&selection, &unused, &[])), "overlay"),
            None
        );
        let used = table(links, &[address(3, "10.1.0.1")], &[2]);
        let findings = check(&Sorted::new(&selection, &used, &[]));
        assert_eq!(worst(&findings, "overlay"), Some(FindingState::Failure));
    }

    #[test]
    fn names_of_tunnels_are_sorted_and_each_is_there_once() {
        let in_order = IP_TUNNELS.is_sorted_by(|one, next| one < next);
        assert!(in_order, "{IP_TUNNELS:?}");
    }

    #[test]
    fn packets_of_pods_have_to_fit_the_way_they_go() {
        let pod = |mtu| Interface {
            veth: true,
            peer_netns: Some(1),
            mtu,
            ..link(4, "veth-a")
        };
        let tunnel = |mtu| Interface {
            tunnel: true,
            uplink: false,
            mtu,
            ..link(3, "flannel.1")
        };
        let rows = [
            (1500, None, FindingState::Ok),
            (9000, None, FindingState::Warning),
            (1450, Some(1450), FindingState::Ok),
            (1500, Some(1450), FindingState::Warning),
            (1400, Some(1480), FindingState::Warning),
        ];
        for (pods, overlay, expected) in rows {
            let mut links = vec![link(2, "eth0"), pod(pods)];
            links.extend(overlay.map(tunnel));
            let table = table(links, &[address(3, "10.1.0.1")], &[2]);
            let selection = named(&["eth0"]);
            let findings = check(&Sorted::new(&selection, &table, &[]));
            assert_eq!(
                worst(&findings, "mtu"),
                Some(expected),
                "{pods} {overlay:?}"
            );
        }
    }
}

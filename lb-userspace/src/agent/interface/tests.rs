//! Which interfaces are ours, and which can be.

use super::*;
use crate::agent::table::Event;

fn selection() -> Selection {
    Selection {
        external: External::Named(NAMES.map(str::to_owned).into()),
        pods: vec![
            Pattern::new("veth*").unwrap(),
            Pattern::new("eth?").unwrap(),
        ],
        bridge: None,
        xdp: Xdp::Auto,
    }
}

const NAMES: [&str; 4] = ["eth0", "lo", "tun0", "eth1"];

fn found(selection: &Selection) -> Found {
    selection.find(&Table::default(), &[])
}

fn role_in(selection: &Selection, interface: &Interface) -> Option<Role> {
    selection.role(interface, &found(selection))
}

fn veth(name: &str, leads_away: bool) -> Interface {
    Interface {
        name: name.into(),
        ethernet: true,
        veth: true,
        peer_netns: leads_away.then_some(0),
        ..Interface::default()
    }
}

#[test]
fn a_pod_interface_is_a_veth_that_leads_away_and_fits_the_pattern() {
    let role = |interface: &Interface| role_in(&selection(), interface);
    assert_eq!(role(&veth("veth1", true)), Some(Role::Pod));
    assert_eq!(role(&veth("veth1", false)), None);
    assert_eq!(role(&veth("cali1", true)), None);
    let bridge = Interface {
        veth: false,
        ..veth("veth1", true)
    };
    assert_eq!(role(&bridge), None);
}

#[test]
fn a_named_interface_is_external_even_if_it_looks_like_a_pods() {
    let eth0 = veth("eth0", true);
    assert_eq!(role_in(&selection(), &eth0), Some(Role::External));
}

/// A node with these interfaces, each with its index; 1 and 7 have default routes, 2 and 8 the
/// Node's address.
fn node(links: Vec<Interface>) -> Table {
    let mut table = Table::default();
    for link in links {
        table.apply(Event::Link(link));
    }
    for interface in [2, 8] {
        table.apply(Event::Address(Address {
            interface,
            ip: NODE,
            global: true,
            lesser: false,
        }));
    }
    table.set_default_routes([1, 7].into());
    table
}

const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

#[test]
fn uplinks_with_a_default_route_or_the_nodes_address_are_external() {
    let link = |index, name: &str, uplink| Interface {
        index,
        name: name.into(),
        ethernet: true,
        uplink,
        ..Interface::default()
    };
    let auto = |links| {
        let selection = Selection::default();
        let table = node(links);
        let found = selection.find(&table, &[NODE]);
        (
            found.external.join(" "),
            selection.missing(&found, &table).len(),
        )
    };
    let bond = vec![
        link(1, "bond0", true),
        link(2, "eth1", true),
        link(3, "eth2", true),
    ];
    assert_eq!(auto(bond), ("bond0 eth1".into(), 0));
    let none = (String::new(), 1);
    assert_eq!(
        auto(vec![link(1, "br0", false), link(2, "dummy0", false)]),
        none
    );
    let in_a_container = Interface {
        index: 7,
        ..veth("eth0", true)
    };
    let beside_a_pod = Interface {
        index: 8,
        ..veth("veth0", false)
    };
    assert_eq!(auto(vec![in_a_container, beside_a_pod]), ("eth0".into(), 0));
    let part_of_a_bond = Interface {
        bonded: true,
        ..link(1, "eth0", true)
    };
    assert_eq!(auto(vec![part_of_a_bond]), none);
}

#[test]
fn overlays_are_external_whichever_interfaces_are_named() {
    let tunnel = |index, name: &str| Interface {
        index,
        name: name.into(),
        ethernet: true,
        tunnel: true,
        ..Interface::default()
    };
    let bridged = Interface {
        master: Some(9),
        ..tunnel(8, "vxlan100")
    };
    let without_address = tunnel(3, "vxlan_sys");
    let table = node(vec![tunnel(2, "flannel.1"), bridged, without_address]);
    let selection = selection();
    let found = selection.find(&table, &[]);
    let external: Vec<_> = table
        .links()
        .filter_map(|link| selection.wanted(link, &found))
        .collect();
    let [wanted] = external.as_slice() else {
        panic!("{external:?}");
    };
    assert_eq!((&*wanted.name, wanted.role), ("flannel.1", Role::External));
    assert_eq!(wanted.obstacle, None);
    assert_eq!(wanted.no_xdp, Some("the driver of a tunnel has none"));
    // The node is not known by the address of its tunnel.
    assert_eq!(found.external, NAMES);
}

#[test]
fn xdp_is_not_used_beneath_vlans_unless_told() {
    let eth0 = Interface {
        index: 1,
        name: "eth0".into(),
        ethernet: true,
        uplink: true,
        ..Interface::default()
    };
    let vlan = Interface {
        index: 2,
        name: "eth0.7".into(),
        vlan: true,
        peer: Some(1),
        ..eth0.clone()
    };
    let in_a_pod = Interface {
        peer_netns: Some(0),
        ..vlan.clone()
    };
    let refused = |xdp, others: &[&Interface], interface: &Interface| {
        let selection = Selection { xdp, ..selection() };
        let links = [&eth0].into_iter().chain(others.iter().copied());
        let found = selection.find(&node(links.cloned().collect()), &[]);
        selection.no_xdp(interface, &found).is_some()
    };
    assert!(!refused(Xdp::Auto, &[], &eth0));
    assert!(refused(Xdp::Auto, &[&vlan], &eth0));
    assert!(!refused(Xdp::Auto, &[&vlan], &vlan));
    assert!(!refused(Xdp::Auto, &[&in_a_pod], &eth0));
    assert!(!refused(Xdp::Always, &[&vlan], &eth0));
}

#[test]
fn d10_with_a_bridge_pods_are_on_it() {
    let selection = Selection {
        bridge: Some("cni0".into()),
        ..selection()
    };
    let cni0 = Interface {
        index: 9,
        name: "cni0".into(),
        ..Interface::default()
    };
    let on = |master| Interface {
        master,
        ..veth("veth1", true)
    };
    let table = node(vec![cni0]);
    let found = selection.find(&table, &[]);
    assert_eq!(selection.role(&on(Some(9)), &found), Some(Role::Pod));
    assert_eq!(selection.role(&on(Some(8)), &found), None);
    assert_eq!(selection.role(&on(None), &found), None);
    let empty = node(Vec::new());
    let found = selection.find(&empty, &[]);
    assert_eq!(selection.role(&on(Some(9)), &found), None);
    let missing = selection.missing(&found, &empty);
    assert!(
        missing.iter().any(|line| line.starts_with("bridge cni0:")),
        "{missing:?}"
    );
}

#[test]
fn what_cannot_carry_services_is_refused_with_a_reason() {
    let obstacle = |interface: &Interface| {
        let selection = selection();
        let found = found(&selection);
        selection.wanted(interface, &found).unwrap().obstacle
    };
    let eth = veth("eth0", true);
    assert_eq!(obstacle(&eth), None);
    let loopback = Interface {
        loopback: true,
        ..veth("lo", false)
    };
    let tunnel = Interface {
        ethernet: false,
        ..veth("tun0", false)
    };
    let bonded = Interface {
        bonded: true,
        ..veth("eth1", false)
    };
    insta::assert_debug_snapshot!(
        [loopback, tunnel, bonded].map(|interface| obstacle(&interface)),
        @r#"
    [
        Some(
            "a loopback device: nothing from outside arrives there",
        ),
        Some(
            "not an Ethernet device",
        ),
        Some(
            "part of a bond: name the bond as the external interface",
        ),
    ]
    "#
    );
}

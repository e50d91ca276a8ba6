//! From rtnetlink messages to [`Event`]s.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteMessage, RouteType},
};

use super::{
    interface::Interface,
    table::{Address, Event},
};

/// What a message tells; none if it does not concern us.
pub(super) fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(message) => link(message).map(Event::Link),
        RouteNetlinkMessage::DelLink(message) => {
            // A bridge port that leaves its bridge is "deleted" too, for the bridge family.
            is_whole(message).then_some(Event::LinkGone(message.header.index))
        }
        RouteNetlinkMessage::NewAddress(message) => address(message),
        RouteNetlinkMessage::DelAddress(message) => {
            Some(Event::AddressGone(message.header.index, ip(message)?))
        }
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(message, true),
        RouteNetlinkMessage::DelNeighbour(message) => neighbour(message, false),
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
            let default = message.header.destination_prefix_length == 0;
            Some(Event::Route { default })
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
            Some(Event::Route { default: false })
        }
        _ => None,
    }
}

/// Whether the message describes the device itself, not one family's view of it.
fn is_whole(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

/// Interfaces that a route leads out of, if it is a default route of the main table.
pub(super) fn default_route(message: &RouteMessage) -> Vec<u32> {
    let header = &message.header;
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    let is_default = header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && table.unwrap_or(header.table.into()) == MAIN_TABLE;
    let hops = message
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(interface) => vec![*interface],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        });
    hops.filter(|_| is_default).collect()
}

/// `RT_TABLE_MAIN`
const MAIN_TABLE: u32 = 254;

fn link(message: &LinkMessage) -> Option<Interface> {
    if !is_whole(message) {
        return None;
    }
    let header = &message.header;
    let mut link = Interface {
        index: header.index,
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        loopback: header.flags.contains(LinkFlags::Loopback),
        up: header.flags.contains(LinkFlags::Up),
        uplink: true,
        ..Interface::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::LinkNetNsId(number) => link.peer_netns = Some(*number),
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                link.bonded = infos.contains(&LinkInfo::PortKind(InfoPortKind::Bond));
                link.uplink = infos.iter().all(stands_for_hardware);
                link.vlan = infos.contains(&LinkInfo::Kind(InfoKind::Vlan));
                link.tunnel = infos.iter().any(is_tunnel);
            }
            _ => {}
        }
    }
    Some(link)
}

/// Whether a kind of device is hardware to those above it. Hardware itself has no kind.
fn stands_for_hardware(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::Kind(kind) => {
            let known = matches!(
                kind,
                InfoKind::Bond | InfoKind::Vlan | InfoKind::MacVlan | InfoKind::IpVlan
            );
            known || matches!(kind, InfoKind::Other(name) if name == "team")
        }
        _ => true,
    }
}

/// Whether a kind of device has Ethernet frames carried by IP packets.
fn is_tunnel(info: &LinkInfo) -> bool {
    matches!(
        info,
        LinkInfo::Kind(InfoKind::Vxlan | InfoKind::Geneve | InfoKind::GreTap | InfoKind::GreTap6)
    )
}

fn address(message: &AddressMessage) -> Option<Event> {
    let ip = ip(message)?;
    let interface = message.header.index;
    let flags = flags(message);
    let unproven =
        flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    if unproven || flags.contains(AddressFlags::Dadfailed) {
        return Some(Event::AddressGone(interface, ip));
    }
    Some(Event::Address(Address {
        interface,
        ip,
        global: matches!(
            message.header.scope,
            AddressScope::Universe | AddressScope::Site | AddressScope::Other(_)
        ) && !ip.is_loopback(),
        lesser: flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
    }))
}

/// The node's own address: `IFA_LOCAL`, and only without it `IFA_ADDRESS`, which on point-to-point
/// links is the other end's.
fn ip(message: &AddressMessage) -> Option<IpAddr> {
    let attributes = &message.attributes;
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let all = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        });
    // The header has room for the first eight only, and is all that old kernels send.
    all.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

fn neighbour(message: &NeighbourMessage, there: bool) -> Option<Event> {
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                ip = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                ip = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(bytes.clone()),
            _ => {}
        }
    }
    let usable = there
        && !matches!(
            message.header.state,
            NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed
        );
    Some(Event::Neighbour(
        (message.header.ifindex, ip?),
        mac.filter(|_| usable),
    ))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{address::AddressHeaderFlags, neighbour::NeighbourHeader};

    use super::*;

    fn link_message(family: AddressFamily) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName("veth7".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Link(2),
            LinkAttribute::LinkNetNsId(0),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        message
    }

    #[test]
    fn a_pods_veth_is_known_by_kind_and_namespace() {
        let message = RouteNetlinkMessage::NewLink(link_message(AddressFamily::Unspec));
        let expected = Interface {
            index: 7,
            name: "veth7".into(),
            ethernet: true,
            up: true,
            veth: true,
            peer_netns: Some(0),
            peer: Some(2),
            mtu: 1500,
            ..Interface::default()
        };
        assert_eq!(event(&message), Some(Event::Link(expected)));
    }

    #[test]
    fn tunnels_and_vlans_are_known_by_their_kinds() {
        let kinds = |kind| {
            let mut message = link_message(AddressFamily::Unspec);
            message.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
            let Some(Event::Link(link)) = event(&RouteNetlinkMessage::NewLink(message)) else {
                panic!("no link");
            };
            (link.tunnel, link.vlan, link.uplink)
        };
        for kind in [InfoKind::Vxlan, InfoKind::Geneve, InfoKind::GreTap] {
            assert_eq!(kinds(kind.clone()), (true, false, false), "{kind:?}");
        }
        assert_eq!(kinds(InfoKind::Vlan), (false, true, true));
        assert_eq!(kinds(InfoKind::IpIp), (false, false, false));
    }

    #[test]
    fn leaving_a_bridge_is_not_going_away() {
        let bridge = link_message(AddressFamily::Bridge);
        assert_eq!(event(&RouteNetlinkMessage::DelLink(bridge.clone())), None);
        assert_eq!(event(&RouteNetlinkMessage::NewLink(bridge)), None);
        let whole = link_message(AddressFamily::Unspec);
        let gone = event(&RouteNetlinkMessage::DelLink(whole));
        assert_eq!(gone, Some(Event::LinkGone(7)));
    }

    #[test]
    fn a_neighbour_has_its_mac_only_while_that_is_usable() {
        let mac = |state| {
            let mut message = NeighbourMessage::default();
            message.header = NeighbourHeader {
                ifindex: 2,
                state,
                ..NeighbourHeader::default()
            };
            message.attributes = vec![
                NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into())),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
            ];
            match event(&RouteNetlinkMessage::NewNeighbour(message)) {
                Some(Event::Neighbour(_, mac)) => mac.is_some(),
                other => panic!("{other:?}"),
            }
        };
        for (state, usable) in [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Permanent, true),
            (NeighbourState::Incomplete, false),
            (NeighbourState::Failed, false),
        ] {
            assert_eq!(mac(state), usable, "{state:?}");
        }
    }

    #[test]
    fn an_address_counts_once_it_is_proven_unique() {
        let seen = |flags, scope| {
            let mut message = AddressMessage::default();
            message.header.index = 2;
            message.header.flags = flags;
            message.header.scope = scope;
            message.attributes = vec![
                AddressAttribute::Address("2001:db8::9".parse().unwrap()),
                AddressAttribute::Local("2001:db8::1".parse().unwrap()),
            ];
            match event(&RouteNetlinkMessage::NewAddress(message)) {
                Some(Event::Address(Address {
                    ip, global, lesser, ..
                })) => format!("{ip} global {global} lesser {lesser}"),
                Some(Event::AddressGone(2, ip)) => format!("{ip} gone"),
                other => panic!("{other:?}"),
            }
        };
        let none = AddressHeaderFlags::empty();
        let universe = AddressScope::Universe;
        let rows = [
            seen(none, universe),
            seen(none, AddressScope::Link),
            seen(AddressHeaderFlags::Deprecated, universe),
            seen(AddressHeaderFlags::Tentative, universe),
            seen(
                AddressHeaderFlags::Tentative | AddressHeaderFlags::Optimistic,
                universe,
            ),
            seen(AddressHeaderFlags::Dadfailed, universe),
        ];
        insta::assert_snapshot!(rows.join("\n"), @r"
        2001:db8::1 global true lesser false
        2001:db8::1 global false lesser false
        2001:db8::1 global true lesser true
        2001:db8::1 gone
        2001:db8::1 global true lesser false
        2001:db8::1 gone
        ");
    }
}

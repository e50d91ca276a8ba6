//! From rtnetlink messages to [`Event`]s.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
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
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Some(Event::Route),
        _ => None,
    }
}

/// Whether the message describes the device itself, not one family's view of it.
fn is_whole(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

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
        ..Interface::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                link.bonded = infos.contains(&LinkInfo::PortKind(InfoPortKind::Bond));
            }
            _ => {}
        }
    }
    Some(link)
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

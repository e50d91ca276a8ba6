//! What there is in a network namespace that decides whether its sockets are led.

use std::{fs, io};

use lb_common::socket::Cookie;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{NfTablesMessage, TableMessage},
};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::AddressMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
    sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};

use crate::agent::{
    decode,
    netlink::Asker,
    netns,
    table::{Address, Event},
};

/// What was seen in a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The namespace.
    pub(super) netns: Cookie,
    /// Addresses of its interfaces, the preferred ones first.
    pub(super) addresses: Vec<Address>,
    /// Whether it has a device that hands packets to a process, or to a virtual machine.
    pub(super) tap: bool,
    /// Whether it has rules for packets of its own.
    pub(super) rules: bool,
}

/// Looks at the network namespace of this thread.
pub(super) fn look() -> io::Result<Seen> {
    let mut asker = Asker::open(NETLINK_ROUTE)?;
    let mut seen = Seen {
        netns: netns::cookie()?,
        rules: has_nft_tables()? || has_legacy_tables()?,
        ..Seen::default()
    };
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    dump(&mut asker, request, |message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            seen.tap |= is_tap(&link);
        }
    })?;
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    dump(&mut asker, request, |message| {
        if let Some(Event::Address(address)) = decode::event(&message)
            && address.global
        {
            seen.addresses.push(address);
        }
    })?;
    seen.addresses.sort_by_key(|address| address.lesser);
    Ok(seen)
}

fn dump(
    asker: &mut Asker,
    request: RouteNetlinkMessage,
    mut take: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    asker.send(NLM_F_REQUEST | NLM_F_DUMP, request)?;
    asker.answers(|message| {
        if let NetlinkPayload::InnerMessage(message) = message.payload {
            take(message);
        }
    })
}

/// What is behind such a device are no sockets of this namespace; the processes that have some here
/// are the virtual machine's own.
fn is_tap(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| {
            matches!(
                info,
                LinkInfo::Kind(InfoKind::Tun | InfoKind::MacVtap | InfoKind::IpVtap)
            )
        }),
        _ => false,
    })
}

/// Whether there are tables of nftables, those that `iptables-nft` makes included.
fn has_nft_tables() -> io::Result<bool> {
    let mut asker = Asker::open(NETLINK_NETFILTER)?;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NfTablesMessage::GetTable(TableMessage {
        attributes: Vec::new(),
    });
    asker.send(
        NLM_F_REQUEST | NLM_F_DUMP,
        NetfilterMessage::new(header, request),
    )?;
    let mut any = false;
    let told = asker.answers::<NetfilterMessage>(|message| {
        if let NetlinkPayload::InnerMessage(message) = message.payload {
            any |= matches!(message.inner, NetfilterMessageInner::NfTables(_));
        }
    });
    match told {
        Ok(()) => Ok(any),
        // The kernel has no nftables (`nfnetlink_rcv_msg`).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether there are tables that `iptables-legacy` has made: there are none before it is used.
fn has_legacy_tables() -> io::Result<bool> {
    for family in ["ip", "ip6"] {
        match fs::read(format!("/proc/thread-self/net/{family}_tables_names")) {
            Ok(names) if !names.is_empty() => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

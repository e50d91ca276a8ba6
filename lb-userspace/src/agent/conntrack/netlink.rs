//! The kernel's connection tracking, as it tells of itself over netlink.

use std::{io, net::SocketAddr};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
#[cfg(test)]
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
        Nla as _,
    },
    sys::protocols::NETLINK_NETFILTER,
};

use super::Entry;
use crate::agent::netlink::Asker;

/// `CTA_ID` and `CTA_ZONE` of `linux/netfilter/nfnetlink_conntrack.h`.
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

/// What to delete an entry by: its original tuple, zone and number, so that no other can be meant.
pub(super) type Handle = Vec<ConntrackAttribute>;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    const fn number(self) -> NetfilterProtoFamily {
        match self {
            Self::V4 => NetfilterProtoFamily::IPv4,
            Self::V6 => NetfilterProtoFamily::IPv6,
        }
    }
}

/// Who asks for entries.
pub(super) struct Conntrack(Asker);

impl Conntrack {
    /// In the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        Asker::open(NETLINK_NETFILTER).map(Self)
    }

    /// Goes through the UDP entries of a family. Returns whether those were all: if the table
    /// changed so much meanwhile that the kernel left some out, those there are have to do (G6).
    pub(super) fn each(
        &mut self,
        family: Family,
        mut take: impl FnMut(Entry, Handle),
    ) -> io::Result<bool> {
        self.send(
            family,
            NLM_F_REQUEST | NLM_F_DUMP,
            ConntrackMessage::Get(Vec::new()),
        )?;
        let mut list = List::default();
        self.0.answers(|message| list.add(message, &mut take))?;
        Ok(list.is_complete())
    }

    /// Deletes an entry.
    pub(super) fn delete(&mut self, family: Family, handle: Handle) -> io::Result<()> {
        self.send(
            family,
            NLM_F_REQUEST | NLM_F_ACK,
            ConntrackMessage::Delete(handle),
        )?;
        self.0.answers::<NetfilterMessage>(|_| {})
    }

    /// Adds an entry.
    #[cfg(test)]
    pub(super) fn add(&mut self, family: Family, entry: Vec<ConntrackAttribute>) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        self.send(family, flags, ConntrackMessage::New(entry))?;
        self.0.answers::<NetfilterMessage>(|_| {})
    }

    fn send(&mut self, family: Family, flags: u16, message: ConntrackMessage) -> io::Result<()> {
        let header = NetfilterHeader::new(family.number(), 0, 0);
        self.0.send(flags, NetfilterMessage::new(header, message))
    }
}

/// A list of entries, as it comes.
#[derive(Debug, Default)]
pub(super) struct List {
    interrupted: bool,
}

impl List {
    /// Takes a message's entry, if it has one of a UDP flow. Any message may say that the list is
    /// not complete, the last one too.
    pub(super) fn add(
        &mut self,
        message: NetlinkMessage<NetfilterMessage>,
        mut take: impl FnMut(Entry, Handle),
    ) {
        self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        if let NetlinkPayload::InnerMessage(message) = message.payload
            && let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) =
                message.inner
            && let Some(entry) = udp_entry(&attributes)
        {
            take(entry, handle(attributes));
        }
    }

    /// Whether nothing was left out, once the last message has been added.
    pub(super) const fn is_complete(&self) -> bool {
        !self.interrupted
    }
}

/// The entry, if it is of a UDP flow.
fn udp_entry(attributes: &[ConntrackAttribute]) -> Option<Entry> {
    let tuple = |original: bool| {
        attributes.iter().find_map(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) if original => Some(tuple.as_slice()),
            ConntrackAttribute::CtaTupleReply(tuple) if !original => Some(tuple.as_slice()),
            _ => None,
        })
    };
    let (original, reply) = (tuple(true)?, tuple(false)?);
    let ips = |tuple| {
        parts(tuple, |part| match part {
            Tuple::Ip(parts) => Some(parts.as_slice()),
            _ => None,
        })
    };
    let protocol = |tuple| {
        parts(tuple, |part| match part {
            Tuple::Proto(parts) => Some(parts.as_slice()),
            _ => None,
        })
    };
    if !protocol(original).contains(&ProtoTuple::Protocol(Protocol::Udp)) {
        return None;
    }
    let destination = ips(original).iter().find_map(|part| match part {
        IPTuple::DestinationAddress(ip) => Some(*ip),
        _ => None,
    })?;
    let destination_port = protocol(original).iter().find_map(|part| match part {
        ProtoTuple::DestinationPort(port) => Some(*port),
        _ => None,
    })?;
    let answers = ips(reply).iter().find_map(|part| match part {
        IPTuple::SourceAddress(ip) => Some(*ip),
        _ => None,
    })?;
    let answers_port = protocol(reply).iter().find_map(|part| match part {
        ProtoTuple::SourcePort(port) => Some(*port),
        _ => None,
    })?;
    Some(Entry {
        destination: SocketAddr::new(destination, destination_port),
        answers: SocketAddr::new(answers, answers_port),
    })
}

/// The parts of one kind that a tuple has.
fn parts<'a, T>(tuple: &'a [Tuple], of: impl Fn(&'a Tuple) -> Option<&'a [T]>) -> &'a [T] {
    tuple.iter().find_map(of).unwrap_or_default()
}

fn handle(attributes: Vec<ConntrackAttribute>) -> Handle {
    let identifies = |attribute: &ConntrackAttribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(_) => true,
        ConntrackAttribute::Other(other) => matches!(other.kind(), CTA_ID | CTA_ZONE),
        _ => false,
    };
    attributes.into_iter().filter(identifies).collect()
}

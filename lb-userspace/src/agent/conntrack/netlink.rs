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
        NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
        NetlinkPayload, Nla as _,
    },
    sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_NETFILTER},
};

use super::Entry;

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

/// A socket to ask by.
pub(super) struct Conntrack {
    socket: Socket,
    sequence: u32,
}

impl Conntrack {
    /// In the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
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
        self.answers(|message| list.add(message, &mut take))?;
        Ok(list.is_complete())
    }

    /// Deletes an entry.
    pub(super) fn delete(&mut self, family: Family, handle: Handle) -> io::Result<()> {
        self.send(
            family,
            NLM_F_REQUEST | NLM_F_ACK,
            ConntrackMessage::Delete(handle),
        )?;
        self.answers(|_| {})
    }

    /// Adds an entry.
    #[cfg(test)]
    pub(super) fn add(&mut self, family: Family, entry: Vec<ConntrackAttribute>) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        self.send(family, flags, ConntrackMessage::New(entry))?;
        self.answers(|_| {})
    }

    fn send(&mut self, family: Family, flags: u16, message: ConntrackMessage) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let message = NetfilterMessage::new(NetfilterHeader::new(family.number(), 0, 0), message);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Takes answers up to the last one, which may be an error.
    fn answers(
        &mut self,
        mut take: impl FnMut(NetlinkMessage<NetfilterMessage>),
    ) -> io::Result<()> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Messages begin at multiples of four bytes.
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if let NetlinkPayload::Error(error) = &message.payload {
                    return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                }
                let last = matches!(message.payload, NetlinkPayload::Done(_));
                take(message);
                if last {
                    return Ok(());
                }
            }
        }
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

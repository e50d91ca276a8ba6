//! What is known of a packet once its headers are read.

use lb_common::{
    Addr,
    flow::{FlowKey, FragmentKey},
    proto,
};

use crate::parse::has_ports;

/// TCP flags.
pub(crate) mod tcp_flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// A TCP segment, UDP datagram or SCTP packet; or another packet, without ports: one that somebody
/// waits for an answer to, or an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Datagram<A> {
    /// The tuple, in the form it is looked up by.
    pub(crate) key: FlowKey<A>,
    l3: u16,
    l4: u16,
    /// Bytes from the transport header on.
    pub(crate) length: u16,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Flags of a TCP segment. An SCTP packet has those of the segment that does the same, an ICMP
    /// error those of a reset; zero for all others.
    pub(crate) tcp_flags: u8,
    /// Which of its fragments this is.
    pub(crate) part: Part,
    /// What all of them have as identification; zero if it is whole.
    id: u32,
}

/// A whole packet, or one of its fragments (RFC 791; RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The fragment that begins with the transport header.
    First,
    /// Another one: it has no ports of its own.
    Later,
}

impl Part {
    /// The part at this offset, with or without more to follow.
    #[inline(always)]
    pub(crate) const fn at(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            (_, _) => Self::Later,
        }
    }
}

impl<A: Addr> Datagram<A> {
    /// No header is looked for any further in; where that was forgotten, the verifier sees it here.
    const BOUND: usize = 0xff;

    /// A datagram of these ends, whose IP header is at `l3`.
    #[inline(always)]
    pub(crate) fn new(
        key: FlowKey<A>,
        l3: usize,
        transport: Transport,
        ttl: u8,
        tcp_flags: u8,
    ) -> Self {
        Self {
            key,
            l3: l3 as u16,
            l4: transport.l4 as u16,
            length: transport.length as u16,
            ttl,
            tcp_flags,
            part: transport.part,
            id: transport.id,
        }
    }

    /// Offset of the IP header.
    #[inline(always)]
    pub(crate) const fn l3(&self) -> usize {
        self.l3 as usize & Self::BOUND
    }

    /// Offset of the transport header.
    #[inline(always)]
    pub(crate) const fn l4(&self) -> usize {
        self.l4 as usize & Self::BOUND
    }

    /// Length of the IP packet.
    #[inline(always)]
    pub(crate) const fn ip_length(&self) -> usize {
        self.l4() - self.l3() + self.length as usize
    }

    /// Whether it may begin a flow: any UDP datagram, and what [asks](Self::asks) for one.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.key.proto == proto::UDP && self.part != Part::Later || self.asks()
    }

    /// What the ports of its fragments are remembered by.
    #[inline(always)]
    pub(crate) const fn fragment_key(&self) -> FragmentKey<A> {
        FragmentKey::new(&self.key, self.id)
    }

    /// Whether it asks for a connection: a TCP segment with SYN and no ACK, or an SCTP packet that
    /// asks for an association.
    #[inline(always)]
    pub(crate) fn asks(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// Whether it is a TCP segment that answers what [asks](Self::asks) for a connection.
    #[inline(always)]
    pub(crate) fn answers(&self) -> bool {
        let both = tcp_flag::SYN | tcp_flag::ACK;
        self.tcp_flags & both == both
    }

    /// Whether it is an ICMP error, of whichever family.
    #[inline(always)]
    pub(crate) fn is_error(&self) -> bool {
        !has_ports(self.key.proto) && self.tcp_flags == tcp_flag::RST
    }
}

/// What lies between the network and the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) l4: usize,
    /// Bytes from there to the end of the IP packet.
    pub(crate) length: usize,
    pub(crate) proto: u8,
    /// Which fragment it begins, or is of.
    pub(crate) part: Part,
    pub(crate) id: u32,
}

impl Transport {
    /// Of a packet that is whole, as far as is known.
    #[inline(always)]
    pub(crate) const fn whole(l4: usize, length: usize, proto: u8) -> Self {
        Self {
            l4,
            length,
            proto,
            part: Part::Whole,
            id: 0,
        }
    }
}

//! Packets as a receiver reads them: with etherparse, which knows nothing of the pipeline.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    LaxNetSlice, LaxSlicedPacket, SlicedPacket, TransportSlice, checksum::Sum16BitWords,
};
use lb_common::proto;
use lb_ebpf::crc32c;

/// Where a packet's headers are, and what they say.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of what follows the IP header and its extensions.
    pub l4: usize,
    /// Where the IP packet ends; what follows is padding.
    pub end: usize,
    /// Number of what that is.
    pub proto: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Whether it is one of several fragments.
    fragmented: bool,
}

impl<'a> Headers<'a> {
    /// The headers of an IP packet.
    pub fn find(bytes: &'a [u8]) -> Option<Self> {
        let packet = LaxSlicedPacket::from_ethernet(bytes).ok()?;
        let offset = |part: &[u8]| part.as_ptr().addr() - bytes.as_ptr().addr();
        let (header, payload, src, dst) = match packet.net.as_ref()? {
            LaxNetSlice::Ipv4(ip) => (
                ip.header().slice(),
                ip.payload(),
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            LaxNetSlice::Ipv6(ip) => (
                ip.header().slice(),
                ip.payload(),
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            LaxNetSlice::Arp(_) => return None,
        };
        let l4 = offset(payload.payload);
        Some(Self {
            bytes,
            l3: offset(header),
            l4,
            end: l4 + payload.payload.len(),
            proto: payload.ip_number.0,
            src,
            dst,
            fragmented: payload.fragmented,
        })
    }

    /// The sum of the pseudo header.
    pub fn pseudo_sum(&self) -> Sum16BitWords {
        let length = ((self.end - self.l4) as u16).to_be_bytes();
        let sum = Sum16BitWords::new()
            .add_2bytes([0, self.proto])
            .add_2bytes(length);
        sum.add_slice(&octets(self.src))
            .add_slice(&octets(self.dst))
    }

    /// Offset of the transport checksum.
    pub fn checksum_field(&self) -> Option<usize> {
        let within = match self.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            proto::ICMP | proto::ICMPV6 => 2,
            proto::SCTP => 8,
            _ => return None,
        };
        (self.l4 + within + 2 <= self.end).then_some(self.l4 + within)
    }

    /// Whether the header and transport checksums are right.
    pub fn checksums_hold(&self) -> bool {
        self.header_holds() && self.transport_holds()
    }

    fn header_holds(&self) -> bool {
        self.src.is_ipv6() || {
            let length = usize::from(self.bytes[self.l3] & 0x0f) * 4;
            is_right(&sum(&self.bytes[self.l3..self.l3 + length]))
        }
    }

    /// Of a fragment that can't be told.
    fn transport_holds(&self) -> bool {
        let Some(field) = self.checksum_field().filter(|_| !self.fragmented) else {
            return false;
        };
        if self.proto == proto::SCTP {
            let mut packet = self.bytes[self.l4..self.end].to_vec();
            packet[8..12].fill(0);
            return crc32c(&packet).to_le_bytes() == self.bytes[field..field + 4];
        }
        let absent = self.proto == proto::UDP && self.bytes[field..field + 2] == [0; 2];
        let pseudo = if self.proto == proto::ICMP {
            Sum16BitWords::new()
        } else {
            self.pseudo_sum()
        };
        absent || is_right(&pseudo.add_slice(&self.bytes[self.l4..self.end]))
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The sum of bytes.
pub fn sum(bytes: &[u8]) -> Sum16BitWords {
    Sum16BitWords::new().add_slice(bytes)
}

/// Whether this is the sum of something together with its checksum.
fn is_right(sum: &Sum16BitWords) -> bool {
    sum.ones_complement() == 0
}

/// Reads a packet without leniency.
pub fn parse(bytes: &[u8]) -> SlicedPacket<'_> {
    SlicedPacket::from_ethernet(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"))
}

/// Whether a receiver takes the packet: it parses, and every checksum is right.
pub fn is_sound(bytes: &[u8]) -> bool {
    SlicedPacket::from_ethernet(bytes).is_ok()
        && Headers::find(bytes).is_some_and(|headers| headers.checksums_hold())
}

/// Whether the checksum of a packet's IP header is right, whatever it carries; IPv6 has none.
pub fn header_is_sound(bytes: &[u8]) -> bool {
    Headers::find(bytes).is_some_and(|headers| headers.header_holds())
}

/// Whether the sender of what an ICMP error quotes finds its own packet in it: the checksums of the
/// quoted headers are right, that of the transport as far as it can be told. A packet that quotes
/// nothing is sound. An SCTP checksum in a quote is nobody's to look at.
pub fn quote_is_sound(bytes: &[u8]) -> bool {
    let Some(quote) = quote(bytes) else {
        return true;
    };
    // Whatever precedes it, a quote begins with an IP header.
    let kind = if quote.first().is_some_and(|byte| byte >> 4 == 6) {
        [0x86, 0xdd]
    } else {
        [0x08, 0x00]
    };
    let frame = [&[0; 12][..], &kind, quote].concat();
    let Some(headers) = Headers::find(&frame) else {
        return false;
    };
    let is_whole = SlicedPacket::from_ethernet(&frame).is_ok();
    let can_be_told =
        is_whole && headers.proto != proto::SCTP && headers.checksum_field().is_some();
    headers.header_holds() && (!can_be_told || headers.transport_holds())
}

/// What an ICMP error quotes; none if the packet is not one.
fn quote(bytes: &[u8]) -> Option<&[u8]> {
    let headers = Headers::find(bytes)?;
    let is_error = matches!(
        (headers.proto, bytes.get(headers.l4)?),
        (proto::ICMP, 3 | 11 | 12) | (proto::ICMPV6, 1..=4)
    );
    bytes.get(headers.l4 + 8..headers.end).filter(|_| is_error)
}

/// A received TCP segment's header.
pub fn tcp(bytes: &[u8]) -> etherparse::TcpHeader {
    match parse(bytes).transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
        other => panic!("{other:?} instead of TCP"),
    }
}

/// A received packet's source.
pub fn source(bytes: &[u8]) -> SocketAddr {
    addresses(bytes).0
}

/// A received packet's source and destination.
pub fn addresses(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let headers = Headers::find(bytes).unwrap();
    let (sport, dport) = match parse(bytes).transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        None if headers.proto == proto::SCTP => {
            let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            (port(headers.l4), port(headers.l4 + 2))
        }
        other => panic!("{other:?} has no ports"),
    };
    (
        SocketAddr::new(headers.src, sport),
        SocketAddr::new(headers.dst, dport),
    )
}

/// Checks that packets are equal, see [`is_same`].
pub fn assert_same(actual: &[u8], expected: &[u8]) {
    assert!(
        is_same(actual, expected),
        "\n  actual {actual:02x?}\nexpected {expected:02x?}"
    );
}

/// Whether packets are equal. The two forms of a checksum that is zero are, but for UDP's: which of
/// them comes of a change depends on how it is computed, and no receiver tells them apart.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    one == other || with_one_zero(one) == with_one_zero(other)
}

fn with_one_zero(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let headers = Headers::find(&bytes);
    let headers = headers.filter(|it| matches!(it.proto, proto::TCP | proto::ICMP | proto::ICMPV6));
    if let Some(field) = headers.and_then(|headers| headers.checksum_field())
        && bytes[field..field + 2] == [0xff; 2]
    {
        bytes[field..field + 2].fill(0);
    }
    bytes
}

//! Packets as a receiver reads them: with etherparse, which knows nothing of the pipeline.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    LaxNetSlice, LaxSlicedPacket, SlicedPacket, TransportSlice, checksum::Sum16BitWords,
};
use lb_common::proto;
use lb_ebpf::crc32c;

/// Where a packet's headers are, and what they say.
#[derive(Clone, Debug)]
pub(crate) struct Headers<'a> {
    bytes: &'a [u8],
    pub(crate) l3: usize,
    pub(crate) l4: usize,
    /// Where the IP packet ends; what follows is padding.
    pub(crate) end: usize,
    pub(crate) proto: u8,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
}

impl<'a> Headers<'a> {
    /// The headers of an IP packet.
    pub(crate) fn find(bytes: &'a [u8]) -> Option<Self> {
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
        })
    }

    /// The sum of the pseudo header.
    pub(crate) fn pseudo_sum(&self) -> Sum16BitWords {
        let length = ((self.end - self.l4) as u16).to_be_bytes();
        let sum = Sum16BitWords::new()
            .add_2bytes([0, self.proto])
            .add_2bytes(length);
        sum.add_slice(&octets(self.src))
            .add_slice(&octets(self.dst))
    }

    /// Offset of the transport checksum.
    pub(crate) fn checksum_field(&self) -> Option<usize> {
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
    pub(crate) fn checksums_hold(&self) -> bool {
        let header_holds = self.src.is_ipv6() || {
            let length = usize::from(self.bytes[self.l3] & 0x0f) * 4;
            is_right(&sum(&self.bytes[self.l3..self.l3 + length]))
        };
        header_holds && self.transport_holds()
    }

    fn transport_holds(&self) -> bool {
        let Some(field) = self.checksum_field() else {
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
pub(crate) fn sum(bytes: &[u8]) -> Sum16BitWords {
    Sum16BitWords::new().add_slice(bytes)
}

/// Whether this is the sum of something together with its checksum.
fn is_right(sum: &Sum16BitWords) -> bool {
    sum.ones_complement() == 0
}

/// Reads a packet without leniency.
pub(crate) fn parse(bytes: &[u8]) -> SlicedPacket<'_> {
    SlicedPacket::from_ethernet(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"))
}

/// Whether a receiver takes the packet: it parses, and every checksum is right.
pub(crate) fn is_sound(bytes: &[u8]) -> bool {
    SlicedPacket::from_ethernet(bytes).is_ok()
        && Headers::find(bytes).is_some_and(|headers| headers.checksums_hold())
}

/// A received TCP segment's header.
pub(crate) fn tcp(bytes: &[u8]) -> etherparse::TcpHeader {
    match parse(bytes).transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
        other => panic!("{other:?} instead of TCP"),
    }
}

/// A received packet's source.
pub(crate) fn source(bytes: &[u8]) -> SocketAddr {
    addresses(bytes).0
}

/// A received packet's source and destination.
pub(crate) fn addresses(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
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

/// Checks that packets are equal. The two forms of a TCP checksum that is zero are.
pub(crate) fn assert_same(actual: &[u8], expected: &[u8]) {
    let with_one_zero = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let headers = Headers::find(&bytes).filter(|headers| headers.proto == proto::TCP);
        if let Some(field) = headers.and_then(|headers| headers.checksum_field())
            && bytes[field..field + 2] == [0xff; 2]
        {
            bytes[field..field + 2].fill(0);
        }
        bytes
    };
    assert!(
        with_one_zero(actual) == with_one_zero(expected),
        "\n  actual {actual:02x?}\nexpected {expected:02x?}"
    );
}

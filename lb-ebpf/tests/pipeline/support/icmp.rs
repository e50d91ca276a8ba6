//! ICMP errors to send, built with etherparse.

use std::net::IpAddr;

use etherparse::PacketBuilder;

use super::{frame::MACS, wire::Headers};

/// An error as a host or router makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Error {
    pub(crate) macs: [u8; 12],
    pub(crate) ttl: u8,
    pub(crate) kind: (u8, u8),
    pub(crate) from: IpAddr,
    /// How much is quoted of what follows the IP header.
    pub(crate) quotes: usize,
}

impl Error {
    pub(crate) fn new(from: IpAddr, quotes: usize) -> Self {
        let kind = match from {
            IpAddr::V4(_) => (3, 4),
            IpAddr::V6(_) => (2, 0),
        };
        Self {
            macs: MACS,
            ttl: 64,
            kind,
            from,
            quotes,
        }
    }

    /// The error about a packet, to its sender.
    pub(crate) fn about(&self, frame: &[u8]) -> Vec<u8> {
        const MTU: [u8; 4] = [0, 0, 0x05, 0x14];
        let headers = Headers::find(frame).unwrap();
        let quote = &frame[headers.l3..headers.end.min(headers.l4 + self.quotes)];
        let [destination, source] = [0, 6].map(|at| self.macs[at..at + 6].try_into().unwrap());
        let ethernet = PacketBuilder::ethernet2(source, destination);
        let (kind, code) = self.kind;
        let mut bytes = Vec::new();
        match (self.from, headers.src) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet
                .ipv4(from.octets(), to.octets(), self.ttl)
                .icmpv4_raw(kind, code, MTU)
                .write(&mut bytes, quote)
                .unwrap(),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet
                .ipv6(from.octets(), to.octets(), self.ttl)
                .icmpv6_raw(kind, code, MTU)
                .write(&mut bytes, quote)
                .unwrap(),
            mixed => panic!("{mixed:?} are of two families"),
        }
        bytes
    }
}

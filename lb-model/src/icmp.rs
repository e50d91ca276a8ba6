//! ICMP errors to send, built with etherparse.

use std::net::IpAddr;

use etherparse::PacketBuilder;

use crate::{frame::MACS, wire::Headers};

/// An error as a host or router makes it.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// Destination and source, as they begin the frame.
    pub macs: [u8; 12],
    /// Or hop limit.
    pub ttl: u8,
    /// Type and code.
    pub kind: (u8, u8),
    /// Who sends it.
    pub from: IpAddr,
    /// How much is quoted of what follows the IP header.
    pub quotes: usize,
}

impl Error {
    /// That a packet is too long, by this sender.
    pub fn new(from: IpAddr, quotes: usize) -> Self {
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
    pub fn about(&self, frame: &[u8]) -> Vec<u8> {
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

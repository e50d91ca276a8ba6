//! Packets to send, built with etherparse.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions,
    Ipv6Header, PacketBuilder, SingleVlanHeader, TcpHeader, VlanHeader,
};
use lb_common::proto;
use lb_ebpf::crc32c;

/// A TCP segment, UDP datagram or SCTP packet in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination and source, as they begin the frame.
    pub macs: [u8; 12],
    /// A VLAN tag's TCI field.
    pub tag: Option<u16>,
    /// Where it comes from.
    pub src: SocketAddr,
    /// Where it goes.
    pub dst: SocketAddr,
    /// Or hop limit.
    pub ttl: u8,
    /// Ignored by IPv6.
    pub options: Ipv4Options,
    /// Ignored by IPv4. Boxed, since it has room for all there may be.
    pub extensions: Box<Ipv6Extensions>,
    /// What the IP packet carries.
    pub segment: Segment,
    /// What follows the transport header, or is in the SCTP chunk.
    pub payload: Vec<u8>,
}

/// A transport header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Ports and checksum are filled in.
    Tcp(TcpHeader),
    /// A UDP header.
    Udp {
        /// Else the field is zero.
        checksum: bool,
    },
    /// An SCTP common header and the header of a chunk.
    Sctp {
        /// Type of its only chunk.
        chunk: u8,
    },
}

/// Types of SCTP chunks.
pub mod chunk {
    /// Payload data.
    pub const DATA: u8 = 0;
    /// Asks for an association.
    pub const INIT: u8 = 1;
    /// Breaks an association off.
    pub const ABORT: u8 = 6;
    /// Nothing more is sent.
    pub const SHUTDOWN: u8 = 7;
    /// Nor by the other end.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// That has been heard.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// TCP flags.
pub mod flag {
    /// The sender has no more to say.
    pub const FIN: u8 = 0x01;
    /// Asks for a connection.
    pub const SYN: u8 = 0x02;
    /// Ends it at once.
    pub const RST: u8 = 0x04;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// MACs of a frame that has just arrived.
pub const MACS: [u8; 12] = [0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02];

/// The same, turned around.
pub const MACS_BACK: [u8; 12] = [0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01];

impl Frame {
    fn new(src: SocketAddr, dst: SocketAddr, segment: Segment) -> Self {
        Self {
            macs: MACS,
            tag: None,
            src,
            dst,
            ttl: 64,
            options: Ipv4Options::new(),
            extensions: Box::default(),
            segment,
            payload: b"payload".to_vec(),
        }
    }

    /// A datagram.
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        Self::new(src, dst, Segment::Udp { checksum: true })
    }

    /// A segment with these flags.
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        let mut header = TcpHeader::new(0, 0, 0x1000_0000, 1024);
        header.fin = flags & flag::FIN != 0;
        header.syn = flags & flag::SYN != 0;
        header.rst = flags & flag::RST != 0;
        header.ack = flags & flag::ACK != 0;
        header.acknowledgment_number = 0x2000_0000;
        Self::new(src, dst, Segment::Tcp(header))
    }

    /// An SCTP packet with a chunk of this type.
    pub fn sctp(src: SocketAddr, dst: SocketAddr, chunk: u8) -> Self {
        Self::new(src, dst, Segment::Sctp { chunk })
    }

    /// What begins a flow of this protocol.
    pub fn first(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Self {
        match protocol {
            proto::TCP => Self::tcp(src, dst, flag::SYN),
            proto::UDP => Self::udp(src, dst),
            proto::SCTP => Self::sctp(src, dst, chunk::INIT),
            other => panic!("no flow is of protocol {other}"),
        }
    }

    /// What goes on with a flow.
    pub fn next(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Self {
        match protocol {
            proto::TCP => Self::tcp(src, dst, flag::ACK),
            proto::UDP => Self::udp(src, dst),
            proto::SCTP => Self::sctp(src, dst, chunk::DATA),
            other => panic!("no flow is of protocol {other}"),
        }
    }

    /// Number of the transport protocol.
    pub fn protocol(&self) -> u8 {
        match self.segment {
            Segment::Tcp(_) => proto::TCP,
            Segment::Udp { .. } => proto::UDP,
            Segment::Sctp { .. } => proto::SCTP,
        }
    }

    /// The packet's bytes; lengths and checksums are right.
    pub fn build(&self) -> Vec<u8> {
        let [destination, source] = [0, 6].map(|at| self.macs[at..at + 6].try_into().unwrap());
        let ethernet = PacketBuilder::ethernet2(source, destination);
        let ip = match self.tag {
            Some(tci) => {
                let [high, low] = tci.to_be_bytes();
                let tag = SingleVlanHeader::from_bytes([high, low, 0, 0]);
                ethernet.vlan(VlanHeader::Single(tag)).ip(self.ip_headers())
            }
            None => ethernet.ip(self.ip_headers()),
        };
        let mut bytes = Vec::new();
        let (sport, dport) = (self.src.port(), self.dst.port());
        match &self.segment {
            Segment::Tcp(header) => {
                let mut header = header.clone();
                header.source_port = sport;
                header.destination_port = dport;
                ip.tcp_header(header)
                    .write(&mut bytes, &self.payload)
                    .unwrap();
            }
            Segment::Sctp { chunk } => {
                let packet = self.sctp_packet(*chunk);
                ip.write(&mut bytes, IpNumber(proto::SCTP), &packet)
                    .unwrap();
            }
            Segment::Udp { checksum } => {
                ip.udp(sport, dport)
                    .write(&mut bytes, &self.payload)
                    .unwrap();
                if !checksum {
                    let end = bytes.len() - self.payload.len();
                    bytes[end - 2..end].fill(0);
                }
            }
        }
        bytes
    }

    /// Common header, one chunk, and the payload in it.
    fn sctp_packet(&self, chunk: u8) -> Vec<u8> {
        let tag = if chunk == chunk::INIT {
            0
        } else {
            0x1000_0000_u32
        };
        let length = 4 + self.payload.len() as u16;
        let mut packet = [
            &self.src.port().to_be_bytes()[..],
            &self.dst.port().to_be_bytes(),
            &tag.to_be_bytes(),
            &[0; 4],
            &[chunk, 0],
            &length.to_be_bytes(),
            &self.payload,
        ]
        .concat();
        let sum = crc32c(&packet);
        packet[8..12].copy_from_slice(&sum.to_le_bytes());
        packet
    }

    fn ip_headers(&self) -> IpHeaders {
        // Length and next header are filled in.
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    time_to_live: self.ttl,
                    identification: 0x4711,
                    dont_fragment: true,
                    fragment_offset: IpFragOffset::ZERO,
                    protocol: IpNumber(self.protocol()),
                    source: source.octets(),
                    destination: destination.octets(),
                    options: self.options.clone(),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: 0x12,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, (*self.extensions).clone())
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
    }
}

//! The packets that are measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use etherparse::PacketBuilder;
use lb_common::bench::{HEAD, Template};

use super::Family;

/// Bytes after the TCP header: a small segment, long enough for the part that is laid anew.
const PAYLOAD: [u8; 64] = [0x5a; 64];

/// Which word of an address tells flows apart: the last.
struct Places {
    source: u32,
    destination: u32,
}

const fn places(family: Family) -> Places {
    match family {
        Family::V4 => Places {
            source: 26,
            destination: 30,
        },
        Family::V6 => Places {
            source: 34,
            destination: 50,
        },
    }
}

/// A TCP segment, and the template of its flows.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    pub(super) template: Template,
}

/// How the segments of a path look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    pub(super) syn: bool,
    /// How many services the destination is drawn from; 0 keeps it fixed.
    pub(super) services: u32,
}

/// The segment with the given shape for its first flow.
pub(super) fn segment(family: Family, shape: &Shape) -> Result<Segment> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let network = match (shape.source.0, shape.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            link.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            link.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => bail!("{shape:?} mixes families"),
    };
    let tcp = network.tcp(shape.source.1, shape.destination.1, 1000, 64000);
    let tcp = if shape.syn { tcp.syn() } else { tcp.ack(2000) };
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, &PAYLOAD)?;
    let places = places(family);
    let template = Template {
        head: head(&bytes),
        client: places.source,
        client_word: word(&bytes, places.source),
        service: places.destination,
        service_word: word(&bytes, places.destination),
        services: shape.services,
        zero: 0,
    };
    Ok(Segment { bytes, template })
}

fn head(bytes: &[u8]) -> [u64; HEAD / 8] {
    let mut head = [0; HEAD / 8];
    for (word, bytes) in head.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    head
}

fn word(bytes: &[u8], at: u32) -> u32 {
    bytes
        .get(at as usize..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u32::from_be_bytes(*word))
}

/// The address `number` places behind `base`.
pub(super) fn nth(base: IpAddr, number: u32) -> IpAddr {
    match base {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(number))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(
            base.to_bits().wrapping_add(number.into()),
        )),
    }
}

/// What a packet says of where it goes: source and destination address and port.
pub(super) fn tuple(bytes: &[u8]) -> Result<((IpAddr, u16), (IpAddr, u16))> {
    let packet = etherparse::SlicedPacket::from_ethernet(bytes)?;
    let (source, destination) = match &packet.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => (
            IpAddr::V4(ip.header().source_addr()),
            IpAddr::V4(ip.header().destination_addr()),
        ),
        Some(etherparse::NetSlice::Ipv6(ip)) => (
            IpAddr::V6(ip.header().source_addr()),
            IpAddr::V6(ip.header().destination_addr()),
        ),
        _ => bail!("not an IP packet"),
    };
    let Some(etherparse::TransportSlice::Tcp(tcp)) = &packet.transport else {
        bail!("not a TCP segment");
    };
    Ok((
        (source, tcp.source_port()),
        (destination, tcp.destination_port()),
    ))
}

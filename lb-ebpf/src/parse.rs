//! Headers: from bytes to a 5-tuple, or the reason why not.
//!
//! Layouts: Ethernet (IEEE 802.3), at most one VLAN tag (802.1Q), IPv4 (RFC 791), IPv6 and its
//! extension headers (RFC 8200), TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260). What is not understood
//! to the last bit is passed untouched.

use lb_common::{
    Addr, Port, V4, V6,
    counters::Reason,
    flow::{Direction, FlowKey},
    proto,
};

use crate::{
    OF_ANY_LENGTH, Packet,
    datagram::{Datagram, Part, Transport, tcp_flag},
    icmp,
};

/// Length of an Ethernet header without tag.
pub(crate) const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
/// Length of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// Length of an IPv6 header without extensions.
pub(crate) const IPV6: usize = 40;
/// Length of a TCP header without options.
pub(crate) const TCP: usize = 20;
/// Length of a UDP header.
pub(crate) const UDP: usize = 8;
/// Length of SCTP's common header, and of it with the first chunk's own.
const SCTP_COMMON: usize = 12;
pub(crate) const SCTP: usize = SCTP_COMMON + 4;
/// Types of SCTP chunks that begin or end an association (RFC 9260, 3.2).
mod chunk {
    pub(super) const INIT: u16 = 1;
    pub(super) const ABORT: u16 = 6;
    pub(super) const SHUTDOWN: u16 = 7;
    pub(super) const SHUTDOWN_ACK: u16 = 8;
    pub(super) const SHUTDOWN_COMPLETE: u16 = 14;
}
/// Bytes of an offending transport header that an ICMP error quotes: ports, and enough for the
/// sender to find its socket (RFC 792).
pub(crate) const QUOTE: usize = 8;

/// Extension headers that are stepped over; senders use one or two.
const MAX_EXTENSIONS: usize = 4;
/// The bits of a VLAN tag that name the VLAN; zero means priority only (802.1Q, 9.6).
const VLAN_ID: u16 = 0x0fff;

/// EtherTypes, as words in memory order.
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800_u16.to_be();
    pub(super) const IPV6: u16 = 0x86dd_u16.to_be();
    pub(super) const VLAN: u16 = 0x8100_u16.to_be();
    pub(super) const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();
}

/// The network header a frame carries, and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Ipv4(usize),
    Ipv6(usize),
}

/// Reads the Ethernet header and its tag.
#[inline(always)]
pub(crate) fn network<P: Packet>(pkt: &P) -> Result<Network, Reason> {
    if let Some(tci) = pkt.stripped_vlan() {
        own_vlan(tci)?;
    }
    let ether = pkt.bytes::<ETHERNET>(0).ok_or(Reason::Malformed)?;
    match P::load16(ether, 12) {
        ethertype::IPV4 => Ok(Network::Ipv4(ETHERNET)),
        ethertype::IPV6 => Ok(Network::Ipv6(ETHERNET)),
        ethertype::VLAN => tagged(pkt),
        ethertype::SERVICE_VLAN => Err(Reason::Vlan),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn tagged<P: Packet>(pkt: &P) -> Result<Network, Reason> {
    let tag = pkt.bytes::<VLAN_TAG>(ETHERNET).ok_or(Reason::Malformed)?;
    own_vlan(u16::from_be(P::load16(tag, 0)))?;
    match P::load16(tag, 2) {
        ethertype::IPV4 => Ok(Network::Ipv4(ETHERNET + VLAN_TAG)),
        ethertype::IPV6 => Ok(Network::Ipv6(ETHERNET + VLAN_TAG)),
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(Reason::Vlan),
        _ => Err(Reason::NotIp),
    }
}

/// A frame tagged with a VLAN belongs to that VLAN's device, which has hooks of its own; a
/// priority tag changes nothing.
#[inline(always)]
fn own_vlan(tci: u16) -> Result<(), Reason> {
    if tci & VLAN_ID == 0 {
        Ok(())
    } else {
        Err(Reason::Vlan)
    }
}

/// The network header of an untagged frame without IPv4 options or IPv6 extensions: nearly every
/// one. Told apart first, so that the compiler knows all its offsets.
#[inline(always)]
pub(crate) fn usual<P: Packet>(pkt: &P) -> Option<Network> {
    if pkt.stripped_vlan().is_some() {
        return None;
    }
    let frame = pkt.bytes::<{ ETHERNET + 7 }>(0)?;
    match P::load16(frame, 12) {
        ethertype::IPV4 if frame[ETHERNET] == 0x45 => Some(Network::Ipv4(ETHERNET)),
        ethertype::IPV6 if matches!(frame[ETHERNET + 6], proto::TCP | proto::UDP) => {
            Some(Network::Ipv6(ETHERNET))
        }
        _ => None,
    }
}

/// Length of an IPv4 header with its options; less than 20 if it is not one.
#[inline(always)]
pub(crate) fn ipv4_header_length<P: Packet>(pkt: &P, l3: usize) -> Result<usize, Reason> {
    let header = pkt.bytes::<IPV4>(l3).ok_or(Reason::Malformed)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 == 4 && length >= IPV4 {
        Ok(length)
    } else {
        Err(Reason::Malformed)
    }
}

/// An IPv4 header of the given length.
#[inline(always)]
pub(crate) fn ipv4<P: Packet, const USUAL: bool>(
    pkt: &P,
    l3: usize,
    header_length: usize,
) -> Result<(&[u8; IPV4], Transport), Reason> {
    let header = pkt.bytes::<IPV4>(l3).ok_or(Reason::Malformed)?;
    let total_length = usize::from(u16::from_be(P::load16(header, 2)));
    if l3 + total_length > pkt.len() {
        return Err(Reason::Malformed);
    }
    let proto = header[9];
    let mut transport = Transport::whole(l3 + header_length, 0, proto);
    let fragment = u16::from_be(P::load16(header, 6));
    // More fragments follow, or this is not the first.
    if fragment & 0x3fff != 0 {
        if USUAL {
            return Err(Reason::Fragment);
        }
        transport.part = Part::at(fragment & 0x1fff, fragment & 0x2000 != 0);
        transport.id = P::load16(header, 4).into();
    }
    let minimum = match transport.part {
        Part::Whole | Part::First => transport_minimum::<USUAL>(proto)?,
        Part::Later => 0,
    };
    if total_length < header_length + minimum {
        return Err(Reason::Malformed);
    }
    transport.length = total_length - header_length;
    Ok((header, transport))
}

/// Least length of what an IP header is followed by. The usual layouts know TCP and UDP only.
#[inline(always)]
fn transport_minimum<const USUAL: bool>(proto: u8) -> Result<usize, Reason> {
    match proto {
        proto::TCP => Ok(TCP),
        proto::UDP => Ok(UDP),
        _ if USUAL => Err(Reason::OtherProtocol),
        proto::SCTP => Ok(SCTP),
        _ => Ok(0),
    }
}

/// An IPv6 header. The transport named is what its next-header field says, be it an extension.
#[inline(always)]
pub(crate) fn ipv6<P: Packet>(pkt: &P, l3: usize) -> Result<(&[u8; IPV6], Transport), Reason> {
    let header = pkt.bytes::<IPV6>(l3).ok_or(Reason::Malformed)?;
    let payload_length = usize::from(u16::from_be(P::load16(header, 4)));
    // A jumbogram (RFC 2675) has a zero length: no transport header fits, so it is passed.
    if header[0] >> 4 != 6 || l3 + IPV6 + payload_length > pkt.len() {
        return Err(Reason::Malformed);
    }
    Ok((
        header,
        Transport::whole(l3 + IPV6, payload_length, header[6]),
    ))
}

/// Steps over the extension headers that leave ports and destination readable.
#[inline(always)]
pub(crate) fn extensions<P: Packet>(pkt: &P, first: Transport) -> Result<Transport, Reason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let mut at = first;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(at.proto, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            break;
        }
        let mut extension = 8;
        let header = pkt.bytes::<8>(at.l4).ok_or(Reason::Malformed)?;
        match at.proto {
            // With segments left, the destination is not the final one.
            ROUTING if header[3] != 0 => return Err(Reason::HeaderChain),
            HOP_BY_HOP | DESTINATION | ROUTING => extension += usize::from(header[1]) * 8,
            _ if at.id == 0 => {
                let field = u16::from_be(P::load16(header, 2));
                at.part = Part::at(field >> 3, field & 1 != 0);
                at.id = P::load32(header, 4);
            }
            _ => return Err(Reason::HeaderChain),
        }
        at.proto = header[0];
        at.length = at.length.checked_sub(extension).ok_or(Reason::Malformed)?;
        at.l4 += extension;
        if at.l4 > PACKET_MAX_L4 {
            return Err(Reason::HeaderChain);
        }
        if at.part == Part::Later {
            return Ok(at);
        }
    }
    match at.proto {
        HOP_BY_HOP | DESTINATION | ROUTING | FRAGMENT => Err(Reason::HeaderChain),
        _ => Ok(at),
    }
}

/// A transport header further in than this is not looked for: its checksum must still lie within
/// [`Packet::MAX_OFFSET`].
const PACKET_MAX_L4: usize = 220;

/// The ports, and the flags of a TCP segment.
#[inline(always)]
fn ports<P: Packet, const USUAL: bool>(
    pkt: &P,
    transport: Transport,
) -> Result<(Port, Port, u8), Reason> {
    let Transport {
        l4, proto, part, ..
    } = transport;
    if !USUAL && part == Part::Later {
        return Ok((Port::default(), Port::default(), 0));
    }
    match proto {
        proto::TCP => {
            let tcp = pkt.bytes::<TCP>(l4).ok_or(Reason::Malformed)?;
            // The data offset may not point into the fixed header.
            if tcp[12] >> 4 < 5 {
                return Err(Reason::Malformed);
            }
            let (sport, dport) = (P::load16(tcp, 0), P::load16(tcp, 2));
            Ok((Port::from_word(sport), Port::from_word(dport), tcp[13]))
        }
        proto::UDP => {
            let udp = pkt.bytes::<UDP>(l4).ok_or(Reason::Malformed)?;
            let (sport, dport) = (P::load16(udp, 0), P::load16(udp, 2));
            Ok((Port::from_word(sport), Port::from_word(dport), 0))
        }
        _ if USUAL => Err(Reason::OtherProtocol),
        proto::SCTP => sctp_ports(pkt, l4),
        _ => icmp::flags(pkt, transport).map(|flags| (Port::default(), Port::default(), flags)),
    }
}

/// The ports of an SCTP packet, and the flags of a TCP segment that does what its first chunk does. INIT
/// and SHUTDOWN COMPLETE are alone, ABORT comes last and after nothing that is answered (RFC 9260, 6.10).
#[inline(always)]
fn sctp_ports<P: Packet>(pkt: &P, l4: usize) -> Result<(Port, Port, u8), Reason> {
    let Some(sctp) = pkt.bytes::<SCTP>(l4) else {
        // The chunks of many packets at once are in a list that cannot be read. Only data is sent so.
        if pkt.segment() != OF_ANY_LENGTH {
            return Err(Reason::Malformed);
        }
        let common = pkt.bytes::<SCTP_COMMON>(l4).ok_or(Reason::Malformed)?;
        let (sport, dport) = (P::load16(common, 0), P::load16(common, 2));
        return Ok((Port::from_word(sport), Port::from_word(dport), 0));
    };
    let (sport, dport) = (P::load16(sctp, 0), P::load16(sctp, 2));
    // The chunk's type is followed by its flags.
    let flags = match u16::from_be(P::load16(sctp, SCTP_COMMON)) >> 8 {
        chunk::INIT => tcp_flag::SYN,
        chunk::ABORT => tcp_flag::RST,
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK | chunk::SHUTDOWN_COMPLETE => tcp_flag::FIN,
        _ => 0,
    };
    Ok((Port::from_word(sport), Port::from_word(dport), flags))
}

/// The datagram of an IPv4 packet whose transport header is at the given place.
#[inline(always)]
pub(crate) fn datagram4<P: Packet, const USUAL: bool>(
    pkt: &P,
    l3: usize,
    header: &[u8; IPV4],
    transport: Transport,
    direction: Direction,
) -> Result<Datagram<V4>, Reason> {
    let (sport, dport, tcp_flags) = ports::<P, USUAL>(pkt, transport)?;
    let src = (address::<_, P, _>(header, 12), sport);
    let dst = (address::<_, P, _>(header, 16), dport);
    let key = FlowKey::new(direction, transport.proto, src, dst);
    Ok(Datagram::new(key, l3, transport, header[8], tcp_flags))
}

/// The datagram of an IPv6 packet whose transport header is at the given place.
#[inline(always)]
pub(crate) fn datagram6<P: Packet, const USUAL: bool>(
    pkt: &P,
    l3: usize,
    header: &[u8; IPV6],
    transport: Transport,
    direction: Direction,
) -> Result<Datagram<V6>, Reason> {
    let minimum = match transport.part {
        Part::Whole | Part::First => transport_minimum::<USUAL>(transport.proto)?,
        Part::Later => 0,
    };
    if transport.length < minimum {
        return Err(Reason::Malformed);
    }
    let (sport, dport, tcp_flags) = ports::<P, USUAL>(pkt, transport)?;
    let src = (address::<_, P, _>(header, 8), sport);
    let dst = (address::<_, P, _>(header, 24), dport);
    let key = FlowKey::new(direction, transport.proto, src, dst);
    Ok(Datagram::new(key, l3, transport, header[7], tcp_flags))
}

/// Of what has no ports, fragments are left alone.
#[inline(always)]
fn translatable(transport: Transport) -> Result<(), Reason> {
    if transport.part == Part::Whole || has_ports(transport.proto) {
        Ok(())
    } else {
        Err(Reason::Fragment)
    }
}

/// Whether services have the protocol.
#[inline(always)]
pub(crate) fn has_ports(proto: u8) -> bool {
    matches!(proto, proto::TCP | proto::UDP | proto::SCTP)
}

/// The datagram of an IPv4 packet, whatever its layout.
#[inline(always)]
pub(crate) fn ipv4_datagram<P: Packet>(
    pkt: &P,
    l3: usize,
    direction: Direction,
) -> Result<Datagram<V4>, Reason> {
    let (header, transport) = ipv4::<P, false>(pkt, l3, ipv4_header_length(pkt, l3)?)?;
    translatable(transport)?;
    datagram4::<P, false>(pkt, l3, header, transport, direction)
}

/// The datagram of an IPv6 packet, whatever its layout.
#[inline(always)]
pub(crate) fn ipv6_datagram<P: Packet>(
    pkt: &P,
    l3: usize,
    direction: Direction,
) -> Result<Datagram<V6>, Reason> {
    let (header, first) = ipv6(pkt, l3)?;
    let transport = extensions(pkt, first)?;
    translatable(transport)?;
    datagram6::<P, false>(pkt, l3, header, transport, direction)
}

/// The address at this place of a header.
#[inline(always)]
pub(crate) fn address<A: Addr, P: Packet, const N: usize>(header: &[u8; N], at: usize) -> A {
    A::from_words(|i| P::load32(header, at + i * 4))
}

//! Telling a client that nobody is there: a TCP reset, or ICMP port unreachable.
//!
//! The reply is built in the packet's own buffer and goes back the way the packet came.

use lb_common::{Addr, V4, V6, counters::Reason, flow::Direction, proto};

use crate::{
    Packet, Sum, Tables, Verdict,
    datagram::{Datagram, Part, tcp_flag},
    icmp::HEADER as ICMP,
    parse::{self, IPV4, IPV6, Network, QUOTE, TCP},
    rewrite,
};

/// TTL and hop limit of what this node sends.
const TTL: u8 = 64;

/// Turns a packet the pipeline rejected into the reply that says no: [`Verdict::Reflect`], or
/// [`Verdict::Drop`] where none may or can be made.
#[inline(always)]
pub fn reject<P, T>(pkt: &mut P, tables: &T) -> Verdict
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    if !Tables::<V4>::may_reject(tables) {
        Tables::<V4>::count(tables, Reason::TooManyRejects);
        return Verdict::Drop;
    }
    let built = match parse::network(pkt) {
        Ok(Network::Ipv4(l3)) => {
            parse::ipv4_datagram(pkt, l3, Direction::Ingress).and_then(|it| answer(pkt, &it))
        }
        Ok(Network::Ipv6(l3)) => {
            parse::ipv6_datagram(pkt, l3, Direction::Ingress).and_then(|it| answer(pkt, &it))
        }
        Err(reason) => Err(reason),
    };
    match built {
        Ok(verdict) => verdict,
        Err(reason) => {
            Tables::<V4>::count(tables, reason);
            Verdict::Drop
        }
    }
}

#[inline(always)]
fn answer<A: Addr, P: Packet>(pkt: &mut P, datagram: &Datagram<A>) -> Result<Verdict, Reason> {
    // Nobody is answered whose address cannot be a sender's, nor what everybody on the link has
    // received, nor an error, nor a fragment but the first (RFC 1122, 3.2.2; RFC 4443, 2.4), nor a
    // reset (RFC 9293, 3.10.7.1).
    if datagram.part == Part::Later
        || !is_unicast(&datagram.key.src)
        || is_group_frame(pkt)
        || datagram.tcp_flags & tcp_flag::RST != 0
    {
        return Ok(Verdict::Drop);
    }
    let built = if datagram.key.proto == proto::TCP {
        reset(pkt, datagram)
    } else {
        unreachable(pkt, datagram)
    };
    built.map(|()| Verdict::Reflect).ok_or(Reason::NoRoom)
}

#[inline(always)]
fn is_unicast<A: Addr>(addr: &A) -> bool {
    let first = addr
        .words()
        .first()
        .copied()
        .unwrap_or_default()
        .to_ne_bytes()[0];
    let multicast = if A::IS_V6 {
        first == 0xff
    } else {
        first >= 224
    };
    !multicast && *addr != A::default()
}

/// Whether a frame was sent to more than one station (IEEE 802.3, 3.2.3).
#[inline(always)]
fn is_group_frame<P: Packet>(pkt: &P) -> bool {
    pkt.bytes::<12>(0).is_none_or(|macs| macs[0] & 1 != 0)
}

/// A reset as RFC 9293, 3.10.7.1 has it for a connection that does not exist.
#[inline(always)]
fn reset<A: Addr, P: Packet>(pkt: &mut P, datagram: &Datagram<A>) -> Option<()> {
    let tcp = pkt.bytes::<TCP>(datagram.l4())?;
    let sequence = u32::from_be(P::load32(tcp, 4));
    let acknowledged = P::load32(tcp, 8);
    let data_offset = u16::from(tcp[12] >> 4) * 4;
    let payload = u32::from(datagram.length.saturating_sub(data_offset));
    // SYN and FIN count as one.
    let control = u32::from(tcp[13] & 0x01) + u32::from(tcp[13] & tcp_flag::SYN != 0);
    let (seq, ack, flags) = if datagram.tcp_flags & tcp_flag::ACK != 0 {
        (acknowledged, 0, tcp_flag::RST)
    } else {
        let next = sequence.wrapping_add(payload).wrapping_add(control);
        (0, next.to_be(), tcp_flag::RST | tcp_flag::ACK)
    };
    let partial = pkt.checksum_is_partial(checksum_offset(datagram));
    let l4 = network_header(pkt, datagram, proto::TCP, TCP)?;
    // Built in place: the stack is small.
    let header = pkt.bytes_mut::<TCP>(l4)?;
    *header = [0; TCP];
    P::store16(header, 0, datagram.key.dport.word());
    P::store16(header, 2, datagram.key.sport.word());
    P::store32(header, 4, seq);
    P::store32(header, 8, ack);
    header[12] = 5 << 4;
    header[13] = flags;
    let pseudo = rewrite::pseudo_header(&datagram.key, proto::TCP, TCP as u16);
    // Hardware that completes the checksum starts from the pseudo header's sum.
    let sum = if partial {
        pseudo.fold()
    } else {
        pseudo.bytes(header).checksum()
    };
    P::store16(header, 16, sum);
    Some(())
}

/// Where the checksum of a TCP or UDP packet is.
#[inline(always)]
fn checksum_offset<A: Addr>(datagram: &Datagram<A>) -> usize {
    rewrite::transport_checksum::<A>(datagram.key.proto, datagram.l4()).offset
}

/// An ICMP port unreachable that quotes the packet: destination unreachable, port unreachable
/// (RFC 792; RFC 4443, 3.1).
#[inline(always)]
fn unreachable<A: Addr, P: Packet>(pkt: &mut P, datagram: &Datagram<A>) -> Option<()> {
    let ip = if A::IS_V6 { IPV6 } else { IPV4 };
    let icmp = datagram.l3() + ip;
    let length = ICMP + ip + QUOTE;
    // An SCTP checksum left to hardware needs no care: it is left only for a link that has none.
    let partial =
        datagram.key.proto == proto::UDP && pkt.checksum_is_partial(checksum_offset(datagram));
    // Hardware will write where options or extensions have the checksum now: into the quote.
    if partial && datagram.l4() != icmp {
        return None;
    }
    if pkt.len() < icmp + length && !pkt.resize(icmp + length) {
        return None;
    }
    // The quote first: what follows overwrites what it is taken from.
    let quote = *pkt.bytes::<QUOTE>(datagram.l4())?;
    let inner = icmp + ICMP;
    if A::IS_V6 {
        quote_ipv6(pkt, datagram, inner)?;
    } else {
        quote_ipv4(pkt, datagram.l3(), inner)?;
    }
    *pkt.bytes_mut::<QUOTE>(inner + ip)? = quote;
    let header = pkt.bytes_mut::<ICMP>(icmp)?;
    let kind: u32 = if A::IS_V6 { 0x0104_0000 } else { 0x0303_0000 };
    P::store32(header, 0, kind.to_be());
    P::store32(header, 4, 0);
    if A::IS_V6 {
        let pseudo = rewrite::pseudo_header(&datagram.key, proto::ICMPV6, length as u16);
        let sum = pseudo
            .bytes(pkt.bytes::<{ ICMP + IPV6 + QUOTE }>(icmp)?)
            .checksum();
        let header = pkt.bytes_mut::<ICMP>(icmp)?;
        [header[2], header[3]] = sum.to_ne_bytes();
        // Where the offending packet's checksum was left to hardware, hardware will put one into
        // the last word of this header. It knows nothing of the pseudo header: with that sum in
        // the word, which receivers ignore, the result is zero.
        if partial {
            [header[6], header[7]] = pseudo.fold().to_ne_bytes();
        }
        network_header(pkt, datagram, proto::ICMPV6, length)?;
    } else {
        let sum = Sum::new()
            .bytes(pkt.bytes::<{ ICMP + IPV4 + QUOTE }>(icmp)?)
            .checksum();
        let header = pkt.bytes_mut::<ICMP>(icmp)?;
        // ICMP has no pseudo header: the last word is zero, and hardware leaves it so.
        [header[2], header[3]] = sum.to_ne_bytes();
        network_header(pkt, datagram, proto::ICMP, length)?;
    }
    Some(())
}

/// Copies the IPv4 header to `to`, without its options: the ports must follow it.
#[inline(always)]
fn quote_ipv4<P: Packet>(pkt: &mut P, from: usize, to: usize) -> Option<()> {
    copy(pkt, from, to, IPV4)?;
    let header = pkt.bytes_mut::<IPV4>(to)?;
    header[0] = 0x45;
    P::store16(header, 10, 0);
    let sum = Sum::new().bytes(header).checksum();
    P::store16(header, 10, sum);
    Some(())
}

/// Copies the IPv6 header to `to`, without its extensions.
#[inline(always)]
fn quote_ipv6<A: Addr, P: Packet>(pkt: &mut P, datagram: &Datagram<A>, to: usize) -> Option<()> {
    copy(pkt, datagram.l3(), to, IPV6)?;
    pkt.bytes_mut::<IPV6>(to)?[6] = datagram.key.proto;
    Some(())
}

/// Copies words within the packet, between places that do not overlap.
#[inline(always)]
fn copy<P: Packet>(pkt: &mut P, from: usize, to: usize, length: usize) -> Option<()> {
    for at in (0..length).step_by(4) {
        let word = P::load32(pkt.bytes::<4>(from + at)?, 0);
        P::store32(pkt.bytes_mut::<4>(to + at)?, 0, word);
    }
    Some(())
}

/// Sizes the packet for a reply with this payload, and writes the headers before it. Yields where
/// the payload starts.
#[inline(always)]
fn network_header<A: Addr, P: Packet>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    proto: u8,
    length: usize,
) -> Option<usize> {
    let l3 = datagram.l3();
    let l4 = l3 + if A::IS_V6 { IPV6 } else { IPV4 };
    if !pkt.resize(l4 + length) {
        return None;
    }
    rewrite::exchange_macs(pkt)?;
    if A::IS_V6 {
        let header = pkt.bytes_mut::<IPV6>(l3)?;
        P::store32(header, 0, 0x6000_0000_u32.to_be());
        P::store16(header, 4, (length as u16).to_be());
        header[6] = proto;
        header[7] = TTL;
        rewrite::put::<A, P, _>(header, 8, &datagram.key.dst);
        rewrite::put::<A, P, _>(header, 24, &datagram.key.src);
    } else {
        let header = pkt.bytes_mut::<IPV4>(l3)?;
        P::store16(header, 0, 0x4500_u16.to_be());
        P::store16(header, 2, ((IPV4 + length) as u16).to_be());
        // Don't fragment: an atomic datagram needs no identification (RFC 6864).
        P::store32(header, 4, 0x4000_u32.to_be());
        header[8] = TTL;
        header[9] = proto;
        P::store16(header, 10, 0);
        rewrite::put::<A, P, _>(header, 12, &datagram.key.dst);
        rewrite::put::<A, P, _>(header, 16, &datagram.key.src);
        let sum = Sum::new().bytes(header).checksum();
        P::store16(header, 10, sum);
    }
    Some(l4)
}

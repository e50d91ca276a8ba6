//! Telling the sender of a packet why it goes no further: by a TCP reset, or an ICMP error.
//!
//! The reply is built in the packet's own buffer and goes back the way the packet came.

use lb_common::{Addr, V4, V6, counters::Reason, flow::Direction, proto};

use crate::{
    Notice, Packet, Sum, Tables, Verdict,
    datagram::{Datagram, Part, tcp_flag},
    icmp::HEADER as ICMP,
    parse::{self, IPV4, IPV6, Network, QUOTE, TCP},
    rewrite,
};

/// TTL and hop limit of what this node sends.
const TTL: u8 = 64;

/// Turns a packet the pipeline rejected into the reply that says so: [`Verdict::Reflect`], or
/// [`Verdict::Drop`] where none may or can be made.
#[inline(always)]
pub fn reject<P, T>(pkt: &mut P, notice: Notice, tables: &T) -> Verdict
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    if !Tables::<V4>::may_reject(tables) {
        Tables::<V4>::count(tables, Reason::TooManyRejects);
        return Verdict::Drop;
    }
    let built = match parse::network(pkt) {
        Ok(Network::Ipv4(l3)) => parse::ipv4_datagram(pkt, l3, Direction::Ingress)
            .and_then(|it| answer(pkt, &it, notice)),
        Ok(Network::Ipv6(l3)) => parse::ipv6_datagram(pkt, l3, Direction::Ingress)
            .and_then(|it| answer(pkt, &it, notice)),
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
fn answer<A: Addr, P: Packet>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    notice: Notice,
) -> Result<Verdict, Reason> {
    // Nobody is answered whose address cannot be a sender's, nor what everybody on the link has
    // received, nor an error, nor a fragment but the first (RFC 1122, 3.2.2; RFC 4443, 2.4), nor a
    // reset (RFC 9293, 3.10.7.1), whose flag an error has.
    if datagram.part == Part::Later
        || !is_unicast(&datagram.key.src)
        || is_group_frame(pkt)
        || datagram.tcp_flags & tcp_flag::RST != 0
    {
        return Ok(Verdict::Drop);
    }
    let built = if notice == Notice::NOBODY && datagram.key.proto == proto::TCP {
        reset(pkt, datagram)
    } else {
        error(pkt, datagram, notice)
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
    for at in (12..TCP).step_by(4) {
        P::store32(header, at, 0);
    }
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

/// Length of an IP header without options or extensions.
#[inline(always)]
const fn ip_header<A: Addr>() -> usize {
    if A::IS_V6 { IPV6 } else { IPV4 }
}

/// An ICMP error that quotes the packet.
#[inline(always)]
fn error<A: Addr, P: Packet>(pkt: &mut P, datagram: &Datagram<A>, notice: Notice) -> Option<()> {
    let ip = ip_header::<A>();
    let icmp = datagram.l3() + ip;
    let inner = icmp + ICMP;
    let quoted = match left_to_hardware(pkt, datagram) {
        None => copy_quote(pkt, datagram, inner)?,
        Some(field) => move_quote(pkt, datagram, field)?,
    };
    let header = pkt.bytes_mut::<ICMP>(icmp)?;
    let [kind, detail] = words::<A>(notice);
    P::store32(header, 0, kind.to_be());
    P::store32(header, 4, detail.to_be());
    let length = ICMP + ip + quoted.quote;
    let (proto, sum) = if A::IS_V6 {
        let pseudo = rewrite::pseudo_header(&datagram.key, proto::ICMPV6, length as u16);
        let bytes = pkt.bytes::<{ ICMP + IPV6 }>(icmp)?;
        (proto::ICMPV6, pseudo.bytes(bytes))
    } else {
        // ICMP has no pseudo header (RFC 792).
        let bytes = pkt.bytes::<{ ICMP + IPV4 }>(icmp)?;
        (proto::ICMP, Sum::new().bytes(bytes))
    };
    let sum = sum.word(quoted.sum).checksum();
    let header = pkt.bytes_mut::<ICMP>(icmp)?;
    P::store16(header, 2, sum);
    network_header(pkt, datagram, proto, length).map(|_| ())
}

/// Type, code and an empty checksum of the error that says this, and what follows (RFC 792, RFC 1191;
/// RFC 4443, 3.1 to 3.3).
#[inline(always)]
fn words<A: Addr>(notice: Notice) -> [u32; 2] {
    let (v4, v6, detail) = match notice {
        Notice::NOBODY => (0x0303_0000, 0x0104_0000, 0),
        Notice::EXPIRED => (0x0b00_0000, 0x0300_0000, 0),
        mtu => (0x0304_0000, 0x0200_0000, mtu.number()),
    };
    [if A::IS_V6 { v6 } else { v4 }, detail]
}

/// What of the transport header is quoted.
struct Quoted {
    /// How many bytes.
    quote: usize,
    /// What they add to a checksum once the packet is sent.
    sum: u16,
}

/// Where hardware will put the packet's checksum, if it is to (`CHECKSUM_PARTIAL`). One of SCTP needs no
/// care: it is left only for a link that has none.
#[inline(always)]
fn left_to_hardware<A: Addr, P: Packet>(pkt: &mut P, datagram: &Datagram<A>) -> Option<usize> {
    let field = checksum_offset(datagram);
    let may_be = matches!(datagram.key.proto, proto::TCP | proto::UDP);
    (may_be && pkt.checksum_is_partial(field)).then_some(field)
}

/// Copies the packet's headers, without options and extensions, to where they are quoted.
#[inline(always)]
fn copy_quote<A: Addr, P: Packet>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    inner: usize,
) -> Option<Quoted> {
    let l4 = inner + ip_header::<A>();
    if pkt.len() < l4 + QUOTE && !pkt.resize(l4 + QUOTE) {
        return None;
    }
    // The transport header first: what follows overwrites what it is taken from.
    let quote = *pkt.bytes::<QUOTE>(datagram.l4())?;
    if A::IS_V6 {
        quote_ipv6(pkt, datagram, inner)?;
    } else {
        quote_ipv4(pkt, datagram.l3(), inner)?;
    }
    *pkt.bytes_mut::<QUOTE>(l4)? = quote;
    Some(Quoted {
        quote: QUOTE,
        sum: Sum::new().bytes(&quote).fold(),
    })
}

/// Moves the packet to where it is quoted, for hardware to find its checksum where it was. None if there
/// are options or extensions.
///
/// Whether hardware sees the packet at all is not known: a link within this node hands the checksum on as
/// it is, and nobody looks at it. But if it does, the checksum and all that it covers add up to the
/// complement of what stood in its place.
#[inline(always)]
fn move_quote<A: Addr, P: Packet>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    field: usize,
) -> Option<Quoted> {
    let ip = ip_header::<A>();
    let l4 = datagram.l4();
    let quote = if datagram.key.proto == proto::TCP {
        TCP
    } else {
        QUOTE
    };
    let seed = P::load16(pkt.bytes::<2>(field)?, 0);
    let is_plain = l4 == datagram.l3() + ip;
    (is_plain && pkt.resize(l4 + quote) && pkt.make_room((ip + ICMP) as u16))
        .then_some(Quoted { quote, sum: !seed })
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
    let l4 = l3 + ip_header::<A>();
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

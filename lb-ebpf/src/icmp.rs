//! ICMP: what of it is answered, and errors about packets of flows.
//!
//! An error quotes the packet it is about as that went on from here, translated. What answers such a
//! packet has its ends the other way round, and finds the row that says who they really are: the
//! quoted source is that row's destination, and the quoted destination its source. So an error is
//! looked up, led and sent as the answer would be, and what it quotes is translated back.

use lb_common::{
    Addr, Port,
    counters::Reason,
    flow::{Direction, Flow, FlowKey, Half, Route},
    proto,
};

use crate::{
    Flows, Hook, Packet, Sum, Tables, TransportChecksum,
    checksum::update_checksum,
    datagram::{Datagram, Part, Transport, tcp_flag},
    hop,
    parse::{self, IPV4, IPV6, QUOTE},
    pipeline, rewrite,
    verdict::{Act, Fate, PackedFate},
};

/// Length of an ICMP or ICMPv6 error's own header; what it quotes follows.
pub(crate) const HEADER: usize = 8;
/// Offset of the checksum in it.
const CHECKSUM: usize = 2;

/// What a packet without ports has in place of TCP flags: none if its sender is to be told when nobody
/// is there, those of a reset if it is an ICMP error. All other ICMP is a network's own affair.
#[inline(always)]
pub(crate) fn flags<P: Packet>(pkt: &P, transport: Transport) -> Result<u8, Reason> {
    let Transport {
        l4, length, proto, ..
    } = transport;
    let kind = pkt
        .bytes::<QUOTE>(l4)
        .map_or(0, |bytes| u16::from_be(P::load16(bytes, 0)) >> 8);
    let flags = match (proto, kind) {
        // Destination unreachable, which says too if a packet is too long, time exceeded, and
        // parameter problem (RFC 792); the four that there are (RFC 4443).
        (proto::ICMP, 3 | 11 | 12) | (proto::ICMPV6, 1..=4) => tcp_flag::RST,
        // Echo request.
        (proto::ICMP, 8) | (proto::ICMPV6, 128) => 0,
        // Zero is not a protocol, but what a whole address is kept under.
        (0 | proto::ICMP | proto::ICMPV6, _) => return Err(Reason::OtherProtocol),
        _ => 0,
    };
    if length >= QUOTE {
        Ok(flags)
    } else {
        Err(Reason::OtherProtocol)
    }
}

/// Translates an error about a packet of a flow, and sends it the way of what answers that packet. The
/// flow is none the younger for it.
///
/// Out of line, and in steps that are: the stack of each is free again when the next one runs.
#[inline(never)]
pub(crate) fn translate<A: Addr, P: Packet, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    pkt: &mut P,
    error: &Datagram<A>,
    flows: &mut F,
    tables: &T,
) -> PackedFate {
    let mut answer = error.key;
    let quote = find(pkt, error, hook.direction, &mut answer);
    let quote = Quote(F::blurred(quote.0, error.length.into()));
    if !quote.is_read() {
        tables.count(Reason::OtherProtocol);
        return Fate::PASS.packed();
    }
    let Some(flow) = flows.get(&answer) else {
        tables.count(Reason::NotService);
        return Fate::PASS.packed();
    };
    tables.follow(flow);
    let now = tables.now();
    let fate = match hop::destination(hook, pkt, error, quote.proto(), flow, tables, now) {
        Ok(fate) => fate,
        Err(fate) => return fate.packed(),
    };
    let length = pkt.len();
    let rewritten = rewrite(pkt, error, quote, flow, fate.act);
    pipeline::conclude(rewritten, length, flow, tables, fate).packed()
}

/// Reads the packet that an error quotes, and puts the key of its answers' flow entry into `answer`.
#[inline(never)]
fn find<A: Addr, P: Packet>(
    pkt: &P,
    error: &Datagram<A>,
    direction: Direction,
    answer: &mut FlowKey<A>,
) -> Quote {
    match read(pkt, error, direction) {
        Some((key, quote)) => {
            *answer = key;
            quote
        }
        None => Quote::NONE,
    }
}

/// The quoted packet without its tuple, in one number: for functions out of line, see
/// [`PackedFate`].
#[derive(Clone, Copy)]
struct Quote(u32);

impl Quote {
    /// No packet could be read.
    const NONE: Self = Self(0);
    /// Set if the quoted packet's receiver sends the error, and no router on the way.
    const BY_RECEIVER: u32 = 1 << 16;

    /// A quote whose ports have been read at `l4`: so it is no more than [`Packet::MAX_OFFSET`], which is 255.
    #[inline(always)]
    fn new(l4: usize, proto: u8, by_receiver: bool) -> Self {
        let by = if by_receiver { Self::BY_RECEIVER } else { 0 };
        Self(l4 as u32 & 0xff | u32::from(proto) << 8 | by)
    }

    /// Offset of the transport header, of which the packet has at least eight bytes.
    #[inline(always)]
    const fn l4(self) -> usize {
        (self.0 & 0xff) as usize
    }

    /// Its protocol.
    #[inline(always)]
    const fn proto(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    const fn is_by_receiver(self) -> bool {
        self.0 & Self::BY_RECEIVER != 0
    }

    #[inline(always)]
    const fn is_read(self) -> bool {
        self.proto() != 0
    }
}

/// Reads what an error quotes: the tuple of what answers it, and the rest. None if it is no packet with
/// ports, or not one whose sender the error is for.
#[inline(always)]
fn read<A: Addr, P: Packet>(
    pkt: &P,
    error: &Datagram<A>,
    direction: Direction,
) -> Option<(FlowKey<A>, Quote)> {
    let icmp = if A::IS_V6 { proto::ICMPV6 } else { proto::ICMP };
    let l3 = error.l4() + HEADER;
    let (src, dst, l4, proto) = if A::IS_V6 {
        quoted_ipv6::<A, P>(pkt, l3)?
    } else {
        quoted_ipv4::<A, P>(pkt, l3)?
    };
    if error.key.proto != icmp
        || !parse::has_ports(proto)
        || l4 + QUOTE > end(error)
        || src != error.key.dst
    {
        return None;
    }
    let ports = pkt.bytes::<4>(l4)?;
    let (sport, dport) = (P::load16(ports, 0), P::load16(ports, 2));
    let quote = Quote::new(l4, proto, error.key.src == dst);
    let src = (src, Port::from_word(sport));
    let dst = (dst, Port::from_word(dport));
    Some((FlowKey::new(direction, proto, dst, src), quote))
}

/// Where an error ends; what follows is padding.
#[inline(always)]
fn end<A: Addr>(error: &Datagram<A>) -> usize {
    error.l4() + usize::from(error.length)
}

/// Source, destination, place of the transport header and protocol of a quoted IPv4 packet.
#[inline(always)]
fn quoted_ipv4<A: Addr, P: Packet>(pkt: &P, l3: usize) -> Option<(A, A, usize, u8)> {
    let length = parse::ipv4_header_length(pkt, l3).ok()?;
    let header = pkt.bytes::<IPV4>(l3)?;
    // Only the first fragment has ports. Those that were made on the way are of a packet of ours.
    if P::load16(header, 6) & 0x1fff_u16.to_be() != 0 {
        return None;
    }
    Some((
        parse::address::<A, P, _>(header, 12),
        parse::address::<A, P, _>(header, 16),
        l3 + length,
        header[9],
    ))
}

/// The same of a quoted IPv6 packet.
#[inline(always)]
fn quoted_ipv6<A: Addr, P: Packet>(pkt: &P, l3: usize) -> Option<(A, A, usize, u8)> {
    let header = pkt.bytes::<IPV6>(l3)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let length = usize::from(u16::from_be(P::load16(header, 4)));
    let first = Transport::whole(l3 + IPV6, length, header[6]);
    let src = parse::address::<A, P, _>(header, 8);
    let dst = parse::address::<A, P, _>(header, 24);
    let Transport {
        l4, proto, part, ..
    } = parse::extensions(pkt, first).ok()?;
    (part != Part::Later).then_some((src, dst, l4, proto))
}

/// Rewrites an error, MACs included where `act` sends it out. None if it is shorter than it was when
/// read.
#[inline(never)]
fn rewrite<A: Addr, P: Packet>(
    pkt: &mut P,
    error: &Datagram<A>,
    quote: Quote,
    flow: &Flow<A>,
    act: Act,
) -> Option<()> {
    rewrite::frame(pkt, flow, act)?;
    let src = source(error, quote, flow);
    let delta = Sum::new()
        .without_addr(&error.key.src)
        .without_addr(&error.key.dst)
        .addr(src)
        .addr(&flow.dst)
        .fold();
    let ends = (src, &flow.dst);
    rewrite::network(pkt, error.l3(), ends, delta, rewrite::ages(flow))?;
    let quoted = restore(pkt, error, quote, flow)?;
    let mut at = TransportChecksum {
        offset: error.l4() + CHECKSUM,
        zero_is_none: false,
        ipv6: A::IS_V6,
        pseudo: 0,
    };
    if !A::IS_V6 {
        return pkt.adjust_checksum(at, 0, quoted).then_some(());
    }
    if P::HARDWARE_CHECKSUMS {
        at.pseudo = rewrite::pseudo_header(&error.key, error.key.proto, error.length).fold();
    }
    pkt.adjust_checksum(at, delta, quoted).then_some(())
}

/// Whom an error comes from, seen from where it goes. The other end of the flow is what it is taken
/// for there. A router goes by its own address, save toward a backend that knows of this node only: it
/// need not have a way for packets of others from here (RFC 5508, REQ-4 and REQ-5).
#[inline(always)]
fn source<'a, A: Addr>(error: &'a Datagram<A>, quote: Quote, flow: &'a Flow<A>) -> &'a A {
    let hidden = flow.half() == Half::Request && flow.route() == Route::Forward;
    if hidden || quote.is_by_receiver() {
        &flow.src
    } else {
        &error.key.src
    }
}

/// Makes the quoted packet what it was before it was translated, checksums included. Yields what that
/// adds to a checksum of the quote.
#[inline(always)]
fn restore<A: Addr, P: Packet>(
    pkt: &mut P,
    error: &Datagram<A>,
    quote: Quote,
    flow: &Flow<A>,
) -> Option<u16> {
    let ends = (&flow.dst, &flow.src);
    let l3 = error.l4() + HEADER;
    rewrite::network(pkt, l3, ends, flow.addr_delta, false)?;
    rewrite::ports(pkt, quote.l4(), flow.dport, flow.sport)?;
    let mut added = Sum::new().word(flow.port_delta);
    // An IPv4 header's own checksum balances its addresses.
    if A::IS_V6 {
        added = added.word(flow.addr_delta);
    }
    let at = rewrite::transport_checksum::<A>(quote.proto(), quote.l4());
    // An SCTP checksum is none of a quote, which ends before the packet does: nobody checks it.
    if quote.proto() != proto::SCTP
        && at.offset + 2 <= end(error)
        && let Some(field) = pkt.bytes_mut::<2>(at.offset)
    {
        let before = P::load16(field, 0);
        let after = update_checksum(at, before, flow.addr_delta, flow.port_delta);
        P::store16(field, 0, after);
        added = added.word(!before).word(after);
    }
    Some(added.fold())
}

//! A packet's new addresses.

use lb_common::{
    Addr, Port,
    flow::{Flow, FlowKey, Macs, Route},
    proto,
};

use crate::{
    Packet, Sum, TransportChecksum, checksum,
    datagram::{Datagram, Part},
    parse::{IPV4, IPV6},
    verdict::Act,
};

/// Offset of the checksum in SCTP's common header (RFC 9260, 3.1).
const SCTP_CHECKSUM: usize = 8;

/// Rewrites a packet as its flow says, MACs included where `act` sends it out. None if the
/// packet is shorter than it was when parsed.
///
/// The checksum comes last: bringing it into line may move the bytes. `USUAL` packets are no SCTP and no
/// fragments.
#[inline(always)]
pub(crate) fn rewrite<A: Addr, P: Packet, const USUAL: bool>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    flow: &Flow<A>,
    act: Act,
) -> Option<()> {
    frame(pkt, flow, act)?;
    let ends = (&flow.src, &flow.dst);
    network(pkt, datagram.l3(), ends, flow.addr_delta, ages(flow))?;
    if !USUAL && datagram.part == Part::Later {
        // An IPv4 header's own checksum balances its addresses.
        if A::IS_V6 {
            pkt.unbalance(flow.addr_delta);
        }
        Some(())
    } else if !USUAL && datagram.key.proto == proto::SCTP {
        sctp(pkt, datagram, flow.sport, flow.dport)
    } else {
        tcp_or_udp(pkt, datagram, flow)
    }
}

/// Writes the MACs a packet of a flow leaves with, where `act` sends it out.
#[inline(always)]
pub(crate) fn frame<A: Addr, P: Packet>(pkt: &mut P, flow: &Flow<A>, act: Act) -> Option<()> {
    match act {
        Act::Transmit | Act::Enter => write_macs(pkt, flow.hop.macs),
        Act::Reflect => exchange_macs(pkt),
        Act::Pass | Act::Deliver | Act::Resolve | Act::Reject | Act::Drop => Some(()),
    }
}

/// Whether a packet of a flow is aged here: what the stack routes is aged by the stack.
#[inline(always)]
pub(crate) fn ages<A: Addr>(flow: &Flow<A>) -> bool {
    flow.route() == Route::Forward
}

/// Writes source and destination into the IP header at `l3`, which adds `delta` to a checksum, and
/// takes one off its TTL or hop limit if it is `aged`.
#[inline(always)]
pub(crate) fn network<A: Addr, P: Packet>(
    pkt: &mut P,
    l3: usize,
    ends: (&A, &A),
    delta: u16,
    aged: bool,
) -> Option<()> {
    if A::IS_V6 {
        ipv6(pkt, l3, ends, aged)
    } else {
        ipv4(pkt, l3, ends, delta, aged)
    }
}

/// Writes the ports of a TCP or UDP packet, and its checksum.
#[inline(always)]
fn tcp_or_udp<A: Addr, P: Packet>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    flow: &Flow<A>,
) -> Option<()> {
    ports(pkt, datagram.l4(), flow.sport, flow.dport)?;
    let mut at = transport_checksum::<A>(datagram.key.proto, datagram.l4());
    if P::HARDWARE_CHECKSUMS {
        at.pseudo = pseudo_header(&datagram.key, datagram.key.proto, datagram.length).fold();
    }
    pkt.adjust_checksum(at, flow.addr_delta, flow.port_delta)
        .then_some(())
}

/// Writes the ports of an SCTP packet. Its checksum covers them, but no pseudo header: most
/// packets keep it.
#[inline(always)]
fn sctp<A: Addr, P: Packet>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    sport: Port,
    dport: Port,
) -> Option<()> {
    let l4 = datagram.l4();
    let before = P::load32(pkt.bytes::<4>(l4)?, 0);
    ports(pkt, l4, sport, dport)?;
    let change = before ^ P::load32(pkt.bytes::<4>(l4)?, 0);
    let checksum = l4 + SCTP_CHECKSUM;
    // One that is left to hardware is computed when the packet is sent.
    if change == 0 || P::HARDWARE_CHECKSUMS && pkt.checksum_is_partial(checksum) {
        return Some(());
    }
    let change = P::sctp_checksum_change(change, datagram.length);
    let field = pkt.bytes_mut::<4>(checksum)?;
    let sum = P::load32(field, 0) ^ change;
    P::store32(field, 0, sum);
    Some(())
}

/// Where the checksum of a TCP or UDP header at `l4` is.
#[inline(always)]
pub(crate) const fn transport_checksum<A: Addr>(proto: u8, l4: usize) -> TransportChecksum {
    let udp = proto == proto::UDP;
    TransportChecksum {
        offset: l4 + if udp { 6 } else { 16 },
        zero_is_none: udp,
        ipv6: A::IS_V6,
        pseudo: 0,
    }
}

/// The sum of the pseudo header of a packet between these addresses, in either direction.
#[inline(always)]
pub(crate) fn pseudo_header<A: Addr>(key: &FlowKey<A>, proto: u8, length: u16) -> Sum {
    Sum::new()
        .addr(&key.src)
        .addr(&key.dst)
        .word(u16::from(proto).to_be())
        .word(length.to_be())
}

#[inline(always)]
fn write_macs<P: Packet>(pkt: &mut P, macs: Macs) -> Option<()> {
    let header = pkt.bytes_mut::<12>(0)?;
    for (i, word) in macs.into_iter().enumerate() {
        P::store16(header, i * 2, word);
    }
    Some(())
}

/// Turns a frame around.
#[inline(always)]
pub(crate) fn exchange_macs<P: Packet>(pkt: &mut P) -> Option<()> {
    let header = pkt.bytes_mut::<12>(0)?;
    for at in [0, 2, 4] {
        let (destination, source) = (P::load16(header, at), P::load16(header, at + 6));
        P::store16(header, at, source);
        P::store16(header, at + 6, destination);
    }
    Some(())
}

#[inline(always)]
fn ipv4<A: Addr, P: Packet>(
    pkt: &mut P,
    l3: usize,
    (src, dst): (&A, &A),
    delta: u16,
    aged: bool,
) -> Option<()> {
    let header = pkt.bytes_mut::<IPV4>(l3)?;
    let mut sum = checksum::update(P::load16(header, 10), delta);
    if aged {
        header[8] -= 1;
        // One less in the high byte of the word that TTL and protocol share.
        sum = checksum::update(sum, !0x0100_u16.to_be());
    }
    P::store16(header, 10, sum);
    put::<A, P, _>(header, 12, src);
    put::<A, P, _>(header, 16, dst);
    Some(())
}

#[inline(always)]
fn ipv6<A: Addr, P: Packet>(
    pkt: &mut P,
    l3: usize,
    (src, dst): (&A, &A),
    aged: bool,
) -> Option<()> {
    let header = pkt.bytes_mut::<IPV6>(l3)?;
    if aged {
        header[7] -= 1;
    }
    put::<A, P, _>(header, 8, src);
    put::<A, P, _>(header, 24, dst);
    Some(())
}

/// Writes the ports a transport header at `l4` begins with.
#[inline(always)]
pub(crate) fn ports<P: Packet>(pkt: &mut P, l4: usize, sport: Port, dport: Port) -> Option<()> {
    let ports = pkt.bytes_mut::<4>(l4)?;
    P::store16(ports, 0, sport.word());
    P::store16(ports, 2, dport.word());
    Some(())
}

/// Writes an address into a header.
#[inline(always)]
pub(crate) fn put<A: Addr, P: Packet, const N: usize>(header: &mut [u8; N], at: usize, addr: &A) {
    for (i, word) in addr.words().iter().enumerate() {
        P::store32(header, at + i * 4, *word);
    }
}

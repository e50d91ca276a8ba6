//! A packet's new addresses.

use lb_common::{
    Addr, Port,
    flow::{Flow, Route},
    proto,
};

use crate::{
    Packet, TransportChecksum, Verdict, checksum,
    parse::{Datagram, IPV4, IPV6},
};

/// Rewrites a packet as its flow says, MACs included where `verdict` sends it out. None if the
/// packet is shorter than it was when parsed.
///
/// The checksum comes last: bringing it into line may move the bytes.
#[inline(always)]
pub(crate) fn rewrite<A: Addr, P: Packet>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    flow: &Flow<A>,
    verdict: Verdict,
) -> Option<()> {
    match verdict {
        Verdict::Transmit { .. } => write_macs(pkt, flow.hop.dmac, flow.hop.smac)?,
        Verdict::Reflect => exchange_macs(pkt)?,
        Verdict::Pass | Verdict::Deliver | Verdict::Resolve { .. } | Verdict::Drop => {}
    }
    // What the stack routes is aged by the stack.
    let aged = flow.route() == Route::Forward;
    if A::IS_V6 {
        ipv6(pkt, datagram.l3, flow, aged)?;
    } else {
        ipv4(pkt, datagram.l3, flow, aged)?;
    }
    ports(pkt, datagram.l4, flow.sport, flow.dport)?;
    let at = transport_checksum::<A>(datagram);
    pkt.adjust_checksum(at, flow.addr_delta, flow.port_delta)
        .then_some(())
}

/// Where a datagram's checksum is.
#[inline(always)]
pub(crate) fn transport_checksum<A: Addr>(datagram: &Datagram<A>) -> TransportChecksum {
    let udp = datagram.proto == proto::UDP;
    TransportChecksum {
        offset: datagram.l4 + if udp { 6 } else { 16 },
        zero_is_none: udp,
        ipv6: A::IS_V6,
    }
}

#[inline(always)]
fn write_macs<P: Packet>(pkt: &mut P, dmac: [u8; 6], smac: [u8; 6]) -> Option<()> {
    let macs = pkt.bytes_mut::<12>(0)?;
    let [d0, d1, d2, d3, d4, d5] = dmac;
    let [s0, s1, s2, s3, s4, s5] = smac;
    *macs = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
    Some(())
}

/// Turns a frame around.
#[inline(always)]
pub(crate) fn exchange_macs<P: Packet>(pkt: &mut P) -> Option<()> {
    let macs = pkt.bytes_mut::<12>(0)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *macs;
    *macs = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    Some(())
}

#[inline(always)]
fn ipv4<A: Addr, P: Packet>(pkt: &mut P, l3: usize, flow: &Flow<A>, aged: bool) -> Option<()> {
    let header = pkt.bytes_mut::<IPV4>(l3)?;
    let mut sum = checksum::update(
        u16::from_ne_bytes([header[10], header[11]]),
        flow.addr_delta,
    );
    if aged {
        header[8] -= 1;
        // One less in the high byte of the word that TTL and protocol share.
        sum = checksum::update(sum, !0x0100_u16.to_be());
    }
    [header[10], header[11]] = sum.to_ne_bytes();
    put(header, 12, &flow.src);
    put(header, 16, &flow.dst);
    Some(())
}

#[inline(always)]
fn ipv6<A: Addr, P: Packet>(pkt: &mut P, l3: usize, flow: &Flow<A>, aged: bool) -> Option<()> {
    let header = pkt.bytes_mut::<IPV6>(l3)?;
    if aged {
        header[7] -= 1;
    }
    put(header, 8, &flow.src);
    put(header, 24, &flow.dst);
    Some(())
}

#[inline(always)]
fn ports<P: Packet>(pkt: &mut P, l4: usize, sport: Port, dport: Port) -> Option<()> {
    let ports = pkt.bytes_mut::<4>(l4)?;
    let [s0, s1] = sport.to_wire();
    let [d0, d1] = dport.to_wire();
    *ports = [s0, s1, d0, d1];
    Some(())
}

/// Writes an address into a header.
#[inline(always)]
pub(crate) fn put<A: Addr, const N: usize>(header: &mut [u8; N], at: usize, addr: &A) {
    for (i, word) in addr.words().iter().enumerate() {
        let at = at + i * 4;
        [header[at], header[at + 1], header[at + 2], header[at + 3]] = word.to_ne_bytes();
    }
}

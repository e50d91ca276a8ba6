//! Where a forwarded packet goes next.

use lb_common::{
    Addr, Tick,
    config::link,
    counters::Reason,
    flow::{Flow, Half, Hop, Route},
    proto,
};

use crate::{
    Datagram, Fib, FibQuery, Hook, Packet, Reach, Tables,
    parse::{TCP, UDP},
    rewrite,
    verdict::{Fate, Notice},
};

/// What becomes of a packet that goes the way of this flow, with the flow's hop made fresh if it needs
/// one; given the flow's protocol. `Err` is a fate that leaves the packet as it is.
#[inline(always)]
pub(crate) fn destination<A: Addr, P: Packet, T: Tables<A>>(
    hook: Hook,
    pkt: &P,
    datagram: &Datagram<A>,
    proto: u8,
    flow: &mut Flow<A>,
    tables: &T,
    now: Tick,
) -> Result<Fate, Fate> {
    if let Some(fate) = known(hook, pkt, datagram, flow, tables, now) {
        return fate;
    }
    if is_spent(datagram.ttl, flow) {
        tables.count(Reason::TimeToLive);
        return Err(Fate::reject(Notice::EXPIRED));
    }
    let epoch = epoch(tables);
    if !is_fresh(&flow.hop, epoch, now) && !resolve(flow, proto, tables, epoch, now) {
        tables.count(Reason::NoRoute);
        return Err(Fate::DROP);
    }
    if is_too_long(pkt, datagram, flow) {
        tables.count(Reason::TooLong);
        return Err(Fate::reject(Notice::too_long(flow.mtu)));
    }
    by_way_of(hook, flow, tables)
}

/// The same as far as the row says it; none if the FIB has to be asked, or the packet goes no further.
#[inline(always)]
pub(crate) fn known<A: Addr, P: Packet, T: Tables<A>>(
    hook: Hook,
    pkt: &P,
    datagram: &Datagram<A>,
    flow: &Flow<A>,
    tables: &T,
    now: Tick,
) -> Option<Result<Fate, Fate>> {
    match flow.route() {
        Route::Stack => Some(Ok(Fate::DELIVER)),
        Route::Hairpin => Some(Ok(Fate::REFLECT)),
        Route::Own if flow.half() == Half::Reply => Some(Ok(home(hook, flow, tables))),
        Route::Forward | Route::Own => {
            let known = !is_spent(datagram.ttl, flow)
                && !is_too_long(pkt, datagram, flow)
                && is_fresh(&flow.hop, epoch(tables), now);
            known.then(|| by_way_of(hook, flow, tables))
        }
    }
}

/// The way of a reply to this node's own stack. Its source becomes the service's address, which is routed
/// by where the request went out: it enters there, or strict filters of reverse paths would refuse it.
#[inline(always)]
fn home<A: Addr, T: Tables<A>>(hook: Hook, flow: &Flow<A>, tables: &T) -> Fate {
    let ifindex = flow.hop.ifindex;
    if hook.xdp || ifindex == 0 || ifindex == tables.ifindex() {
        Fate::DELIVER
    } else {
        Fate::enter(ifindex)
    }
}

/// Whether a packet is at its end: what is sent on is aged, and what the node sends itself is not.
#[inline(always)]
fn is_spent<A: Addr>(ttl: u8, flow: &Flow<A>) -> bool {
    ttl <= 1 && rewrite::ages(flow)
}

/// Whether a packet is longer than the flow's next hop takes; or each of those that it stands for, which
/// have headers of their own.
#[inline(always)]
fn is_too_long<A: Addr, P: Packet>(pkt: &P, datagram: &Datagram<A>, flow: &Flow<A>) -> bool {
    let mtu = usize::from(flow.mtu);
    let (l3, l4) = (datagram.l3(), datagram.l4());
    mtu != 0 && datagram.ip_length() > mtu && longest_segment(pkt, datagram.key.proto, l3, l4) > mtu
}

/// Length of the longest IP packet among those that a GSO packet stands for; `usize::MAX` if it is a single packet.
/// Its headers are at `l3` and `l4`.
#[inline(never)]
fn longest_segment<P: Packet>(pkt: &P, proto: u8, l3: usize, l4: usize) -> usize {
    let payload = pkt.segment();
    if payload == 0 {
        return usize::MAX;
    }
    let header = match proto {
        proto::TCP => pkt
            .bytes::<TCP>(l4)
            .map_or(0, |header| usize::from(header[12] >> 4) * 4),
        proto::UDP => UDP,
        // Each SCTP chunk has a length of its own, which is not known here: they are taken to fit.
        _ => return 0,
    };
    l4 - l3 + header + payload
}

/// What a cached hop has to be of.
#[inline(always)]
fn epoch<A: Addr, T: Tables<A>>(tables: &T) -> u32 {
    tables.config().map_or(0, |config| config.epoch)
}

#[inline(always)]
fn is_fresh(hop: &Hop, epoch: u32, now: Tick) -> bool {
    hop.epoch == epoch && hop.ifindex != 0 && now.since(hop.resolved) < Tick::PER_SECOND
}

/// How this hook can send by way of a flow's hop: XDP leaves to tc what it cannot reach.
#[inline(always)]
fn by_way_of<A: Addr, T: Tables<A>>(hook: Hook, flow: &Flow<A>, tables: &T) -> Result<Fate, Fate> {
    let ifindex = flow.hop.ifindex;
    if hook.xdp {
        if !flow.has_link(link::XDP_TARGET) {
            tables.count(Reason::NeedsStack);
            return Err(Fate::PASS);
        }
        return Ok(Fate::transmit(ifindex));
    }
    Ok(if flow.has_link(link::DIRECT) {
        Fate::transmit(ifindex)
    } else {
        Fate::resolve(ifindex)
    })
}

/// Asks the FIB for a flow's next hop. False if there is none.
#[inline(never)]
fn resolve<A: Addr, T: Tables<A>>(
    flow: &mut Flow<A>,
    proto: u8,
    tables: &T,
    epoch: u32,
    now: Tick,
) -> bool {
    let query = FibQuery {
        src: flow.src,
        dst: flow.dst,
        proto,
    };
    adopt(flow, &tables.fib(&query), tables, epoch, now)
}

/// What every link takes (RFC 791).
const LEAST_MTU: u16 = 68;

/// Takes a FIB's answer for a flow's hop. False if it names none.
#[inline(always)]
pub(crate) fn adopt<A: Addr, T: Tables<A>>(
    flow: &mut Flow<A>,
    answer: &Fib<A>,
    tables: &T,
    epoch: u32,
    now: Tick,
) -> bool {
    let Fib {
        reach,
        ifindex,
        macs,
        src: _,
        mtu,
    } = *answer;
    flow.link = match reach {
        // Only MACs of an Ethernet device of ours are ever written. There is no flag in the upper half.
        Reach::Neighbour => tables.link(ifindex) as u16,
        Reach::Route => 0,
        Reach::NotForwarded | Reach::Unreachable => return false,
    };
    flow.mtu = if mtu < LEAST_MTU { 0 } else { mtu };
    flow.hop = Hop {
        macs,
        ifindex,
        epoch,
        resolved: now,
    };
    true
}

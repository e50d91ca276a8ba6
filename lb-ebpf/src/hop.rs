//! Where a forwarded packet goes next.

use lb_common::{
    Addr, Tick,
    config::link,
    counters::Reason,
    flow::{Flow, Half, Hop, Route},
};

use crate::{Fib, FibQuery, Hook, Reach, Tables, rewrite, verdict::Fate};

/// What becomes of a packet that goes the way of this flow, with the flow's hop made fresh if it needs
/// one; given its TTL and the flow's protocol. `Err` is a fate that leaves the packet as it is.
#[inline(always)]
pub(crate) fn destination<A: Addr, T: Tables<A>>(
    hook: Hook,
    (ttl, proto): (u8, u8),
    flow: &mut Flow<A>,
    tables: &T,
    now: Tick,
) -> Result<Fate, Fate> {
    if let Some(fate) = known(hook, ttl, flow, tables, now) {
        return fate;
    }
    if is_spent(ttl, flow) {
        tables.count(Reason::TimeToLive);
        return Err(Fate::DROP);
    }
    if !resolve(flow, proto, tables, epoch(tables), now) {
        tables.count(Reason::NoRoute);
        return Err(Fate::DROP);
    }
    by_way_of(hook, flow, tables)
}

/// The same as far as the row says it; none if the FIB has to be asked, or the packet is at its end.
#[inline(always)]
pub(crate) fn known<A: Addr, T: Tables<A>>(
    hook: Hook,
    ttl: u8,
    flow: &Flow<A>,
    tables: &T,
    now: Tick,
) -> Option<Result<Fate, Fate>> {
    match flow.route() {
        Route::Stack => Some(Ok(Fate::DELIVER)),
        Route::Hairpin => Some(Ok(Fate::REFLECT)),
        Route::Own if flow.half() == Half::Reply => Some(Ok(home(hook, flow, tables))),
        Route::Forward | Route::Own => {
            let known = !is_spent(ttl, flow) && is_fresh(&flow.hop, epoch(tables), now);
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
        if flow.link & link::XDP_TARGET == 0 {
            tables.count(Reason::NeedsStack);
            return Err(Fate::PASS);
        }
        return Ok(Fate::transmit(ifindex));
    }
    Ok(if flow.link & link::DIRECT == 0 {
        Fate::resolve(ifindex)
    } else {
        Fate::transmit(ifindex)
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
    } = *answer;
    flow.link = match reach {
        // Only MACs of an Ethernet device of ours are ever written.
        Reach::Neighbour => tables.link(ifindex),
        Reach::Route => 0,
        Reach::NotForwarded | Reach::Unreachable => return false,
    };
    flow.hop = Hop {
        macs,
        ifindex,
        epoch,
        resolved: now,
    };
    true
}

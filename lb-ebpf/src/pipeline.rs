//! The whole path of a packet.

use lb_common::{
    Addr, Tick, V4, V6,
    counters::Reason,
    flow::{Direction, Flow, FlowKey, Half, Staged},
    service::{FrontendKey, backend},
};

use crate::{
    Flows, Hook, Packet, Side, Tables, Verdict,
    choice::{self, Claim},
    datagram::{Datagram, Part},
    fragment, hop, icmp, life,
    open::{self, Opening},
    parse::{self, Network},
    rewrite,
    rows::{self, Begun},
    verdict::Fate,
};

/// Decides what becomes of a packet, and rewrites it accordingly.
///
/// [`Verdict::Reject`] alone leaves something to do: [`reject`](fn@crate::reject) builds the reply. Rejects are
/// rare and their code is long, so it stands apart from the path of every packet.
#[inline(always)]
pub fn process<P, F, T>(hook: Hook, pkt: &mut P, flows: &mut F, tables: &T) -> Verdict
where
    P: Packet,
    F: Flows<V4> + Flows<V6>,
    T: Tables<V4> + Tables<V6>,
{
    let fate = settle_packet(hook, pkt, flows, tables).unwrap_or_else(|reason| {
        Tables::<V4>::count(tables, reason);
        Fate::PASS
    });
    fate.verdict()
}

#[inline(always)]
fn settle_packet<P, F, T>(
    hook: Hook,
    pkt: &mut P,
    flows: &mut F,
    tables: &T,
) -> Result<Fate, Reason>
where
    P: Packet,
    F: Flows<V4> + Flows<V6>,
    T: Tables<V4> + Tables<V6>,
{
    match parse::network(pkt)? {
        Network::Ipv4(l3) => {
            read4(hook, pkt, l3, tables)?;
            settle_datagram::<V4, _, _, _>(hook, pkt, flows, tables)
        }
        Network::Ipv6(l3) => {
            read6(hook, pkt, l3, tables)?;
            settle_datagram::<V6, _, _, _>(hook, pkt, flows, tables)
        }
    }
}

/// Parses an IPv4 packet into the packet scratch.
///
/// Out of line, like [`read6`]: the verifier then checks each layout of headers up to the return only, and the
/// registers and the stack that parsing takes are free for the rest.
#[inline(never)]
fn read4<P: Packet, T: Tables<V4>>(
    hook: Hook,
    pkt: &P,
    l3: usize,
    tables: &T,
) -> Result<(), Reason> {
    tables.store_parsed(&parse::ipv4_datagram(pkt, l3, hook.direction)?);
    Ok(())
}

/// Parses an IPv6 packet into the packet scratch; see [`read4`].
#[inline(never)]
fn read6<P: Packet, T: Tables<V6>>(
    hook: Hook,
    pkt: &P,
    l3: usize,
    tables: &T,
) -> Result<(), Reason> {
    tables.store_parsed(&parse::ipv6_datagram(pkt, l3, hook.direction)?);
    Ok(())
}

#[inline(always)]
fn settle_datagram<A: Addr, P: Packet, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    pkt: &mut P,
    flows: &mut F,
    tables: &T,
) -> Result<Fate, Reason> {
    let Some(mut parsed) = tables.parsed() else {
        tables.count(Reason::Inconsistent);
        return Ok(Fate::DROP);
    };
    if parsed.part == Part::Later
        && let Err(act) = fragment::identify(&mut *parsed, tables)
    {
        return Ok(Fate::here(act));
    }
    let datagram = &*parsed;
    if parse::has_ports(datagram.key.proto) {
        let fate = translate(hook, pkt, datagram, flows, tables);
        if datagram.part == Part::First {
            fragment::note(datagram, fragment::is_followed(fate), tables);
        }
        return Ok(fate);
    }
    if datagram.is_error() {
        return Ok(icmp::translate(hook, pkt, datagram, flows, tables).unpacked());
    }
    if hook.direction == Direction::Egress {
        return Err(Reason::OtherProtocol);
    }
    // No service has the protocol; but nobody else may answer for a cluster IP.
    match claim(&datagram.key, tables) {
        Claim::ClusterIp => Ok(settle(open::unclaimed(&datagram.key.dst, tables))),
        Claim::Frontend(_) | Claim::Nobody => Err(Reason::OtherProtocol),
    }
}

/// Looks the flow up; failing that, opens one; then follows it.
#[inline(always)]
fn translate<A: Addr, P: Packet, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    pkt: &mut P,
    datagram: &Datagram<A>,
    flows: &mut F,
    tables: &T,
) -> Fate {
    let begun = match flows.get(&datagram.key) {
        Some(flow) if !keeps_backend(datagram, flow, tables) => Begun::BEFORE,
        Some(flow) => {
            if life::is_abandoned(datagram, flow) {
                tables.count(Reason::BackendGone);
                tables.count_reject(flow.service);
                return Fate::NOBODY;
            }
            let now = tables.now();
            let is_news = rows::is_due(flow, now) || life::is_telling(datagram, flow);
            let fate = follow(hook, pkt, datagram, flow, tables, now);
            if is_news && look_after(datagram, flows, now) {
                rows::renew(&datagram.key, flows);
            }
            return fate;
        }
        None => Begun::NOW,
    };
    if !may_open(hook, pkt) {
        tables.count(Reason::NotService);
        return Fate::PASS;
    }
    begin(hook, pkt, datagram, begun, flows, tables)
}

/// Stamps a packet's row, and notes what it told. Yields whether the row of the reply is to be renewed.
///
/// Looks the row up again: the stack has no room for what would have to be kept until the packet is on its
/// way. Most of what tells something takes the fast path, where it has.
#[inline(never)]
fn look_after<A: Addr, F: Flows<A>>(datagram: &Datagram<A>, flows: &mut F, now: Tick) -> bool {
    let Some(row) = flows.get(&datagram.key) else {
        return false;
    };
    let is_renewed = rows::stamp(row, now);
    if let Some(news) = life::note(datagram, row) {
        news.spread(&datagram.key, flows);
    }
    is_renewed
}

/// Opens a flow, if it is for a service, and follows it.
#[inline(always)]
fn begin<A: Addr, P: Packet, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    pkt: &mut P,
    datagram: &Datagram<A>,
    begun: Begun,
    flows: &mut F,
    tables: &T,
) -> Fate {
    let opening = match claim(&datagram.key, tables) {
        Claim::Frontend(frontend) => open::open(hook, datagram, frontend, begun, flows, tables),
        Claim::ClusterIp => open::unclaimed(&datagram.key.dst, tables),
        Claim::Nobody => {
            // What XDP passes comes by tc.
            if !hook.xdp && datagram.asks() {
                rows::make_way(&datagram.key, flows, tables.now());
            }
            tables.count(Reason::NotService);
            Opening::Passed
        }
    };
    if opening == Opening::Opened && hook.direction == Direction::Egress {
        rows::note_way(&datagram.key, pkt, flows, tables);
    }
    if opening == Opening::Opened
        && let Some(Staged { request, .. }) = flows.staged()
    {
        return follow(hook, pkt, datagram, request, tables, tables.now());
    }
    settle(opening)
}

/// Whether a packet without a flow may be for a service: what enters, and what the node's own stack sends
/// out. All else that leaves was looked at when it entered.
#[inline(always)]
pub(crate) fn may_open<P: Packet>(hook: Hook, pkt: &P) -> bool {
    match (hook.direction, hook.side) {
        (Direction::Ingress, _) => true,
        (Direction::Egress, Side::Outside) => pkt.is_own(),
        (Direction::Egress, Side::Inside) => false,
    }
}

/// What becomes of a packet that opened no flow.
#[inline(always)]
fn settle(opening: Opening) -> Fate {
    match opening {
        Opening::Passed => Fate::PASS,
        // A flow that was opened and cannot be followed: the maps are broken.
        Opening::Dropped | Opening::Opened | Opening::Overtaken => Fate::DROP,
        Opening::Rejected => Fate::NOBODY,
    }
}

/// Who a packet is for. Its key is gone when this returns: the stack is needed again.
#[inline(always)]
fn claim<'t, A: Addr, T: Tables<A>>(key: &FlowKey<A>, tables: &'t T) -> Claim<'t> {
    choice::claim(&FrontendKey::new(key.dst, key.dport, key.proto), tables)
}

/// Whether a flow goes on to the backend it has. An established TCP connection always does, to
/// drain; what begins anew needs a backend that is still there, and begins another flow if this one is
/// over.
#[inline(always)]
pub(crate) fn keeps_backend<A: Addr, T: Tables<A>>(
    datagram: &Datagram<A>,
    flow: &Flow<A>,
    tables: &T,
) -> bool {
    flow.half() == Half::Reply
        || !datagram.opens()
        || !flow.stage().is_over()
            && tables.backend(flow.backend).is_some_and(|backend| {
                backend.generation == flow.generation
                    && (backend.flags & backend::LOST_FRONTEND == 0
                        || !has_passed_on(datagram, flow, tables))
            })
}

/// Whether what the client addresses is another service's by now. If it is nobody's, a flow that is
/// open goes on.
#[inline(always)]
fn has_passed_on<A: Addr, T: Tables<A>>(
    datagram: &Datagram<A>,
    flow: &Flow<A>,
    tables: &T,
) -> bool {
    let FlowKey {
        dst, dport, proto, ..
    } = datagram.key;
    tables
        .frontend(&FrontendKey::new(dst, dport, proto))
        .is_some_and(|frontend| frontend.service != flow.service)
}

/// Sends a packet the way its flow's row says.
#[inline(always)]
fn follow<A: Addr, P: Packet, T: Tables<A>>(
    hook: Hook,
    pkt: &mut P,
    datagram: &Datagram<A>,
    flow: &mut Flow<A>,
    tables: &T,
    now: Tick,
) -> Fate {
    tables.follow(flow);
    if fragment::is_unfit(datagram, flow) {
        tables.count(Reason::LostFragment);
        return Fate::DROP;
    }
    match hop::destination(hook, pkt, datagram, datagram.key.proto, flow, tables, now) {
        Ok(fate) => finish::<A, P, T, false>(pkt, datagram, flow, tables, fate),
        Err(fate) => fate,
    }
}

/// Rewrites a packet as its flow's row says, and counts it.
#[inline(always)]
pub(crate) fn finish<A: Addr, P: Packet, T: Tables<A>, const USUAL: bool>(
    pkt: &mut P,
    datagram: &Datagram<A>,
    flow: &Flow<A>,
    tables: &T,
    fate: Fate,
) -> Fate {
    let length = pkt.len();
    let rewritten = rewrite::rewrite::<A, P, USUAL>(pkt, datagram, flow, fate.act);
    conclude(rewritten, length, flow, tables, fate)
}

/// Counts a packet of a flow that was this long and is rewritten.
#[inline(always)]
pub(crate) fn conclude<A: Addr, T: Tables<A>>(
    rewritten: Option<()>,
    length: usize,
    flow: &Flow<A>,
    tables: &T,
    fate: Fate,
) -> Fate {
    if rewritten.is_none() {
        // The headers were read a moment ago: they are there.
        tables.count(Reason::Malformed);
        return Fate::DROP;
    }
    tables.count_packet(flow.service, length);
    fate
}

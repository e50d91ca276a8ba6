//! The short way of nearly every packet: of a flow that needs no attention, or of none.

use lb_common::{Addr, Tick, V4, V6, counters::Reason, flow::Flow, service::FrontendKey};

use crate::{
    Flows, Hook, Packet, Tables, Verdict, choice,
    datagram::Datagram,
    hop, life,
    parse::{self, ETHERNET, IPV4, Network},
    pipeline::{finish, keeps_backend, may_open},
    rows::is_due,
    verdict::Fate,
};

/// Does with a packet what [`process`](crate::process) would, if that is quickly done: it is TCP or
/// UDP of the plainest layout, and its flow's row is all that is needed, or it is for no service.
/// None of all others, which are as they were and not counted yet.
///
/// A program of its own, so that what is rare costs the usual packet no instruction, no stack and
/// no register; `process` runs in another one, called at the end of this.
#[inline(always)]
pub fn fast<P, F, T>(hook: Hook, pkt: &mut P, flows: &mut F, tables: &T) -> Option<Verdict>
where
    P: Packet,
    F: Flows<V4> + Flows<V6>,
    T: Tables<V4> + Tables<V6>,
{
    let fate = match parse::usual(pkt)? {
        Network::Ipv4(_) => ipv4(hook, pkt, flows, tables),
        Network::Ipv6(_) => ipv6(hook, pkt, flows, tables),
    };
    fate.map(Fate::verdict)
}

/// What becomes of a packet that takes more than [`fast`] where the program for that is not there.
#[inline(always)]
pub fn unfinished<T: Tables<V4>>(tables: &T) -> Verdict {
    tables.count(Reason::NoFullPath);
    Verdict::Pass
}

#[inline(always)]
fn ipv4<P: Packet, F: Flows<V4>, T: Tables<V4>>(
    hook: Hook,
    pkt: &mut P,
    flows: &mut F,
    tables: &T,
) -> Option<Fate> {
    let (header, transport) = parse::ipv4::<P, true>(pkt, ETHERNET, IPV4).ok()?;
    let datagram =
        parse::datagram4::<P, true>(pkt, ETHERNET, header, transport, hook.direction).ok()?;
    translate(hook, pkt, &datagram, flows, tables)
}

#[inline(always)]
fn ipv6<P: Packet, F: Flows<V6>, T: Tables<V6>>(
    hook: Hook,
    pkt: &mut P,
    flows: &mut F,
    tables: &T,
) -> Option<Fate> {
    let (header, transport) = parse::ipv6(pkt, ETHERNET).ok()?;
    let datagram =
        parse::datagram6::<P, true>(pkt, ETHERNET, header, transport, hook.direction).ok()?;
    translate(hook, pkt, &datagram, flows, tables)
}

/// Looks the flow up, and follows it.
#[inline(always)]
fn translate<A: Addr, P: Packet, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    pkt: &mut P,
    datagram: &Datagram<A>,
    flows: &mut F,
    tables: &T,
) -> Option<Fate> {
    // Where flows are opened, what asks for a connection opens one, or another in the row of one that is
    // over, or has one put out of its way: not to be looked up twice.
    if datagram.asks() && may_open(hook, pkt) {
        return None;
    }
    let Some(flow) = flows.get(&datagram.key) else {
        return for_nobody(hook, pkt, datagram, tables);
    };
    let now = tables.now();
    if !is_settled(datagram, flow, tables, now) {
        return None;
    }
    let fate = match hop::known(hook, pkt, datagram, flow, tables, now)? {
        Ok(fate) => finish::<A, P, T, true>(pkt, datagram, flow, tables, fate),
        Err(fate) => fate,
    };
    if let Some(news) = life::note(datagram, flow) {
        news.spread(&datagram.key, flows);
    }
    Some(fate)
}

/// Whether a packet goes the way of its flow and no other: its backend stands and is not gone for good, and
/// it was seen within a second.
#[inline(always)]
fn is_settled<A: Addr, T: Tables<A>>(
    datagram: &Datagram<A>,
    flow: &Flow<A>,
    tables: &T,
    now: Tick,
) -> bool {
    !is_due(flow, now)
        && !life::is_abandoned(datagram, flow)
        && keeps_backend(datagram, flow, tables)
}

/// A packet of no flow: passed if no service can have its address.
#[inline(always)]
fn for_nobody<A: Addr, P: Packet, T: Tables<A>>(
    hook: Hook,
    pkt: &P,
    datagram: &Datagram<A>,
    tables: &T,
) -> Option<Fate> {
    let key = &datagram.key;
    if may_open(hook, pkt) {
        let frontend = FrontendKey::new(key.dst, key.dport, key.proto);
        if tables.may_have(&frontend) || choice::may_be_cluster_ip(&key.dst, tables) {
            return None;
        }
    }
    tables.count(Reason::NotService);
    Some(Fate::PASS)
}

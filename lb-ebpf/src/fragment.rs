//! Fragments: those without ports go where the first of them, which has some, has gone.
//!
//! What comes before its first cannot be told: to a cluster IP, which is nobody else's, it is lost, and
//! with it the packet, which its sender has to send again or give up. To other addresses it goes on as it
//! came. Nowhere does it become part of a packet, for the fragment with the ports is elsewhere, or has
//! another source.

use lb_common::{
    Addr, Port, Tick,
    counters::Reason,
    flow::{FirstFragment, Flow, FlowKey},
    proto,
    service::FrontendKey,
};

use crate::{
    Tables,
    choice::{self, Claim},
    datagram::{Datagram, Part},
    verdict::{Act, Fate},
};

/// How long a first fragment is remembered: as long as Linux waits for a packet's other fragments
/// (`net.ipv4.ipfrag_time`). Identifications come round, in IPv4 soon.
const MEMORY: u32 = Tick::in_seconds(30);

/// Gives a fragment that has no ports those of the first. `Err` is what becomes of one that cannot have
/// them; it has been counted.
#[inline(never)]
pub(crate) fn identify<A: Addr, T: Tables<A>>(
    datagram: &mut Datagram<A>,
    tables: &T,
) -> Result<(), Act> {
    let first = tables.first_fragment(&datagram.fragment_key());
    match first {
        Some(FirstFragment { sport, dport, seen }) if tables.now().since(seen) <= MEMORY => {
            (datagram.key.sport, datagram.key.dport) = (sport, dport);
            Ok(())
        }
        Some(_) | None => Err(stray(datagram, tables)),
    }
}

/// What becomes of a fragment whose first is not known.
#[inline(always)]
fn stray<A: Addr, T: Tables<A>>(datagram: &Datagram<A>, tables: &T) -> Act {
    let key = &datagram.key;
    let any_port = FrontendKey::new(key.dst, Port::default(), key.proto);
    let (act, reason) = match choice::claim(&any_port, tables) {
        Claim::ClusterIp => (Act::Drop, Reason::LostFragment),
        Claim::Frontend(_) | Claim::Nobody => (Act::Pass, Reason::Fragment),
    };
    tables.count(reason);
    act
}

/// Has the other fragments of a packet follow the first, or not: identifications come round, and what an
/// earlier packet has told is not to lead those of one that was left alone.
#[inline(never)]
pub(crate) fn note<A: Addr, T: Tables<A>>(datagram: &Datagram<A>, is_followed: bool, tables: &T) {
    let key = datagram.fragment_key();
    if !is_followed {
        tables.forget_fragment(&key);
        return;
    }
    let first = FirstFragment {
        sport: datagram.key.sport,
        dport: datagram.key.dport,
        seen: tables.now(),
    };
    tables.remember_fragment(&key, &first);
}

/// Whether a fragment would leave its packet with a wrong checksum: an SCTP packet's covers the ports, and
/// what it changes by follows from the length of all of it.
#[inline(always)]
pub(crate) fn is_unfit<A: Addr>(datagram: &Datagram<A>, flow: &Flow<A>) -> bool {
    let FlowKey {
        sport,
        dport,
        proto,
        ..
    } = datagram.key;
    datagram.part != Part::Whole
        && proto == proto::SCTP
        && (sport, dport) != (flow.sport, flow.dport)
}

/// Whether the other fragments of a packet go the way of the first, whose fate this is.
#[inline(always)]
pub(crate) const fn is_followed(fate: Fate) -> bool {
    match fate.act {
        Act::Deliver | Act::Transmit | Act::Resolve | Act::Enter | Act::Reflect => true,
        Act::Pass | Act::Reject | Act::Drop => false,
    }
}

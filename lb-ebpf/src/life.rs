//! What packets tell of the flow they belong to: that its backend has answered, that an end has closed or
//! broken off.
//!
//! Each row knows of both ends. A packet writes of the end it comes from alone, so that packets in both
//! directions, on two CPUs, do not overwrite what the other tells.
//!
//! A connection that is refused ends both at once: the backend has never known of it, and the client has
//! heard so. Whatever else ends, its last segments may have to be sent again, and each of them has to be
//! translated: those rows go by time.

use lb_common::{
    Addr,
    flow::{Flow, FlowKey, Half, end},
};

use crate::{
    Flows,
    datagram::{Datagram, tcp_flag},
};

/// Whether the sender of a packet is to be told that the other end is gone for good.
#[inline(always)]
pub(crate) fn is_abandoned<A: Addr>(datagram: &Datagram<A>, row: &Flow<A>) -> bool {
    row.end(row.half()) & end::ABANDONED != 0 && !datagram.asks()
}

/// Whether a packet tells of its flow what is not known yet.
#[inline(always)]
pub(crate) fn is_telling<A: Addr>(datagram: &Datagram<A>, row: &Flow<A>) -> bool {
    told(datagram, row) != row.end(row.half())
}

/// Notes in a packet's row what it told, and yields what there is to tell the flow's other row.
#[inline(always)]
pub(crate) fn note<A: Addr>(datagram: &Datagram<A>, row: &mut Flow<A>) -> Option<News<A>> {
    if !is_telling(datagram, row) {
        return None;
    }
    let half = row.half();
    let (known, told) = (row.end(half), told(datagram, row));
    row.set_end(half, told);
    Some(News {
        mate: datagram.key.mate(row),
        of: half,
        known,
        told,
        backend: row.backend,
        generation: row.generation,
    })
}

/// What is known of the end a packet of this row comes from, once it has been seen.
#[inline(always)]
fn told<A: Addr>(datagram: &Datagram<A>, row: &Flow<A>) -> u8 {
    let mut told = row.end(row.half());
    if !datagram.asks() {
        told &= !end::AWAITED;
    }
    if datagram.tcp_flags & tcp_flag::FIN != 0 {
        told |= end::CLOSED;
    }
    if datagram.tcp_flags & tcp_flag::RST != 0 {
        told |= end::RESET;
    }
    told
}

/// What a packet told, for its flow's other row.
pub(crate) struct News<A> {
    mate: FlowKey<A>,
    /// Which half the packet's row is.
    of: Half,
    /// Flags of the end that the packet comes from, as they were before it.
    known: u8,
    /// The same once it has been seen.
    told: u8,
    backend: u32,
    generation: u32,
}

impl<A: Addr> News<A> {
    /// Writes the peer update to the flow's other entry. A flow that its backend refused loses both entries; `key` is
    /// that of the packet's.
    #[inline(always)]
    pub(crate) fn spread<F: Flows<A>>(&self, key: &FlowKey<A>, flows: &mut F) {
        let Self {
            mate,
            of,
            known,
            told,
            backend,
            generation,
        } = self;
        let update = PeerUpdate::new(*of, *known, *told);
        let update = PeerUpdate(F::blurred(update.0, *generation));
        update_peer(mate, key, update, owner(*backend, *generation), flows);
    }
}

/// What a peer update writes, in one number.
///
/// [`update_peer`] is out of line and decides by it. Before Linux 6.8 the verifier loses the precision of a number that
/// such a function reads from its caller's stack: it may then take a branch for dead that is not. In a register a number
/// is safe.
#[derive(Clone, Copy)]
struct PeerUpdate(u32);

impl PeerUpdate {
    const REPLY: u32 = 1 << 16;

    #[inline(always)]
    fn new(of: Half, known: u8, end: u8) -> Self {
        let half = match of {
            Half::Request => 0,
            Half::Reply => Self::REPLY,
        };
        Self(u32::from(end) | u32::from(known) << 8 | half)
    }

    /// Flags of the end that the update is about.
    #[inline(always)]
    const fn end(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    const fn is_of_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }

    /// Whether the backend has refused the connection.
    #[inline(always)]
    const fn is_refusal(self) -> bool {
        let known = (self.0 >> 8) as u8;
        self.is_of_reply() && known & end::AWAITED != 0 && self.end() & end::RESET != 0
    }
}

/// The backend index and generation of an entry, as one number.
#[inline(always)]
fn owner(backend: u32, generation: u32) -> u64 {
    u64::from(backend) << 32 | u64::from(generation)
}

/// Applies an update to the entry of the reverse key, if that is of the same owner: another one's belongs to a later
/// flow of the same client.
#[inline(never)]
fn update_peer<A: Addr, F: Flows<A>>(
    reverse: &FlowKey<A>,
    key: &FlowKey<A>,
    update: PeerUpdate,
    of: u64,
    flows: &mut F,
) {
    let Some(entry) = flows.get(reverse) else {
        return;
    };
    if owner(entry.backend, entry.generation) != of {
        return;
    }
    // The entry at hand says which end is written: the verifier would not know of a number from elsewhere that it is
    // one of two.
    match (entry.half(), update.is_of_reply()) {
        (Half::Reply, false) => entry.set_end(Half::Request, update.end()),
        (Half::Request, true) => entry.set_end(Half::Reply, update.end()),
        (Half::Request, false) | (Half::Reply, true) => return,
    }
    if update.is_refusal() {
        flows.remove(reverse);
        flows.remove(key);
    }
}

//! What packets tell of the flow they belong to: that its backend has answered, that an end has closed or
//! broken off.
//!
//! Each row knows of both ends. A packet writes of the end it comes from alone, so that packets in both
//! directions, on two CPUs, do not overwrite what the other tells.

use lb_common::{
    Addr,
    flow::{Flow, FlowKey, end},
};

use crate::{
    Flows,
    parse::{Datagram, tcp_flag},
};

/// What is known of the end a packet of this row comes from, once it has been seen.
#[inline(always)]
pub(crate) fn told<A: Addr>(datagram: &Datagram<A>, row: &Flow<A>) -> u8 {
    let mut told = row.end(row.half()) & !end::AWAITED;
    if datagram.tcp_flags & tcp_flag::FIN != 0 {
        told |= end::CLOSED;
    }
    if datagram.tcp_flags & tcp_flag::RST != 0 {
        told |= end::RESET;
    }
    told
}

/// Whether a packet may tell something of its flow, or its sender is to be told.
#[inline(always)]
pub(crate) fn is_turn<A: Addr>(datagram: &Datagram<A>, row: &Flow<A>) -> bool {
    datagram.is_turning() || row.end(row.half()) & (end::AWAITED | end::ABANDONED) != 0
}

/// Whether the sender of a packet is to be told that the other end is gone for good.
#[inline(always)]
pub(crate) fn is_abandoned<A: Addr>(datagram: &Datagram<A>, row: &Flow<A>) -> bool {
    row.end(row.half()) & end::ABANDONED != 0 && !datagram.asks()
}

/// Writes what was told into both rows of a flow, given the key of one.
///
/// A connection that is refused ends both at once: the backend has never known of it, and the client has
/// heard so. Whatever else ends, its last segments may have to be sent again, and each of them has to be
/// translated: those rows go by time.
#[inline(never)]
pub(crate) fn tell<A: Addr, F: Flows<A>>(key: &FlowKey<A>, told: u8, flows: &mut F) {
    let Some(row) = flows.get(key) else {
        return;
    };
    let half = row.half();
    let is_refused = row.end(half) & end::AWAITED != 0 && told & end::RESET != 0;
    row.set_end(half, told);
    let (backend, generation) = (row.backend, row.generation);
    let mate_key = key.mate(row);
    let Some(mate) = flows.get(&mate_key) else {
        return;
    };
    // What has another backend is a later flow of the same client's.
    if mate.half() == half || (mate.backend, mate.generation) != (backend, generation) {
        return;
    }
    mate.set_end(half, told);
    if is_refused {
        flows.remove(&mate_key);
        flows.remove(key);
    }
}

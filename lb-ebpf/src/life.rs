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
    Flows, Tables,
    datagram::{Datagram, tcp_flag},
    rows,
};

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

/// Notes in its flow's rows that a packet has been seen, and what it told. Yields whether the row of the
/// reply is to be renewed.
#[inline(never)]
pub(crate) fn note<A: Addr, F: Flows<A>, T: Tables<A>>(
    datagram: &Datagram<A>,
    flows: &mut F,
    tables: &T,
) -> bool {
    let Some(row) = flows.get(&datagram.key) else {
        return false;
    };
    let now = tables.now();
    let is_due = rows::is_due(row, now);
    if is_due {
        row.seen = now;
    }
    let half = row.half();
    let (known, told) = (row.end(half), told(datagram, row));
    if told != known {
        row.set_end(half, told);
        let mate = Mate {
            key: datagram.key.mate(row),
            of: half,
            backend: row.backend,
            generation: row.generation,
        };
        let is_refused = known & end::AWAITED != 0 && told & end::RESET != 0;
        if mate.tell(told, flows) && half == Half::Reply && is_refused {
            flows.remove(&mate.key);
            flows.remove(&datagram.key);
        }
    }
    is_due && half == Half::Request
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

/// A flow's other row.
struct Mate<A> {
    key: FlowKey<A>,
    /// Which half this row is.
    of: Half,
    backend: u32,
    generation: u32,
}

impl<A: Addr> Mate<A> {
    /// Writes there too what was told of the end. False if there is no such row: what has another
    /// backend is a later flow of the same client's.
    #[inline(always)]
    fn tell<F: Flows<A>>(&self, told: u8, flows: &mut F) -> bool {
        let Some(row) = flows.get(&self.key) else {
            return false;
        };
        if (row.backend, row.generation) != (self.backend, self.generation) {
            return false;
        }
        // Which end is told apart by the row at hand: of a number from elsewhere the verifier would not
        // know that it is one of two.
        match (row.half(), self.of) {
            (Half::Reply, Half::Request) => row.set_end(Half::Request, told),
            (Half::Request, Half::Reply) => row.set_end(Half::Reply, told),
            (Half::Request, Half::Request) | (Half::Reply, Half::Reply) => return false,
        }
        true
    }
}

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
        told,
        is_refusal: half == Half::Reply && known & end::AWAITED != 0 && told & end::RESET != 0,
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
    told: u8,
    is_refusal: bool,
    backend: u32,
    generation: u32,
}

impl<A: Addr> News<A> {
    /// Tells it. What the backend refused leaves no rows; the packet's has this key.
    #[inline(never)]
    pub(crate) fn spread<F: Flows<A>>(&self, key: &FlowKey<A>, flows: &mut F) {
        if self.reaches(flows) && self.is_refusal {
            flows.remove(&self.mate);
            flows.remove(key);
        }
    }

    /// Writes it in the other row. False if there is none: what has another backend is a later flow of
    /// the same client's.
    #[inline(always)]
    fn reaches<F: Flows<A>>(&self, flows: &mut F) -> bool {
        let Some(row) = flows.get(&self.mate) else {
            return false;
        };
        if (row.backend, row.generation) != (self.backend, self.generation) {
            return false;
        }
        // Which end is told apart by the row at hand: of a number from elsewhere the verifier would not
        // know that it is one of two.
        match (row.half(), self.of) {
            (Half::Reply, Half::Request) => row.set_end(Half::Request, self.told),
            (Half::Request, Half::Reply) => row.set_end(Half::Reply, self.told),
            (Half::Request, Half::Request) | (Half::Reply, Half::Reply) => return false,
        }
        true
    }
}

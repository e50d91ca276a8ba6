//! The two rows of a flow: their tuples, and how they stay in the table.

use lb_common::{
    Addr, Port, Tick,
    counters::Reason,
    flow::{Flow, FlowKey, Half, Hop, Route, Staged},
    service::Frontend,
};

use crate::{
    Entry, Flows, InsertError, Packet, Sum, Tables,
    choice::{self, INCONSISTENT, Refusal, below},
    datagram::Datagram,
};

/// Most ports that are tried for one flow.
///
/// As a whole word: the verifier loses sight of a counter of 32 bits when it is spilled to the upper
/// half of a slot, and takes the loop for endless.
const PROBES: u64 = 8;

/// Whether a row is to be looked after: once in a second of use.
#[inline(always)]
pub(crate) fn is_due<A: Addr>(row: &Flow<A>, now: Tick) -> bool {
    now.since(row.seen) >= Tick::PER_SECOND
}

/// Stamps a row that is to be looked after. Yields whether that of the reply is to be renewed, too.
#[inline(always)]
pub(crate) fn stamp<A: Addr>(row: &mut Flow<A>, now: Tick) -> bool {
    let is_due = is_due(row, now);
    if is_due {
        row.seen = now;
    }
    is_due && row.half() == Half::Request
}

/// The staged row of the request.
#[inline(always)]
pub(crate) fn request<A: Addr, F: Flows<A>>(flows: &mut F) -> Result<&mut Flow<A>, Refusal> {
    match flows.staged() {
        Some(Staged { request, .. }) => Ok(request),
        None => Err(INCONSISTENT),
    }
}

/// Whether a flow's tuple has rows already: then they are looked at first, for an insertion in vain costs
/// more than a lookup.
///
/// A number, not an enum, for [`Flows::blurred`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun(u32);

impl Begun {
    /// As far as is known, it has none.
    pub(crate) const NOW: Self = Self(0);
    /// It was the tuple of another flow, or is renewed.
    pub(crate) const BEFORE: Self = Self(1);

    /// The same, of which the verifier knows nothing.
    #[inline(always)]
    pub(crate) fn blurred<A: Addr, F: Flows<A>>(self, salt: u32) -> Self {
        Self(F::blurred(self.0, salt))
    }

    /// How the request's row is inserted.
    #[inline(always)]
    const fn entry(self) -> Entry {
        match self {
            Self::BEFORE => Entry::Any,
            _ => Entry::New,
        }
    }
}

/// Who has opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    /// This CPU: both rows are those that were staged.
    Here,
    /// Another CPU, meanwhile. The reply's row that was inserted here is in the table still.
    Elsewhere,
}

/// Inserts both rows of a new flow, whose request is staged.
#[inline(always)]
pub(crate) fn record<A: Addr, F: Flows<A>, T: Tables<A>>(
    datagram: &Datagram<A>,
    frontend: &Frontend,
    begun: Begun,
    flows: &mut F,
    tables: &T,
) -> Result<Opener, Refusal> {
    let key = &datagram.key;
    let config = tables.config().ok_or(INCONSISTENT)?;
    let flow = request(flows)?;
    let service = flow.service;
    flow.addr_delta = Sum::new()
        .without_addr(&key.src)
        .without_addr(&key.dst)
        .addr(&flow.src)
        .addr(&flow.dst)
        .fold();
    let ports = PortRange {
        first: config.snat_first,
        last: config.snat_last,
    };
    // Who is routed by the stack keeps address and port, and so does this node; all others appear as it.
    let keeps = matches!(flow.route(), Route::Stack | Route::Own) || ports.contains(key.sport);
    // A port that is drawn is another one than before.
    let tuple = if keeps { begun } else { Begun::NOW };
    reserve(datagram, keeps, tuple, ports, flows, tables)?;
    match insert(Half::Request, key, begun.entry(), flows) {
        Ok(()) => {}
        Err(InsertError::Exists) => return Ok(Opener::Elsewhere),
        Err(InsertError::Busy) => {
            if !(keeps && choice::is_by_hash(frontend)) {
                let reply_key = key.mate(request(flows)?);
                flows.remove(&reply_key);
                return Err(Refusal::Drop(Reason::TableBusy));
            }
            tables.count(Reason::Stateless);
        }
    }
    tables.count_flow(service);
    Ok(Opener::Here)
}

/// Stages the row with which another CPU has opened the same flow meanwhile, and gives back the tuple
/// that was reserved here: nobody would ever use it, and its port would be lost until it is evicted.
/// Yields whether there is such a row.
#[inline(always)]
pub(crate) fn give_way<A: Addr, F: Flows<A>>(key: &FlowKey<A>, flows: &mut F) -> bool {
    let Ok(here) = request(flows).map(|flow| key.mate(flow)) else {
        return false;
    };
    let is_staged = flows.stage(key).is_some();
    if request(flows).is_ok_and(|flow| key.mate(flow) != here) {
        flows.remove(&here);
    }
    is_staged
}

/// Inserts one of the staged rows. A table that is busy is asked twice: what it had no room for at once,
/// it may have by then.
#[inline(always)]
fn insert<A: Addr, F: Flows<A>>(
    half: Half,
    key: &FlowKey<A>,
    entry: Entry,
    flows: &mut F,
) -> Result<(), InsertError> {
    match flows.insert_staged(half, key, entry) {
        Err(InsertError::Busy) => flows.insert_staged(half, key, entry),
        result => result,
    }
}

/// The ports source translation may take.
#[derive(Clone, Copy)]
struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    #[inline(always)]
    fn contains(self, port: Port) -> bool {
        (self.first..=self.last).contains(&port.number())
    }

    #[inline(always)]
    fn draw(self, random: u32) -> Port {
        let count = u32::from(self.last.saturating_sub(self.first)) + 1;
        Port::new(self.first.wrapping_add(below(random, count) as u16))
    }
}

/// Reserves the tuple the backend will answer, by inserting the reply's row: the client's own
/// port if the flow keeps it and it is free, else one of the range. The request's row gets the port.
/// What began earlier has the tuple it had then, or none: nobody knows the port that was drawn.
#[inline(always)]
fn reserve<A: Addr, F: Flows<A>, T: Tables<A>>(
    datagram: &Datagram<A>,
    keeps: bool,
    begun: Begun,
    ports: PortRange,
    flows: &mut F,
    tables: &T,
) -> Result<(), Refusal> {
    let key = &datagram.key;
    for probe in 0..PROBES {
        let flow = request(flows)?;
        if probe != 0 || !keeps {
            if !datagram.opens() {
                return Err(Refusal::Drop(Reason::NoFlow));
            }
            flow.sport = ports.draw(tables.random());
        }
        flow.port_delta = Sum::new()
            .without_port(key.sport)
            .without_port(key.dport)
            .port(flow.sport)
            .port(flow.dport)
            .fold();
        match answer(key, begun, flows) {
            Ok(()) => return Ok(()),
            Err(InsertError::Exists) => {}
            Err(InsertError::Busy) => return Err(Refusal::Drop(Reason::TableBusy)),
        }
    }
    Err(Refusal::Drop(Reason::PortsExhausted))
}

/// Inserts the reply's row to the staged request's, unless another flow has the tuple.
#[inline(always)]
fn answer<A: Addr, F: Flows<A>>(
    key: &FlowKey<A>,
    begun: Begun,
    flows: &mut F,
) -> Result<(), InsertError> {
    flows.emptied(Half::Reply).ok_or(InsertError::Busy)?;
    let Staged { request, reply } = flows.staged().ok_or(InsertError::Busy)?;
    let client = (key.src, key.sport);
    reply.set(Half::Reply, request.route(), (key.dst, key.dport), client);
    reply.service = request.service;
    reply.backend = request.backend;
    reply.generation = request.generation;
    reply.seen = request.seen;
    reply.set_end(Half::Request, request.end(Half::Request));
    reply.set_end(Half::Reply, request.end(Half::Reply));
    // What the request's rewrite adds to a checksum, the reply's takes away.
    reply.addr_delta = !request.addr_delta;
    reply.port_delta = !request.port_delta;
    let reply_key = key.mate(request);
    let known = match begun {
        Begun::BEFORE => ours(key, &reply_key, flows),
        _ => None,
    };
    let known = match known {
        Some(known) => known,
        None => match insert(Half::Reply, &reply_key, Entry::New, flows) {
            Err(InsertError::Exists) => ours(key, &reply_key, flows).ok_or(InsertError::Exists)?,
            inserted => return inserted,
        },
    };
    let Staged { reply, .. } = flows.staged().ok_or(InsertError::Busy)?;
    (reply.hop, reply.link, reply.mtu) = known;
    insert(Half::Reply, &reply_key, Entry::Any, flows)
}

/// The hop, its link flags and its MTU in the row of a tuple that is still this connection's: the row is
/// renewed, or that of the request was evicted, or its backend came back.
#[inline(always)]
fn ours<A: Addr, F: Flows<A>>(
    key: &FlowKey<A>,
    reply_key: &FlowKey<A>,
    flows: &mut F,
) -> Option<(Hop, u16, u16)> {
    let row = flows.get(reply_key)?;
    let is_ours = row.half() == Half::Reply
        && (row.src, row.sport) == (key.dst, key.dport)
        && (row.dst, row.dport) == (key.src, key.sport);
    is_ours.then_some((row.hop, row.link, row.mtu))
}

/// Removes the reply's row that would take what answers a packet which is led nowhere, though its
/// flow has not been used for a second. The client has opened it, closed it, and now addresses the
/// backend itself from the same port: a row outlives its flow.
#[inline(never)]
pub(crate) fn make_way<A: Addr, F: Flows<A>>(key: &FlowKey<A>, flows: &mut F, now: Tick) {
    let answer = FlowKey::new(
        key.direction().opposite(),
        key.proto,
        (key.dst, key.dport),
        (key.src, key.sport),
    );
    if flows.get(&answer).is_some_and(|row| is_due(row, now)) {
        flows.remove(&answer);
    }
}

/// Notes in the reply's row of the node's own flow by which interface the request leaves, and the MAC it
/// has there: the reply is to enter by it.
#[inline(never)]
pub(crate) fn note_way<A: Addr, P: Packet, F: Flows<A>, T: Tables<A>>(
    key: &FlowKey<A>,
    pkt: &P,
    flows: &mut F,
    tables: &T,
) {
    let (Some(header), Ok(request)) = (pkt.bytes::<12>(0), request(flows)) else {
        return;
    };
    let reply_key = key.mate(request);
    if let Some(reply) = flows.get(&reply_key) {
        let [a, b, c] = [6, 8, 10].map(|at| P::load16(header, at));
        reply.hop.macs = [a, b, c, a, b, c];
        reply.hop.ifindex = tables.ifindex();
    }
}

/// Keeps the reply's row of a request in use: the table evicts what is not looked up, and a flow
/// whose traffic is one-sided would lose its reserved tuple. A tuple that was lost to another flow
/// ends this one; its next packet opens it anew.
#[inline(never)]
pub(crate) fn renew<A: Addr, F: Flows<A>>(key: &FlowKey<A>, flows: &mut F) {
    let renewed = flows
        .stage(key)
        .is_some_and(|()| answer(key, Begun::BEFORE, flows) != Err(InsertError::Exists));
    if !renewed {
        flows.remove(key);
    }
}

//! New flows: frontend, backend, rows.

use lb_common::{
    Addr, Port,
    config::link,
    counters::Reason,
    flow::{Direction, Flow, FlowKey, Half, Hop, Route},
    service::{Backend, Frontend, FrontendKey, Slots, backend, frontend},
};

use crate::{
    Entry, Fib, FibQuery, Flows, Hook, InsertError, Side, Sum, Tables, hop, parse::Datagram,
};

/// Most ports that are tried for one flow.
const PROBES: u32 = 8;

/// What came of opening a flow. Each outcome but `Opened` has been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Both rows are in the table; the request's has been handed out.
    Opened,
    /// The packet is not for a service, or not for this hook.
    Passed,
    /// The packet must go.
    Dropped,
    /// The sender is to be told that nobody is there.
    Rejected,
}

/// Why a flow was not opened.
enum Refusal {
    Pass(Reason),
    Drop(Reason),
    Reject(Reason),
}

/// A backend and how to reach it.
struct Choice<A> {
    service: u32,
    index: u32,
    backend: Backend<A>,
    route: Route,
    /// Resolved where the route is [`Route::Forward`].
    hop: Hop,
    /// Source the backend is to see, if not the client's.
    source: Option<A>,
}

/// A row to be filled in.
#[inline(always)]
pub(crate) fn vacant<A: Addr>() -> Flow<A> {
    let nowhere = (A::default(), Port::default());
    Flow::new(Half::Request, Route::Stack, nowhere, nowhere)
}

/// Opens a flow for a packet that has none. Kept out of line: it is called from both copies of
/// the pipeline's steps, and its stack is free again when the packet is rewritten.
#[inline(never)]
pub(crate) fn open<A: Addr, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    flows: &mut F,
    tables: &T,
    flow: &mut Flow<A>,
) -> Opening {
    let opened = claim(hook, datagram, tables)
        .and_then(|frontend| choose(hook, datagram, &frontend, tables))
        .and_then(|choice| record(hook, datagram, &choice, flows, tables, flow));
    let (opening, reason) = match opened {
        Ok(()) => {
            tables.count_flow(flow.service);
            return Opening::Opened;
        }
        Err(Refusal::Pass(reason)) => (Opening::Passed, reason),
        Err(Refusal::Drop(reason)) => (Opening::Dropped, reason),
        Err(Refusal::Reject(reason)) => (Opening::Rejected, reason),
    };
    tables.count(reason);
    opening
}

/// The frontend that claims a packet.
#[inline(always)]
fn claim<A: Addr, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    tables: &T,
) -> Result<Frontend, Refusal> {
    let Datagram {
        dst, dport, proto, ..
    } = *datagram;
    match tables.frontend(&FrontendKey::new(dst, dport, proto)) {
        Some(frontend) if slots(hook, frontend).count == 0 => {
            Err(nobody::<A, T>(hook, frontend, tables))
        }
        Some(_) if !datagram.opens() => Err(Refusal::Drop(Reason::NoFlow)),
        Some(frontend) => Ok(*frontend),
        None => Err(unclaimed(&dst, tables)),
    }
}

/// A packet for no frontend: if its address is of the cluster IPs, nobody else may answer.
#[inline(always)]
fn unclaimed<A: Addr, T: Tables<A>>(dst: &A, tables: &T) -> Refusal {
    let is_cluster_ip = tables.family_config().is_some_and(|config| {
        let net = config.cluster_net.words().iter();
        let mask = config.cluster_mask.words().iter();
        dst.words()
            .iter()
            .zip(net)
            .zip(mask)
            .all(|((word, net), mask)| word & mask == *net)
    });
    if !is_cluster_ip {
        return Refusal::Pass(Reason::NotService);
    }
    match tables.frontend(&FrontendKey::whole_address(*dst)) {
        Some(_) => Refusal::Reject(Reason::NoSuchPort),
        None => Refusal::Drop(Reason::Unallocated),
    }
}

#[inline(always)]
fn slots(hook: Hook, frontend: &Frontend) -> Slots {
    match hook.side {
        Side::Inside => frontend.inside,
        Side::Outside => frontend.outside,
    }
}

/// A frontend without backends: told to the client, unless others elsewhere would answer.
#[inline(always)]
fn nobody<A: Addr, T: Tables<A>>(hook: Hook, frontend: &Frontend, tables: &T) -> Refusal {
    let elsewhere = match hook.side {
        Side::Inside => frontend::DROP_INSIDE,
        Side::Outside => frontend::DROP_OUTSIDE,
    };
    if frontend.flags & elsewhere != 0 {
        return Refusal::Drop(Reason::NoLocalBackend);
    }
    tables.count_reject(frontend.service);
    Refusal::Reject(Reason::NoBackend)
}

/// Chooses a backend uniformly at random, and the way to it.
#[inline(always)]
fn choose<A: Addr, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    frontend: &Frontend,
    tables: &T,
) -> Result<Choice<A>, Refusal> {
    const INCONSISTENT: Refusal = Refusal::Drop(Reason::Inconsistent);
    let slots = slots(hook, frontend);
    let slot = slots
        .offset
        .wrapping_add(below(tables.random(), slots.count));
    let index = tables.slot(slot).ok_or(INCONSISTENT)?;
    let backend = *tables.backend(index).ok_or(INCONSISTENT)?;
    if backend.flags & backend::ALIVE == 0 {
        return Err(INCONSISTENT);
    }
    let service = frontend.service;
    let choice = |route, hop, source| Choice {
        service,
        index,
        backend,
        route,
        hop,
        source,
    };
    if hook.side == Side::Inside && backend.addr == datagram.src {
        let source = node_address(tables).ok_or(Refusal::Drop(Reason::NoSource))?;
        return Ok(choice(Route::Hairpin, Hop::default(), Some(source)));
    }
    if hook.side == Side::Outside && backend.flags & backend::LOCAL == 0 {
        let query = FibQuery {
            src: A::default(),
            dst: backend.addr,
            proto: datagram.proto,
        };
        let answer = tables.fib(&query);
        return match answer {
            Fib::Neighbour { src, .. } | Fib::Route { src, .. } => {
                let hop = hop::from_fib(&answer, tables).ok_or(INCONSISTENT)?;
                if hook.xdp && hop.link & link::XDP_TARGET == 0 {
                    return Err(Refusal::Pass(Reason::NeedsStack));
                }
                let source = Some(src).filter(|src| *src != A::default());
                let source = source.or_else(|| node_address(tables));
                let source = source.ok_or(Refusal::Drop(Reason::NoSource))?;
                Ok(choice(Route::Forward, hop, Some(source)))
            }
            // An endpoint that does not name its node may still run here.
            Fib::NotForwarded => Ok(choice(Route::Stack, Hop::default(), None)),
            Fib::Unreachable => Err(Refusal::Drop(Reason::NoRoute)),
        };
    }
    Ok(choice(Route::Stack, Hop::default(), None))
}

#[inline(always)]
fn node_address<A: Addr, T: Tables<A>>(tables: &T) -> Option<A> {
    tables
        .family_config()
        .map(|config| config.node)
        .filter(|node| *node != A::default())
}

/// Scales a random number to `0..count`, without the bias or the price of a remainder.
#[inline(always)]
fn below(random: u32, count: u32) -> u32 {
    ((u64::from(random) * u64::from(count)) >> 32) as u32
}

/// Writes both rows of a new flow, and hands out the request's.
#[inline(always)]
fn record<A: Addr, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    choice: &Choice<A>,
    flows: &mut F,
    tables: &T,
    flow: &mut Flow<A>,
) -> Result<(), Refusal> {
    let now = tables.now();
    let config = tables.config().ok_or(Refusal::Drop(Reason::Inconsistent))?;
    let Choice {
        service,
        index,
        ref backend,
        route,
        ref hop,
        source,
    } = *choice;
    let key = datagram.key(hook.direction);
    let src = source.unwrap_or(key.src);
    *flow = Flow::new(
        Half::Request,
        route,
        (src, key.sport),
        (backend.addr, backend.port),
    );
    flow.service = service;
    flow.backend = index;
    flow.generation = backend.generation;
    flow.seen = now;
    flow.hop = Hop {
        epoch: config.epoch,
        resolved: now,
        ..*hop
    };
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
    let keep = source.is_none() || ports.contains(key.sport);
    reserve(&key, flow, keep, ports, flows, tables).map_err(Refusal::Drop)?;
    flows.insert(&key, flow, Entry::Any).map_err(|_| {
        flows.remove(&reply_key(&key, flow));
        Refusal::Drop(Reason::TableBusy)
    })
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
/// port if it may be kept and is free, else one of the range. The request's row gets the port.
#[inline(always)]
fn reserve<A: Addr, F: Flows<A>, T: Tables<A>>(
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    keep: bool,
    ports: PortRange,
    flows: &mut F,
    tables: &T,
) -> Result<(), Reason> {
    for probe in 0..PROBES {
        if probe != 0 || !keep {
            flow.sport = ports.draw(tables.random());
        }
        flow.port_delta = Sum::new()
            .without_port(key.sport)
            .without_port(key.dport)
            .port(flow.sport)
            .port(flow.dport)
            .fold();
        match reply(key, flow, flows) {
            Ok(()) => return Ok(()),
            Err(InsertError::Exists) => {}
            Err(InsertError::Busy) => return Err(Reason::TableBusy),
        }
    }
    Err(Reason::PortsExhausted)
}

/// Inserts the reply's row, unless another flow has the tuple.
#[inline(always)]
fn reply<A: Addr, F: Flows<A>>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
    flows: &mut F,
) -> Result<(), InsertError> {
    let reply_key = reply_key(key, flow);
    let mut reply = Flow::new(
        Half::Reply,
        flow.route(),
        (key.dst, key.dport),
        (key.src, key.sport),
    );
    reply.service = flow.service;
    reply.backend = flow.backend;
    reply.generation = flow.generation;
    reply.seen = flow.seen;
    // What the request's rewrite adds to a checksum, the reply's takes away.
    reply.addr_delta = !flow.addr_delta;
    reply.port_delta = !flow.port_delta;
    match flows.insert(&reply_key, &reply, Entry::New) {
        Err(InsertError::Exists) if is_ours(key, &reply_key, flows) => {
            flows.insert(&reply_key, &reply, Entry::Any)
        }
        result => result,
    }
}

/// Whether the tuple is still this connection's from before: its request row was evicted, or
/// its backend came back.
#[inline(always)]
fn is_ours<A: Addr, F: Flows<A>>(key: &FlowKey<A>, reply_key: &FlowKey<A>, flows: &mut F) -> bool {
    flows.get(reply_key).is_some_and(|row| {
        row.half() == Half::Reply
            && (row.src, row.sport) == (key.dst, key.dport)
            && (row.dst, row.dport) == (key.src, key.sport)
    })
}

/// The tuple a backend answers with: what the stack routes comes back on its way out toward the
/// client, everything else where it enters.
#[inline(always)]
fn reply_key<A: Addr>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    let direction = match flow.route() {
        Route::Stack => Direction::Egress,
        Route::Forward | Route::Hairpin => Direction::Ingress,
    };
    FlowKey::new(
        direction,
        key.proto,
        (flow.dst, flow.dport),
        (flow.src, flow.sport),
    )
}

/// Keeps the reply's row of a request in use: the table evicts what is not looked up, and a flow
/// whose traffic is one-sided would lose its reserved tuple. A tuple that was lost to another flow
/// ends this one; its next packet opens it anew.
#[inline(never)]
pub(crate) fn renew<A: Addr, F: Flows<A>>(key: &FlowKey<A>, flow: &Flow<A>, flows: &mut F) {
    if reply(key, flow, flows) == Err(InsertError::Exists) {
        flows.remove(key);
    }
}

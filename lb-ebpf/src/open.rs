//! New flows: frontend, backend, rows.

use lb_common::{
    Addr, Port,
    config::{FamilyConfig, link},
    counters::Reason,
    flow::{Direction, Flow, FlowKey, Half, Route, Staged},
    service::{Frontend, FrontendKey, Slots, backend, frontend},
};

use crate::{
    Entry, FibQuery, Flows, Hook, InsertError, Reach, Side, Sum, Tables, hop, parse::Datagram,
};

/// Most ports that are tried for one flow.
const PROBES: u32 = 8;

/// What came of opening a flow. Each outcome but `Opened` has been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Both rows are in the table, and staged still.
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

/// Whose address the backend sees as source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Client,
    Node,
}

/// Opens a flow for a packet that has none. Kept out of line: it is called from both copies of
/// the pipeline's steps, and its stack is free again when the packet is rewritten.
#[inline(never)]
pub(crate) fn open<A: Addr, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    key: &FlowKey<A>,
    frontend: &Frontend,
    flows: &mut F,
    tables: &T,
) -> Opening {
    let opened = request(flows)
        .and_then(|flow| choose(hook, key, frontend, tables, flow))
        .and_then(|source| record(key, source, flows, tables));
    match opened {
        Ok(()) => Opening::Opened,
        Err(refusal) => refuse(&refusal, tables),
    }
}

/// Counts a refusal, and says what becomes of the packet.
#[inline(always)]
fn refuse<A: Addr, T: Tables<A>>(refusal: &Refusal, tables: &T) -> Opening {
    let (opening, reason) = match *refusal {
        Refusal::Pass(reason) => (Opening::Passed, reason),
        Refusal::Drop(reason) => (Opening::Dropped, reason),
        Refusal::Reject(reason) => (Opening::Rejected, reason),
    };
    tables.count(reason);
    opening
}

/// The staged row of the request.
#[inline(always)]
fn request<A: Addr, F: Flows<A>>(flows: &mut F) -> Result<&mut Flow<A>, Refusal> {
    match flows.staged() {
        Some(Staged { request, .. }) => Ok(request),
        None => Err(Refusal::Drop(Reason::Inconsistent)),
    }
}

/// Who a packet without a flow is for.
#[derive(Clone, Copy)]
pub(crate) enum Claim<'t> {
    /// A frontend.
    Frontend(&'t Frontend),
    /// A cluster IP, but none of its ports.
    ClusterIp,
    /// Not ours.
    Nobody,
}

/// Looks for the frontend of a packet. In line, before anything is called: most packets are for
/// nobody here, and leaving a function costs a fifth of a lookup where returns are guarded.
#[inline(always)]
pub(crate) fn claim<'t, A: Addr, T: Tables<A>>(key: &FlowKey<A>, tables: &'t T) -> Claim<'t> {
    match tables.frontend(&FrontendKey::new(key.dst, key.dport, key.proto)) {
        Some(frontend) => Claim::Frontend(frontend),
        None if is_cluster_ip(&key.dst, tables) => Claim::ClusterIp,
        None => Claim::Nobody,
    }
}

#[inline(always)]
fn is_cluster_ip<A: Addr, T: Tables<A>>(addr: &A, tables: &T) -> bool {
    tables
        .family_config()
        .is_some_and(|config| is_of_cluster_net(addr, config))
}

/// Counts a packet for a cluster IP that has no such port, and says what becomes of it: if the
/// address is in use it is rejected, else dropped; nobody else may answer.
#[inline(always)]
pub(crate) fn unclaimed<A: Addr, T: Tables<A>>(addr: &A, tables: &T) -> Opening {
    let in_use = tables
        .frontend(&FrontendKey::whole_address(*addr))
        .is_some();
    refuse(
        &if in_use {
            Refusal::Reject(Reason::NoSuchPort)
        } else {
            Refusal::Drop(Reason::Unallocated)
        },
        tables,
    )
}

/// Whether a frontend takes new flows from this side, and this packet may begin one; if not, what
/// becomes of it, counted.
#[inline(always)]
pub(crate) fn admit<A: Addr, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    frontend: &Frontend,
    tables: &T,
) -> Result<(), Opening> {
    if slots(hook, frontend).count == 0 {
        return Err(refuse(&nobody(hook, frontend, tables), tables));
    }
    if !datagram.opens() {
        return Err(refuse(&Refusal::Drop(Reason::NoFlow), tables));
    }
    Ok(())
}

/// Whether an address is of the cluster IPs' network, if there is one: a configuration that was
/// never written must not claim every packet.
#[inline(always)]
fn is_of_cluster_net<A: Addr>(addr: &A, config: &FamilyConfig<A>) -> bool {
    let net = config.cluster_net.words().iter();
    let mask = config.cluster_mask.words().iter();
    let mut words = addr.words().iter().zip(net).zip(mask);
    config.cluster_net != A::default() && words.all(|((word, net), mask)| word & mask == *net)
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
    key: &FlowKey<A>,
    frontend: &Frontend,
    tables: &T,
    flow: &mut Flow<A>,
) -> Result<Source, Refusal> {
    const INCONSISTENT: Refusal = Refusal::Drop(Reason::Inconsistent);
    let slots = slots(hook, frontend);
    let slot = slots
        .offset
        .wrapping_add(below(tables.random(), slots.count));
    let index = tables.slot(slot).ok_or(INCONSISTENT)?;
    let backend = tables.backend(index).ok_or(INCONSISTENT)?;
    if backend.addr == A::default() {
        return Err(INCONSISTENT);
    }
    let client = (key.src, key.sport);
    *flow = Flow::new(
        Half::Request,
        Route::Stack,
        client,
        (backend.addr, backend.port),
    );
    flow.service = frontend.service;
    flow.backend = index;
    // A backend that has just gone still has its address: this packet may have found the frontend
    // before it changed, and is on its way no worse than one a moment earlier. What comes next
    // finds the generation wrong, and chooses anew.
    let alive = backend.flags & backend::ALIVE != 0;
    flow.generation = if alive {
        backend.generation
    } else {
        !backend.generation
    };
    flow.seen = tables.now();
    match hook.side {
        Side::Inside if backend.addr == key.src => {
            flow.set_route(Route::Hairpin);
            translate_source(flow, &A::default(), tables)
        }
        Side::Outside if backend.flags & backend::LOCAL == 0 => forward(hook, key, tables, flow),
        Side::Inside | Side::Outside => Ok(Source::Client),
    }
}

/// The way to a backend elsewhere.
#[inline(always)]
fn forward<A: Addr, T: Tables<A>>(
    hook: Hook,
    key: &FlowKey<A>,
    tables: &T,
    flow: &mut Flow<A>,
) -> Result<Source, Refusal> {
    let query = FibQuery {
        src: A::default(),
        dst: flow.dst,
        proto: key.proto,
    };
    let answer = tables.fib(&query);
    let epoch = tables.config().map_or(0, |config| config.epoch);
    if !hop::adopt(flow, &answer, tables, epoch, flow.seen) {
        return match answer.reach {
            // An endpoint that does not name its node may still run here.
            Reach::NotForwarded => Ok(Source::Client),
            Reach::Unreachable | Reach::Neighbour | Reach::Route => {
                Err(Refusal::Drop(Reason::NoRoute))
            }
        };
    }
    if hook.xdp && flow.link & link::XDP_TARGET == 0 {
        return Err(Refusal::Pass(Reason::NeedsStack));
    }
    flow.set_route(Route::Forward);
    translate_source(flow, &answer.src, tables)
}

/// Puts the node's address in the source: the one the route prefers, if it has one.
#[inline(always)]
fn translate_source<A: Addr, T: Tables<A>>(
    flow: &mut Flow<A>,
    preferred: &A,
    tables: &T,
) -> Result<Source, Refusal> {
    const NO_SOURCE: Refusal = Refusal::Drop(Reason::NoSource);
    flow.src = *preferred;
    if flow.src == A::default() {
        flow.src = tables.family_config().ok_or(NO_SOURCE)?.node;
    }
    if flow.src == A::default() {
        Err(NO_SOURCE)
    } else {
        Ok(Source::Node)
    }
}

/// Scales a random number to `0..count`, without the bias or the price of a remainder.
#[inline(always)]
fn below(random: u32, count: u32) -> u32 {
    ((u64::from(random) * u64::from(count)) >> 32) as u32
}

/// Writes both rows of a new flow.
#[inline(always)]
fn record<A: Addr, F: Flows<A>, T: Tables<A>>(
    key: &FlowKey<A>,
    source: Source,
    flows: &mut F,
    tables: &T,
) -> Result<(), Refusal> {
    let config = tables.config().ok_or(Refusal::Drop(Reason::Inconsistent))?;
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
    let keep = source == Source::Client || ports.contains(key.sport);
    reserve(key, keep, ports, flows, tables)?;
    if flows.insert_staged(Half::Request, key, Entry::Any).is_err() {
        let reply_key = reply_key(key, request(flows)?);
        flows.remove(&reply_key);
        return Err(Refusal::Drop(Reason::TableBusy));
    }
    tables.count_flow(service);
    Ok(())
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
    keep: bool,
    ports: PortRange,
    flows: &mut F,
    tables: &T,
) -> Result<(), Refusal> {
    for probe in 0..PROBES {
        let flow = request(flows)?;
        if probe != 0 || !keep {
            flow.sport = ports.draw(tables.random());
        }
        flow.port_delta = Sum::new()
            .without_port(key.sport)
            .without_port(key.dport)
            .port(flow.sport)
            .port(flow.dport)
            .fold();
        match answer(key, flows) {
            Ok(()) => return Ok(()),
            Err(InsertError::Exists) => {}
            Err(InsertError::Busy) => return Err(Refusal::Drop(Reason::TableBusy)),
        }
    }
    Err(Refusal::Drop(Reason::PortsExhausted))
}

/// Inserts the reply's row to the staged request's, unless another flow has the tuple.
#[inline(always)]
fn answer<A: Addr, F: Flows<A>>(key: &FlowKey<A>, flows: &mut F) -> Result<(), InsertError> {
    let Staged { request, reply } = flows.staged().ok_or(InsertError::Busy)?;
    let client = (key.src, key.sport);
    *reply = Flow::new(Half::Reply, request.route(), (key.dst, key.dport), client);
    reply.service = request.service;
    reply.backend = request.backend;
    reply.generation = request.generation;
    reply.seen = request.seen;
    // What the request's rewrite adds to a checksum, the reply's takes away.
    reply.addr_delta = !request.addr_delta;
    reply.port_delta = !request.port_delta;
    let reply_key = reply_key(key, request);
    match flows.insert_staged(Half::Reply, &reply_key, Entry::New) {
        Err(InsertError::Exists) if is_ours(key, &reply_key, flows) => {
            flows.insert_staged(Half::Reply, &reply_key, Entry::Any)
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
pub(crate) fn renew<A: Addr, F: Flows<A>>(key: &FlowKey<A>, flows: &mut F) {
    let renewed = flows
        .stage(key)
        .is_some_and(|()| answer(key, flows) != Err(InsertError::Exists));
    if !renewed {
        flows.remove(key);
    }
}

//! New flows: who may begin one, the backend and the way to it.

use lb_common::{
    Addr,
    config::link,
    counters::Reason,
    flow::{Direction, Flow, FlowKey, Half, Route, end},
    service::{Frontend, backend},
};

use crate::{
    FibQuery, Flows, Hook, Reach, Side, Tables,
    choice::{self, Chosen, Client, INCONSISTENT, Refusal},
    datagram::Datagram,
    hop,
    rows::{self, Begun, Opener},
};

/// What came of opening a flow. Each outcome but `Opened` has been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Both rows are in the table, and staged still.
    Opened,
    /// Another CPU has opened the flow meanwhile, by a packet of the same client.
    Overtaken,
    /// The packet is not for a service, or not for this hook.
    Passed,
    /// The packet must go.
    Dropped,
    /// The sender is to be told that nobody is there.
    Rejected,
}

/// Opens a flow for a packet that has none, if it is one that may have one.
///
/// In three steps out of line: they are called from both copies of the pipeline's steps, and the
/// stack of each is free again when the next runs and when the packet is rewritten.
#[inline(always)]
pub(crate) fn open<A: Addr, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    frontend: &Frontend,
    begun: Begun,
    flows: &mut F,
    tables: &T,
) -> Opening {
    let opening = match lead(hook, datagram, frontend, flows, tables) {
        Opening::Opened => {
            // Else the verifier follows all of it once for each way a flow can have begun.
            let begun = begun.blurred::<A, F>(frontend.flags);
            record(datagram, frontend, begun, flows, tables)
        }
        refused => refused,
    };
    match opening {
        Opening::Overtaken => give_way(datagram, flows, tables),
        other => other,
    }
}

/// Stages the row of the request: which backend, and the way to it.
#[inline(never)]
fn lead<A: Addr, F: Flows<A>, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    frontend: &Frontend,
    flows: &mut F,
    tables: &T,
) -> Opening {
    // Ahead of all else: here registers are free, and the stack is small.
    if flows.emptied(Half::Request).is_none() {
        return conclude(Err(INCONSISTENT), tables);
    }
    let key = &datagram.key;
    let client = match hook.direction {
        Direction::Ingress => Client::seen(key, hook.side, tables),
        Direction::Egress => Client::own(key),
    };
    let led = admit(&client, datagram, frontend, tables)
        .and_then(|()| rows::request(flows))
        .and_then(|flow| choose(hook, datagram, &client, frontend, tables, flow));
    conclude(led, tables)
}

/// Inserts both rows of a flow whose request is staged.
#[inline(never)]
fn record<A: Addr, F: Flows<A>, T: Tables<A>>(
    datagram: &Datagram<A>,
    frontend: &Frontend,
    begun: Begun,
    flows: &mut F,
    tables: &T,
) -> Opening {
    match rows::record(datagram, frontend, begun, flows, tables) {
        Ok(Opener::Here) => Opening::Opened,
        Ok(Opener::Elsewhere) => Opening::Overtaken,
        Err(refusal) => refuse(&refusal, tables),
    }
}

/// Goes on with the rows of another CPU.
#[inline(never)]
fn give_way<A: Addr, F: Flows<A>, T: Tables<A>>(
    datagram: &Datagram<A>,
    flows: &mut F,
    tables: &T,
) -> Opening {
    if rows::give_way(&datagram.key, flows) {
        Opening::Opened
    } else {
        refuse(&Refusal::Drop(Reason::TableBusy), tables)
    }
}

/// What came of leading a flow.
#[inline(always)]
fn conclude<A: Addr, T: Tables<A>>(step: Result<(), Refusal>, tables: &T) -> Opening {
    match step {
        Ok(()) => Opening::Opened,
        Err(refusal) => refuse(&refusal, tables),
    }
}

/// Whether a frontend takes this client, and the packet begins a flow or tells by its hash where the one
/// it is of was led: a row that was evicted is made again. No client sends what answers a SYN.
#[inline(always)]
fn admit<A: Addr, T: Tables<A>>(
    client: &Client<'_, A>,
    datagram: &Datagram<A>,
    frontend: &Frontend,
    tables: &T,
) -> Result<(), Refusal> {
    choice::admit(client, frontend, tables)?;
    if datagram.opens() || choice::is_by_hash(frontend) && !datagram.answers() {
        Ok(())
    } else {
        Err(Refusal::Drop(Reason::NoFlow))
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

/// Counts a packet for a cluster IP that has no such port, and says what becomes of it.
#[inline(always)]
pub(crate) fn unclaimed<A: Addr, T: Tables<A>>(addr: &A, tables: &T) -> Opening {
    refuse(&choice::unclaimed(addr, tables), tables)
}

/// Chooses a backend, and the way to it.
#[inline(always)]
fn choose<A: Addr, T: Tables<A>>(
    hook: Hook,
    datagram: &Datagram<A>,
    client: &Client<'_, A>,
    frontend: &Frontend,
    tables: &T,
    flow: &mut Flow<A>,
) -> Result<(), Refusal> {
    let key = &datagram.key;
    let Chosen {
        index,
        generation,
        backend,
    } = choice::choose(client, frontend, tables)?;
    flow.set(
        Half::Request,
        Route::Stack,
        (key.src, key.sport),
        (backend.addr, backend.port),
    );
    flow.service = frontend.service;
    flow.backend = index;
    flow.generation = generation;
    flow.seen = tables.now();
    let awaited = |is_awaited| if is_awaited { end::AWAITED } else { 0 };
    flow.set_end(Half::Request, awaited(datagram.asks()));
    flow.set_end(Half::Reply, awaited(datagram.opens()));
    if hook.direction == Direction::Egress {
        return forward(hook, key, tables, flow);
    }
    // The interface says where replies come by, whatever side the client counts as.
    let elsewhere = match hook.side {
        Side::Inside if backend.addr == key.src => {
            flow.set_route(Route::Hairpin);
            return translate_source(flow, &A::default(), tables);
        }
        Side::Inside => false,
        Side::Outside => backend.flags & backend::LOCAL == 0,
    };
    if elsewhere || choice::masquerades(frontend, tables) {
        forward(hook, key, tables, flow)
    } else {
        Ok(())
    }
}

/// The way to a backend that is to see this node as its client, as it is or is not.
#[inline(always)]
fn forward<A: Addr, T: Tables<A>>(
    hook: Hook,
    key: &FlowKey<A>,
    tables: &T,
    flow: &mut Flow<A>,
) -> Result<(), Refusal> {
    let query = FibQuery {
        src: A::default(),
        dst: flow.dst,
        proto: key.proto,
    };
    let answer = tables.fib(&query);
    let epoch = tables.config().map_or(0, |config| config.epoch);
    if !hop::adopt(flow, &answer, tables, epoch, flow.seen) {
        return match answer.reach {
            // An endpoint that does not name its node may still run here, and one that has this
            // node's address can't be sent to in its name.
            Reach::NotForwarded if hook.direction == Direction::Ingress => Ok(()),
            Reach::NotForwarded | Reach::Unreachable | Reach::Neighbour | Reach::Route => {
                Err(Refusal::Drop(Reason::NoRoute))
            }
        };
    }
    if hook.xdp && !flow.has_link(link::XDP_TARGET) {
        return Err(Refusal::Pass(Reason::NeedsStack));
    }
    if hook.direction == Direction::Egress {
        flow.set_route(Route::Own);
        return Ok(());
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
) -> Result<(), Refusal> {
    const NO_SOURCE: Refusal = Refusal::Drop(Reason::NoSource);
    // By words: the compiler would call a loop over bytes.
    let copy = |addr: &A| A::from_words(|word| addr.words()[word]);
    flow.src = copy(preferred);
    if flow.src == A::default() {
        flow.src = copy(&tables.family_config().ok_or(NO_SOURCE)?.node);
    }
    if flow.src == A::default() {
        Err(NO_SOURCE)
    } else {
        Ok(())
    }
}

//! The path of a call: the socket of a process is led straight to a backend, so that none of its
//! packets has to be translated, and the process is told of the service all the same.

use lb_common::{
    Addr, Port, V4, V6,
    config::flags,
    counters::Reason,
    flow::Half,
    proto,
    service::{Frontend, FrontendKey, backend, frontend},
    socket::{Cookie, SocketKey, SocketPeer},
};

use crate::{
    Side, Sockets, Tables,
    choice::{self, Claim, Client, INCONSISTENT, Refusal},
};

/// What a process does with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Connects it.
    Connect,
    /// Sends a datagram by it, though it is not connected.
    Send,
}

/// A call of a process on its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<A> {
    /// The socket's network namespace.
    pub netns: Cookie,
    /// IP protocol number.
    pub proto: u8,
    /// The other end, as the process names it, or as it is about to be told.
    pub peer: (A, Port),
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It goes on untouched.
    Pass,
    /// It goes on to [`Outcome::peer`].
    Lead,
    /// It fails at once: nobody is there.
    Refuse,
    /// It fails at once: it may not be.
    Forbid,
}

/// An answer and, if it leads somewhere, where. A plain struct, since the payloads of an enum are
/// undefined in the other variants, and the verifier refuses to have undefined bytes moved about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<A> {
    /// What becomes of the call.
    pub answer: Answer,
    /// The other end it goes on to.
    pub peer: (A, Port),
}

/// Leads a call to a backend of the service it is for. Refusals and calls for no service are
/// counted under their reason.
#[inline(always)]
pub fn lead<A: Addr, S: Sockets<A>, T: Tables<A>>(
    operation: Operation,
    call: &Call<A>,
    sockets: &mut S,
    tables: &T,
) -> Outcome<A> {
    let unchanged = |answer| Outcome {
        answer,
        peer: call.peer,
    };
    let caller = caller(call, sockets, tables);
    if caller.place == Place::Elsewhere {
        return unchanged(Answer::Pass);
    }
    match backend(operation, call, &caller, sockets, tables) {
        Ok(peer) => Outcome {
            answer: Answer::Lead,
            peer,
        },
        Err(refusal) => unchanged(refuse(refusal, tables)),
    }
}

/// [`lead`] for a call of an IPv6 socket, whose other end may be an IPv4 one (RFC 4291, 2.5.5.2).
#[inline(always)]
pub fn lead_v6<S, T>(
    operation: Operation,
    call: &Call<V6>,
    sockets: &mut S,
    tables: &T,
) -> Outcome<V6>
where
    S: Sockets<V4> + Sockets<V6>,
    T: Tables<V4> + Tables<V6>,
{
    match call.unmapped() {
        Some(call) => {
            let Outcome { answer, peer } = lead(operation, &call, sockets, tables);
            Outcome {
                answer,
                peer: mapped(peer),
            }
        }
        None => lead(operation, call, sockets, tables),
    }
}

/// The service a process asked for when it was led to the other end of this call; none if it was
/// not led there.
#[inline(always)]
pub fn service<A: Addr, S: Sockets<A>, T: Tables<A>>(
    call: &Call<A>,
    sockets: &S,
    tables: &T,
) -> Option<(A, Port)> {
    if !may_be_ours(call, tables) {
        return None;
    }
    let service = sockets.get(&call.key(Half::Reply, call.peer, sockets.cookie()))?;
    Some((service.addr, service.port))
}

/// [`service`] for a call of an IPv6 socket.
#[inline(always)]
pub fn service_v6<S, T>(call: &Call<V6>, sockets: &S, tables: &T) -> Option<(V6, Port)>
where
    S: Sockets<V4> + Sockets<V6>,
    T: Tables<V4> + Tables<V6>,
{
    match call.unmapped() {
        Some(call) => service(&call, sockets, tables).map(mapped),
        None => service(call, sockets, tables),
    }
}

/// Where a process is whose call it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a network namespace whose sockets are not led, or it uses another protocol than those
    /// whose sockets tell their ports here.
    Elsewhere,
    /// In the node's own.
    Node,
    /// In that of a pod.
    Pod,
}

/// Whose call it is. A plain struct, as [`Outcome`] is.
struct Caller<A> {
    place: Place,
    /// The pod's address, if it is a pod's.
    addr: A,
}

/// Who calls. That a namespace is a pod's is asked only where pods' sockets are led at all.
#[inline(always)]
fn caller<A: Addr, S: Sockets<A>, T: Tables<A>>(
    call: &Call<A>,
    sockets: &S,
    tables: &T,
) -> Caller<A> {
    let at = |place, addr| Caller { place, addr };
    let nobody = at(Place::Elsewhere, A::default());
    if !may_be_ours(call, tables) {
        return nobody;
    }
    if tables.config().is_some_and(|it| it.netns == call.netns) {
        return at(Place::Node, A::default());
    }
    match sockets.pod(call.netns) {
        Some(addr) if *addr != A::default() => at(Place::Pod, *addr),
        _ => nobody,
    }
}

/// Whether a call may be one to look at. Which pods' those are only leading has to ask: a socket
/// that was not led has no row.
#[inline(always)]
fn may_be_ours<A: Addr, T: Tables<A>>(call: &Call<A>, tables: &T) -> bool {
    matches!(call.proto, proto::TCP | proto::UDP)
        && tables.config().is_some_and(|config| {
            config.netns != Cookie::NONE
                && (config.netns == call.netns || config.flags & flags::POD_SOCKETS != 0)
        })
}

/// The backend a call is led to, and both rows that remember it.
#[inline(always)]
fn backend<A: Addr, S: Sockets<A>, T: Tables<A>>(
    operation: Operation,
    call: &Call<A>,
    caller: &Caller<A>,
    sockets: &mut S,
    tables: &T,
) -> Result<(A, Port), Refusal> {
    let frontend = match claim(call, caller, tables) {
        Claim::Frontend(frontend) => frontend,
        Claim::ClusterIp => return Err(choice::unclaimed(&call.peer.0, tables)),
        Claim::Nobody => return Err(Refusal::Pass(Reason::NotService)),
    };
    let socket = sockets.cookie();
    let request = call.key(Half::Request, call.peer, socket);
    let known = match operation {
        Operation::Connect => None,
        Operation::Send => current(&request, frontend, sockets, tables),
    };
    let led = match known {
        Some(led) => led,
        None => choose(caller, frontend, tables)?,
    };
    if operation == Operation::Send && known.is_none() {
        sockets.insert(&request, &led).map_err(|_| BUSY)?;
    }
    let to = (led.addr, led.port);
    remember(call, &call.key(Half::Reply, to, socket), &led, sockets)?;
    if known.is_none() {
        tables.count_flow(led.service);
    }
    Ok(to)
}

const BUSY: Refusal = Refusal::Drop(Reason::TableBusy);

/// Who the other end of a call belongs to. The node's loopback addresses are those of its node
/// ports, if that is wanted, and nobody's otherwise. A pod's are the pod's.
#[inline(always)]
fn claim<'t, A: Addr, T: Tables<A>>(
    call: &Call<A>,
    caller: &Caller<A>,
    tables: &'t T,
) -> Claim<'t> {
    let (addr, port) = call.peer;
    if !is_loopback(&addr) {
        return choice::claim(&FrontendKey::new(addr, port, call.proto), tables);
    }
    if caller.place == Place::Pod {
        return Claim::Nobody;
    }
    match node_port(port, call.proto, tables) {
        Some(frontend) => Claim::Frontend(frontend),
        None => Claim::Nobody,
    }
}

/// Whether an address means this host to a process on it: the loopback addresses, and the
/// unspecified one, which the kernel takes for them.
#[inline(always)]
fn is_loopback<A: Addr>(addr: &A) -> bool {
    const NET: u8 = 127;
    match addr.words() {
        [word] => *word == 0 || word.to_ne_bytes()[0] == NET,
        words => {
            let one = 1_u32.to_be();
            // All at once: of a word that is compared by itself the verifier remembers that it is zero, and checks what
            // follows once more for that.
            words.iter().take(3).fold(0, |all, word| all | word) == 0
                && words.last().is_some_and(|word| *word == 0 || *word == one)
        }
    }
}

/// The node port that processes on this node reach by a loopback address: the primary address's.
#[inline(always)]
fn node_port<A: Addr, T: Tables<A>>(port: Port, proto: u8, tables: &T) -> Option<&Frontend> {
    if tables.config()?.flags & flags::LOCALHOST_NODE_PORTS == 0 {
        return None;
    }
    let node = tables.family_config()?.node;
    let frontend = tables.frontend(&FrontendKey::new(node, port, proto))?;
    // Services may have the node's address as an external IP too: loopback is not theirs.
    (frontend.flags & frontend::NODE_PORT != 0).then_some(frontend)
}

/// The backend this socket's datagrams to a service went to, if they are to go on there.
#[inline(always)]
fn current<A: Addr, S: Sockets<A>, T: Tables<A>>(
    request: &SocketKey<A>,
    frontend: &Frontend,
    sockets: &S,
    tables: &T,
) -> Option<SocketPeer<A>> {
    let led = sockets.get(request)?;
    let backend = tables.backend(led.backend)?;
    let stays = led.service == frontend.service
        && led.generation == backend.generation
        && backend.flags & backend::ALIVE != 0;
    stays.then_some(*led)
}

/// Chooses a backend. To services, the node's processes are clients inside (SEMANTICS C18), known
/// by the node's address; a pod's are the client that the pod is, known by its own.
#[inline(always)]
fn choose<A: Addr, T: Tables<A>>(
    caller: &Caller<A>,
    frontend: &Frontend,
    tables: &T,
) -> Result<SocketPeer<A>, Refusal> {
    let client = match caller.place {
        Place::Pod => Client::pod(&caller.addr, tables),
        Place::Node | Place::Elsewhere => Client {
            addr: &tables.family_config().ok_or(INCONSISTENT)?.node,
            side: Side::Inside,
            flow: None,
        },
    };
    choice::admit(&client, frontend, tables)?;
    let chosen = choice::choose(&client, frontend, tables)?;
    Ok(SocketPeer {
        addr: chosen.backend.addr,
        port: chosen.backend.port,
        zero: 0,
        service: frontend.service,
        backend: chosen.index,
        generation: chosen.generation,
    })
}

/// Remembers what service the backend stands for to this socket. Looked up each time a datagram is
/// sent, for the table evicts, and another service may have led the socket to the same backend.
#[inline(always)]
fn remember<A: Addr, S: Sockets<A>>(
    call: &Call<A>,
    reply: &SocketKey<A>,
    led: &SocketPeer<A>,
    sockets: &mut S,
) -> Result<(), Refusal> {
    let known = sockets
        .get(reply)
        .is_some_and(|service| (service.addr, service.port) == call.peer);
    if known {
        return Ok(());
    }
    let service = SocketPeer {
        addr: call.peer.0,
        port: call.peer.1,
        ..*led
    };
    sockets.insert(reply, &service).map_err(|_| BUSY)
}

/// Counts a refusal, and says what the process hears. A cluster IP nobody has is refused: there is
/// no client to keep waiting, as there may be behind a packet.
#[inline(always)]
fn refuse<A: Addr, T: Tables<A>>(refusal: Refusal, tables: &T) -> Answer {
    let (answer, reason) = match refusal {
        Refusal::Pass(reason) => (Answer::Pass, reason),
        Refusal::Drop(reason @ Reason::Unallocated) | Refusal::Reject(reason) => {
            (Answer::Refuse, reason)
        }
        Refusal::Drop(reason) => (Answer::Forbid, reason),
    };
    tables.count(reason);
    answer
}

impl<A: Addr> Call<A> {
    /// The key of one of the rows of the socket it is on.
    #[inline(always)]
    fn key(&self, half: Half, peer: (A, Port), socket: Cookie) -> SocketKey<A> {
        SocketKey::new(half, socket, self.proto, peer)
    }
}

/// The third word of an IPv4 address mapped into IPv6, behind two of zero.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Call<V6> {
    /// The same call to the IPv4 address that is mapped into its other end's, if one is.
    #[inline(always)]
    fn unmapped(&self) -> Option<Call<V4>> {
        let ([first, second, third, word], port) = self.peer;
        // All at once, as in `is_loopback`.
        (first | second | (third ^ MAPPED) == 0).then_some(Call {
            netns: self.netns,
            proto: self.proto,
            peer: ([word], port),
        })
    }
}

#[inline(always)]
fn mapped(([word], port): (V4, Port)) -> (V6, Port) {
    ([0, 0, MAPPED, word], port)
}

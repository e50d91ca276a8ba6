//! Which backend a client gets, decided from addresses alone: for sockets as for packets.

use lb_common::{
    Addr, Tick,
    config::{CLUSTER_NETS_MAX, FamilyConfig, Network, flags},
    counters::Reason,
    flow::FlowKey,
    service::{
        Backend, ClientKey, Frontend, FrontendKey, Remembered, Slots, backend, frontend, list,
    },
};

use crate::{Side, Tables, flow_hash};

/// Why a client gets no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another hook, or nobody, has to see to it.
    Pass(Reason),
    /// It is not answered.
    Drop(Reason),
    /// It is told that nobody is there.
    Reject(Reason),
}

pub(crate) const INCONSISTENT: Refusal = Refusal::Drop(Reason::Inconsistent);

/// Who an address belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Claim<'t> {
    /// A frontend.
    Frontend(&'t Frontend),
    /// A cluster IP, but none of its ports.
    ClusterIp,
    /// Not ours.
    Nobody,
}

/// Looks for the frontend of an address.
#[inline(always)]
pub(crate) fn claim<'t, A: Addr, T: Tables<A>>(key: &FrontendKey<A>, tables: &'t T) -> Claim<'t> {
    match tables.frontend(key) {
        Some(frontend) => Claim::Frontend(frontend),
        None if is_cluster_ip(&key.addr, tables) => Claim::ClusterIp,
        None => Claim::Nobody,
    }
}

#[inline(always)]
fn is_cluster_ip<A: Addr, T: Tables<A>>(addr: &A, tables: &T) -> bool {
    tables
        .family_config()
        .is_some_and(|config| is_covered(addr, config) && is_of_any(addr, &config.cluster_nets))
}

/// Whether an address lies where all networks of cluster IPs do; beside them, others may.
#[inline(always)]
pub(crate) fn may_be_cluster_ip<A: Addr, T: Tables<A>>(addr: &A, tables: &T) -> bool {
    tables
        .family_config()
        .is_some_and(|config| is_covered(addr, config))
}

/// Whether the networks of cluster IPs, if there are any, may have an address: a configuration that
/// was never written must not claim every packet.
#[inline(always)]
fn is_covered<A: Addr>(addr: &A, config: &FamilyConfig<A>) -> bool {
    config.cluster_nets[0].net != A::default() && has(&config.cluster_cover, addr)
}

#[inline(never)]
fn is_of_any<A: Addr>(addr: &A, nets: &[Network<A>; CLUSTER_NETS_MAX]) -> bool {
    nets.iter()
        .any(|network| network.net != A::default() && has(network, addr))
}

/// Whether an address is of a network.
#[inline(always)]
fn has<A: Addr>(network: &Network<A>, addr: &A) -> bool {
    let bits = network.net.words().iter().zip(network.mask.words());
    let mut words = addr.words().iter().zip(bits);
    words.all(|(word, (net, mask))| word & mask == *net)
}

/// A cluster IP that has no such port: if the address is in use the client is told, else not;
/// nobody else may answer.
#[inline(always)]
pub(crate) fn unclaimed<A: Addr, T: Tables<A>>(addr: &A, tables: &T) -> Refusal {
    let in_use = tables
        .frontend(&FrontendKey::whole_address(*addr))
        .is_some();
    if in_use {
        Refusal::Reject(Reason::NoSuchPort)
    } else {
        Refusal::Drop(Reason::Unallocated)
    }
}

/// Who wants a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client<'c, A> {
    /// Its address, as it appeared.
    pub(crate) addr: &'c A,
    /// Which of a frontend's lists is for it.
    pub(crate) side: Side,
    /// The flow it begins, as its first packet has it; none of a socket, which is led before there
    /// is one.
    pub(crate) flow: Option<&'c FlowKey<A>>,
}

impl<'c, A: Addr> Client<'c, A> {
    /// The client that begins a flow on an interface of this side: it is on that side too, unless
    /// the node tells pods by their addresses.
    #[inline(always)]
    pub(crate) fn seen<T: Tables<A>>(flow: &'c FlowKey<A>, side: Side, tables: &T) -> Self {
        let addr = &flow.src;
        Self {
            addr,
            side: side_of(addr, side, tables),
            flow: Some(flow),
        }
    }

    /// This node, which begins the flow: it is inside (SEMANTICS C18).
    #[inline(always)]
    pub(crate) const fn own(flow: &'c FlowKey<A>) -> Self {
        Self {
            addr: &flow.src,
            side: Side::Inside,
            flow: Some(flow),
        }
    }

    /// The pod of this address, as the client that one of its sockets is.
    #[inline(always)]
    pub(crate) fn pod<T: Tables<A>>(addr: &'c A, tables: &T) -> Self {
        Self {
            addr,
            side: side_of(addr, Side::Inside, tables),
            flow: None,
        }
    }

    #[inline(always)]
    fn slots(&self, frontend: &Frontend) -> Slots {
        match self.side {
            Side::Inside => frontend.inside,
            Side::Outside => frontend.outside,
        }
    }

    /// The flag of backends that are in the client's list.
    #[inline(always)]
    fn membership(&self, frontend: &Frontend) -> u16 {
        let local = match self.side {
            Side::Inside => frontend::LOCAL_INSIDE,
            Side::Outside => frontend::LOCAL_OUTSIDE,
        };
        if frontend.flags & local == 0 {
            backend::IN_CLUSTER
        } else {
            backend::IN_LOCAL
        }
    }
}

/// The side of a client that is behind an interface of this side.
#[inline(always)]
fn side_of<A: Addr, T: Tables<A>>(addr: &A, side: Side, tables: &T) -> Side {
    if !has_flag::<A, T>(flags::PODS_BY_ADDRESS, tables) {
        return side;
    }
    match tables.family_config() {
        Some(FamilyConfig { pods, .. }) if pods.net != A::default() && has(pods, addr) => {
            Side::Inside
        }
        _ => Side::Outside,
    }
}

/// Whether the node is configured with one of [`flags`].
#[inline(always)]
fn has_flag<A: Addr, T: Tables<A>>(flag: u32, tables: &T) -> bool {
    tables
        .config()
        .is_some_and(|config| config.flags & flag != 0)
}

/// Whether a frontend's backends are to see this node instead of the client, wherever they are.
#[inline(always)]
pub(crate) fn masquerades<A: Addr, T: Tables<A>>(frontend: &Frontend, tables: &T) -> bool {
    frontend.flags & frontend::CLUSTER_IP != 0 && has_flag::<A, T>(flags::MASQUERADE_ALL, tables)
}

/// Whether a frontend takes new flows of this client. Its source ranges come first: whom they
/// keep out does not learn whether there are backends.
#[inline(always)]
pub(crate) fn admit<A: Addr, T: Tables<A>>(
    client: &Client<'_, A>,
    frontend: &Frontend,
    tables: &T,
) -> Result<(), Refusal> {
    tables.consider(frontend, client.slots(frontend));
    if frontend.flags & frontend::SOURCE_RANGES != 0
        && !tables.allowed(frontend.service, client.addr)
    {
        return Err(Refusal::Drop(Reason::SourceRange));
    }
    if client.slots(frontend).count == 0 {
        return Err(nobody(client, frontend, tables));
    }
    Ok(())
}

/// A frontend without backends: told to the client, unless others elsewhere would answer.
#[inline(always)]
fn nobody<A: Addr, T: Tables<A>>(
    client: &Client<'_, A>,
    frontend: &Frontend,
    tables: &T,
) -> Refusal {
    let elsewhere = match client.side {
        Side::Inside => frontend::DROP_INSIDE,
        Side::Outside => frontend::DROP_OUTSIDE,
    };
    if frontend.flags & elsewhere != 0 {
        return Refusal::Drop(Reason::NoLocalBackend);
    }
    tables.count_reject(frontend.service);
    Refusal::Reject(Reason::NoBackend)
}

/// A backend, and how it is told from others that have or had its index.
#[derive(Clone, Copy)]
pub(crate) struct Chosen<'t, A> {
    pub(crate) index: u32,
    /// What a flow remembers as the backend's generation.
    pub(crate) generation: u32,
    pub(crate) backend: &'t Backend<A>,
}

impl<'t, A: Addr> Chosen<'t, A> {
    #[inline(always)]
    fn of(index: u32, backend: &'t Backend<A>) -> Self {
        // A backend that has just gone still has its address: this client may have found the
        // frontend before it changed, and is on its way no worse than one a moment earlier. What
        // comes next finds the generation wrong, and chooses anew.
        let alive = backend.flags & backend::ALIVE != 0;
        Self {
            index,
            generation: if alive {
                backend.generation
            } else {
                !backend.generation
            },
            backend,
        }
    }
}

/// Chooses a backend for a client that was let in by [`admit`]: the one it had before, if affinity
/// asks for it, else any.
#[inline(always)]
pub(crate) fn choose<'t, A: Addr, T: Tables<A>>(
    client: &Client<'_, A>,
    frontend: &Frontend,
    tables: &'t T,
) -> Result<Chosen<'t, A>, Refusal> {
    if frontend.affinity.timeout() == 0 {
        draw(client, frontend, tables)
    } else {
        recall(client, frontend, tables)
    }
}

/// One of the client's backends: by chance, as often as it has slots, or the one that follows from
/// the flow.
#[inline(always)]
fn draw<'t, A: Addr, T: Tables<A>>(
    client: &Client<'_, A>,
    frontend: &Frontend,
    tables: &'t T,
) -> Result<Chosen<'t, A>, Refusal> {
    let slots = client.slots(frontend);
    let index = if frontend.flags & frontend::HASHED == 0 {
        drawn(slots, tables.random(), |at| tables.slot(at))
    } else {
        listed(slots, number(client, tables), |at| tables.slot(at))
    };
    let index = index.ok_or(INCONSISTENT)?;
    let backend = tables.backend(index).ok_or(INCONSISTENT)?;
    if backend.addr == A::default() {
        return Err(INCONSISTENT);
    }
    Ok(Chosen::of(index, backend))
}

/// What the slot of a range holds that this number stands for; `slot` reads one.
#[inline(always)]
pub fn drawn(slots: Slots, number: u32, slot: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    slot(slots.offset.wrapping_add(below(number, slots.count)))
}

/// The backend index of a [`list`] that its table has for this number; none if they contradict each
/// other. `slot` reads a slot.
#[inline(always)]
pub fn listed(list: Slots, number: u32, slot: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    let table = Slots {
        offset: slot(list.offset)?,
        count: slot(list.offset.wrapping_add(1))?,
    };
    let position = drawn(table, number, &slot)?;
    let backends = list::backends(list);
    if position >= backends.count {
        return None;
    }
    slot(backends.offset.wrapping_add(position))
}

/// What a client is looked up in a table by.
#[inline(always)]
fn number<A: Addr, T: Tables<A>>(client: &Client<'_, A>, tables: &T) -> u32 {
    match client.flow {
        Some(flow) => {
            tables.hashed();
            flow_hash(flow)
        }
        // A socket's backend is known to this node alone, and remembered while the socket lives:
        // there is nothing for another choice to agree with.
        None => tables.random(),
    }
}

/// Whether the backend of a flow through this frontend follows from its 5-tuple alone. Where there is
/// affinity, that may have chosen.
#[inline(always)]
pub(crate) fn is_by_hash(frontend: &Frontend) -> bool {
    frontend.flags & frontend::HASHED != 0 && frontend.affinity.timeout() == 0
}

/// Scales a random number to `0..count`, without the bias or the price of a remainder.
#[inline(always)]
pub(crate) fn below(random: u32, count: u32) -> u32 {
    ((u64::from(random) * u64::from(count)) >> 32) as u32
}

/// The backend the client had last, or another one that is remembered from now on.
#[inline(always)]
fn recall<'t, A: Addr, T: Tables<A>>(
    client: &Client<'_, A>,
    frontend: &Frontend,
    tables: &'t T,
) -> Result<Chosen<'t, A>, Refusal> {
    let key = ClientKey {
        client: *client.addr,
        service: frontend.service,
    };
    let now = tables.now();
    let memory = tables.remembered(&key);
    if let Some(memory) = memory
        && let Some(backend) = kept(&memory, client, frontend, tables, now)
    {
        // The stamp is good to within a second: a client pays for one write in that time.
        if now.since(memory.seen) >= Tick::PER_SECOND {
            tables.remember(
                &key,
                &Remembered {
                    seen: now,
                    ..memory
                },
            );
        }
        return Ok(Chosen::of(memory.backend, backend));
    }
    let chosen = draw(client, frontend, tables)?;
    let memory = Remembered {
        backend: chosen.index,
        generation: chosen.generation,
        term: frontend.affinity.term(),
        seen: now,
    };
    tables.remember(&key, &memory);
    Ok(chosen)
}

/// The backend that is remembered, if it may still be used by this client.
#[inline(always)]
fn kept<'t, A: Addr, T: Tables<A>>(
    memory: &Remembered,
    client: &Client<'_, A>,
    frontend: &Frontend,
    tables: &'t T,
    now: Tick,
) -> Option<&'t Backend<A>> {
    let affinity = frontend.affinity;
    // The stamp may be a second behind, and nobody is to be forgotten early.
    let lifetime = Tick::in_seconds(affinity.timeout()) + Tick::PER_SECOND;
    if memory.term != affinity.term() || now.since(memory.seen) > lifetime {
        return None;
    }
    let backend = tables.backend(memory.backend)?;
    let usable = backend::ALIVE | client.membership(frontend);
    (backend.generation == memory.generation && backend.flags & usable == usable).then_some(backend)
}

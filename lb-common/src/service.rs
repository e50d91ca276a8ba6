//! Services as the data path sees them: frontends, slots and backends.

use crate::{Addr, Port, Tick, V4, V6, assert_layout};

/// What a client addresses: one address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// Service address.
    pub addr: A,
    /// Service port; 0 in a cluster address's [`FrontendKey::whole_address`] row.
    pub port: Port,
    /// IP protocol number, see [`crate::proto`]; 0 like the port.
    pub proto: u8,
    zero: u8,
}

assert_layout!(FrontendKey<V4> = 8, FrontendKey<V6> = 20);

impl<A: Addr> FrontendKey<A> {
    /// The key of one port of a service address.
    #[inline(always)]
    pub const fn new(addr: A, port: Port, proto: u8) -> Self {
        Self {
            addr,
            port,
            proto,
            zero: 0,
        }
    }

    /// The row that says a cluster IP is in use, whatever the port: it tells a wrong port (reject)
    /// from an unallocated address (drop).
    #[inline(always)]
    pub const fn whole_address(addr: A) -> Self {
        Self::new(addr, Port::new(0), 0)
    }
}

/// Bits of `ABSENT`: so many that even tens of thousands of frontends leave nearly all set.
pub const ABSENT_BITS: u32 = 1 << 20;

impl<A: Addr> FrontendKey<A> {
    /// The key's bit in `ABSENT`. Set, there is no frontend with any key of that bit; clear, there
    /// may be one.
    #[inline(always)]
    pub fn absent_bit(&self) -> u32 {
        // Multiplicative hashing (Knuth): the highest bits depend on all others.
        const GOLDEN: u32 = 0x9e37_79b1;
        let mut hash = u32::from(self.port.word()) ^ u32::from(self.proto) << 16;
        for word in self.addr.words() {
            hash = (hash ^ word).wrapping_mul(GOLDEN);
        }
        hash >> (u32::BITS - ABSENT_BITS.trailing_zeros())
    }
}

/// A range of [`crate::maps`]' `SLOTS`: the backends one kind of client may be sent to, as many
/// slots to each as it has shares, or, where the frontend is flagged [`frontend::HASHED`], a
/// [`list`] of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Slots {
    /// First index.
    pub offset: u32,
    /// How many; 0 when there is no backend.
    pub count: u32,
}

assert_layout!(Slots = 8);

/// A list of backends: what a [`frontend::HASHED`] frontend's range of `SLOTS` holds.
///
/// First stands, as a [`Slots`] of two words, the range of the list's table; behind it the index of
/// each backend. The table is a range of `SLOTS` too, whose slots hold positions in the list, 0 for
/// the first backend: as often as the backend has shares, and where a flow's hash finds them. So
/// tables know of no index, and all lists of the same endpoints with the same weights have one.
pub mod list {
    use super::Slots;

    /// Words before the first backend: the table's [`Slots`].
    pub const HEADER: u32 = (size_of::<Slots>() / size_of::<u32>()) as u32;

    /// The slots of a list's backends, behind its header.
    #[inline(always)]
    pub const fn backends(list: Slots) -> Slots {
        Slots {
            offset: list.offset.wrapping_add(HEADER),
            count: list.count.saturating_sub(HEADER),
        }
    }
}

/// Where traffic for a [`FrontendKey`] goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Frontend {
    /// Service id: one per Service port and family.
    pub service: u32,
    /// [`frontend`] flags.
    pub flags: u32,
    /// Backends for clients inside the cluster: seen on pod interfaces.
    pub inside: Slots,
    /// Backends for clients outside: seen on external interfaces.
    pub outside: Slots,
    /// Session affinity, the same in all frontends of a service.
    pub affinity: Affinity,
}

assert_layout!(Frontend = 28);

/// Session affinity of a service: how long a client is remembered, and since which time affinity
/// was switched on it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Affinity(u32);

impl Affinity {
    /// None: every flow chooses anew.
    pub const NONE: Self = Self(0);
    /// Longest timeout, in seconds: a day.
    pub const TIMEOUT_MAX: u32 = 86_400;
    const TIMEOUT_BITS: u32 = 17;

    /// Clients are remembered for `timeout` seconds (at most [`Self::TIMEOUT_MAX`], 0 for no
    /// affinity) after their last new flow. What was remembered under another `term` is
    /// forgotten; of the term 15 bits are kept.
    pub const fn new(timeout: u32, term: u32) -> Self {
        let timeout = if timeout > Self::TIMEOUT_MAX {
            Self::TIMEOUT_MAX
        } else {
            timeout
        };
        Self(term << Self::TIMEOUT_BITS | timeout)
    }

    /// Seconds a client is remembered; 0 for no affinity.
    #[inline(always)]
    pub const fn timeout(self) -> u32 {
        self.0 & ((1 << Self::TIMEOUT_BITS) - 1)
    }

    /// Moves each time affinity is switched on.
    #[inline(always)]
    pub const fn term(self) -> u32 {
        self.0 >> Self::TIMEOUT_BITS
    }
}

assert_layout!(Affinity = 4);

/// Flags of a [`Frontend`].
pub mod frontend {
    /// No backend for inside clients here, but elsewhere: drop instead of reject.
    pub const DROP_INSIDE: u32 = 1 << 0;
    /// No backend for outside clients here, but elsewhere: drop instead of reject.
    pub const DROP_OUTSIDE: u32 = 1 << 1;
    /// Only clients in one of the service's `SOURCE_RANGES` are let in; all others are dropped.
    pub const SOURCE_RANGES: u32 = 1 << 2;
    /// Clients inside are led to [`backend::IN_LOCAL`](super::backend::IN_LOCAL) backends only,
    /// not to all [`backend::IN_CLUSTER`](super::backend::IN_CLUSTER).
    pub const LOCAL_INSIDE: u32 = 1 << 3;
    /// The same for clients outside.
    pub const LOCAL_OUTSIDE: u32 = 1 << 4;
    /// A cluster IP, as opposed to a node port, external IP or load balancer IP.
    pub const CLUSTER_IP: u32 = 1 << 5;
    /// A node port.
    pub const NODE_PORT: u32 = 1 << 6;
    /// A new flow's backend follows from its 5-tuple, and not from chance: the slots are a
    /// [`list`](super::list) with a Maglev table.
    pub const HASHED: u32 = 1 << 7;
}

/// One endpoint, in an array indexed by what slots hold for a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Backend<A> {
    /// Endpoint address.
    pub addr: A,
    /// Endpoint port.
    pub port: Port,
    /// [`backend`] flags.
    pub flags: u16,
    /// Changes whenever the index is given to another endpoint, or the endpoint goes: a flow
    /// that remembers another value has lost its backend.
    pub generation: u32,
    /// Id of the service it is a backend of, whether a slot leads there or not.
    pub service: u32,
}

assert_layout!(Backend<V4> = 16, Backend<V6> = 28);

/// Flags of a [`Backend`].
pub mod backend {
    /// The index is in use.
    pub const ALIVE: u16 = 1 << 0;
    /// On this node: reached through the host stack with the client's address kept.
    pub const LOCAL: u16 = 1 << 1;
    /// Terminating: serves what it has, gets new flows only for want of others.
    pub const TERMINATING: u16 = 1 << 2;
    /// In its service's list for traffic policy `Cluster`: a client may be kept on it by affinity.
    pub const IN_CLUSTER: u16 = 1 << 3;
    /// In its service's list for traffic policy `Local`.
    pub const IN_LOCAL: u16 = 1 << 4;
    /// Its service has lost a frontend since it became a backend: another service may have it by
    /// now, and flows that come by it with it.
    pub const LOST_FRONTEND: u16 = 1 << 5;
}

/// Who a client's last backend is looked up by: the client as it appeared, and the service, so
/// that all addresses of a Service port share one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ClientKey<A> {
    /// The client's address before any translation.
    pub client: A,
    /// Service id.
    pub service: u32,
}

assert_layout!(ClientKey<V4> = 8, ClientKey<V6> = 20);

/// What is remembered of a client: value of `AFFINITY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Remembered {
    /// Index of its backend in `BACKENDS`.
    pub backend: u32,
    /// The backend's generation.
    pub generation: u32,
    /// [`Affinity::term`] under which it was chosen.
    pub term: u32,
    /// Its last new flow, to within a second.
    pub seen: Tick,
}

assert_layout!(Remembered = 16);

/// A network whose clients a service's load balancer addresses are open to: key of
/// `SOURCE_RANGES`, a longest-prefix-match trie, behind the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceRange<A> {
    /// Service id, as 4 bytes in network order: prefixes are compared from the first byte on.
    pub service: [u8; 4],
    /// Network address.
    pub addr: A,
}

assert_layout!(SourceRange<V4> = 8, SourceRange<V6> = 20);

impl<A: Addr> SourceRange<A> {
    /// Bits of the key that come before the address.
    pub const SERVICE_BITS: u32 = 32;

    /// A network, or a client, of a service.
    #[inline(always)]
    pub const fn new(service: u32, addr: A) -> Self {
        Self {
            service: service.to_be_bytes(),
            addr,
        }
    }
}

/// Longest namespace, Service or port name: a DNS label (RFC 1123).
pub const NAME_MAX: usize = 63;

/// The Kubernetes name of a service id, for people. Names are zero-padded UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: [u8; NAME_MAX],
    /// Service name.
    pub name: [u8; NAME_MAX],
    /// Name of the Service port; may be empty.
    pub port: [u8; NAME_MAX],
    /// IP protocol number.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
    zero: u8,
}

assert_layout!(ServiceName = 192);

impl ServiceName {
    /// A name made of parts of at most [`NAME_MAX`] bytes; what is longer is cut.
    pub fn new(namespace: &str, name: &str, port: &str, proto: u8, family: u8) -> Self {
        Self {
            namespace: padded(namespace),
            name: padded(name),
            port: padded(port),
            proto,
            family,
            zero: 0,
        }
    }
}

fn padded(text: &str) -> [u8; NAME_MAX] {
    let mut bytes = [0; NAME_MAX];
    let length = text.len().min(NAME_MAX);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

/// The text of one padded part of a [`ServiceName`]; empty if it is not UTF-8.
pub fn text(part: &[u8; NAME_MAX]) -> &str {
    let length = part.iter().position(|byte| *byte == 0).unwrap_or(NAME_MAX);
    core::str::from_utf8(&part[..length]).unwrap_or_default()
}

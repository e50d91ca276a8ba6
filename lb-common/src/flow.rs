//! Flows: what has been decided for a 5-tuple, in one row.
//!
//! Each translated connection has two rows, one for either direction. A row alone holds all that
//! is needed to finish a packet: an established packet costs one lookup.

use crate::{Addr, Port, Tick, V4, V6, assert_layout};

/// Which side of the stack a packet was seen on; part of the key, since the same tuple can cross
/// a node in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Entering the node: XDP and tc ingress.
    Ingress = 0,
    /// Leaving it: tc egress.
    Egress = 1,
}

/// The 5-tuple of a packet as it arrives at a hook, and the hook's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol number, see [`crate::proto`].
    pub proto: u8,
    direction: u8,
    zero: u16,
}

assert_layout!(FlowKey<V4> = 16, FlowKey<V6> = 40);

impl<A: Addr> FlowKey<A> {
    /// The key of the given tuple.
    #[inline(always)]
    pub const fn new(
        direction: Direction,
        proto: u8,
        (src, sport): (A, Port),
        (dst, dport): (A, Port),
    ) -> Self {
        Self {
            src,
            dst,
            sport,
            dport,
            proto,
            direction: direction as u8,
            zero: 0,
        }
    }

    /// Which side of the stack the tuple is seen on.
    #[inline(always)]
    pub const fn direction(&self) -> Direction {
        if self.direction == Direction::Ingress as u8 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }
}

/// How a packet of a flow goes on once rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Route {
    /// The host stack takes it from here: the new destination is local, or the packet is leaving.
    Stack = 0,
    /// Fairlead sends it to the next hop itself: its source is an address of this node, which the
    /// stack's input would refuse.
    Forward = 1,
    /// Back out of the interface it came from: a pod that reached itself.
    Hairpin = 2,
}

/// Which half of a connection a row translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Half {
    /// Client to service.
    Request = 0,
    /// Backend to client.
    Reply = 1,
}

/// Destination and source MAC as they begin an Ethernet frame: words in memory order.
///
/// Words because the verifier wants aligned stack accesses, and packets are aligned no better.
pub type Macs = [u16; 6];

/// The next hop of a forwarded flow, as the FIB told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Hop {
    /// MACs to write; unset unless the interface's link flags have
    /// [`crate::config::link::DIRECT`].
    pub macs: Macs,
    /// Interface to leave by; 0 while unknown.
    pub ifindex: u32,
    /// [`crate::config::Config::epoch`] at which it was resolved: another value voids it.
    pub epoch: u32,
    /// When it was resolved; it is asked again after a second.
    pub resolved: Tick,
}

assert_layout!(Hop = 24);

impl Hop {
    /// Nowhere yet.
    pub const NONE: Self = Self {
        macs: [0; 6],
        ifindex: 0,
        epoch: 0,
        resolved: Tick::from_nanos(0),
    };
}

/// All that is needed to finish a packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow<A> {
    /// Source address to write.
    pub src: A,
    /// Destination address to write.
    pub dst: A,
    /// Source port to write.
    pub sport: Port,
    /// Destination port to write.
    pub dport: Port,
    /// One's complement sum of what the address change adds to a checksum (RFC 1624).
    pub addr_delta: u16,
    /// The same for the port change.
    pub port_delta: u16,
    /// The service, index of its counters and key of its name.
    pub service: u32,
    /// Index of the backend in `BACKENDS`.
    pub backend: u32,
    /// The backend's generation when the flow began.
    pub generation: u32,
    /// Last packet seen, to within a second.
    pub seen: Tick,
    /// The cached next hop.
    pub hop: Hop,
    /// [`crate::config::link`] flags of the hop's interface; without
    /// [`DIRECT`](crate::config::link::DIRECT) the kernel's neighbour table must be asked for
    /// every packet.
    pub link: u32,
    route: u8,
    half: u8,
    zero: u16,
}

assert_layout!(Flow<V4> = 64, Flow<V6> = 88);

impl<A: Addr> Flow<A> {
    /// A row that rewrites a packet of `key` to the given source and destination.
    ///
    /// The checksum deltas are the caller's: layouts hold no arithmetic.
    #[inline(always)]
    pub const fn new(
        half: Half,
        route: Route,
        (src, sport): (A, Port),
        (dst, dport): (A, Port),
    ) -> Self {
        Self {
            src,
            dst,
            sport,
            dport,
            addr_delta: 0,
            port_delta: 0,
            service: 0,
            backend: 0,
            generation: 0,
            seen: Tick::from_nanos(0),
            hop: Hop::NONE,
            link: 0,
            route: route as u8,
            half: half as u8,
            zero: 0,
        }
    }

    /// How a rewritten packet goes on.
    #[inline(always)]
    pub const fn route(&self) -> Route {
        if self.route == Route::Stack as u8 {
            Route::Stack
        } else if self.route == Route::Forward as u8 {
            Route::Forward
        } else {
            Route::Hairpin
        }
    }

    /// Changes how a rewritten packet goes on.
    #[inline(always)]
    pub const fn set_route(&mut self, route: Route) {
        self.route = route as u8;
    }

    /// Which half of the connection this row translates.
    #[inline(always)]
    pub const fn half(&self) -> Half {
        if self.half == Half::Request as u8 {
            Half::Request
        } else {
            Half::Reply
        }
    }
}

/// Both rows of a flow that is being opened. They wait in a per-CPU map: two do not fit the BPF
/// stack, which is 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Staged<A> {
    /// The request's row.
    pub request: Flow<A>,
    /// The reply's row.
    pub reply: Flow<A>,
}

assert_layout!(Staged<V4> = 128, Staged<V6> = 176);

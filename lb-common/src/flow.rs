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

impl Direction {
    /// The other one.
    #[must_use]
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
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
    /// Of this node's own stack: Fairlead sends the request to its next hop, which the stack could not
    /// know, and the stack takes the reply.
    Own = 3,
}

impl Route {
    /// Every one, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Stack, Self::Forward, Self::Hairpin, Self::Own];
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
    pub link: u16,
    /// The longest IP packet the hop takes, in bytes; 0 while unknown.
    pub mtu: u16,
    route: u8,
    half: u8,
    ends: [u8; 2],
}

assert_layout!(Flow<V4> = 64, Flow<V6> = 88);

/// What is known of one end of a flow. Both rows of a flow know of both ends.
pub mod end {
    /// It has not agreed yet: nothing has come from the backend, or nothing but its request for a
    /// connection from the client.
    pub const AWAITED: u8 = 1 << 0;
    /// It has sent its last (TCP FIN; SCTP SHUTDOWN and what completes it).
    pub const CLOSED: u8 = 1 << 1;
    /// It has broken off (TCP RST, SCTP ABORT).
    pub const RESET: u8 = 1 << 2;
    /// The other end is gone for good, and it is to be told so. Of the client only.
    pub const ABANDONED: u8 = 1 << 3;
}

/// How far a flow has got, as its ends tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// One end has not agreed.
    Opening,
    /// Both have, and neither has closed.
    Established,
    /// One end has closed.
    Closing,
    /// Both have.
    Closed,
    /// One has broken off, or the backend is gone.
    Reset,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 5] = [
        Self::Opening,
        Self::Established,
        Self::Closing,
        Self::Closed,
        Self::Reset,
    ];

    /// The name people see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
        }
    }

    /// Whether nothing more is to come: a client that begins anew from the same port begins another
    /// flow.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }
}

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
            mtu: 0,
            route: route as u8,
            half: half as u8,
            ends: [0; 2],
        }
    }

    /// Turns an entry that is otherwise empty into that of [`Flow::new`].
    #[inline(always)]
    pub fn set(
        &mut self,
        half: Half,
        route: Route,
        (src, sport): (A, Port),
        (dst, dport): (A, Port),
    ) {
        self.src = src;
        self.dst = dst;
        self.sport = sport;
        self.dport = dport;
        self.route = route as u8;
        self.half = half as u8;
    }

    /// What is known of the end that sends this half: flags of [`end`].
    #[inline(always)]
    pub const fn end(&self, of: Half) -> u8 {
        self.ends[of as usize]
    }

    /// Changes what is known of an end.
    #[inline(always)]
    pub const fn set_end(&mut self, of: Half, end: u8) {
        self.ends[of as usize] = end;
    }

    /// How far the flow has got.
    #[inline(always)]
    pub const fn stage(&self) -> Stage {
        let [client, backend] = self.ends;
        if (client | backend) & (end::RESET | end::ABANDONED) != 0 {
            Stage::Reset
        } else if client & backend & end::CLOSED != 0 {
            Stage::Closed
        } else if (client | backend) & end::CLOSED != 0 {
            Stage::Closing
        } else if (client | backend) & end::AWAITED != 0 {
            Stage::Opening
        } else {
            Stage::Established
        }
    }

    /// How a rewritten packet goes on.
    #[inline(always)]
    pub const fn route(&self) -> Route {
        if self.route == Route::Stack as u8 {
            Route::Stack
        } else if self.route == Route::Forward as u8 {
            Route::Forward
        } else if self.route == Route::Hairpin as u8 {
            Route::Hairpin
        } else {
            Route::Own
        }
    }

    /// Whether the hop's interface has this flag of [`crate::config::link`].
    #[inline(always)]
    pub const fn has_link(&self, flag: u32) -> bool {
        self.link as u32 & flag != 0
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

impl<A: Addr> FlowKey<A> {
    /// The key of a flow's other row, given the row of this one. What the stack routes comes back on
    /// its way out toward the client, everything else where it enters; and only the node's own requests
    /// are seen on their way out.
    #[must_use]
    #[inline(always)]
    pub const fn mate(&self, row: &Flow<A>) -> Self {
        let direction = match (row.half(), row.route()) {
            (Half::Request, Route::Stack) | (Half::Reply, Route::Own) => Direction::Egress,
            (Half::Request, Route::Forward | Route::Hairpin | Route::Own)
            | (Half::Reply, Route::Stack | Route::Forward | Route::Hairpin) => Direction::Ingress,
        };
        Self::new(
            direction,
            self.proto,
            (row.dst, row.dport),
            (row.src, row.sport),
        )
    }
}

/// The fragments of one packet, as they arrive at a hook: key of `FRAGMENTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification, as it is in the header; in IPv4, of 16 bits.
    pub id: u32,
    /// IP protocol number.
    pub proto: u8,
    direction: u8,
    zero: u16,
}

assert_layout!(FragmentKey<V4> = 16, FragmentKey<V6> = 40);

impl<A: Addr> FragmentKey<A> {
    /// The key of fragments between these addresses and of this protocol; ports are left out.
    #[inline(always)]
    pub const fn new(key: &FlowKey<A>, id: u32) -> Self {
        Self {
            src: key.src,
            dst: key.dst,
            id,
            proto: key.proto,
            direction: key.direction,
            zero: 0,
        }
    }
}

/// What a packet's first fragment has told the others: value of `FRAGMENTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FirstFragment {
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// When it was seen.
    pub seen: Tick,
}

assert_layout!(FirstFragment = 8);

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

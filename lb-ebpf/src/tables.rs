//! The maps as the pipeline sees them.

use core::ops::DerefMut;

use lb_common::{
    Addr, Tick,
    config::{Config, FamilyConfig},
    counters::Reason,
    flow::{FirstFragment, Flow, FlowKey, FragmentKey, Half, Macs, Staged},
    service::{Backend, ClientKey, Frontend, FrontendKey, Remembered, Slots},
    socket::{Cookie, SocketKey, SocketPeer},
};

use crate::Datagram;

/// What an insertion does with a row that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Fail with [`InsertError::Exists`].
    New,
    /// Replace it.
    Any,
}

/// Why a row was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// There is one with that key.
    Exists,
    /// The table could not take it.
    Busy,
}

/// The flow table of one family.
///
/// Rows are shared between CPUs: a row may be evicted or updated at any moment, which is why
/// nothing but `seen` and the hop is ever written in place.
pub trait Flows<A: Addr> {
    /// The row of `key`.
    fn get(&mut self, key: &FlowKey<A>) -> Option<&mut Flow<A>>;
    /// Where the rows of a flow are put together; none only if the maps are broken.
    fn staged(&mut self) -> Option<&mut Staged<A>>;
    /// The same place of one half's entry, which is empty: all its bytes are zero.
    fn emptied(&mut self, half: Half) -> Option<&mut Flow<A>>;
    /// Stages the row of `key` as the request's; none if there is no such row.
    fn stage(&mut self, key: &FlowKey<A>) -> Option<()>;
    /// Inserts one of the staged rows.
    fn insert_staged(
        &mut self,
        half: Half,
        key: &FlowKey<A>,
        entry: Entry,
    ) -> Result<(), InsertError>;
    /// Removes a row, if it is there.
    fn remove(&mut self, key: &FlowKey<A>);
    /// The same number, of which the verifier knows nothing; nor does it know anything of `salt`.
    ///
    /// The verifier checks a function out of line once more for each number that it can tell apart.
    fn blurred(number: u32, _salt: u32) -> u32 {
        number
    }
}

/// The table of led sockets of one family. Rows are shared between CPUs and written as a whole.
pub trait Sockets<A: Addr> {
    /// The socket at hand. Asked for when it is needed only: the kernel numbers a socket when it is asked first,
    /// and most sockets of a node are nobody's to lead.
    fn cookie(&self) -> Cookie;
    /// The row of `key`.
    fn get(&self, key: &SocketKey<A>) -> Option<&SocketPeer<A>>;
    /// Inserts a row, or replaces the one with that key.
    fn insert(&mut self, key: &SocketKey<A>, peer: &SocketPeer<A>) -> Result<(), InsertError>;
    /// The address of the pod whose network namespace this is, if its sockets are led: zero if it
    /// has none of this family.
    fn pod(&self, netns: Cookie) -> Option<&A>;
}

/// What the FIB is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibQuery<A> {
    /// Source of the packet to route; the unspecified address if it is yet to be chosen.
    pub src: A,
    /// Its destination.
    pub dst: A,
    /// IP protocol number.
    pub proto: u8,
}

/// How the FIB answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Route and neighbour are known.
    Neighbour,
    /// The route is known; its neighbour is not, or the FIB will not say.
    Route,
    /// Not to be forwarded: an address of this node, or no route at all; the stack knows best.
    NotForwarded,
    /// The route says no, or this node does not forward.
    Unreachable,
}

/// What the FIB answers. A plain struct, since the payloads of an enum are undefined in the other
/// variants, and the verifier refuses to have undefined bytes moved about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fib<A> {
    /// What is known.
    pub reach: Reach,
    /// Interface to leave by, with a route.
    pub ifindex: u32,
    /// MACs of neighbour and interface, with a neighbour.
    pub macs: Macs,
    /// The address the route prefers as source; unspecified if unknown.
    pub src: A,
    /// The longest IP packet the route takes, in bytes; less than any does if unknown.
    pub mtu: u16,
}

/// Everything else the pipeline asks: services, the node, the FIB, the clock, counters.
pub trait Tables<A: Addr> {
    /// Access to the packet that [`Tables::store_parsed`] has stored.
    type Parsed<'t>: DerefMut<Target = Datagram<A>>
    where
        Self: 't;
    /// Stores the parsed packet in the packet scratch.
    ///
    /// The verifier knows nothing of what it reads back from there. So it checks the code that follows once, and not
    /// once more for each layout of headers.
    fn store_parsed(&self, datagram: &Datagram<A>);
    /// The packet in the packet scratch; none only if the maps are broken.
    fn parsed(&self) -> Option<Self::Parsed<'_>>;
    /// Whether there may be a frontend of that key: cheaper than to look, and never wrong when it
    /// says no.
    fn may_have(&self, key: &FrontendKey<A>) -> bool;
    /// The frontend of a service address.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend>;
    /// What a slot holds: a backend index, or what belongs to a list.
    fn slot(&self, index: u32) -> Option<u32>;
    /// The backend with that index.
    fn backend(&self, index: u32) -> Option<&Backend<A>>;
    /// Whether a client is in one of the source ranges of a service.
    fn allowed(&self, service: u32, client: &A) -> bool;
    /// What is remembered of a client.
    fn remembered(&self, key: &ClientKey<A>) -> Option<Remembered>;
    /// Remembers a client; if there is no room for it, its next flow chooses anew.
    fn remember(&self, key: &ClientKey<A>, memory: &Remembered);
    /// What the first fragment of a packet has told.
    fn first_fragment(&self, key: &FragmentKey<A>) -> Option<FirstFragment>;
    /// Remembers it; if there is no room for it, the other fragments are lost.
    fn remember_fragment(&self, key: &FragmentKey<A>, first: &FirstFragment);
    /// Forgets it, if it is remembered.
    fn forget_fragment(&self, key: &FragmentKey<A>);
    /// Facts about the node; none only if the maps are broken.
    fn config(&self) -> Option<&Config>;
    /// The part of [`Tables::config`] for this family.
    fn family_config(&self) -> Option<&FamilyConfig<A>>;
    /// [`lb_common::config::link`] flags of an interface; 0 if it is not ours.
    fn link(&self, ifindex: u32) -> u32;
    /// The interface at hand; 0 if there is none.
    fn ifindex(&self) -> u32;
    /// Where a packet would go next.
    fn fib(&self, query: &FibQuery<A>) -> Fib<A>;
    /// The time.
    fn now(&self) -> Tick;
    /// A uniformly distributed number.
    fn random(&self) -> u32;
    /// Whether one more reject may be answered, see [`take_allowance`](crate::take_allowance).
    fn may_reject(&self) -> bool;
    /// Tells a dry run of the frontend that a client asks for, and of its backends for that client.
    fn consider(&self, _frontend: &Frontend, _slots: Slots) {}
    /// Tells a dry run that the choice follows from the flow's hash.
    fn hashed(&self) {}
    /// Tells a dry run of the row that a packet is rewritten by.
    fn follow(&self, _flow: &Flow<A>) {}
    /// Counts a packet that was not translated.
    fn count(&self, reason: Reason);
    /// Counts a translated packet of this length.
    fn count_packet(&self, service: u32, length: usize);
    /// Counts a flow begun.
    fn count_flow(&self, service: u32);
    /// Counts a reject.
    fn count_reject(&self, service: u32);
}

//! The tables of led sockets as hash maps, and a process that has sockets.

use std::{cell::Cell, collections::HashMap, net::SocketAddr};

use lb_common::{
    Addr, V4, V6,
    config::flags,
    socket::{Cookie, PodAddresses, SocketKey, SocketPeer},
};
use lb_ebpf::{
    Answer, Call, InsertError, Operation, Outcome, Sockets, lead, lead_v6, service, service_v6,
};

use crate::{
    family::{Family, at, endpoint},
    node::Node,
};

/// Both families' tables.
#[derive(Clone, Default)]
pub struct HostSockets {
    v4: HashMap<SocketKey<V4>, SocketPeer<V4>>,
    v6: HashMap<SocketKey<V6>, SocketPeer<V6>>,
    /// Network namespaces of pods whose sockets are led.
    pub pods: HashMap<Cookie, PodAddresses>,
    /// How often rows were written.
    pub writes: u32,
    /// Whether no row is taken.
    pub busy: bool,
    /// The socket whose call it is.
    at_hand: Cell<Cookie>,
}

impl HostSockets {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Loses every row, as a table that evicts may.
    pub fn evict(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }

    /// Loses the rows that say which service a backend stands for.
    pub fn evict_replies(&mut self) {
        self.v4
            .retain(|key, _| key.half() == lb_common::flow::Half::Request);
        self.v6
            .retain(|key, _| key.half() == lb_common::flow::Half::Request);
    }
}

macro_rules! family {
    ($addr:ty, $table:ident) => {
        impl Sockets<$addr> for HostSockets {
            fn cookie(&self) -> Cookie {
                self.at_hand.get()
            }

            fn get(&self, key: &SocketKey<$addr>) -> Option<&SocketPeer<$addr>> {
                self.$table.get(key)
            }

            fn insert(
                &mut self,
                key: &SocketKey<$addr>,
                peer: &SocketPeer<$addr>,
            ) -> Result<(), InsertError> {
                if self.busy {
                    return Err(InsertError::Busy);
                }
                self.writes += 1;
                self.$table.insert(*key, *peer);
                Ok(())
            }

            fn pod(&self, netns: Cookie) -> Option<&$addr> {
                self.pods.get(&netns).map(|addresses| &addresses.$table)
            }
        }
    };
}

family!(V4, v4);
family!(V6, v6);

/// The network namespace of the node.
pub const NODE: Cookie = Cookie::new(0x1_0000_0007);

/// A socket of a process.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// What the programs know it by.
    pub number: u64,
    /// The namespace it is of.
    pub netns: Cookie,
    /// TCP, UDP or another one.
    pub protocol: u8,
    /// An IPv6 socket that names IPv4 addresses.
    pub mapped: bool,
}

impl Socket {
    /// A socket in the node's namespace.
    pub fn new(number: u64, protocol: u8) -> Self {
        Self {
            number,
            netns: NODE,
            protocol,
            mapped: false,
        }
    }

    /// Connects, or sends; yields what the kernel is told and where the call goes on to.
    pub fn call(
        self,
        node: &mut Node,
        operation: Operation,
        to: SocketAddr,
    ) -> (Answer, SocketAddr) {
        let (sockets, tables) = (&mut node.sockets, &node.tables);
        sockets.at_hand.set(Cookie::new(self.number));
        match Family::of(self.named(to).ip()) {
            Family::V4 => told(&lead(operation, &self.to::<V4>(to), sockets, tables)),
            Family::V6 => {
                let (answer, peer) = told(&lead_v6(operation, &self.to::<V6>(to), sockets, tables));
                (answer, at(peer.ip().to_canonical(), peer.port()))
            }
        }
    }

    /// Connects it.
    pub fn connect(self, node: &mut Node, to: SocketAddr) -> (Answer, SocketAddr) {
        self.call(node, Operation::Connect, to)
    }

    /// Sends from it to somebody it is not connected to.
    pub fn send(self, node: &mut Node, to: SocketAddr) -> (Answer, SocketAddr) {
        self.call(node, Operation::Send, to)
    }

    /// Whom the process is told it talks to when that is `peer`.
    pub fn told(self, node: &Node, peer: SocketAddr) -> SocketAddr {
        let (sockets, tables) = (&node.sockets, &node.tables);
        sockets.at_hand.set(Cookie::new(self.number));
        let named = self.named(peer);
        let told = match Family::of(named.ip()) {
            Family::V4 => service(&self.to::<V4>(peer), sockets, tables).map(host),
            Family::V6 => service_v6(&self.to::<V6>(peer), sockets, tables).map(host),
        };
        let told = told.unwrap_or(named);
        assert_eq!(Family::of(told.ip()), Family::of(named.ip()));
        at(told.ip().to_canonical(), told.port())
    }

    /// An address as this socket has it.
    fn named(self, addr: SocketAddr) -> SocketAddr {
        match addr {
            SocketAddr::V4(addr) if self.mapped => {
                at(addr.ip().to_ipv6_mapped().into(), addr.port())
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => addr,
        }
    }

    fn to<A: Addr>(self, addr: SocketAddr) -> Call<A> {
        Call {
            netns: self.netns,
            proto: self.protocol,
            peer: endpoint(self.named(addr)),
        }
    }
}

fn told<A: Addr>(outcome: &Outcome<A>) -> (Answer, SocketAddr) {
    (outcome.answer, host(outcome.peer))
}

fn host<A: Addr>((addr, port): (A, lb_common::Port)) -> SocketAddr {
    at(addr.to_ip(), port.number())
}

/// A node whose own sockets are led, to node ports on loopback addresses too.
pub fn node() -> Node {
    let mut node = Node::new();
    let config = node.tables.config.as_mut().unwrap();
    config.netns = NODE;
    config.flags |= flags::LOCALHOST_NODE_PORTS;
    node
}

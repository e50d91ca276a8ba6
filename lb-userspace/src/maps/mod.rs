//! The service maps as the control plane writes them: one typed operation at a time.
//!
//! [`LbMaps`] has three implementations: [`Kernel`] (pinned BPF maps), [`Memory`] (a model, for
//! tests) and [`Faulty`] (another one whose operations fail).

mod absent;
pub(crate) mod batch;
mod faulty;
mod flows;
mod kernel;
mod memory;
mod mmap;
mod sockets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use ipnet::IpNet;
use lb_common::{
    Addr, V4, V6, maps,
    service::{Backend, Frontend, FrontendKey, ServiceName},
};
use rustix::io::Errno;

pub use faulty::{Fault, Faulty};
pub use flows::{FlowRows, FlowTable, Slice};
pub use kernel::{Kernel, KernelError};
pub use memory::Memory;
pub use sockets::{LedSocket, led_sockets, netns_map};

/// An address family: ties a type parameter to the maps of that family.
pub trait Family: Addr {
    /// 4 or 6.
    const NUMBER: u8;
    /// Name of its frontend map.
    const FRONTENDS: &'static str;
    /// Name of its map of absent frontends.
    const ABSENT: &'static str;
    /// Name of its slot map.
    const SLOTS: &'static str;
    /// Name of its backend map.
    const BACKENDS: &'static str;
    /// Name of its map of source ranges.
    const SOURCE_RANGES: &'static str;
    /// Name of its flow table.
    const FLOWS: &'static str;
    /// Name of its map of led sockets.
    const SOCKETS: &'static str;

    /// The operation on the maps of this family.
    fn op(op: FamilyOp<Self>) -> Op;
    /// This family's part of a dump.
    fn of(dump: &Dump) -> &FamilyDump<Self>;
}

impl Family for V4 {
    const NUMBER: u8 = 4;
    const FRONTENDS: &'static str = maps::FRONTENDS4;
    const ABSENT: &'static str = maps::ABSENT4;
    const SLOTS: &'static str = maps::SLOTS4;
    const BACKENDS: &'static str = maps::BACKENDS4;
    const SOURCE_RANGES: &'static str = maps::SOURCE_RANGES4;
    const FLOWS: &'static str = maps::FLOWS4;
    const SOCKETS: &'static str = maps::SOCKETS4;

    fn op(op: FamilyOp<Self>) -> Op {
        Op::V4(op)
    }

    fn of(dump: &Dump) -> &FamilyDump<Self> {
        &dump.v4
    }
}

impl Family for V6 {
    const NUMBER: u8 = 6;
    const FRONTENDS: &'static str = maps::FRONTENDS6;
    const ABSENT: &'static str = maps::ABSENT6;
    const SLOTS: &'static str = maps::SLOTS6;
    const BACKENDS: &'static str = maps::BACKENDS6;
    const SOURCE_RANGES: &'static str = maps::SOURCE_RANGES6;
    const FLOWS: &'static str = maps::FLOWS6;
    const SOCKETS: &'static str = maps::SOCKETS6;

    fn op(op: FamilyOp<Self>) -> Op {
        Op::V6(op)
    }

    fn of(dump: &Dump) -> &FamilyDump<Self> {
        &dump.v6
    }
}

/// One write. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// To an IPv4 map.
    V4(FamilyOp<V4>),
    /// To an IPv6 map.
    V6(FamilyOp<V6>),
    /// Names a service id.
    PutName(u32, ServiceName),
    /// Forgets a service id's name; it need not have one.
    DeleteName(u32),
}

/// One write to the maps of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FamilyOp<A> {
    /// Sets a frontend.
    PutFrontend(FrontendKey<A>, Frontend),
    /// Removes a frontend; it need not be there.
    DeleteFrontend(FrontendKey<A>),
    /// Fills the slots from the offset on with backend indices.
    WriteSlots(u32, Vec<u32>),
    /// Sets the backend at an index.
    PutBackend(u32, Backend<A>),
    /// Lets clients of the network use the load balancer addresses of the service id.
    PutSourceRange(u32, Network<A>),
    /// Takes that back; it need not be there.
    DeleteSourceRange(u32, Network<A>),
}

/// A network: its address, zero behind the prefix, and the length of the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network<A> {
    /// Network address.
    pub addr: A,
    /// Length of the prefix.
    pub prefix: u8,
}

impl<A: Addr> Network<A> {
    /// This family's view of `network`; none if it is of the other family.
    pub fn from_net(network: &IpNet) -> Option<Self> {
        Some(Self {
            addr: A::from_ip(network.network())?,
            prefix: network.prefix_len(),
        })
    }

    /// The network of one address.
    pub fn host(addr: A) -> Self {
        Self {
            addr,
            prefix: if A::IS_V6 { 128 } else { 32 },
        }
    }
}

impl<A: Addr> fmt::Display for Network<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr.to_ip(), self.prefix)
    }
}

/// The service maps of a node.
pub trait LbMaps {
    /// Carries out one operation. After an error the entry may hold the old value or the new one.
    fn apply(&mut self, op: &Op) -> Result<(), WriteError>;
    /// Everything there is.
    fn dump(&self) -> Result<Dump, ReadError>;
    /// How much there can be.
    fn capacities(&self) -> Capacities;
}

/// The content of all service maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// IPv4.
    pub v4: FamilyDump<V4>,
    /// IPv6.
    pub v6: FamilyDump<V6>,
    /// Names of the service ids.
    pub names: BTreeMap<u32, ServiceName>,
}

/// The content of one family's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyDump<A> {
    /// Frontends.
    pub frontends: BTreeMap<FrontendKey<A>, Frontend>,
    /// All slots, those no frontend refers to included.
    pub slots: Vec<u32>,
    /// Backends ever set, those not alive included.
    pub backends: BTreeMap<u32, Backend<A>>,
    /// Source ranges, by service id.
    pub source_ranges: BTreeSet<(u32, Network<A>)>,
}

impl<A> Default for FamilyDump<A> {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            slots: Vec::new(),
            backends: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
        }
    }
}

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// IPv4.
    pub v4: FamilyCapacities,
    /// IPv6.
    pub v6: FamilyCapacities,
    /// Service ids, shared by both families.
    pub services: u32,
}

/// Sizes of one family's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyCapacities {
    /// Frontends.
    pub frontends: u32,
    /// Slots.
    pub slots: u32,
    /// Backends.
    pub backends: u32,
    /// Source ranges.
    pub source_ranges: u32,
}

/// A write failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The map has no room for another key.
    #[error("cannot put {map}[{key}]: the map is full")]
    Full {
        /// The map.
        map: &'static str,
        /// The key.
        key: String,
    },
    /// Anything else.
    #[error("cannot {operation} {map}[{key}]")]
    Failed {
        /// What was tried: `put` or `delete`.
        operation: &'static str,
        /// The map.
        map: &'static str,
        /// The key.
        key: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A map could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {map}")]
pub struct ReadError {
    map: &'static str,
    source: io::Error,
}

impl Op {
    /// The error of this operation having failed with `source`.
    pub fn failed(&self, source: io::Error) -> WriteError {
        let Target {
            operation,
            map,
            key,
        } = self.target();
        // A hash map says the one, a trie the other.
        let full = [Errno::TOOBIG, Errno::NOSPC].map(Errno::raw_os_error);
        if source
            .raw_os_error()
            .is_some_and(|errno| full.contains(&errno))
        {
            WriteError::Full { map, key }
        } else {
            WriteError::Failed {
                operation,
                map,
                key,
                source,
            }
        }
    }

    fn target(&self) -> Target {
        match self {
            Self::V4(op) => op.target(),
            Self::V6(op) => op.target(),
            Self::PutName(id, _) => Target::new("put", maps::SERVICE_NAMES, id),
            Self::DeleteName(id) => Target::new("delete", maps::SERVICE_NAMES, id),
        }
    }
}

impl<A: Family> FamilyOp<A> {
    fn target(&self) -> Target {
        match self {
            Self::PutFrontend(key, _) => Target::new("put", A::FRONTENDS, show_key(key)),
            Self::DeleteFrontend(key) => Target::new("delete", A::FRONTENDS, show_key(key)),
            Self::WriteSlots(offset, _) => Target::new("put", A::SLOTS, offset),
            Self::PutBackend(index, _) => Target::new("put", A::BACKENDS, index),
            Self::PutSourceRange(service, network) => {
                Target::new("put", A::SOURCE_RANGES, show_range(*service, network))
            }
            Self::DeleteSourceRange(service, network) => {
                Target::new("delete", A::SOURCE_RANGES, show_range(*service, network))
            }
        }
    }
}

/// What an operation is done to, for error messages.
struct Target {
    operation: &'static str,
    map: &'static str,
    key: String,
}

impl Target {
    fn new(operation: &'static str, map: &'static str, key: impl fmt::Display) -> Self {
        Self {
            operation,
            map,
            key: key.to_string(),
        }
    }
}

fn show_range<A: Addr>(service: u32, network: &Network<A>) -> String {
    format!("{service}, {network}")
}

/// A frontend key as people write it: `192.0.2.1:80/TCP`, or the address alone of a
/// [`FrontendKey::whole_address`] row.
pub fn show_key<A: Addr>(key: &FrontendKey<A>) -> String {
    let addr = key.addr.to_ip();
    if *key == FrontendKey::whole_address(key.addr) {
        return addr.to_string();
    }
    let socket = std::net::SocketAddr::new(addr, key.port.number());
    match crate::model::Protocol::from_number(key.proto) {
        Some(protocol) => format!("{socket}/{protocol}"),
        None => format!("{socket}/{}", key.proto),
    }
}

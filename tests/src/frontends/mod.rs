//! Where the frontends of a node should lead, worked out from all objects at once by the shortest
//! route ([`mod@expected`]), and where they do lead, followed as a packet would ([`Maps`], [`actual`]).

mod expected;
mod live;
mod maps;
mod programmed;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_userspace::{
    control::NodePortAddresses,
    model::{EndpointSlice, Node, ObjectName, Service},
};

pub use expected::{claims, expected, health_checks};
pub use live::{Live, keeping, listed, live, served};
pub use maps::Maps;
pub use programmed::{actual, affinities};

/// The objects as they stand.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Services that are to be programmed.
    pub services: BTreeMap<ObjectName, Service>,
    /// Slices.
    pub slices: BTreeMap<ObjectName, EndpointSlice>,
}

/// The node that they are programmed on.
#[derive(Clone, Debug)]
pub struct Here {
    /// Its name.
    pub name: String,
    /// Its object.
    pub node: Option<Node>,
    /// The addresses of its interfaces.
    pub own: Vec<IpAddr>,
    /// Which of them take traffic to node ports.
    pub node_ports: NodePortAddresses,
}

impl Here {
    /// The node of this name; nothing else is known.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: None,
            own: Vec::new(),
            node_ports: NodePortAddresses::default(),
        }
    }

    /// The addresses its object names.
    fn addresses(&self) -> &[IpAddr] {
        self.node.as_ref().map_or(&[], |node| &node.addresses)
    }
}

/// Address, port and protocol; zeros after the address for the row of a whole address.
pub type Key = (IpAddr, u16, u8);
/// Namespace, Service, port, protocol.
pub type PortName = (String, String, String, u8);
/// Backends: address, local, terminating, and how often it is met beside the others, in lowest
/// terms; 0 where hashes decide, of which the table's own tests tell.
pub type Backends = BTreeSet<(SocketAddr, bool, bool, u32)>;
/// All frontends.
pub type Frontends = BTreeMap<Key, Leads>;

/// The greatest number that divides all of these; 1 of none.
fn common_divisor(numbers: impl Iterator<Item = u32>) -> u32 {
    let gcd = |mut a: u32, mut b: u32| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    numbers.fold(0, gcd).max(1)
}

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a flag of the frontend each, compared one by one"
)]
pub struct Leads {
    /// Whose it is.
    pub port: PortName,
    /// Whether it is a cluster IP.
    pub cluster_ip: bool,
    /// Whether clients inside get no answer, where there is no backend for them.
    pub drop_inside: bool,
    /// The same for clients outside.
    pub drop_outside: bool,
    /// Whether clients inside are led to this node's backends only.
    pub local_inside: bool,
    /// The same for clients outside.
    pub local_outside: bool,
    /// Networks it is open to; none if it is to all.
    pub open_to: Option<BTreeSet<IpNet>>,
    /// Whether a flow's hash decides, instead of chance.
    pub hashed: bool,
    /// Seconds a client is remembered.
    pub affinity: u32,
    /// Backends for clients inside.
    pub inside: Backends,
    /// Backends for clients outside.
    pub outside: Backends,
}

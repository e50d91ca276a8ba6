//! The control plane: from the objects to the maps.
//!
//! [`index`] holds the objects, [`desired`] says what each Service asks for, `claims` who has a
//! frontend that several ask for, `realised` what the maps hold, and `program` closes the
//! difference through [`LbMaps`](crate::maps::LbMaps). [`Controller`] is the way in. Nothing here does I/O of its own
//! or reads a clock.

mod adopt;
mod audit;
mod claims;
mod controller;
pub mod desired;
mod family;
pub mod index;
mod node_ports;
mod pool;
mod program;
mod realised;
pub mod select;

use std::time::Duration;

pub use controller::Controller;
pub use node_ports::NodePortAddresses;

/// How services are programmed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of our Node: endpoints on it are local.
    pub node_name: String,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// How long a slot range, backend index or service id given back stays unused, for packets in
    /// flight that have read it.
    pub grace: Duration,
}

impl Settings {
    /// The defaults, on the node of this name.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            node_port_addresses: NodePortAddresses::default(),
            grace: Duration::from_secs(5),
        }
    }
}

/// What a call has done, and what is wrong after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Map operations tried.
    pub operations: usize,
    /// All that is not as the objects ask, one line each, as it stands. The source's own problems
    /// are not repeated.
    pub problems: Vec<String>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The map.
    pub map: &'static str,
    /// Entries that cannot be given out, those in their grace period included.
    pub used: u32,
    /// Entries there are.
    pub capacity: u32,
}

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
mod departure;
pub mod desired;
mod family;
pub mod index;
mod maglev;
pub mod node;
mod node_ports;
mod pool;
mod program;
mod ranges;
mod realised;
pub mod select;
mod spread;
mod tables;

use std::{net::IpAddr, time::Duration};

pub use claims::Conflict;
pub use controller::Controller;
pub use departure::{Departed, Departures};
pub use maglev::TableSize;
pub use node_ports::{NodePortAddress, NodePortAddresses};
pub use spread::Spread;

use crate::model::Algorithm;

/// How services are programmed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of our Node: endpoints on it are local.
    pub node_name: String,
    /// The node's primary address in its family, whatever its Node says.
    pub bind_address: Option<IpAddr>,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Whether the source ranges of a Service close the family none of them is of, instead of
    /// leaving it open.
    pub strict_source_ranges: bool,
    /// How new flows of Services that do not say are spread over their endpoints.
    pub algorithm: Algorithm,
    /// How many slots a Maglev table has.
    pub maglev_table_size: TableSize,
    /// How long a slot range, backend index or service id given back stays unused, for packets in
    /// flight that have read it.
    pub grace: Duration,
}

impl Settings {
    /// The defaults, on the node of this name.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            bind_address: None,
            node_port_addresses: NodePortAddresses::default(),
            strict_source_ranges: false,
            algorithm: Algorithm::default(),
            maglev_table_size: TableSize::default(),
            grace: Duration::from_secs(5),
        }
    }
}

/// What a call has done, and what is wrong after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Map operations tried.
    pub operations: usize,
    /// Those that failed.
    pub failures: usize,
    /// How many changes of Services changed something that is used.
    pub service_changes: usize,
    /// How many changes of EndpointSlices did.
    pub slice_changes: usize,
    /// Whether something of the family is still to be done.
    pub unfinished: ByFamily<bool>,
    /// Whether that is so although there was room for it in the maps: where there is none, neither
    /// a new agent nor another node would do better.
    pub failing: ByFamily<bool>,
    /// The backends that are gone since somebody was told last.
    pub departures: Departures,
    /// All that is not as the objects ask, one line each, as it stands. The source's own problems
    /// are not repeated.
    pub problems: Vec<String>,
}

/// The same for each address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByFamily<T> {
    /// IPv4.
    pub v4: T,
    /// IPv6.
    pub v6: T,
}

impl<T> ByFamily<T> {
    /// Both, under the names that health answers and metrics give them.
    pub fn named(&self) -> [(&'static str, &T); 2] {
        [("IPv4", &self.v4), ("IPv6", &self.v6)]
    }

    /// Both, to be changed.
    pub const fn each_mut(&mut self) -> [&mut T; 2] {
        [&mut self.v4, &mut self.v6]
    }
}

impl<T: Copy> ByFamily<T> {
    /// The same for both.
    pub const fn both(value: T) -> Self {
        Self {
            v4: value,
            v6: value,
        }
    }
}

/// Service ports that have endpoints, but none on this node, though their policy asks for such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// With `internalTrafficPolicy: Local`.
    pub internal: usize,
    /// With `externalTrafficPolicy: Local` and an address that is for clients outside.
    pub external: usize,
}

/// What a load balancer is to be told of a Service (SEMANTICS H1 to H4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Port it asks at: `spec.healthCheckNodePort`.
    pub port: u16,
    /// Distinct addresses of this node that are ready endpoints; none in a family the Service is
    /// not served in.
    pub local_endpoints: ByFamily<Option<usize>>,
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

//! A directory of Kubernetes manifests as a source: what the API server and its controllers would
//! make of them, without either.
//!
//! `scan` looks at the directory, `read` turns a file into typed objects (`service`, `endpoints`),
//! `files` keeps each file's last good state, `services` admits Services and allocates for them,
//! `select` joins Pods to Services, and [`ControlPlane`] ties these together into [`Batch`]es.
//! Everything but `scan`, `state` and `watch` is pure.
//!
//! [`Batch`]: crate::model::Batch

mod assign;

mod cluster_ips;
mod control_plane;
mod direct;
mod endpoints;
mod files;
mod metadata;
mod object;
mod ranges;
mod read;
mod scan;
mod select;
mod service;
mod services;
mod split;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::{ops::RangeInclusive, path::PathBuf};

pub use control_plane::{ControlPlane, Memory};
pub use files::{FileChange, Update};
use ipnet::IpNet;
pub(crate) use read::{lenient, strict};
pub use services::{Allocations, AssignedPort, Assignment};
pub(crate) use split::documents;
pub use watch::watch;

use super::check;

/// The cluster that the manifests describe.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Name of our own Node.
    pub node_name: String,
    /// Where cluster IPs are allocated from; the first range's family is the default one. Without
    /// any, Services need explicit cluster IPs.
    pub cluster_ranges: Vec<IpNet>,
    /// Where node ports are allocated from.
    pub node_ports: RangeInclusive<u16>,
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory.
    pub dir: PathBuf,
    /// Where allocations and copies of good manifests are kept over restarts, for this source
    /// alone; none keeps them in memory only.
    pub state_dir: Option<PathBuf>,
    /// The cluster.
    pub cluster: Cluster,
}

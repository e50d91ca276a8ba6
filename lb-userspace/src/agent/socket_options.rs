//! The options of the hooks of sockets.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Whose sockets are led to services' backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SocketLb {
    /// Those of the node's own processes, and of its pods'.
    All,
    /// Those of the node's own processes: of its network namespace.
    #[default]
    Host,
    /// Nobody's.
    Off,
}

/// Which sockets are led where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketOptions {
    /// Whose.
    pub(super) socket_lb: SocketLb,
    /// Cgroup of the processes that concerns; its root if none is named.
    pub(super) cgroup: Option<PathBuf>,
    /// Whether node ports are served on loopback addresses.
    pub(super) localhost_nodeports: bool,
}

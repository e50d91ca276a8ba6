//! The options of the hooks of sockets.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

/// Whose sockets are led to services' backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SocketLb {
    /// Those of the node's own processes: of its network namespace.
    Host,
    /// Nobody's.
    Off,
}

/// Which sockets are led where; complete as given.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct SocketOptions {
    /// Whose sockets are led straight to services' backends: those of the node's own processes, or
    /// nobody's. Pods' packets are translated either way.
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t = SocketLb::Host)]
    pub(super) socket_lb: SocketLb,
    /// Directory of the cgroup2 hierarchy whose processes that concerns [default: its root, found
    /// by itself].
    #[arg(long, value_name = "DIR")]
    pub(super) cgroup: Option<PathBuf>,
    /// Serve node ports on this node's loopback addresses too, to its own processes.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = true,
        num_args = 0..=1, default_missing_value = "true")]
    pub(super) localhost_nodeports: bool,
}

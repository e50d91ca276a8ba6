//! A second API server on the same objects: what changes while the first one is away.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use kube::Client;

use super::{
    Inside,
    control_plane::{START, ready},
    network::HOST,
};
use crate::process::Process;

/// Where it is.
pub(super) const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(HOST), 6444);

/// See the [module](self). Dropped, it is killed.
pub struct Replica {
    client: Client,
    process: Process,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, process } = self;
        f.debug_struct("Replica")
            .field("process", process)
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Waits until the server is ready.
    pub(super) fn new(mut process: Process, client: Client, inside: &Inside) -> Result<Self> {
        process.until(START, |_| ready(inside, async || Ok(client.clone())))?;
        Ok(Self { client, process })
    }

    /// An administrator's client, for what runs [inside](super::ControlPlane::inside).
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

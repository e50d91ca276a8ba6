//! Names of interface indices.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::status::Status;

/// Names interfaces as the agent does, and others by asking the kernel.
///
/// The kernel is asked only in the agent's own network namespace: elsewhere the same index is
/// another interface.
pub(super) struct Interfaces {
    agent: BTreeMap<u32, String>,
    kernel: Option<OwnedFd>,
}

impl Interfaces {
    /// The interfaces of the node that `status` tells of.
    pub(super) fn new(status: Option<&Status>) -> Self {
        let agent: BTreeMap<u32, String> = status
            .map_or(&[][..], |status| &status.interfaces)
            .iter()
            .filter(|interface| interface.index != 0)
            .map(|interface| (interface.index, interface.name.clone()))
            .collect();
        let kernel = socket(AddressFamily::INET, SocketType::DGRAM, None)
            .ok()
            .filter(|kernel| {
                agent.iter().all(|(index, name)| {
                    netdevice::index_to_name(kernel, *index).is_ok_and(|found| found == *name)
                })
            });
        Self { agent, kernel }
    }

    /// The name of the interface with this index.
    pub(super) fn name(&self, index: u32) -> Option<String> {
        self.agent.get(&index).cloned().or_else(|| {
            let kernel = self.kernel.as_ref()?;
            netdevice::index_to_name(kernel, index).ok()
        })
    }
}

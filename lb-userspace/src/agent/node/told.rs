//! What the node tells of itself.

use std::process;

use super::Node;
use crate::status::{Interface, Loading, Mode, Role, Status};

impl Node {
    /// Interfaces, those that are wanted and not there included.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let missing = self.options.selection.missing_names(&self.table);
        let missing = missing.map(|name| Interface {
            name: name.clone(),
            index: 0,
            role: Role::External,
            mode: Mode::None,
            reason: "there is no interface of that name".to_owned(),
        });
        missing.chain(self.attacher.interfaces()).collect()
    }

    /// The node's account of itself.
    pub(super) fn status(&self) -> Status {
        Status {
            node: self.options.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            started: self.started.clone(),
            source: self.options.source.to_string(),
            last_sync: self.last_sync.clone(),
            node_addresses: self.addresses.all.clone(),
            without_ipv6: self.without_ipv6.map(str::to_owned),
            node_port_addresses: self
                .controller
                .node_port_addresses()
                .iter()
                .copied()
                .collect(),
            snat_ports: self.snat,
            interfaces: self.interfaces(),
            sockets: self.sockets.account(),
            tc_attach: self.attacher.way(),
            kernel: self.features.account(),
            loading: if self.dry_runs.is_loading() {
                Loading::DryRuns
            } else {
                Loading::Nothing
            },
            problems: self.problems.lines(),
        }
    }
}

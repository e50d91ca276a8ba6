//! What is wrong at the moment, and the log of it: each problem is told once when it comes up and
//! once when it is over.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

/// Where a problem belongs; a part of the agent replaces its own as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Area {
    /// The options, in the light of the node.
    Options,
    /// The file of options, since it was read.
    Config,
    /// The source of objects.
    Source,
    /// The kernel's connection tracking.
    Conntrack,
    /// Services and the maps they are written to.
    Services,
    /// Room in the maps.
    Capacity,
    /// Rows of flows.
    Flows,
    /// Interfaces.
    Interfaces,
    /// The hooks of sockets.
    Sockets,
    /// The programs of dry runs.
    DryRuns,
    /// The node's addresses and ports.
    Node,
    /// The networks of cluster IPs.
    ClusterNetworks,
    /// The networks of pods.
    PodNetworks,
    /// The kernel's account of links and routes.
    Kernel,
    /// The agent's own account in `STATUS`.
    Status,
    /// What is told over HTTP.
    Servers,
}

impl Area {
    /// What metrics call it.
    const fn name(self) -> &'static str {
        match self {
            Self::Options => "options",
            Self::Config => "config",
            Self::Conntrack => "conntrack",
            Self::Source => "source",
            Self::Services => "services",
            Self::Capacity => "capacity",
            Self::Flows => "flows",
            Self::Interfaces => "interfaces",
            Self::Sockets => "sockets",
            Self::DryRuns => "dry-runs",
            Self::ClusterNetworks => "cluster-networks",
            Self::PodNetworks => "pod-networks",
            Self::Node => "node",
            Self::Kernel => "kernel",
            Self::Status => "status",
            Self::Servers => "servers",
        }
    }
}

/// Every problem there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Problems {
    areas: BTreeMap<Area, BTreeSet<String>>,
}

impl Problems {
    /// These are the problems of `area`. Returns whether that is news.
    pub(super) fn set(&mut self, area: Area, lines: BTreeSet<String>) -> bool {
        let old = self.areas.insert(area, lines).unwrap_or_default();
        let new = &self.areas[&area];
        for line in new.difference(&old) {
            warn!("{line}");
        }
        for line in old.difference(new) {
            info!("solved: {line}");
        }
        old != *new
    }

    /// How many there are, by where they belong; none at all where there has been none yet.
    pub(super) fn counts(&self) -> Vec<(&'static str, usize)> {
        let areas = self.areas.iter();
        areas
            .map(|(area, lines)| (area.name(), lines.len()))
            .collect()
    }

    /// All of them, in a fixed order.
    pub(super) fn lines(&self) -> Vec<String> {
        self.areas.values().flatten().cloned().collect()
    }
}

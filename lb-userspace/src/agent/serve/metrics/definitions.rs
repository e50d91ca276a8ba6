//! Every metric there is: name, type, labels, meaning. docs/metrics.md shows this list, and a test
//! holds it against both the document and what is exposed.

/// What a metric is called and means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Definition {
    /// Its name. `_total` is part of it where kube-proxy has it so, gauges included.
    pub(super) name: &'static str,
    /// How it moves.
    pub(super) kind: Kind,
    /// Its labels.
    pub(super) labels: &'static [&'static str],
    /// What it means.
    pub(super) help: &'static str,
}

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
    /// A distribution, in these buckets.
    Histogram(Buckets),
}

/// Upper bounds of a histogram's buckets, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buckets {
    /// 1 ms, doubled fourteen times.
    Sync,
    /// kube-proxy's: from none to five minutes.
    Programming,
}

impl Buckets {
    /// The bounds.
    pub(super) fn bounds(self) -> Vec<f64> {
        match self {
            Self::Sync => (0..15).map(|power| 0.001 * f64::from(1 << power)).collect(),
            Self::Programming => {
                let seconds = (1..60)
                    .chain((60..120).step_by(5))
                    .chain((120..=300).step_by(30));
                [0.0, 0.25, 0.5]
                    .into_iter()
                    .chain(seconds.map(f64::from))
                    .collect()
            }
        }
    }
}

macro_rules! definitions {
    ($($constant:ident: $kind:expr, $name:literal [$($label:literal),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub(super) const $constant: Definition = Definition {
                name: $name,
                kind: $kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// All of them, in the order of the document.
        #[cfg(test)]
        pub(super) const ALL: &[Definition] = &[$($constant),+];
    };
}

use Kind::{Counter, Gauge, Histogram};

definitions! {
    SYNC_DURATION: Histogram(Buckets::Sync), "kubeproxy_sync_proxy_rules_duration_seconds" ["ip_family"],
        "Seconds it took to bring the maps into line. Both families are gone through together, so each shows the whole.";
    SYNC_FULL_DURATION: Histogram(Buckets::Sync), "kubeproxy_sync_full_proxy_rules_duration_seconds" ["ip_family"],
        "The same, of those times when everything was compared: at the start and in each audit.";
    SYNC_PARTIAL_DURATION: Histogram(Buckets::Sync), "kubeproxy_sync_partial_proxy_rules_duration_seconds" ["ip_family"],
        "The same, of those times when only what had changed was looked at.";
    LAST_SYNC: Gauge, "kubeproxy_sync_proxy_rules_last_timestamp_seconds" ["ip_family"],
        "When the maps last were wholly in line with the objects.";
    LAST_QUEUED: Gauge, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds" ["ip_family"],
        "When a change last came. Much later than the last sync: something is stuck.";
    NETWORK_PROGRAMMING: Histogram(Buckets::Programming), "kubeproxy_network_programming_duration_seconds" ["ip_family"],
        "Seconds from what led to a change of endpoints, as their slice tells it, to the change being in force here.";
    ENDPOINTS_PENDING: Gauge, "kubeproxy_sync_proxy_rules_endpoint_changes_pending" [],
        "Changes of EndpointSlices that are not in force.";
    ENDPOINTS_TOTAL: Counter, "kubeproxy_sync_proxy_rules_endpoint_changes_total" [],
        "Changes of EndpointSlices that have come.";
    SERVICES_PENDING: Gauge, "kubeproxy_sync_proxy_rules_service_changes_pending" [],
        "Changes of Services that are not in force.";
    SERVICES_TOTAL: Counter, "kubeproxy_sync_proxy_rules_service_changes_total" [],
        "Changes of Services that have come.";
    NO_LOCAL_ENDPOINTS: Gauge, "kubeproxy_sync_proxy_rules_no_local_endpoints_total" ["traffic_policy", "ip_family"],
        "Service ports whose policy Local finds no endpoint on this node while other nodes have some.";
    HEALTHZ: Counter, "kubeproxy_proxy_healthz_total" ["code"],
        "Answers of /healthz, by status code.";
    LIVEZ: Counter, "kubeproxy_proxy_livez_total" ["code"],
        "Answers of /livez, by status code.";
    CONNTRACK_DURATION: Histogram(Buckets::Sync), "kubeproxy_conntrack_reconciler_sync_duration_seconds" ["ip_family"],
        "Seconds it took to look through the kernel's connection tracking for stale entries.";
    CONNTRACK_DELETED: Counter, "kubeproxy_conntrack_reconciler_deleted_entries_total" ["ip_family"],
        "Stale entries removed from the kernel's connection tracking.";

    BUILD: Gauge, "fairlead_build_info" ["version"],
        "1, labelled with the agent's version.";
    PACKETS: Counter, "fairlead_packets_total" ["verdict", "reason"],
        "Packets that were not translated: passed on as they came, dropped or rejected; and those that were, though their flow has no row. Passes are counted by each hook a packet goes through.";
    TRANSLATED: Counter, "fairlead_translated_packets_total" [],
        "Packets translated, in either direction.";
    TRANSLATED_BYTES: Counter, "fairlead_translated_bytes_total" [],
        "Bytes of the packets translated, Ethernet headers included.";
    FLOWS: Counter, "fairlead_flows_total" [],
        "Flows opened.";
    MAP_ENTRIES: Gauge, "fairlead_map_entries" ["map"],
        "Entries of a map that cannot be given out, those that rest before they are used again included.";
    MAP_CAPACITY: Gauge, "fairlead_map_capacity" ["map"],
        "Entries a map can have.";
    MAP_OPERATIONS: Counter, "fairlead_map_operations_total" [],
        "Writes to the service maps that were tried.";
    MAP_FAILURES: Counter, "fairlead_map_operation_failures_total" [],
        "Writes to the service maps that failed; each is tried again.";
    AUDITS: Counter, "fairlead_audits_total" ["result"],
        "Comparisons of all service maps with what they should hold, by whether they could be read: done or failed.";
    AUDIT_REPAIRS: Counter, "fairlead_audit_repaired_entries_total" [],
        "Entries that an audit found to be not as written, and repaired.";
    CONFLICTS: Gauge, "fairlead_frontend_conflicts" [],
        "Addresses with a port that a Service asks for and an older one has.";
    INTERFACES: Gauge, "fairlead_interface_attached" ["interface", "role", "mode"],
        "1 if programs are attached to the interface, in this mode; 0 with mode none if they are not.";
    PROBLEMS: Gauge, "fairlead_problems" ["area"],
        "Problems at the moment, as `lbctl status` lists them.";
    HEALTH_CHECKS: Gauge, "fairlead_health_check_servers" ["state"],
        "Health check ports of Services: open, or failed to open.";
    SOCKETS_DESTROYED: Counter, "fairlead_sockets_destroyed_total" ["protocol"],
        "Sockets of processes that were destroyed because the backend they were led to is gone.";
    FLOW_ROWS: Gauge, "fairlead_flow_rows" ["ip_family", "stage"],
        "Rows of flows, two to each, by how far these have got, when they were last gone through.";
    FLOWS_EXPIRED: Counter, "fairlead_flows_expired_total" ["ip_family", "stage"],
        "Flows whose rows were removed because they had not been used for long, or were over and others needed the room.";
    FLOWS_ABANDONED: Counter, "fairlead_flows_abandoned_total" ["ip_family"],
        "Flows whose clients are told at their next packet that the pod is deleted.";
    KERNEL_EVENTS: Counter, "fairlead_kernel_events_total" [],
        "Events of links, addresses, neighbours, routes and rules that the kernel told of.";

    REQUESTS: Counter, "rest_client_requests_total" ["code", "method", "host"],
        "Requests to the API server, by the status of the answer: `<error>` if none came.";

    CPU: Counter, "process_cpu_seconds_total" [],
        "Processor time the agent has used, in seconds.";
    START: Gauge, "process_start_time_seconds" [],
        "When the agent started, in seconds since 1970.";
    RESIDENT: Gauge, "process_resident_memory_bytes" [],
        "Memory of the agent that is in RAM.";
    VIRTUAL: Gauge, "process_virtual_memory_bytes" [],
        "Address space of the agent.";
    OPEN_FILES: Gauge, "process_open_fds" [],
        "File descriptors the agent has open.";
    MAX_FILES: Gauge, "process_max_fds" [],
        "File descriptors the agent may have open.";
    THREADS: Gauge, "process_threads" [],
        "Threads of the agent.";

    HEALTHCHECK: Gauge, "kubernetes_healthcheck" ["name", "type"],
        "1 if the last check of this name succeeded (/metrics/slis).";
    HEALTHCHECKS: Counter, "kubernetes_healthchecks_total" ["name", "type", "status"],
        "Checks of this name, by how they ended (/metrics/slis).";
}

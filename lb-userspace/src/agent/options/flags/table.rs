//! kube-proxy's flags, each with the field it sets.

use super::{Flag, Kind};

pub(super) const HOSTNAME_OVERRIDE: &str = "hostnameOverride";

/// Every one, by name. Those without help have no effect here: `inapplicable` says why.
pub(super) const FLAGS: [Flag; 49] = [
    flag(
        "bind-address",
        "bindAddress",
        Kind::Text,
        "The node's primary address, for Services and node ports, in place of the Node object's. Nothing is bound to it",
    ),
    flag(
        "bind-address-hard-fail",
        "bindAddressHardFail",
        Kind::Bool,
        "End when a server's address cannot be listened on, rather than try again",
    ),
    flag(
        "cluster-cidr",
        "clusterCIDR",
        Kind::Joined,
        "Pod networks of the cluster, at most one a family. With --detect-local-mode ClusterCIDR or none, clients in them are inside the cluster; without, those on pod interfaces are",
    ),
    flag("config-sync-period", "configSyncPeriod", Kind::Text, ""),
    flag(
        "conntrack-max-per-core",
        "conntrack.maxPerCore",
        Kind::Number,
        "Entries of connection tracking to have room for, a core; 0 leaves the limit as it is [default: 32768]",
    ),
    flag(
        "conntrack-min",
        "conntrack.min",
        Kind::Number,
        "Entries to have room for at least [default: 131072]",
    ),
    flag(
        "conntrack-tcp-be-liberal",
        "conntrack.tcpBeLiberal",
        Kind::Bool,
        "Have connection tracking take packets out of the window for valid",
    ),
    flag(
        "conntrack-tcp-timeout-close-wait",
        "conntrack.tcpCloseWaitTimeout",
        Kind::Text,
        "How long connection tracking keeps TCP connections in CLOSE_WAIT; 0 leaves it as it is [default: 1h0m0s]",
    ),
    flag(
        "conntrack-tcp-timeout-established",
        "conntrack.tcpEstablishedTimeout",
        Kind::Text,
        "How long it keeps idle TCP connections [default: 24h0m0s]",
    ),
    flag(
        "conntrack-udp-timeout",
        "conntrack.udpTimeout",
        Kind::Text,
        "How long it keeps idle UDP flows that were not answered [default: 0, as it is]",
    ),
    flag(
        "conntrack-udp-timeout-stream",
        "conntrack.udpStreamTimeout",
        Kind::Text,
        "How long it keeps idle UDP flows that were [default: 0, as it is]",
    ),
    flag(
        "detect-local-mode",
        "detectLocalMode",
        Kind::Text,
        "How clients inside the cluster are told: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix [default: ClusterCIDR]",
    ),
    flag(
        "feature-gates",
        "featureGates",
        Kind::Gates,
        "Switches of kube-proxy's: AllowServiceExternalIPs=false serves no externalIPs",
    ),
    flag(
        "healthz-bind-address",
        "healthzBindAddress",
        Kind::Text,
        "Address and port of /healthz and /livez; empty for none [default: 0.0.0.0:10256]",
    ),
    flag(
        "healthz-port",
        "healthzBindAddress",
        Kind::Port,
        "Port of /healthz; 0 for none. Deprecated: use --healthz-bind-address",
    ),
    flag(
        "hostname-override",
        HOSTNAME_OVERRIDE,
        Kind::Text,
        "Name of this node, as --node-name",
    ),
    flag(
        "iptables-localhost-nodeports",
        "iptables.localhostNodePorts",
        Kind::Bool,
        "Serve node ports on this node's loopback addresses too, to its own processes [default: true]",
    ),
    flag(
        "iptables-masquerade-bit",
        "iptables.masqueradeBit",
        Kind::Number,
        "",
    ),
    flag(
        "iptables-min-sync-period",
        "iptables.minSyncPeriod",
        Kind::Text,
        "",
    ),
    flag(
        "iptables-sync-period",
        "iptables.syncPeriod",
        Kind::Text,
        "",
    ),
    flag("ipvs-exclude-cidrs", "ipvs.excludeCIDRs", Kind::List, ""),
    flag("ipvs-min-sync-period", "ipvs.minSyncPeriod", Kind::Text, ""),
    flag("ipvs-scheduler", "ipvs.scheduler", Kind::Text, ""),
    flag("ipvs-strict-arp", "ipvs.strictARP", Kind::Bool, ""),
    flag("ipvs-sync-period", "ipvs.syncPeriod", Kind::Text, ""),
    flag("ipvs-tcp-timeout", "ipvs.tcpTimeout", Kind::Text, ""),
    flag("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", Kind::Text, ""),
    flag("ipvs-udp-timeout", "ipvs.udpTimeout", Kind::Text, ""),
    flag("kube-api-burst", "clientConnection.burst", Kind::Number, ""),
    flag(
        "kube-api-content-type",
        "clientConnection.contentType",
        Kind::Text,
        "",
    ),
    flag("kube-api-qps", "clientConnection.qps", Kind::Fraction, ""),
    flag(
        "kubeconfig",
        "clientConnection.kubeconfig",
        Kind::Text,
        "File that says how to reach the API server",
    ),
    flag(
        "log-flush-frequency",
        "logging.flushFrequency",
        Kind::Text,
        "",
    ),
    flag(
        "log-json-info-buffer-size",
        "logging.options.json.infoBufferSize",
        Kind::Text,
        "",
    ),
    flag(
        "log-json-split-stream",
        "logging.options.json.splitStream",
        Kind::Bool,
        "",
    ),
    flag(
        "log-text-info-buffer-size",
        "logging.options.text.infoBufferSize",
        Kind::Text,
        "",
    ),
    flag(
        "log-text-split-stream",
        "logging.options.text.splitStream",
        Kind::Bool,
        "",
    ),
    flag("logging-format", "logging.format", Kind::Text, ""),
    flag(
        "masquerade-all",
        "iptables.masqueradeAll",
        Kind::Bool,
        "Give all traffic to cluster IPs the node's address as source",
    ),
    flag(
        "metrics-bind-address",
        "metricsBindAddress",
        Kind::Text,
        "Address and port of /metrics; empty for none [default: 127.0.0.1:10249]",
    ),
    flag(
        "metrics-port",
        "metricsBindAddress",
        Kind::Port,
        "Port of /metrics; 0 for none. Deprecated: use --metrics-bind-address",
    ),
    flag(
        "nodeport-addresses",
        "nodePortAddresses",
        Kind::List,
        "Addresses of this node to serve node ports on: any of primary, all, localhost and networks. A family that none of them is for is served on all its addresses [default: primary]",
    ),
    flag(
        "oom-score-adj",
        "oomScoreAdj",
        Kind::Number,
        "How ready the kernel is to end this process when memory is short, -1000 (never) to 1000 [default: -999]",
    ),
    flag(
        "pod-bridge-interface",
        "detectLocal.bridgeInterface",
        Kind::Text,
        "With --detect-local-mode BridgeInterface: the bridge that pods are on",
    ),
    flag(
        "pod-interface-name-prefix",
        "detectLocal.interfaceNamePrefix",
        Kind::Text,
        "With --detect-local-mode InterfaceNamePrefix: how names of pod interfaces begin",
    ),
    flag("profiling", "enableProfiling", Kind::Bool, ""),
    flag("proxy-mode", "mode", Kind::Text, ""),
    flag(
        "show-hidden-metrics-for-version",
        "showHiddenMetricsForVersion",
        Kind::Text,
        "",
    ),
    flag("vmodule", "logging.vmodule", Kind::List, ""),
];

const fn flag(name: &'static str, field: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag {
        name,
        field,
        kind,
        help,
    }
}

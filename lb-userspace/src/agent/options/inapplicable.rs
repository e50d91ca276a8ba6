//! Fields that mean nothing here. None is lost in silence: where one is not as kube-proxy would
//! have it by default, a line says that and why it has no effect.

use serde_json::Value;

use super::kube_proxy::KubeProxy;

/// Fields, or groups of them, and why they have no effect.
const ROWS: [(&str, &str); 21] = [
    ("clientConnection.acceptContentTypes", JSON),
    ("clientConnection.contentType", JSON),
    ("clientConnection.qps", RATE),
    ("clientConnection.burst", RATE),
    (
        "configSyncPeriod",
        "objects are watched, and read again only when a watch breaks",
    ),
    ("enableProfiling", "there is nothing under /debug/pprof"),
    ("iptables.masqueradeBit", MARK),
    ("iptables.minSyncPeriod", PERIOD),
    ("iptables.syncPeriod", PERIOD),
    ("ipvs", "no IPVS is used"),
    ("logging.flushFrequency", LOG),
    ("logging.format", LOG),
    ("logging.options", LOG),
    (
        "logging.vmodule",
        "all modules log alike, as much as --log-level or -v says",
    ),
    ("nftables.masqueradeBit", MARK),
    ("nftables.minSyncPeriod", PERIOD),
    ("nftables.syncPeriod", PERIOD),
    ("portRange", "not even kube-proxy uses it"),
    ("showHiddenMetricsForVersion", "no metrics are hidden"),
    ("windowsRunAsService", WINDOWS),
    ("winkernel", WINDOWS),
];

const JSON: &str = "the API server is spoken to in JSON";
const RATE: &str = "requests are few, and as far apart as the API server's answers ask for";
const MARK: &str = "packets are not marked";
const PERIOD: &str =
    "each change is programmed at once, and an audit repairs the maps once a minute";
const LOG: &str = "the log is lines of text, written at once";
const WINDOWS: &str = "this is for Windows";

/// Fields of other releases: of older ones, or of newer.
pub(super) const FOREIGN: [(&str, &str); 4] = [
    ("metadata", "a configuration has none"),
    (
        "iptables.snatNodeInternalIP",
        "the source of a translated packet is the address its route prefers",
    ),
    ("resourceContainer", OLD),
    ("udpIdleTimeout", OLD),
];

const OLD: &str = "kube-proxy has it no longer either";

/// Feature gates that mean something here.
pub(super) const GATES: [&str; 1] = ["AllowServiceExternalIPs"];

/// Each field that was set and has no effect, and the rest of a sentence that says so.
pub(super) fn lines(config: &KubeProxy) -> Vec<(String, String)> {
    let (Ok(given), Ok(default)) = (
        serde_json::to_value(config),
        serde_json::to_value(KubeProxy::defaults()),
    ) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for (path, why) in ROWS {
        let place = path.replace('.', "/");
        let place = format!("/{place}");
        for field in differing(path, given.pointer(&place), default.pointer(&place)) {
            lines.push((field, format!(" has no effect: {why}")));
        }
    }
    lines.extend(modes(config));
    lines
}

/// The fields below `path` that are not alike.
fn differing(path: &str, given: Option<&Value>, default: Option<&Value>) -> Vec<String> {
    match (given, default) {
        (Some(Value::Object(given)), Some(Value::Object(default))) => given
            .iter()
            .flat_map(|(key, value)| {
                differing(&format!("{path}.{key}"), Some(value), default.get(key))
            })
            .collect(),
        (given, default) if given == default => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

/// What depends on the proxy mode, and the mode itself.
fn modes(config: &KubeProxy) -> Vec<(String, String)> {
    let KubeProxy {
        mode,
        iptables,
        nftables,
        feature_gates,
        node_port_addresses,
        ..
    } = config;
    let mut lines = Vec::new();
    let mut add = |field: &str, text: &str| lines.push((field.to_owned(), text.to_owned()));
    if !mode.is_empty() {
        add(
            "mode",
            " has no effect: services are programmed in eBPF, whatever the mode",
        );
    }
    if matches!(mode.as_str(), "iptables" | "ipvs") && node_port_addresses.is_empty() {
        add(
            "nodePortAddresses",
            " is empty: node ports are served on the node's primary addresses; kube-proxy serves \
             them on every address in this mode, and so does [\"all\"] here",
        );
    }
    let by_nftables = mode == "nftables";
    if iptables.masquerade_all && by_nftables {
        add(
            "iptables.masqueradeAll",
            " has no effect: the mode is nftables",
        );
    }
    if nftables.masquerade_all && !by_nftables {
        add(
            "nftables.masqueradeAll",
            " has no effect: the mode is not nftables",
        );
    }
    for gate in feature_gates.keys() {
        if !GATES.contains(&gate.as_str()) {
            let text = format!(": {gate} has no effect: nothing here hangs on it");
            add("featureGates", &text);
        }
    }
    lines
}

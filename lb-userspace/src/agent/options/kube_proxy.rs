//! `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`), every field of it (SEMANTICS K1, K2).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::Span;

/// `apiVersion` of the configuration.
pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// `kind` of the configuration.
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// kube-proxy's configuration. Deserialised, what is absent has kube-proxy's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::agent) struct KubeProxy {
    pub(super) feature_gates: BTreeMap<String, bool>,
    pub(super) client_connection: ClientConnection,
    pub(super) logging: Logging,
    pub(super) hostname_override: String,
    pub(super) bind_address: String,
    pub(super) healthz_bind_address: String,
    pub(super) metrics_bind_address: String,
    pub(super) bind_address_hard_fail: bool,
    pub(super) enable_profiling: bool,
    pub(super) show_hidden_metrics_for_version: String,
    pub(super) mode: String,
    pub(super) iptables: Iptables,
    pub(super) ipvs: Ipvs,
    pub(super) nftables: Nftables,
    pub(super) winkernel: Winkernel,
    pub(super) detect_local_mode: String,
    pub(super) detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub(super) cluster_cidr: String,
    pub(super) node_port_addresses: Vec<String>,
    pub(super) oom_score_adj: i32,
    pub(super) conntrack: Conntrack,
    pub(super) config_sync_period: Span,
    pub(super) port_range: String,
    pub(super) windows_run_as_service: bool,
}

/// `clientConnection`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClientConnection {
    pub(super) kubeconfig: String,
    pub(super) accept_content_types: String,
    pub(super) content_type: String,
    pub(super) qps: f64,
    pub(super) burst: i32,
}

/// `logging`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Logging {
    pub(super) format: String,
    /// A span of time, or its nanoseconds.
    pub(super) flush_frequency: Value,
    pub(super) verbosity: u32,
    pub(super) vmodule: Vec<Module>,
    pub(super) options: LoggingOptions,
}

/// An entry of `logging.vmodule`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Module {
    file_pattern: String,
    verbosity: u32,
}

/// `logging.options`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LoggingOptions {
    text: Output,
    json: Output,
}

/// `logging.options.text`, `logging.options.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Output {
    split_stream: bool,
    /// A quantity: `512`, `"64Ki"`.
    info_buffer_size: Value,
}

/// `iptables`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Iptables {
    pub(super) masquerade_bit: i32,
    pub(super) masquerade_all: bool,
    pub(super) localhost_node_ports: bool,
    pub(super) sync_period: Span,
    pub(super) min_sync_period: Span,
}

/// `ipvs`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Ipvs {
    pub(super) sync_period: Span,
    pub(super) min_sync_period: Span,
    pub(super) scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub(super) exclude_cidrs: Vec<String>,
    #[serde(rename = "strictARP")]
    pub(super) strict_arp: bool,
    pub(super) tcp_timeout: Span,
    pub(super) tcp_fin_timeout: Span,
    pub(super) udp_timeout: Span,
}

/// `nftables`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Nftables {
    pub(super) masquerade_bit: i32,
    pub(super) masquerade_all: bool,
    pub(super) sync_period: Span,
    pub(super) min_sync_period: Span,
}

/// `winkernel`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Winkernel {
    network_name: String,
    source_vip: String,
    #[serde(rename = "enableDSR")]
    enable_dsr: bool,
    root_hns_endpoint_name: String,
    forward_health_check_vip: bool,
}

/// `detectLocal`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DetectLocal {
    pub(super) bridge_interface: String,
    pub(super) interface_name_prefix: String,
}

/// `conntrack` (SEMANTICS G9). Zero leaves a limit or timeout as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::agent) struct Conntrack {
    /// Entries there is room for, a core.
    pub(in crate::agent) max_per_core: i32,
    /// Entries there is room for at least, unless `max_per_core` is 0.
    pub(in crate::agent) min: i32,
    /// How long an idle TCP connection is known.
    pub(in crate::agent) tcp_established_timeout: Span,
    /// How long one in `CLOSE_WAIT` is.
    pub(in crate::agent) tcp_close_wait_timeout: Span,
    /// Packets out of the window are not invalid.
    pub(in crate::agent) tcp_be_liberal: bool,
    /// How long an idle UDP flow is known that was not answered.
    pub(in crate::agent) udp_timeout: Span,
    /// How long one that was.
    pub(in crate::agent) udp_stream_timeout: Span,
}

/// kube-proxy's `qos.KubeProxyOOMScoreAdj`.
const OOM_SCORE_ADJ: i32 = -999;
const MASQUERADE_BIT: i32 = 14;
const SYNC_PERIOD: Span = Span::seconds(30);
const MIN_SYNC_PERIOD: Span = Span::seconds(1);
const CONFIG_SYNC_PERIOD: Span = Span::seconds(15 * 60);

/// Where the health check server listens by default.
pub(super) const HEALTHZ_PORT: u16 = 10256;
/// Where the metrics server does.
pub(super) const METRICS_PORT: u16 = 10249;

/// The address with a port: this one, if it has none of its own.
pub(super) fn with_port(address: &str, port: u16) -> String {
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => address.to_owned(),
    }
}

impl KubeProxy {
    /// How long a change may wait for its turn, by the mode's own section.
    pub(super) fn sync_period(&self) -> Duration {
        let period = match self.mode.as_str() {
            "nftables" => self.nftables.sync_period,
            "ipvs" => self.ipvs.sync_period,
            _ => self.iptables.sync_period,
        };
        period.duration()
    }

    /// What is in force where nothing is configured.
    pub(super) fn defaults() -> Self {
        let mut defaults = Self::default();
        defaults.complete();
        defaults
    }

    /// Gives what a file leaves empty or zero its default, where kube-proxy makes no difference
    /// between that and absent.
    pub(super) fn complete(&mut self) {
        let (healthz, metrics) = if self.bind_address.contains(':') {
            ("::", "::1")
        } else {
            ("0.0.0.0", "127.0.0.1")
        };
        let client = &mut self.client_connection;
        for (text, default) in [
            (&mut self.bind_address, "0.0.0.0"),
            (&mut self.healthz_bind_address, healthz),
            (&mut self.metrics_bind_address, metrics),
            (
                &mut client.content_type,
                "application/vnd.kubernetes.protobuf",
            ),
            (&mut self.logging.format, "text"),
        ] {
            if text.is_empty() {
                default.clone_into(text);
            }
        }
        self.healthz_bind_address = with_port(&self.healthz_bind_address, HEALTHZ_PORT);
        self.metrics_bind_address = with_port(&self.metrics_bind_address, METRICS_PORT);
        for (period, default) in [
            (&mut self.iptables.sync_period, SYNC_PERIOD),
            (&mut self.iptables.min_sync_period, MIN_SYNC_PERIOD),
            (&mut self.ipvs.sync_period, SYNC_PERIOD),
            (&mut self.nftables.sync_period, SYNC_PERIOD),
            (&mut self.nftables.min_sync_period, MIN_SYNC_PERIOD),
            (&mut self.config_sync_period, CONFIG_SYNC_PERIOD),
        ] {
            if *period == Span::ZERO {
                *period = default;
            }
        }
        if self.logging.flush_frequency == 0 {
            self.logging.flush_frequency = Logging::default().flush_frequency;
        }
        if client.qps == 0.0 {
            client.qps = 5.0;
        }
        if client.burst == 0 {
            client.burst = 10;
        }
    }
}

impl Default for KubeProxy {
    /// What is absent from a file, before [`KubeProxy::complete`].
    fn default() -> Self {
        Self {
            feature_gates: BTreeMap::new(),
            client_connection: ClientConnection::default(),
            logging: Logging::default(),
            hostname_override: String::new(),
            bind_address: String::new(),
            healthz_bind_address: String::new(),
            metrics_bind_address: String::new(),
            bind_address_hard_fail: false,
            enable_profiling: false,
            show_hidden_metrics_for_version: String::new(),
            mode: String::new(),
            iptables: Iptables::default(),
            ipvs: Ipvs::default(),
            nftables: Nftables::default(),
            winkernel: Winkernel::default(),
            detect_local_mode: String::new(),
            detect_local: DetectLocal::default(),
            cluster_cidr: String::new(),
            node_port_addresses: Vec::new(),
            oom_score_adj: OOM_SCORE_ADJ,
            conntrack: Conntrack::default(),
            config_sync_period: Span::ZERO,
            port_range: String::new(),
            windows_run_as_service: false,
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            format: String::new(),
            flush_frequency: Value::from("5s"),
            verbosity: 0,
            vmodule: Vec::new(),
            options: LoggingOptions::default(),
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self {
            split_stream: false,
            info_buffer_size: Value::from("0"),
        }
    }
}

impl Default for Iptables {
    fn default() -> Self {
        Self {
            masquerade_bit: MASQUERADE_BIT,
            masquerade_all: false,
            localhost_node_ports: true,
            sync_period: Span::ZERO,
            min_sync_period: Span::ZERO,
        }
    }
}

impl Default for Nftables {
    fn default() -> Self {
        Self {
            masquerade_bit: MASQUERADE_BIT,
            masquerade_all: false,
            sync_period: Span::ZERO,
            min_sync_period: Span::ZERO,
        }
    }
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: 32 << 10,
            min: 128 << 10,
            tcp_established_timeout: Span::seconds(24 * 3600),
            tcp_close_wait_timeout: Span::seconds(3600),
            tcp_be_liberal: false,
            udp_timeout: Span::ZERO,
            udp_stream_timeout: Span::ZERO,
        }
    }
}

//! What kube-proxy refuses in its configuration (SEMANTICS K3), under the paths that a file has.

use std::net::{IpAddr, SocketAddr};

use super::{duration::Span, kube_proxy::KubeProxy};
use crate::agent::values;

/// Field and reason.
pub(super) type Fault = (&'static str, String);

/// Proxy modes of kube-proxy on Linux.
pub(super) const MODES: [&str; 4] = ["", "iptables", "ipvs", "nftables"];

/// Names of `detectLocalMode`.
pub(super) const LOCAL_MODES: [&str; 5] = [
    "",
    CLUSTER_CIDR,
    NODE_CIDR,
    BRIDGE_INTERFACE,
    INTERFACE_NAME_PREFIX,
];
pub(super) const CLUSTER_CIDR: &str = "ClusterCIDR";
pub(super) const NODE_CIDR: &str = "NodeCIDR";
pub(super) const BRIDGE_INTERFACE: &str = "BridgeInterface";
pub(super) const INTERFACE_NAME_PREFIX: &str = "InterfaceNamePrefix";

/// All that is wrong with a complete configuration.
pub(super) fn faults(config: &KubeProxy) -> Vec<Fault> {
    let mut faults = Vec::new();
    numbers(config, &mut faults);
    periods(config, &mut faults);
    addresses(config, &mut faults);
    local(config, &mut faults);
    one_of(&mut faults, "mode", &config.mode, &MODES);
    faults
}

/// What is wrong with it on a host without IPv6, for this reason (SEMANTICS K11, K12).
pub(super) fn faults_without_ipv6(config: &KubeProxy, reason: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let bind = ip(&config.bind_address);
    if bind.is_ok_and(|ip| ip.is_ipv6() && !ip.is_unspecified()) {
        let reason = format!("{} is IPv6, but {reason}", config.bind_address);
        faults.push(("bindAddress", reason));
    }
    let networks = cluster_networks(&config.cluster_cidr).unwrap_or_default();
    let counts = matches!(config.detect_local_mode.as_str(), "" | CLUSTER_CIDR);
    let is_v6 = |network: &ipnet::IpNet| network.addr().is_ipv6();
    if counts && !networks.is_empty() && networks.iter().all(is_v6) {
        let reason = format!("{} is IPv6 alone, but {reason}", config.cluster_cidr);
        faults.push(("clusterCIDR", reason));
    }
    faults
}

fn numbers(config: &KubeProxy, faults: &mut Vec<Fault>) {
    let conntrack = &config.conntrack;
    let mut ranges = vec![
        (
            "iptables.masqueradeBit",
            config.iptables.masquerade_bit,
            BIT,
        ),
        ("oomScoreAdj", config.oom_score_adj, (-1000, 1000)),
        ("conntrack.maxPerCore", conntrack.max_per_core, NATURAL),
        ("conntrack.min", conntrack.min, NATURAL),
        (
            "clientConnection.burst",
            config.client_connection.burst,
            NATURAL,
        ),
    ];
    if config.mode == "nftables" {
        ranges.push((
            "nftables.masqueradeBit",
            config.nftables.masquerade_bit,
            BIT,
        ));
    }
    for (field, value, (least, most)) in ranges {
        if value < least && most == i32::MAX {
            let reason = format!("{value} must be greater than or equal to {least}");
            faults.push((field, reason));
        } else if value < least || value > most {
            let reason = format!("{value} must be within the range [{least}, {most}]");
            faults.push((field, reason));
        }
    }
}

const BIT: (i32, i32) = (0, 31);
const NATURAL: (i32, i32) = (0, i32::MAX);

fn periods(config: &KubeProxy, faults: &mut Vec<Fault>) {
    let KubeProxy {
        conntrack,
        iptables,
        ipvs,
        nftables,
        ..
    } = config;
    let mut naturals = vec![
        (
            "conntrack.tcpEstablishedTimeout",
            conntrack.tcp_established_timeout,
        ),
        (
            "conntrack.tcpCloseWaitTimeout",
            conntrack.tcp_close_wait_timeout,
        ),
        ("conntrack.udpTimeout", conntrack.udp_timeout),
        ("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
    ];
    // Of the modes' periods only those of the mode that is chosen count.
    let (sync, least) = match config.mode.as_str() {
        "ipvs" => {
            naturals.extend([
                ("ipvs.tcpTimeout", ipvs.tcp_timeout),
                ("ipvs.tcpFinTimeout", ipvs.tcp_fin_timeout),
                ("ipvs.udpTimeout", ipvs.udp_timeout),
            ]);
            (
                ("ipvs.syncPeriod", ipvs.sync_period),
                ("ipvs.minSyncPeriod", ipvs.min_sync_period),
            )
        }
        "nftables" => (
            ("nftables.syncPeriod", nftables.sync_period),
            ("nftables.minSyncPeriod", nftables.min_sync_period),
        ),
        _ => (
            ("iptables.syncPeriod", iptables.sync_period),
            ("iptables.minSyncPeriod", iptables.min_sync_period),
        ),
    };
    naturals.push(least);
    for (field, span) in naturals {
        if span < Span::ZERO {
            let reason = format!("{span} must be greater than or equal to 0");
            faults.push((field, reason));
        }
    }
    for (field, span) in [sync, ("configSyncPeriod", config.config_sync_period)] {
        if span <= Span::ZERO {
            faults.push((field, format!("{span} must be greater than 0")));
        }
    }
    if sync.1 > Span::ZERO && least.1 > sync.1 {
        let reason = format!(
            "{} must be less than or equal to {}, which is {}",
            least.1, sync.0, sync.1
        );
        faults.push((least.0, reason));
    }
}

fn addresses(config: &KubeProxy, faults: &mut Vec<Fault>) {
    let mut add =
        |field, result: Result<(), String>| faults.extend(result.err().map(|r| (field, r)));
    add("bindAddress", ip(&config.bind_address).map(drop));
    for (field, text) in [
        ("healthzBindAddress", &config.healthz_bind_address),
        ("metricsBindAddress", &config.metrics_bind_address),
    ] {
        add(field, listen(text).map(drop));
    }
    add(
        "nodePortAddresses",
        values::node_port_addresses(&config.node_port_addresses).map(drop),
    );
    if config.mode == "ipvs" {
        let networks = &config.ipvs.exclude_cidrs;
        add(
            "ipvs.excludeCIDRs",
            networks.iter().try_for_each(|text| network(text).map(drop)),
        );
    }
}

fn local(config: &KubeProxy, faults: &mut Vec<Fault>) {
    let mode = config.detect_local_mode.as_str();
    one_of(faults, "detectLocalMode", mode, &LOCAL_MODES);
    let names = &config.detect_local;
    for (needed_by, field, name) in [
        (
            BRIDGE_INTERFACE,
            "detectLocal.bridgeInterface",
            &names.bridge_interface,
        ),
        (
            INTERFACE_NAME_PREFIX,
            "detectLocal.interfaceNamePrefix",
            &names.interface_name_prefix,
        ),
    ] {
        if mode == needed_by
            && let Err(reason) = values::interface(name)
        {
            let reason = format!("{reason}; detectLocalMode {needed_by} needs one");
            faults.push((field, reason));
        }
    }
    if matches!(mode, "" | CLUSTER_CIDR)
        && let Err(reason) = cluster_networks(&config.cluster_cidr)
    {
        faults.push(("clusterCIDR", reason));
    }
}

fn one_of(faults: &mut Vec<Fault>, field: &'static str, value: &str, known: &[&str]) {
    if !known.contains(&value) {
        let known: Vec<_> = known.iter().filter(|name| !name.is_empty()).collect();
        let known: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
        let reason = format!("{value:?} must be one of {}", known.join(", "));
        faults.push((field, reason));
    }
}

/// The networks of `clusterCIDR`: none, one, or one a family.
pub(super) fn cluster_networks(text: &str) -> Result<Vec<ipnet::IpNet>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let networks = text
        .split(',')
        .map(network)
        .collect::<Result<Vec<_>, _>>()?;
    values::one_a_family(&networks)?;
    Ok(networks)
}

fn network(text: &str) -> Result<ipnet::IpNet, String> {
    values::cidr(text).map_err(|reason| format!("{text:?} is {reason}"))
}

/// An address, leading zeros and all.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address"))
}

/// Address and port to listen on; none if the text is empty.
pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        Ok(_) | Err(_) => Err(format!(
            "{text:?} is not an IP address and a port, such as 0.0.0.0:10256 or [::]:10256"
        )),
    }
}

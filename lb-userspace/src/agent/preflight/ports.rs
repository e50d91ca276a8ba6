//! Ports: those that the agent listens on, and those that packets of services take.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use super::{
    files::{Files, Reading},
    finding::{FindingState, NodeFinding},
    names_of,
};
use crate::agent::{
    serve::{self, Bind, Family},
    snat,
};

/// Ports for source translation that are few: each serves one connection to the same backend.
const FEW_PORTS: usize = 4096;

/// A protocol whose listening sockets `/proc` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ListenProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A socket that takes what comes to its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listening {
    protocol: ListenProtocol,
    at: SocketAddr,
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            ListenProtocol::Tcp => "TCP",
            ListenProtocol::Udp => "UDP",
        };
        write!(f, "{} {protocol}", self.at)
    }
}

/// Facts about ports.
#[derive(Clone, Debug, Default)]
pub(super) struct PortFacts {
    /// Sockets that listen; of UDP those that are not connected.
    listening: BTreeSet<Listening>,
    /// `net.ipv4.ip_local_port_range`.
    ephemeral: Reading<String>,
    /// `net.ipv4.ip_local_reserved_ports`.
    reserved: Reading<String>,
}

/// What the options say of ports.
pub(super) struct PortOptions<'a> {
    /// Where the agent's servers listen.
    pub(super) servers: &'a serve::Options,
    /// Ports of node ports.
    pub(super) node_ports: &'a RangeInclusive<u16>,
    /// Whether an agent runs already, whose ports these may be.
    pub(super) agent_runs: bool,
}

/// Reads the facts.
pub(super) fn read(files: &Files) -> PortFacts {
    let tables = [
        ("tcp", ListenProtocol::Tcp),
        ("tcp6", ListenProtocol::Tcp),
        ("udp", ListenProtocol::Udp),
        ("udp6", ListenProtocol::Udp),
    ];
    let listening = tables.into_iter().flat_map(|(file, protocol)| {
        let text = files.text(&format!("/proc/self/net/{file}"));
        text.value()
            .map_or_else(Vec::new, |text| parse(text, protocol))
    });
    PortFacts {
        listening: listening.collect(),
        ephemeral: files.text("/proc/sys/net/ipv4/ip_local_port_range"),
        reserved: files.text("/proc/sys/net/ipv4/ip_local_reserved_ports"),
    }
}

/// Listening sockets of a table. The kernel lists those of TCP before all others.
fn parse(text: &str, protocol: ListenProtocol) -> Vec<Listening> {
    let state = match protocol {
        ListenProtocol::Tcp => "0A",
        ListenProtocol::Udp => "07",
    };
    let rows = text.lines().skip(1).map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        Some((address(local)?, state))
    });
    rows.map_while(|row| row)
        .take_while(|(_, it)| protocol == ListenProtocol::Udp || *it == state)
        .filter(|(_, it)| *it == state)
        .map(|(at, _)| Listening { protocol, at })
        .collect()
}

/// `0100007F:1F90`: words of the address in the machine's byte order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = if ip.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
        let bytes: [u8; 16] = words.try_into().ok()?;
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// What the facts mean.
pub(super) fn check(facts: &PortFacts, options: &PortOptions) -> Vec<NodeFinding> {
    let servers = options.servers;
    let mut findings = Vec::new();
    findings.extend(
        servers
            .healthz
            .map(|bind| server(facts, options, "health-port", bind)),
    );
    findings.extend(
        servers
            .metrics
            .map(|bind| server(facts, options, "metrics-port", bind)),
    );
    findings.push(node_ports(facts, options.node_ports));
    findings.extend(ephemeral(facts, options.node_ports));
    findings
}

fn server(
    facts: &PortFacts,
    options: &PortOptions,
    check: &'static str,
    bind: Bind,
) -> NodeFinding {
    let in_the_way = |it: &&Listening| it.protocol == ListenProtocol::Tcp && meets(bind, it.at);
    let Some(taken) = facts.listening.iter().find(in_the_way) else {
        return NodeFinding::ok(check, format!("{bind} is free"));
    };
    let found = format!("{bind}: a process listens at {}", taken.at);
    if options.agent_runs {
        return NodeFinding::ok(check, format!("{found}, probably the lb-agent that runs"));
    }
    let (state, why) = if options.servers.hard_fail {
        (
            FindingState::Failure,
            "with bindAddressHardFail the agent ends",
        )
    } else {
        (
            FindingState::Warning,
            "the agent serves, but nobody can ask it there until the port is free",
        )
    };
    let action = format!(
        "end that process (kube-proxy listens there too), or choose another port; `ss -ltnp sport = :{}` \
         shows it",
        taken.at.port()
    );
    NodeFinding::new(check, state, found, why, action)
}

/// Whether a socket that listens keeps another from listening there.
fn meets(bind: Bind, taken: SocketAddr) -> bool {
    let everywhere = taken.ip().is_unspecified();
    match bind {
        Bind::Any(port) => taken.port() == port,
        Bind::AnyOf(Family::V4, port) => taken.port() == port && (taken.is_ipv4() || everywhere),
        Bind::AnyOf(Family::V6, port) => taken.port() == port && taken.is_ipv6(),
        Bind::One(at) => taken.port() == at.port() && (everywhere || taken.ip() == at.ip()),
    }
}

fn node_ports(facts: &PortFacts, range: &RangeInclusive<u16>) -> NodeFinding {
    let shown = format!("{}-{}", range.start(), range.end());
    let inside = facts
        .listening
        .iter()
        .filter(|it| range.contains(&it.at.port()));
    let names: Vec<_> = inside.map(ToString::to_string).collect();
    match names_of(names.iter().map(String::as_str)) {
        None => NodeFinding::ok("node-ports", format!("no process listens on {shown}")),
        Some(names) => NodeFinding::warning(
            "node-ports",
            format!("processes listen in {shown}: {names}"),
            "when a Service gets such a node port, its packets no longer reach the process",
            "move the process, or choose other ports by --service-node-port-range",
        ),
    }
}

/// The host's own outgoing connections, beside node ports and source translation.
fn ephemeral(facts: &PortFacts, node_ports: &RangeInclusive<u16>) -> Vec<NodeFinding> {
    let Some(own) = facts.ephemeral.value().and_then(|text| snat::parse(text)) else {
        let finding = NodeFinding::unknown(
            "ephemeral-ports",
            "net.ipv4.ip_local_port_range cannot be read",
            "whether the node's own connections use node ports is not known",
            "read it by `sysctl net.ipv4.ip_local_port_range`",
        );
        return vec![finding];
    };
    let reserved = facts.reserved.value().map_or("", String::as_str);
    let shared: Vec<_> = node_ports
        .clone()
        .filter(|port| own.contains(port) && !is_reserved(reserved, *port))
        .collect();
    let range = format!("{}-{}", own.start(), own.end());
    let overlap = match (shared.first(), shared.last()) {
        (Some(first), Some(last)) => NodeFinding::warning(
            "ephemeral-ports",
            format!("net.ipv4.ip_local_port_range {range} has node ports {first}-{last} in it"),
            "answers to the node's own connections from such a port are taken for requests to a Service",
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}"),
        ),
        _ => NodeFinding::ok(
            "ephemeral-ports",
            format!("{range}, no node port among them"),
        ),
    };
    vec![overlap, snat_ports(&own, node_ports)]
}

/// Whether a list such as `8080,30000-32767` has the port.
fn is_reserved(ranges: &str, port: u16) -> bool {
    let mut ranges = ranges.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    });
    ranges.any(|range| range.contains(&port))
}

/// Ports that connections from outside get toward backends on other nodes.
fn snat_ports(own: &RangeInclusive<u16>, node_ports: &RangeInclusive<u16>) -> NodeFinding {
    const WHY: &str = "each connection from outside to one backend on another node takes a port";
    const ACTION: &str = "make net.ipv4.ip_local_port_range or --service-node-port-range smaller";
    match snat::largest_hole(&[own.clone(), node_ports.clone()]) {
        None => NodeFinding::warning(
            "snat-ports",
            "net.ipv4.ip_local_port_range and the node ports leave none for source translation",
            format!("{WHY}, and then shares it with the node's own connections"),
            ACTION,
        ),
        Some(ports) => {
            let found = format!("{}-{} ({} ports)", ports.start(), ports.end(), ports.len());
            if ports.len() < FEW_PORTS {
                return NodeFinding::warning("snat-ports", found, WHY, ACTION);
            }
            NodeFinding::ok("snat-ports", found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kubernetes::Requests;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when
   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 00000000:7630 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:9C40 0100007F:2809 01 00000000:00000000 00:00000000 00000000     0        0 3
";

    fn facts(text: &str) -> PortFacts {
        PortFacts {
            listening: parse(text, ListenProtocol::Tcp).into_iter().collect(),
            ephemeral: Reading::Value("32768\t60999\n".into()),
            reserved: Reading::Value("\n".into()),
        }
    }

    fn servers(healthz: &str, hard_fail: bool) -> serve::Options {
        serve::Options {
            healthz: healthz.parse().ok(),
            metrics: None,
            hard_fail,
            patience: std::time::Duration::from_secs(60),
            node_name: "node-a".into(),
            configz: serde_json::Value::Null,
            flags: Vec::new(),
            requests: Requests::default(),
        }
    }

    fn options(servers: &serve::Options, agent_runs: bool) -> PortOptions<'_> {
        PortOptions {
            servers,
            node_ports: &(30000..=32767),
            agent_runs,
        }
    }

    #[test]
    fn listening_sockets_are_read() {
        let shown: Vec<_> = facts(TCP)
            .listening
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["0.0.0.0:30256 TCP", "127.0.0.1:10249 TCP"]);
        let v6 = "00000000000000000000000001000000:2810";
        assert_eq!(address(v6), "[::1]:10256".parse().ok());
        assert_eq!(address("0100007F"), None);
    }

    #[test]
    fn a_port_that_is_taken_matters_as_the_options_say() {
        let rows = [
            ("127.0.0.1:10249", false, false, FindingState::Warning),
            ("127.0.0.1:10249", true, false, FindingState::Failure),
            ("127.0.0.1:10249", true, true, FindingState::Ok),
            ("192.0.2.1:10249", false, false, FindingState::Ok),
            ("0.0.0.0:10249", false, false, FindingState::Warning),
            ("192.0.2.1:30256", false, false, FindingState::Warning),
            ("0.0.0.0:10256", false, false, FindingState::Ok),
        ];
        for (at, hard_fail, agent_runs, expected) in rows {
            let servers = servers(at, hard_fail);
            let findings = check(&facts(TCP), &options(&servers, agent_runs));
            let health = findings
                .iter()
                .find(|it| it.check == "health-port")
                .unwrap();
            assert_eq!(health.state, expected, "{at} {hard_fail} {agent_runs}");
        }
    }

    #[test]
    fn processes_on_node_ports_are_named() {
        let finding = node_ports(&facts(TCP), &(30000..=32767));
        assert_eq!(finding.state, FindingState::Warning);
        assert!(
            finding.found.contains("0.0.0.0:30256 TCP"),
            "{}",
            finding.found
        );
        assert_eq!(
            node_ports(&facts(TCP), &(31000..=32767)).state,
            FindingState::Ok
        );
    }

    #[test]
    fn node_ports_are_not_for_the_nodes_own_connections() {
        let state = |range: &str, reserved: &str| {
            let facts = PortFacts {
                ephemeral: Reading::Value(range.into()),
                reserved: Reading::Value(reserved.into()),
                ..PortFacts::default()
            };
            let findings = ephemeral(&facts, &(30000..=32767));
            findings.iter().map(|it| it.state).collect::<Vec<_>>()
        };
        let ok = FindingState::Ok;
        assert_eq!(state("32768 60999", ""), [ok, ok]);
        assert_eq!(state("15000 65000", ""), [FindingState::Warning, ok]);
        assert_eq!(state("15000 65000", "30000-32767,40000"), [ok, ok]);
        assert_eq!(
            state("1024 65535", "30000-32767"),
            [ok, FindingState::Warning]
        );
        assert_eq!(state("none", ""), [FindingState::Unknown]);
    }
}

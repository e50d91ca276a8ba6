//! Kernel parameters of the network.

use std::path::Path;

use super::{
    files::{Files, Reading},
    finding::{FindingState, NodeFinding},
    links::Sorted,
    rights::RightsFacts,
};
use crate::agent::{
    families,
    interface::Interface,
    options::Conntrack,
    sysctls::{self, Planned},
};

/// Facts about parameters.
#[derive(Clone, Debug, Default)]
pub(super) struct ParameterFacts {
    /// Why the node has no IPv6; none if it has.
    without_ipv6: Option<&'static str>,
    /// `rp_filter` of all interfaces.
    filter_all: Option<u64>,
    /// Parameters by interface.
    interfaces: Vec<PerInterface>,
    /// What the agent would set of connection tracking.
    planned: Vec<Planned>,
}

/// Parameters of one external interface.
#[derive(Clone, Debug)]
struct PerInterface {
    name: String,
    v4: bool,
    v6: bool,
    forwards_v4: Reading<u64>,
    forwards_v6: Reading<u64>,
    filter: Option<u64>,
}

/// Reads the facts. `root` is `/` but in tests.
pub(super) fn read(
    files: &Files,
    root: &Path,
    sorted: &Sorted,
    conntrack: &Conntrack,
) -> ParameterFacts {
    let per_interface = |link: &Interface| {
        let at = |family: &str, name: &str| {
            files.number(&format!("/proc/sys/net/{family}/conf/{}/{name}", link.name))
        };
        PerInterface {
            name: link.name.clone(),
            v4: sorted.has_address(link, false),
            v6: sorted.has_address(link, true),
            forwards_v4: at("ipv4", "forwarding"),
            forwards_v6: at("ipv6", "forwarding"),
            filter: at("ipv4", "rp_filter").value().copied(),
        }
    };
    let all = files.number("/proc/sys/net/ipv4/conf/all/rp_filter");
    ParameterFacts {
        without_ipv6: families::without_ipv6(root),
        filter_all: all.value().copied(),
        interfaces: sorted
            .usable()
            .map(|(link, _)| per_interface(link))
            .collect(),
        planned: sysctls::planned(root, conntrack),
    }
}

/// What the facts mean.
pub(super) fn check(facts: &ParameterFacts, rights: &RightsFacts) -> Vec<NodeFinding> {
    let mut findings = vec![families(facts)];
    findings.extend(facts.interfaces.iter().flat_map(forwarding));
    findings.extend(reverse_path(facts));
    findings.push(conntrack(&facts.planned, rights));
    findings
}

fn families(facts: &ParameterFacts) -> NodeFinding {
    let found = facts.without_ipv6.map_or_else(
        || "IPv4 and IPv6".to_owned(),
        |reason| format!("IPv4 alone: {reason}"),
    );
    NodeFinding::ok("families", found)
}

/// The kernel answers look-ups of routes for packets that are sent on only where it forwards.
fn forwarding(interface: &PerInterface) -> Vec<NodeFinding> {
    let PerInterface {
        name,
        v4,
        v6,
        forwards_v4,
        forwards_v6,
        filter: _,
    } = interface;
    let families = [
        (
            "forwarding-ipv4",
            "IPv4",
            *v4,
            forwards_v4,
            "net.ipv4.ip_forward",
            FindingState::Failure,
        ),
        (
            "forwarding-ipv6",
            "IPv6",
            *v6,
            forwards_v6,
            "net.ipv6.conf.all.forwarding",
            FindingState::Warning,
        ),
    ];
    families
        .into_iter()
        .filter(|(_, _, has_address, ..)| *has_address)
        .map(|(check, family, _, forwards, parameter, state)| {
            let finding = match forwards {
                Reading::Value(0) => NodeFinding::new(
                    check,
                    state,
                    format!("{family} is not forwarded"),
                    format!(
                        "{family} packets are sent neither to pods nor to backends on other nodes"
                    ),
                    format!(
                        "sysctl -w {parameter}=1 (CNI installers do it; keep it in /etc/sysctl.d)"
                    ),
                ),
                Reading::Value(_) => NodeFinding::ok(check, format!("{family} is forwarded")),
                Reading::Missing | Reading::Denied | Reading::Failed(_) => NodeFinding::unknown(
                    check,
                    format!("the kernel does not tell whether {family} is forwarded"),
                    "packets to pods and to backends on other nodes are forwarded",
                    format!("read it by `sysctl {parameter}`"),
                ),
            };
            finding.on(name)
        })
        .collect()
}

/// The greater of an interface's value and that of all counts.
fn reverse_path(facts: &ParameterFacts) -> Option<NodeFinding> {
    let effective = |it: &PerInterface| it.filter.max(facts.filter_all);
    let strict: Vec<_> = facts
        .interfaces
        .iter()
        .filter(|interface| effective(interface) == Some(1))
        .map(|interface| interface.name.as_str())
        .collect();
    if facts.interfaces.len() > 1 && !strict.is_empty() {
        return Some(NodeFinding::warning(
            "rp-filter",
            format!(
                "strict on {}, one of several external interfaces",
                strict.join(", ")
            ),
            "packets that enter by another interface than their answers leave by are dropped",
            "sysctl -w net.ipv4.conf.all.rp_filter=2, if clients come by more than one interface",
        ));
    }
    let first = facts.interfaces.first()?;
    let found = match effective(first)? {
        0 => "off",
        1 => "strict, with one external interface",
        _ => "loose",
    };
    Some(NodeFinding::ok("rp-filter", found))
}

fn conntrack(planned: &[Planned], rights: &RightsFacts) -> NodeFinding {
    if planned.is_empty() {
        return NodeFinding::ok("conntrack", "nothing of connection tracking is to be set");
    }
    if let Some(stuck) = planned.iter().find(|it| !it.writable) {
        let Planned {
            path,
            value,
            option,
            ..
        } = stuck;
        let found = format!("{} is to be {value}, and cannot be written", path.display());
        if rights.is_unprivileged() {
            return NodeFinding::unknown(
                "conntrack",
                format!("{found} by this user"),
                "the agent ends when it cannot set what its options ask for",
                "run preflight as root",
            );
        }
        return NodeFinding::failure(
            "conntrack",
            found,
            "the agent ends when it cannot set what its options ask for",
            format!("run it privileged, set the value beforehand, or leave it alone by {option} 0"),
        );
    }
    let settings = planned.iter().map(|it| {
        let name = it.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} to {}", it.value)
    });
    let settings: Vec<_> = settings.collect();
    NodeFinding::ok(
        "conntrack",
        format!("the agent will set {}", settings.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(v4: u64, v6: u64, filter: u64) -> PerInterface {
        PerInterface {
            name: "eth0".into(),
            v4: true,
            v6: true,
            forwards_v4: Reading::Value(v4),
            forwards_v6: Reading::Value(v6),
            filter: Some(filter),
        }
    }

    #[test]
    fn nothing_is_served_where_nothing_is_forwarded() {
        let states = |interface: &PerInterface| {
            let findings = forwarding(interface);
            findings.iter().map(|it| it.state).collect::<Vec<_>>()
        };
        assert_eq!(states(&interface(1, 1, 0)), [FindingState::Ok; 2]);
        assert_eq!(
            states(&interface(0, 1, 0)),
            [FindingState::Failure, FindingState::Ok]
        );
        assert_eq!(
            states(&interface(1, 0, 0)),
            [FindingState::Ok, FindingState::Warning]
        );
        let without = PerInterface {
            v6: false,
            ..interface(1, 0, 0)
        };
        assert_eq!(states(&without), [FindingState::Ok]);
    }

    #[test]
    fn a_strict_filter_is_a_warning_with_several_interfaces() {
        let state = |all, filters: &[u64]| {
            let facts = ParameterFacts {
                filter_all: Some(all),
                interfaces: filters.iter().map(|it| interface(1, 1, *it)).collect(),
                ..ParameterFacts::default()
            };
            reverse_path(&facts).map(|it| it.state)
        };
        assert_eq!(state(0, &[1]), Some(FindingState::Ok));
        assert_eq!(state(0, &[0, 1]), Some(FindingState::Warning));
        assert_eq!(state(1, &[0, 0]), Some(FindingState::Warning));
        assert_eq!(state(2, &[1, 1]), Some(FindingState::Ok));
        assert_eq!(state(0, &[]), None);
    }

    #[test]
    fn what_cannot_be_set_keeps_the_agent_from_starting() {
        let planned = |writable| Planned {
            path: "/proc/sys/net/netfilter/nf_conntrack_max".into(),
            value: 131_072,
            option: "--conntrack-max-per-core (conntrack.maxPerCore)",
            writable,
        };
        let root = RightsFacts::default();
        let user = RightsFacts {
            user: 1000,
            capabilities: Some(0),
            ..RightsFacts::default()
        };
        assert_eq!(conntrack(&[], &root).state, FindingState::Ok);
        let fine = conntrack(&[planned(true)], &root);
        assert_eq!(fine.found, "the agent will set nf_conntrack_max to 131072");
        let stuck = [planned(true), planned(false)];
        assert_eq!(conntrack(&stuck, &root).state, FindingState::Failure);
        assert_eq!(conntrack(&stuck, &user).state, FindingState::Unknown);
    }
}

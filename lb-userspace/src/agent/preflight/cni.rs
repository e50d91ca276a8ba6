//! The CNI plugin, and other service proxies that come with one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    files::{Files, Reading},
    finding::NodeFinding,
    known_cnis::{KNOWN, KnownCni, Standing},
    names_of,
};
use crate::agent::table::Table;

/// Where the kubelet's container runtime looks for the CNI's configuration.
const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// Facts about the CNI.
#[derive(Clone, Debug, Default)]
pub(super) struct CniFacts {
    /// Types of plugins in the first configuration, which is the one in force, and its file.
    configuration: Reading<(String, BTreeSet<String>)>,
    /// Names of interfaces.
    interfaces: BTreeSet<String>,
}

/// Reads the facts.
pub(super) fn read(files: &Files, table: &Table) -> CniFacts {
    let names = files.host_names(CONFIGURATIONS);
    let is_one = |name: &&String| {
        let parts = name.rsplit_once('.');
        parts.is_some_and(|(_, kind)| matches!(kind, "conf" | "conflist" | "json"))
    };
    let configuration = match names {
        Reading::Value(names) => names.iter().find(is_one).map_or(Reading::Missing, |name| {
            let path = format!("{CONFIGURATIONS}/{name}");
            files.host_text(&path).map(|text| (path, types(&text)))
        }),
        Reading::Missing => Reading::Missing,
        Reading::Denied => Reading::Denied,
        Reading::Failed(reason) => Reading::Failed(reason),
    };
    CniFacts {
        configuration,
        interfaces: table.links().map(|link| link.name.clone()).collect(),
    }
}

/// Types of the plugins that a configuration, or a list of them, names.
fn types(text: &str) -> BTreeSet<String> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let listed = value["plugins"].as_array().cloned().unwrap_or_default();
    let all = listed.iter().chain([&value]);
    let types = all.filter_map(|plugin| plugin["type"].as_str());
    types.map(str::to_owned).collect()
}

/// What the facts mean.
pub(super) fn check(facts: &CniFacts) -> Vec<NodeFinding> {
    let types = facts.configuration.value().map(|(_, types)| types);
    let mut findings: Vec<_> = KNOWN
        .iter()
        .filter_map(|known| Some((known, trace(known, types, &facts.interfaces)?)))
        .map(|(known, trace)| finding(known, &trace))
        .collect();
    if findings.is_empty() {
        findings.push(unknown(facts));
    }
    findings
}

/// What tells that the CNI is there.
fn trace(
    known: &KnownCni,
    types: Option<&BTreeSet<String>>,
    interfaces: &BTreeSet<String>,
) -> Option<String> {
    let configured = types.and_then(|types| known.types.iter().find(|it| types.contains(**it)));
    if let Some(kind) = configured {
        return Some(format!("plugin {kind} in {CONFIGURATIONS}"));
    }
    let begins = |name: &&String| known.interfaces.iter().any(|it| name.starts_with(it));
    interfaces
        .iter()
        .find(begins)
        .map(|name| format!("interface {name}"))
}

fn finding(known: &KnownCni, trace: &str) -> NodeFinding {
    let finding = match known.standing {
        Standing::Tested => NodeFinding::ok("cni", format!("{trace}; tested")),
        Standing::Untested(why) => NodeFinding::warning(
            "cni",
            format!("{trace}; not tested"),
            why,
            "try it on one node first",
        ),
        Standing::Conflict(action) => NodeFinding::failure(
            "cni",
            trace,
            "it serves Services itself: the two would translate each other's packets",
            action,
        ),
    };
    finding.on(known.name)
}

fn unknown(facts: &CniFacts) -> NodeFinding {
    match &facts.configuration {
        Reading::Value((path, types)) => {
            let types = names_of(types.iter().map(String::as_str));
            let types = types.unwrap_or_else(|| "no plugin that can be read".to_owned());
            NodeFinding::warning(
                "cni",
                format!("{path} has {types}, not known"),
                "a CNI that serves Services itself would be in Fairlead's way",
                "ask its documentation about kube-proxy replacement, and try it on one node first",
            )
        }
        Reading::Missing => NodeFinding::warning(
            "cni",
            format!("no configuration in {CONFIGURATIONS}, and no interface of a known CNI"),
            "without a CNI pods have no network, and Fairlead makes no routes to them",
            "install a CNI; in a container name the node's root file system by --host-root",
        ),
        Reading::Denied | Reading::Failed(_) => NodeFinding::unknown(
            "cni",
            format!("{CONFIGURATIONS} is hidden from this user"),
            "a CNI that serves Services itself would be in Fairlead's way",
            "run preflight as root",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::FindingState, *};

    fn facts(plugins: Option<&[&str]>, interfaces: &[&str]) -> CniFacts {
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        CniFacts {
            configuration: plugins.map_or(Reading::Missing, |plugins| {
                Reading::Value(("/etc/cni/net.d/10-x.conflist".into(), owned(plugins)))
            }),
            interfaces: owned(interfaces),
        }
    }

    #[test]
    fn each_cni_is_known_by_its_plugin_or_its_interfaces() {
        let rows = [
            (
                Some(["bridge", "portmap"].as_slice()),
                ["cni0"].as_slice(),
                "bridge or ptp",
                FindingState::Ok,
            ),
            (
                Some(&["flannel"]),
                &["flannel.1"],
                "flannel",
                FindingState::Warning,
            ),
            (
                Some(&["calico"]),
                &["cali12345"],
                "Calico",
                FindingState::Warning,
            ),
            (None, &["cilium_host"], "Cilium", FindingState::Failure),
            (Some(&["cilium-cni"]), &[], "Cilium", FindingState::Failure),
            (
                None,
                &["kube-dummy-if"],
                "kube-router's service proxy",
                FindingState::Failure,
            ),
            (Some(&["antrea"]), &[], "Antrea", FindingState::Failure),
            (
                None,
                &["ovn-k8s-mp0"],
                "OVN-Kubernetes",
                FindingState::Failure,
            ),
            (
                Some(&["aws-cni"]),
                &[],
                "Amazon VPC CNI",
                FindingState::Warning,
            ),
            (
                None,
                &["eni0a1b2c3d4e5"],
                "Amazon VPC CNI",
                FindingState::Warning,
            ),
            (None, &["azure2"], "Azure CNI", FindingState::Warning),
            (None, &["vxlan-v6.calico"], "Calico", FindingState::Warning),
            (None, &["flannel-v6.1"], "flannel", FindingState::Warning),
            (Some(&["kube-ovn"]), &[], "Kube-OVN", FindingState::Failure),
            (Some(&["multus-shim"]), &[], "Multus", FindingState::Warning),
        ];
        for (plugins, interfaces, name, state) in rows {
            let finding = check(&facts(plugins, interfaces)).remove(0);
            assert_eq!(finding.subject.as_deref(), Some(name));
            assert_eq!(finding.state, state, "{name}");
        }
    }

    #[test]
    fn calicos_ebpf_data_plane_is_told_beside_calico() {
        let findings = check(&facts(Some(&["calico"]), &["bpfin.cali", "cali1"]));
        let states: Vec<_> = findings.iter().map(|it| it.state).collect();
        assert_eq!(states, [FindingState::Warning, FindingState::Failure]);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let unknown = check(&facts(Some(&["acme"]), &["eth0"])).remove(0);
        assert_eq!(unknown.state, FindingState::Warning);
        assert!(unknown.found.contains("acme"), "{}", unknown.found);
        let none = check(&facts(None, &["eth0"])).remove(0);
        assert_eq!(none.state, FindingState::Warning);
    }

    #[test]
    fn plugins_of_both_kinds_of_configuration_are_read() {
        let list = r#"{"name": "x", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;
        let types = |text| types(text).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(types(list), "bridge portmap");
        assert_eq!(types(r#"{"type": "weave-net"}"#), "weave-net");
        assert_eq!(types("not json"), "");
        assert_eq!(types(r#"{"plugins": 7}"#), "");
    }
}

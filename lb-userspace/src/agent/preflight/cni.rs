//! The CNI plugin, and other service proxies that come with one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    files::{Files, Reading},
    finding::NodeFinding,
    names_of,
};
use crate::agent::table::Table;

/// Where the kubelet's container runtime looks for the CNI's configuration.
const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// A CNI by the traces it leaves.
struct Known {
    name: &'static str,
    /// Types of plugins in its configuration.
    types: &'static [&'static str],
    /// Beginnings of its interfaces' names.
    interfaces: &'static [&'static str],
    standing: Standing,
}

/// What is known of Fairlead beside a CNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Tests or clusters of the project have it.
    Tested,
    /// It should do, for this reason, but nobody has tried.
    Untested(&'static str),
    /// It serves Services itself, so the two translate each other's packets.
    Conflict(&'static str),
}

const KNOWN: [Known; 15] = [
    Known {
        name: "Calico's eBPF data plane",
        types: &[],
        interfaces: &["bpfin.cali", "bpfout.cali"],
        standing: Standing::Conflict(
            "have Calico use its standard data plane (linuxDataplane: Iptables)",
        ),
    },
    Known {
        name: "Calico",
        types: &["calico"],
        interfaces: &["cali", "vxlan.calico"],
        standing: Standing::Untested(
            "its VXLAN mode has the devices that the tests have; IPIP does not work",
        ),
    },
    Known {
        name: "Cilium",
        types: &["cilium-cni"],
        interfaces: &["cilium_host", "cilium_net", "cilium_vxlan"],
        standing: Standing::Conflict("keep Cilium's own service proxy, or take another CNI"),
    },
    Known {
        name: "OVN-Kubernetes",
        types: &["ovn-k8s-cni-overlay"],
        interfaces: &["ovn-k8s-mp0"],
        standing: Standing::Conflict("keep OVN's own service proxy, or take another CNI"),
    },
    Known {
        name: "kube-router's service proxy",
        types: &[],
        interfaces: &["kube-dummy-if"],
        standing: Standing::Conflict("start kube-router with --run-service-proxy=false"),
    },
    Known {
        name: "Antrea",
        types: &["antrea"],
        interfaces: &["antrea-gw0"],
        standing: Standing::Conflict("switch AntreaProxy off (feature gate AntreaProxy: false)"),
    },
    Known {
        name: "kube-router",
        types: &[],
        interfaces: &["kube-bridge"],
        standing: Standing::Untested("its routes and its bridge are like those of the tests"),
    },
    Known {
        name: "Kube-OVN",
        types: &["kube-ovn"],
        interfaces: &["ovn0"],
        standing: Standing::Untested("its own load balancer has to be off (ENABLE_LB=false)"),
    },
    Known {
        name: "flannel",
        types: &["flannel"],
        interfaces: &["flannel."],
        standing: Standing::Untested("its VXLAN back end has the devices that the tests have"),
    },
    Known {
        name: "Weave Net",
        types: &["weave-net"],
        interfaces: &["weave"],
        standing: Standing::Untested("its fast datapath is no Ethernet tunnel of the kernel's"),
    },
    Known {
        name: "Amazon VPC CNI",
        types: &["aws-cni"],
        interfaces: &[],
        standing: Standing::Untested(
            "answers of pods on a secondary network card leave by that card",
        ),
    },
    Known {
        name: "Azure CNI",
        types: &["azure-vnet", "azure-ipam"],
        interfaces: &["azure0", "azv"],
        standing: Standing::Untested("it routes pods by interface, as the tests do"),
    },
    Known {
        name: "GKE",
        types: &["gke"],
        interfaces: &["gke"],
        standing: Standing::Untested("it routes pods by interface, as the tests do"),
    },
    Known {
        name: "Multus",
        types: &["multus", "multus-shim"],
        interfaces: &[],
        standing: Standing::Untested("the CNI that it delegates to decides"),
    },
    Known {
        name: "bridge or ptp",
        types: &["bridge", "ptp"],
        interfaces: &["cni0", "cbr0"],
        standing: Standing::Tested,
    },
];

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
    known: &Known,
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

fn finding(known: &Known, trace: &str) -> NodeFinding {
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
        assert_eq!(findings[0].state, FindingState::Failure);
        assert_eq!(findings.len(), 2);
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

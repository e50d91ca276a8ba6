//! CNIs that are known, and how Fairlead does beside them.

/// A CNI, or a service proxy that comes with one, by the traces it leaves.
pub(super) struct KnownCni {
    pub(super) name: &'static str,
    /// Types of plugins in its configuration.
    pub(super) types: &'static [&'static str],
    /// Beginnings of its interfaces' names on the node.
    pub(super) interfaces: &'static [&'static str],
    pub(super) standing: Standing,
}

/// What is known of Fairlead beside a CNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Tests or clusters of the project have it.
    Tested,
    /// It should do, for this reason, but nobody has tried.
    Untested(&'static str),
    /// It serves Services itself, so the two translate each other's packets. With what to do.
    Conflict(&'static str),
}

/// CNIs that are known, by name.
///
/// Types, names of interfaces and options are those of each project's source, as of summer 2026 for most.
/// The plugins `bridge` and `ptp` are of April 2026, kindnet is of August 2025, and Weave Net of December
/// 2024. Cilium and kubenet (`cbr0`) are from copies without a date. The types `gke` and `sriov` are from
/// uses in other projects, and the prefix `gke` is from Calico's operator.
pub(super) const KNOWN: [KnownCni; 19] = [
    KnownCni {
        name: "Amazon VPC CNI",
        types: &["aws-cni"],
        interfaces: &["eni"],
        standing: Standing::Untested(
            "answers of pods on a secondary network card leave by that card",
        ),
    },
    KnownCni {
        name: "Antrea",
        types: &["antrea"],
        interfaces: &["antrea-gw0"],
        standing: Standing::Conflict(
            "switch AntreaProxy off (antreaProxy.enable: false in antrea-agent.conf)",
        ),
    },
    KnownCni {
        name: "Azure CNI",
        types: &["azure-vnet"],
        interfaces: &["azure", "azv"],
        standing: Standing::Untested("it routes pods by interface, as the tests do"),
    },
    KnownCni {
        name: "bridge or ptp",
        types: &["bridge", "ptp"],
        interfaces: &["cbr0", "cni0"],
        standing: Standing::Tested,
    },
    // Terway gives pods' interfaces the same prefix, so Calico is reported beside it.
    KnownCni {
        name: "Calico",
        types: &["calico"],
        interfaces: &["cali", "vxlan-v6.calico", "vxlan.calico"],
        standing: Standing::Untested(
            "its VXLAN mode has the devices that the tests have; IPIP does not work",
        ),
    },
    KnownCni {
        name: "Calico's eBPF data plane",
        types: &[],
        interfaces: &["bpfin.cali", "bpfout.cali"],
        standing: Standing::Conflict(
            "have Calico use another data plane (linuxDataplane: Iptables or Nftables; without its \
             operator bpfEnabled: false)",
        ),
    },
    KnownCni {
        name: "Cilium",
        types: &["cilium-cni"],
        interfaces: &["cilium_"],
        standing: Standing::Conflict(
            "keep Cilium's own service proxy, or take another CNI: even with kubeProxyReplacement=false \
             it serves cluster IPs to pods",
        ),
    },
    KnownCni {
        name: "flannel",
        types: &["flannel"],
        interfaces: &["flannel"],
        standing: Standing::Untested("its VXLAN back end has the devices that the tests have"),
    },
    KnownCni {
        name: "GKE",
        types: &["gke"],
        interfaces: &["gke"],
        standing: Standing::Untested("it routes pods by interface, as the tests do"),
    },
    KnownCni {
        name: "kindnet",
        types: &["cni-kindnet"],
        interfaces: &["knet"],
        standing: Standing::Untested("it routes pods by interface, as the tests do"),
    },
    KnownCni {
        name: "Kube-OVN",
        types: &["kube-ovn"],
        interfaces: &["ovn0"],
        standing: Standing::Conflict(
            "switch its load balancer off (ENABLE_LB=false, or kube-ovn-controller --enable-lb=false)",
        ),
    },
    KnownCni {
        name: "kube-router",
        types: &[],
        interfaces: &["kube-bridge"],
        standing: Standing::Untested(
            "its routes and its bridge are like those of the tests; its IP-in-IP tunnels do not work",
        ),
    },
    KnownCni {
        name: "kube-router's service proxy",
        types: &[],
        interfaces: &["kube-dummy-if"],
        standing: Standing::Conflict(
            "run kube-router --cleanup-config, then start it with --run-service-proxy=false",
        ),
    },
    KnownCni {
        name: "macvlan, ipvlan or SR-IOV",
        types: &["host-device", "ipvlan", "macvlan", "sriov"],
        interfaces: &[],
        standing: Standing::Untested(
            "pods' packets leave by the card, past the node's network stack and past Fairlead",
        ),
    },
    KnownCni {
        name: "Multus",
        types: &["multus", "multus-shim"],
        interfaces: &[],
        standing: Standing::Untested("the CNI that it delegates to decides"),
    },
    KnownCni {
        name: "OVN-Kubernetes",
        types: &["ovn-k8s-cni-overlay"],
        interfaces: &["ovn-k8s-mp"],
        standing: Standing::Conflict("keep OVN's own service proxy, or take another CNI"),
    },
    KnownCni {
        name: "Spiderpool",
        types: &["coordinator"],
        interfaces: &[],
        standing: Standing::Untested("pods reach Services by the veth pair of its coordinator"),
    },
    KnownCni {
        name: "Terway",
        types: &["terway"],
        interfaces: &[],
        standing: Standing::Untested(
            "answers of pods on a secondary network card leave by that card",
        ),
    },
    KnownCni {
        name: "Weave Net",
        types: &["weave-net"],
        interfaces: &["weave"],
        standing: Standing::Untested("its fast datapath forwards by Open vSwitch"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cnis_are_sorted_by_name_and_their_traces_too() {
        let names = KNOWN.each_ref().map(|it| it.name.to_lowercase());
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
        for cni in &KNOWN {
            for traces in [cni.types, cni.interfaces] {
                assert!(traces.is_sorted(), "{}: {traces:?}", cni.name);
            }
        }
    }

    #[test]
    fn no_trace_is_that_of_two_cnis() {
        let types: Vec<_> = KNOWN.iter().flat_map(|it| it.types).collect();
        let interfaces: Vec<_> = KNOWN.iter().flat_map(|it| it.interfaces).collect();
        let times = |one: &str| types.iter().filter(|it| **it == &one).count();
        assert!(types.iter().all(|it| times(it) == 1), "{types:?}");
        let beginnings = |name: &str| {
            interfaces
                .iter()
                .filter(|it| name.starts_with(**it))
                .count()
        };
        assert!(
            interfaces.iter().all(|it| beginnings(it) == 1),
            "{interfaces:?}"
        );
    }

    #[test]
    fn a_cni_leaves_at_least_one_trace() {
        let traceless = KNOWN
            .iter()
            .find(|it| it.types.is_empty() && it.interfaces.is_empty());
        assert_eq!(traceless.map(|it| it.name), None);
    }
}

//! kube-proxy: whether it runs, and the rules it made.

use super::{
    files::{Files, Reading},
    finding::NodeFinding,
    modules::ModuleFacts,
    names_of, nft_tables,
};
use crate::agent::{leftovers, table::Table};

/// The device that kube-proxy's IPVS mode keeps cluster IPs on.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// What it takes to replace kube-proxy.
const REPLACE: &str = "follow \"Replacing kube-proxy\" in deploy/README.md";

/// Facts about kube-proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct KubeProxyFacts {
    /// Its processes, as far as this one sees processes of the node.
    processes: Vec<u32>,
    /// Its tables and chains; missing if they were not looked for.
    rules: Reading<Vec<String>>,
    /// Whether its IPVS device is there.
    ipvs: bool,
}

/// Reads the facts. `rules` are those that [`rules`] found.
pub(super) fn read(files: &Files, rules: Reading<Vec<String>>, table: &Table) -> KubeProxyFacts {
    KubeProxyFacts {
        processes: processes(files),
        rules,
        ipvs: table.link(IPVS_DEVICE).is_some(),
    }
}

/// Looks for its rules, only where that cannot have the kernel load a module. They are missing if
/// there may be some that nothing here can show.
pub(super) fn rules(files: &Files, modules: &ModuleFacts) -> Reading<Vec<String>> {
    let mut found = Vec::new();
    let settled = modules.is_settled("nf_tables");
    if settled {
        match Reading::from(nft_tables::of_kube_proxy()) {
            Reading::Value(tables) => found = tables,
            hidden @ (Reading::Missing | Reading::Denied | Reading::Failed(_)) => return hidden,
        }
    }
    let legacy = ["ip_tables_names", "ip6_tables_names"].map(|file| {
        let names = files.text(&format!("/proc/self/net/{file}"));
        names.value().is_some_and(|names| !names.trim().is_empty())
    });
    if legacy.contains(&true) {
        match leftovers::found_in_iptables().filter(|_| settled) {
            Some(chains) => found.extend(chains),
            None => return Reading::Missing,
        }
    }
    Reading::Value(found)
}

fn processes(files: &Files) -> Vec<u32> {
    let names = files.names("/proc");
    let numbers = names.value().into_iter().flatten();
    let numbers = numbers.filter_map(|name| name.parse().ok());
    let is_proxy = |pid: &u32| {
        let comm = files.text(&format!("/proc/{pid}/comm"));
        comm.value().is_some_and(|name| name.trim() == "kube-proxy")
    };
    numbers.filter(is_proxy).collect()
}

/// What the facts mean. kube-proxy's rules do no harm while it keeps them right, for packets come to
/// Fairlead first.
pub(super) fn check(facts: &KubeProxyFacts) -> Vec<NodeFinding> {
    let KubeProxyFacts {
        processes,
        rules,
        ipvs,
    } = facts;
    let mut findings = Vec::new();
    if let [first, ..] = processes[..] {
        let finding = NodeFinding::warning(
            "kube-proxy",
            format!("kube-proxy runs (process {first})"),
            "both may run while one replaces the other: packets come to Fairlead first",
            REPLACE,
        );
        findings.push(finding.on("process"));
    }
    match rules {
        Reading::Value(rules) => {
            let names = names_of(rules.iter().map(String::as_str));
            findings.extend(names.as_deref().map(left));
        }
        Reading::Missing => findings.push(hidden(
            "there are tables of iptables-legacy, and nothing here that shows them",
            "look for it on the node by `iptables-legacy-save | grep KUBE-`",
        )),
        Reading::Denied => findings.push(hidden(
            "its rules are hidden from this user",
            "run preflight as root",
        )),
        Reading::Failed(reason) => findings.push(hidden(
            &format!("its rules cannot be looked for: {reason}"),
            "look for it on the node by `nft list ruleset | grep -i kube-`",
        )),
    }
    if *ipvs {
        let finding = NodeFinding::warning(
            "kube-proxy",
            format!("device {IPVS_DEVICE} is there"),
            "kube-proxy ran in IPVS mode, and cluster IPs are addresses of this node",
            "once kube-proxy is gone for good: ipvsadm --clear && ip link del kube-ipvs0",
        );
        findings.push(finding.on("device"));
    }
    if findings.is_empty() {
        findings.push(NodeFinding::ok(
            "kube-proxy",
            "no process that is visible here, no rules, no IPVS device",
        ));
    }
    findings
}

fn hidden(found: &str, action: &str) -> NodeFinding {
    NodeFinding::unknown(
        "kube-proxy",
        found,
        "rules that nobody keeps right lead packets that pass Fairlead to endpoints long gone",
        action,
    )
    .on("rules")
}

fn left(names: &str) -> NodeFinding {
    NodeFinding::warning(
        "kube-proxy",
        format!("its rules are there: {names}"),
        "they carry what passes Fairlead, and go stale when kube-proxy stops",
        "once kube-proxy is gone for good: lb-agent cleanup --kube-proxy",
    )
    .on("rules")
}

#[cfg(test)]
mod tests {
    use super::{super::finding::FindingState, *};

    #[test]
    fn each_trace_of_kube_proxy_is_a_warning_of_its_own() {
        let facts = KubeProxyFacts {
            processes: vec![321, 322],
            rules: Reading::Value(vec!["nftables table ip kube-proxy".into()]),
            ipvs: true,
        };
        let findings = check(&facts);
        let found: Vec<_> = findings.iter().map(|it| it.found.as_str()).collect();
        assert_eq!(
            found,
            [
                "kube-proxy runs (process 321)",
                "its rules are there: nftables table ip kube-proxy",
                "device kube-ipvs0 is there",
            ]
        );
        assert!(findings.iter().all(|it| it.state == FindingState::Warning));
    }

    #[test]
    fn no_trace_is_fine_and_rules_that_were_not_looked_for_are_unknown() {
        let none = KubeProxyFacts {
            rules: Reading::Value(Vec::new()),
            ..KubeProxyFacts::default()
        };
        assert_eq!(check(&none)[0].state, FindingState::Ok);
        assert_eq!(
            check(&KubeProxyFacts::default())[0].state,
            FindingState::Unknown
        );
    }
}

//! What kube-proxy leaves behind when it goes (SEMANTICS K5): its nftables tables, and its chains
//! in iptables. Its entries of connection tracking are `conntrack`'s.
//!
//! They harm nobody as long as their rules are right, for packets reach us first. So both may be
//! there while one replaces the other.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

use thiserror::Error;
use tracing::{info, warn};

/// kube-proxy's rules could not be taken away.
#[derive(Debug, Error)]
pub(super) enum LeftoversError {
    /// A program cannot be run.
    #[error("cannot run {0}: {1}")]
    Run(&'static str, #[source] io::Error),
    /// A program says no.
    #[error("{0} failed: {1}")]
    Refused(&'static str, String),
}

/// Family and name of the tables that kube-proxy makes in its nftables mode.
pub(super) const TABLES: [(&str, &str); 2] = [("ip", "kube-proxy"), ("ip6", "kube-proxy")];

/// The programs of a family: to print all rules, and to change some. The first loads no module that
/// is not in use.
const IPTABLES: [[&str; 2]; 2] = [
    ["iptables-save", "iptables-restore"],
    ["ip6tables-save", "ip6tables-restore"],
];

/// A chain that kube-proxy keeps in iptables as long as it runs, and does not remove.
pub(super) const CANARY: &str = "KUBE-PROXY-CANARY";

/// Tells that kube-proxy's rules are there, if they are.
pub(super) fn tell() {
    let found = found();
    if !found.is_empty() {
        warn!(
            "kube-proxy has left rules, or is running: {}. Packets are served before they come to \
             them, so they may stay while you replace it; once it is gone for good, \
             `lb-agent cleanup --kube-proxy` takes them away",
            found.join(", ")
        );
    }
}

/// What there is of kube-proxy, as far as the programs to tell it are installed.
fn found() -> Vec<String> {
    let tables = run("nft", &["list", "tables"]).ok().flatten();
    let tables = tables.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let tables = kube_proxy_tables(&tables.unwrap_or_default());
    let mut found: Vec<_> = tables
        .into_iter()
        .map(|(family, table)| format!("nftables table {family} {table}"))
        .collect();
    found.extend(found_in_iptables().into_iter().flatten());
    found
}

/// kube-proxy's chains in iptables; none if no program that shows them is installed.
pub(super) fn found_in_iptables() -> Option<Vec<String>> {
    let canary = format!(":{CANARY} ");
    let mut found = None;
    for [save, _] in IPTABLES {
        let Some(output) = run(save, &[]).ok().flatten() else {
            continue;
        };
        let found = found.get_or_insert_with(Vec::new);
        let saved = String::from_utf8_lossy(&output.stdout);
        if saved.lines().any(|line| line.starts_with(&canary)) {
            found.push(format!("chains that {save} shows as KUBE-*"));
        }
    }
    found
}

/// Takes kube-proxy's rules away. Those of the kubelet and of others stay.
pub(super) fn remove() -> Result<(), LeftoversError> {
    let mut installed = false;
    if let Some(output) = run("nft", &["list", "tables"])? {
        installed = true;
        let text = printed("nft", &output)?;
        for (family, table) in kube_proxy_tables(&text) {
            if let Some(output) = run("nft", &["delete", "table", family, table])? {
                printed("nft", &output)?;
                info!("removed nftables table {family} {table}");
            }
        }
    }
    for [save, restore] in IPTABLES {
        if let Some(output) = run(save, &[])? {
            installed = true;
            let changes = removal(&printed(save, &output)?);
            if !changes.is_empty() {
                feed(restore, &["--noflush", "-w", "5"], &changes)?;
                info!("removed kube-proxy's chains ({save})");
            }
        }
    }
    if !installed {
        warn!(
            "neither nft nor iptables-save is installed here, so nothing of kube-proxy's was looked \
             for; run this where they are"
        );
    }
    Ok(())
}

/// kube-proxy's among the tables that `nft list tables` prints.
fn kube_proxy_tables(printed: &str) -> Vec<(&'static str, &'static str)> {
    let has = |(family, table): &(&str, &str)| {
        let line = format!("table {family} {table}");
        printed.lines().any(|it| it.trim() == line)
    };
    TABLES.into_iter().filter(has).collect()
}

/// Input of `iptables-restore --noflush` that takes kube-proxy's chains away, given what
/// `iptables-save` prints; empty if there are none.
fn removal(saved: &str) -> String {
    let mut changes = String::new();
    let mut rules = Vec::new();
    let mut table = "";
    for line in saved.lines() {
        match line.split_at_checked(1) {
            Some(("*", name)) => table = name,
            Some((":" | "-", _)) => rules.push(line),
            _ if line == "COMMIT" => {
                changes.push_str(&removal_from(table, &rules));
                rules.clear();
            }
            _ => {}
        }
    }
    changes
}

/// The same for one table: chains, as `:NAME POLICY`, and rules, as `-A CHAIN ...`.
fn removal_from(table: &str, lines: &[&str]) -> String {
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let chains = lines.iter().filter_map(|line| line.strip_prefix(':'));
    let rules: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("-A "))
        .collect();
    let mut ours: BTreeSet<String> = chains.map(name).filter(|it| is_kube_proxys(it)).collect();
    // Chains of others that lead to ours need them: CNI plugins mark packets by KUBE-MARK-MASQ.
    let needed: BTreeSet<String> = rules
        .iter()
        .filter(|rule| !is_kube_proxys(&name(rule)) && !BUILT_IN.contains(&name(rule).as_str()))
        .filter_map(|rule| target(rule))
        .filter(|target| ours.contains(*target))
        .map(str::to_owned)
        .collect();
    if !needed.is_empty() {
        ours.retain(|chain| !needed.contains(chain) && !KEPT_TOGETHER.contains(&chain.as_str()));
    }
    if ours.is_empty() {
        return String::new();
    }
    let flush = ours.iter().map(|chain| format!(":{chain} - [0:0]\n"));
    let unlink = rules
        .iter()
        .filter(|rule| !ours.contains(&name(rule)))
        .filter(|rule| target(rule).is_some_and(|target| ours.contains(target)))
        .map(|rule| format!("-D {rule}\n"));
    let delete = ours.iter().map(|chain| format!("-X {chain}\n"));
    let changes: String = flush.chain(unlink).chain(delete).collect();
    format!("*{table}\n{changes}COMMIT\n")
}

const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The mark is of no use without the chain that acts on it.
const KEPT_TOGETHER: [&str; 2] = ["KUBE-MARK-MASQ", "KUBE-POSTROUTING"];

/// Where a rule leads. What is in quotes is a comment, which may say anything.
fn target(rule: &str) -> Option<&str> {
    let unquoted = rule.split('"').step_by(2);
    let words = &mut unquoted.flat_map(|part| part.split(' '));
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

/// Whether kube-proxy makes a chain of this name, in any of its modes. `KUBE-FIREWALL`,
/// `KUBE-IPTABLES-HINT` and `KUBE-KUBELET-CANARY` are the kubelet's.
///
/// The names are those of Kubernetes' pkg/proxy/iptables and pkg/proxy/ipvs. `KUBE-XLB-` is of older
/// releases, which the former package called deprecated.
fn is_kube_proxys(chain: &str) -> bool {
    const NAMES: [&str; 13] = [
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
        CANARY,
        "KUBE-LOAD-BALANCER",
        "KUBE-NODE-PORT",
        "KUBE-SOURCE-RANGES-FIREWALL",
        "KUBE-IPVS-FILTER",
        "KUBE-IPVS-OUT-FILTER",
    ];
    const PREFIXES: [&str; 6] = [
        "KUBE-SVC-",
        "KUBE-SVL-",
        "KUBE-EXT-",
        "KUBE-FW-",
        "KUBE-SEP-",
        "KUBE-XLB-",
    ];
    NAMES.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// What a program does; none if it is not installed.
fn run(program: &'static str, args: &[&str]) -> Result<Option<Output>, LeftoversError> {
    let mut command = Command::new(program);
    match command.args(args).stdin(Stdio::null()).output() {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LeftoversError::Run(program, error)),
    }
}

fn feed(program: &'static str, args: &[&str], input: &str) -> Result<(), LeftoversError> {
    let failed = |error| LeftoversError::Run(program, error);
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    printed(program, &output).map(drop)
}

fn printed(program: &'static str, output: &Output) -> Result<String, LeftoversError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let reason = reason.trim().replace('\n', "; ");
    Err(LeftoversError::Refused(program, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::namespace::Namespace;

    #[test]
    fn k05_only_kube_proxys_tables_are_told() {
        let printed = "table ip kube-proxy\ntable ip6 kube-proxy-2\ntable inet kube-proxy\n";
        assert_eq!(kube_proxy_tables(printed), [("ip", "kube-proxy")]);
        assert_eq!(kube_proxy_tables(""), []);
    }

    /// Needs root and nft: tables are made and removed in a namespace of their own.
    #[test]
    fn k05_kube_proxys_tables_go_from_the_kernel_and_others_stay() {
        let (before, after, left) = Namespace::new().run(|| {
            let nft = |args: &[&str]| printed("nft", &run("nft", args).unwrap().unwrap());
            for table in ["ip kube-proxy", "ip6 kube-proxy", "ip kubelet"] {
                let words: Vec<_> = ["add", "table"]
                    .into_iter()
                    .chain(table.split(' '))
                    .collect();
                nft(&words).unwrap();
            }
            let before = found();
            remove().unwrap();
            (before, found(), nft(&["list", "tables"]).unwrap())
        });
        assert_eq!(
            before,
            [
                "nftables table ip kube-proxy",
                "nftables table ip6 kube-proxy"
            ]
        );
        assert!(after.is_empty(), "{after:?}");
        assert_eq!(left, "table ip kubelet\n");
    }

    #[test]
    fn k05_kube_proxys_chains_go_and_others_stay() {
        let saved = include_str!("leftovers/testdata/kube-proxy.rules");
        insta::assert_snapshot!(removal(saved));
    }

    #[test]
    fn k16_chains_that_others_lead_to_stay() {
        let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n:CNI-HOSTPORT-SETMARK - [0:0]\n\
                     :KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-SERVICES - [0:0]\n\
                     -A POSTROUTING -j KUBE-POSTROUTING\n-A PREROUTING -j KUBE-SERVICES\n\
                     -A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n";
        insta::assert_snapshot!(removal(saved), @r"
        *nat
        :KUBE-SERVICES - [0:0]
        -D PREROUTING -j KUBE-SERVICES
        -X KUBE-SERVICES
        COMMIT
        ");
    }

    #[test]
    fn a_comment_leads_nowhere() {
        let rule = r#"INPUT -m comment --comment "not -j KUBE-SERVICES " -j ACCEPT"#;
        assert_eq!(target(rule), Some("ACCEPT"));
        assert_eq!(target("INPUT -p tcp"), None);
    }

    #[test]
    fn k05_there_may_be_nothing() {
        assert_eq!(removal(""), "");
        assert_eq!(
            removal("*nat\n:INPUT ACCEPT [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"),
            ""
        );
    }
}

//! What is run on a kernel: the loads, and suites of tests or chosen cases of them.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::exec::root;

/// The name of the step that gives every program to the verifier.
const LOADS: &str = "loads";

/// How long the loads may take in a guest. A program that the verifier gives up on costs a million instructions.
const LOADS_LIMIT: Duration = Duration::from_mins(8);

/// How long `lb-agent preflight` may take in a guest.
const PREFLIGHT_LIMIT: Duration = Duration::from_mins(1);

/// How long a suite that was asked for by name may take in a guest.
const SUITE_LIMIT: Duration = Duration::from_mins(40);

/// Suites that start Kubernetes' own programs.
const OF_KUBERNETES: &[&str] = &["endurance", "kube", "semantics"];

/// What a step is about, and so how its output is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What `lb-agent preflight` finds, for what the kernel can do.
    Preflight,
    /// Every program of the object, through the verifier.
    Loads,
    /// Packets on the real programs.
    Fixtures,
    /// Connections and everything else.
    Suite,
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// In results, without a space.
    pub(super) name: String,
    /// Below the folder of the programs.
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) limit: Duration,
}

/// A suite of tests, and which of its cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) suite: String,
    /// Parts of the names of cases; all when empty.
    pub(super) filters: Vec<String>,
}

impl Choice {
    /// `NAME` or `NAME:FILTER`, with commas between several filters.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (suite, filters) = text.split_once(':').unwrap_or((text, ""));
        let known = root().join("tests/tests");
        let exists = suite == LOADS
            || known.join(suite).join("main.rs").exists()
            || known.join(format!("{suite}.rs")).exists();
        (exists && !suite.is_empty())
            .then_some(())
            .with_context(|| {
                format!(
                    "there is no suite {suite} in tests/tests, and `{LOADS}` is the only other one"
                )
            })?;
        let filters = filters.split(',').filter(|filter| !filter.is_empty());
        Ok(Self {
            suite: suite.to_owned(),
            filters: filters.map(str::to_owned).collect(),
        })
    }
}

impl Step {
    fn preflight() -> Self {
        Self {
            kind: Kind::Preflight,
            name: "preflight".to_owned(),
            program: "lb-agent".to_owned(),
            arguments: ["preflight", "-o", "json"].map(str::to_owned).to_vec(),
            limit: PREFLIGHT_LIMIT,
        }
    }

    fn loads() -> Self {
        Self {
            kind: Kind::Loads,
            name: LOADS.to_owned(),
            program: "programs".to_owned(),
            arguments: vec![
                "--json".to_owned(),
                root().join("target/bpf/fairlead").display().to_string(),
            ],
            limit: LOADS_LIMIT,
        }
    }

    fn of_suite(choice: Choice, limit: Duration) -> Self {
        let Choice { suite, filters } = choice;
        let kind = if suite == "fixtures" {
            Kind::Fixtures
        } else {
            Kind::Suite
        };
        Self {
            kind,
            program: format!("tests/{suite}"),
            name: suite,
            arguments: filters,
            limit,
        }
    }

    /// Whether it starts Kubernetes' own programs.
    pub(super) fn needs_kubernetes(&self) -> bool {
        self.kind == Kind::Suite && OF_KUBERNETES.contains(&self.name.as_str())
    }

    /// How many cases are named one by one, if they are.
    pub(super) fn named_cases(&self) -> Option<usize> {
        let (first, names) = self.arguments.split_first()?;
        (first == "--exact").then_some(names.len())
    }

    /// For init: `NAME SECONDS COMMAND…`.
    pub(super) fn line(&self, folder: &str) -> String {
        let Self {
            kind: _,
            name,
            program,
            arguments,
            limit,
        } = self;
        let quoted = arguments
            .iter()
            .map(|argument| format!("'{}'", argument.replace('\'', r"'\''")));
        let words: Vec<_> = [
            name.clone(),
            limit.as_secs().to_string(),
            format!("{folder}/{program}"),
        ]
        .into_iter()
        .chain(quoted)
        .collect();
        words.join(" ") + "\n"
    }
}

/// The cases that show that Fairlead serves on a kernel: suite, arguments, minutes they may take in a guest.
struct Smoke(&'static str, &'static [&'static str], u64);

/// Packets on real programs: a kernel may take a program and run it wrong.
const PACKETS: Smoke = Smoke("fixtures", &["whole::"], 10);

/// Connections through XDP, tc and sockets, both families, TCP and UDP; `lbctl explain`, an agent that takes over from one
/// that was killed, and a cleanup that leaves nothing.
const CONNECTIONS: [Smoke; 2] = [
    Smoke(
        "traffic",
        &[
            "--exact",
            "xdp::mode",
            "xdp::node_port_remote::v4::tcp",
            "xdp::node_port_remote::v4::udp",
            "xdp::node_port_remote::v6::tcp",
            "xdp::node_port_remote::v6::udp",
            "xdp::node_port_remote::v4::n2_path_mtu",
            "xdp::node_port_remote::v6::n2_path_mtu",
            "xdp::pod_to_cluster_ip_local::v4::tcp",
            "xdp::pod_to_cluster_ip_local::v4::udp",
            "xdp::pod_to_cluster_ip_local::v6::tcp",
            "xdp::pod_to_cluster_ip_local::v6::udp",
            "xdp::cluster_ip_without_endpoints::v4::tcp",
            "xdp::cluster_ip_without_endpoints::v6::udp",
            "xdp::lbctl_explains",
            "xdp::agent_crash_cuts_nothing",
        ],
        10,
    ),
    Smoke(
        "sockets",
        &[
            "--exact",
            "sockets::status",
            "sockets::b1_cluster_ip_remote::v4::p3_connected::tcp",
            "sockets::b1_cluster_ip_remote::v4::p3_connected::udp",
            "sockets::b1_cluster_ip_remote::v4::p3_loose",
            "sockets::b1_cluster_ip_remote::v6::p3_connected::tcp",
            "sockets::b1_cluster_ip_remote::v6::p3_connected::udp",
            "sockets::b1_cluster_ip_remote::v6::p3_loose",
            "sockets::p4_e1_cluster_ip_without_endpoints::v4::tcp",
            "sockets::p4_e1_cluster_ip_without_endpoints::v6::udp",
            "sockets::cleanup",
        ],
        10,
    ),
];

/// What `--quick` leaves out.
const MORE: [Smoke; 5] = [
    Smoke("differential", &[], 20),
    Smoke("links", &[], 10),
    Smoke("snat", &[], 15),
    Smoke("explain", &[], 10),
    // Of each kind of link one; `--suite wires` has all.
    Smoke(
        "wires",
        &[
            "veth_vlan::",
            "veth_active_backup::",
            "virtio_net::",
            "virtio_net_jumbo_offloads::",
            "e1000e::",
        ],
        20,
    ),
];

/// The suites that are run when none is named.
fn smoke(quick: bool) -> impl Iterator<Item = Smoke> {
    let more = MORE.into_iter().filter(move |_| !quick);
    [PACKETS].into_iter().chain(CONNECTIONS).chain(more)
}

/// All steps for a kernel.
pub(super) fn steps(quick: bool, choices: Vec<Choice>) -> Vec<Step> {
    if !choices.is_empty() {
        return choices
            .into_iter()
            .map(|choice| match choice.suite.as_str() {
                LOADS => Step::loads(),
                _ => Step::of_suite(choice, SUITE_LIMIT),
            })
            .collect();
    }
    let mut steps = vec![Step::preflight(), Step::loads()];
    steps.extend(smoke(quick).map(|Smoke(suite, filters, minutes)| {
        let choice = Choice {
            suite: suite.to_owned(),
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        };
        Step::of_suite(choice, Duration::from_mins(minutes))
    }));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_may_have_filters() -> Result<()> {
        let choice = Choice::parse("traffic:xdp::paths,mode")?;
        assert_eq!(choice.suite, "traffic");
        assert_eq!(choice.filters, ["xdp::paths", "mode"]);
        assert_eq!(Choice::parse("links")?.filters, [""; 0]);
        let loads = steps(false, vec![Choice::parse("loads")?]);
        assert_eq!(loads, [Step::loads()]);
        Ok(())
    }

    #[test]
    fn a_suite_that_does_not_exist_is_named() {
        for wrong in ["trafic", "", ":x"] {
            assert!(Choice::parse(wrong).is_err(), "of {wrong}");
        }
    }

    #[test]
    fn a_step_is_a_line_for_init() {
        let choice = Choice {
            suite: "traffic".to_owned(),
            filters: vec!["a b".to_owned(), "it's".to_owned()],
        };
        let step = Step::of_suite(choice, Duration::from_secs(90));
        assert_eq!(
            step.line("/bin"),
            "traffic 90 /bin/tests/traffic 'a b' 'it'\\''s'\n"
        );
    }

    #[test]
    fn every_smoke_suite_exists() -> Result<()> {
        for Smoke(suite, ..) in smoke(false) {
            Choice::parse(suite)?;
        }
        Ok(())
    }
}

//! The kernel: what it is, and what it can do for BPF programs.

use super::{
    files::{Files, Reading},
    finding::{FindingState, NodeFinding},
};

/// CPUs that the programs and the tests have run on.
const TESTED: [&str; 2] = ["x86_64", "aarch64"];

/// Facts about the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelFacts {
    /// `uname -r`, to be shown and never compared: distributions port features back.
    pub(super) release: String,
    /// `uname -m`.
    pub(super) machine: String,
    /// `/sys/kernel/security/lockdown`: the modes, the one in force in brackets.
    lockdown: Reading<String>,
    /// `net.core.bpf_jit_enable`.
    jit: Reading<u64>,
    /// `net.core.bpf_jit_harden`.
    harden: Reading<u64>,
    /// Features that were tried out.
    pub(super) tried: Tried,
}

/// What came of trying out features.
#[derive(Clone, Debug, Default)]
pub(super) struct Tried {
    /// Whether programs are compiled; none if it cannot be told.
    pub(super) compiles: Option<bool>,
    /// Whether tcx links certainly exist.
    pub(super) tcx: bool,
    /// All features but the first.
    pub(super) rows: Vec<FeatureRow>,
}

/// A kernel feature that was tried out, and what follows.
#[derive(Clone, Debug)]
pub(super) struct FeatureRow {
    /// Name of the feature.
    pub(super) name: String,
    /// Whether the kernel has it, and how bad it is if not.
    pub(super) state: FindingState,
    /// What was tried, and what the kernel answered.
    pub(super) found: String,
    /// What the agent does without it.
    pub(super) consequence: String,
    /// What an operator can do about it.
    pub(super) action: String,
}

/// Reads the facts.
pub(super) fn read(files: &Files, tried: Tried) -> KernelFacts {
    let uname = rustix::system::uname();
    KernelFacts {
        release: uname.release().to_string_lossy().into_owned(),
        machine: uname.machine().to_string_lossy().into_owned(),
        lockdown: files.text("/sys/kernel/security/lockdown"),
        jit: files.number("/proc/sys/net/core/bpf_jit_enable"),
        harden: files.number("/proc/sys/net/core/bpf_jit_harden"),
        tried,
    }
}

/// What the facts mean.
pub(super) fn check(facts: &KernelFacts) -> Vec<NodeFinding> {
    let features = facts.tried.rows.iter().map(feature);
    let known = [release(facts), jit(&facts.jit, facts.tried.compiles)];
    let hidden = [harden(&facts.harden), lockdown(&facts.lockdown)];
    known
        .into_iter()
        .chain(hidden.into_iter().flatten())
        .chain(features)
        .collect()
}

fn release(facts: &KernelFacts) -> NodeFinding {
    let KernelFacts {
        release, machine, ..
    } = facts;
    let found = format!("Linux {release} on {machine}");
    if TESTED.contains(&machine.as_str()) {
        return NodeFinding::ok("kernel", found);
    }
    NodeFinding::warning(
        "kernel",
        found,
        "Fairlead is not tested on this CPU",
        "try it on one node first",
    )
}

fn feature(row: &FeatureRow) -> NodeFinding {
    let FeatureRow {
        name,
        state,
        found,
        consequence,
        action,
    } = row;
    let finding = match state {
        FindingState::Ok => NodeFinding::ok("feature", found),
        FindingState::Unknown | FindingState::Warning | FindingState::Failure => {
            NodeFinding::new("feature", *state, found, consequence, action)
        }
    };
    finding.on(name)
}

/// Without the JIT compiler the programs do not run: they combine functions and tail calls.
/// A program that was loaded tells it where the parameter is hidden.
fn jit(enabled: &Reading<u64>, compiles: Option<bool>) -> NodeFinding {
    match (enabled, compiles) {
        (Reading::Missing | Reading::Denied | Reading::Failed(_), Some(true)) => {
            return NodeFinding::ok("jit", "a program that was tried is compiled");
        }
        (Reading::Missing | Reading::Denied | Reading::Failed(_), Some(false)) => {
            return no_jit("a program that was tried is not compiled");
        }
        (Reading::Value(_), _) | (_, None) => {}
    }
    match enabled {
        Reading::Value(0) => no_jit("net.core.bpf_jit_enable is 0"),
        Reading::Value(2) => NodeFinding::warning(
            "jit",
            "net.core.bpf_jit_enable is 2",
            "the kernel logs the machine code of every program, a mode for debugging",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Reading::Value(number) => {
            NodeFinding::ok("jit", format!("net.core.bpf_jit_enable is {number}"))
        }
        Reading::Denied => NodeFinding::unknown(
            "jit",
            "net.core.bpf_jit_enable is hidden from this user",
            "at 0 no program runs",
            "run preflight as root",
        ),
        Reading::Missing => NodeFinding::unknown(
            "jit",
            "net.core.bpf_jit_enable is not visible here",
            "at 0 no program runs; only the node's own network namespace shows it",
            "run preflight in the node's own network namespace (hostNetwork: true)",
        ),
        Reading::Failed(reason) => NodeFinding::unknown(
            "jit",
            format!("cannot read net.core.bpf_jit_enable: {reason}"),
            "at 0 no program runs",
            "read it by `sysctl net.core.bpf_jit_enable`",
        ),
    }
}

fn no_jit(found: &str) -> NodeFinding {
    NodeFinding::failure(
        "jit",
        found,
        "the interpreter cannot run the programs, which have tail calls beside functions",
        "sysctl -w net.core.bpf_jit_enable=1",
    )
}

fn harden(level: &Reading<u64>) -> Option<NodeFinding> {
    match level {
        Reading::Value(2) => Some(NodeFinding::warning(
            "jit-harden",
            "net.core.bpf_jit_harden is 2",
            "constants are blinded in privileged programs too, so every packet costs more",
            "sysctl -w net.core.bpf_jit_harden=1, which hardens programs of unprivileged users alone",
        )),
        Reading::Value(number) => Some(NodeFinding::ok(
            "jit-harden",
            format!("net.core.bpf_jit_harden is {number}"),
        )),
        Reading::Denied => Some(NodeFinding::unknown(
            "jit-harden",
            "net.core.bpf_jit_harden is hidden from this user",
            "at 2 every packet costs more",
            "run preflight as root",
        )),
        Reading::Missing | Reading::Failed(_) => None,
    }
}

/// Lockdown refuses helpers that read or write memory of the kernel or of processes. Fairlead's
/// programs call none of them.
fn lockdown(modes: &Reading<String>) -> Option<NodeFinding> {
    let text = modes.value()?;
    let (_, rest) = text.split_once('[')?;
    let (mode, _) = rest.split_once(']')?;
    Some(match mode {
        "confidentiality" => NodeFinding::warning(
            "lockdown",
            "kernel lockdown is in mode confidentiality",
            "BPF helpers that read kernel memory are refused; Fairlead uses none, but is not tested so",
            "try it on one node first, or boot with lockdown=integrity",
        ),
        mode => NodeFinding::ok("lockdown", format!("kernel lockdown is in mode {mode}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(finding: &NodeFinding) -> FindingState {
        finding.state
    }

    #[test]
    fn without_the_jit_compiler_there_is_a_failure() {
        let rows = [
            (Reading::Value(0), FindingState::Failure),
            (Reading::Value(1), FindingState::Ok),
            (Reading::Value(2), FindingState::Warning),
            (Reading::Denied, FindingState::Unknown),
            (Reading::Missing, FindingState::Unknown),
            (Reading::Failed("EIO".into()), FindingState::Unknown),
        ];
        for (enabled, expected) in rows {
            assert_eq!(state(&jit(&enabled, None)), expected, "{enabled:?}");
        }
        let action = jit(&Reading::Value(0), None).action;
        assert_eq!(
            action.as_deref(),
            Some("sysctl -w net.core.bpf_jit_enable=1")
        );
    }

    #[test]
    fn a_program_that_was_tried_tells_of_the_jit_compiler_where_the_parameter_is_hidden() {
        for (compiles, expected) in [(true, FindingState::Ok), (false, FindingState::Failure)] {
            let finding = jit(&Reading::Missing, Some(compiles));
            assert_eq!(state(&finding), expected);
        }
    }

    #[test]
    fn hardening_privileged_programs_is_a_warning() {
        for (level, expected) in [
            (0, FindingState::Ok),
            (1, FindingState::Ok),
            (2, FindingState::Warning),
        ] {
            let finding = harden(&Reading::Value(level)).unwrap();
            assert_eq!(state(&finding), expected, "{level}");
        }
        let denied = harden(&Reading::Denied).unwrap();
        assert_eq!(state(&denied), FindingState::Unknown);
        assert_eq!(harden(&Reading::Missing), None);
    }

    #[test]
    fn only_the_strictest_lockdown_is_a_warning() {
        for (text, expected) in [
            ("[none] integrity confidentiality\n", FindingState::Ok),
            ("none [integrity] confidentiality\n", FindingState::Ok),
            ("none integrity [confidentiality]\n", FindingState::Warning),
        ] {
            let finding = lockdown(&Reading::Value(text.into())).unwrap();
            assert_eq!(state(&finding), expected, "{text}");
        }
        assert_eq!(lockdown(&Reading::Missing), None);
        assert_eq!(lockdown(&Reading::Value("none".into())), None);
    }

    #[test]
    fn a_release_is_shown_whatever_it_is_and_an_untested_cpu_is_a_warning() {
        let facts = |release: &str, machine: &str| KernelFacts {
            release: release.into(),
            machine: machine.into(),
            ..KernelFacts::default()
        };
        let old = release(&facts("4.4.0", "x86_64"));
        assert_eq!(
            (state(&old), old.found.as_str()),
            (FindingState::Ok, "Linux 4.4.0 on x86_64")
        );
        assert_eq!(
            state(&release(&facts("7.3.4", "riscv64"))),
            FindingState::Warning
        );
    }

    #[test]
    fn features_that_were_tried_are_findings_by_name() {
        let row = FeatureRow {
            name: "tcx links".into(),
            state: FindingState::Warning,
            found: "BPF_LINK_CREATE: EINVAL".into(),
            consequence: "clsact filters serve".into(),
            action: "none is needed".into(),
        };
        let finding = feature(&row);
        assert_eq!(finding.subject.as_deref(), Some("tcx links"));
        assert_eq!(finding.why.as_deref(), Some("clsact filters serve"));
    }
}

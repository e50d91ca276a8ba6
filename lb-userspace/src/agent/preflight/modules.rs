//! Kernel modules that the agent's work takes, loaded or not.

use std::collections::BTreeSet;

use super::{
    files::{Files, Reading},
    finding::NodeFinding,
};
use crate::agent::socket_options::SocketLb;

/// Modules that are looked for: name, option of the kernel's configuration, and what they are for.
///
/// Names and options are those of the makefiles of Linux 6.1 and 7.2 (net/sched, net/ipv4, net/netfilter).
const MODULES: [(&str, &str, Purpose); 6] = [
    ("sch_ingress", "CONFIG_NET_SCH_INGRESS", Purpose::Clsact),
    ("cls_bpf", "CONFIG_NET_CLS_BPF", Purpose::Clsact),
    ("inet_diag", "CONFIG_INET_DIAG", Purpose::Destroy),
    ("tcp_diag", "CONFIG_INET_TCP_DIAG", Purpose::Destroy),
    ("udp_diag", "CONFIG_INET_UDP_DIAG", Purpose::Destroy),
    ("nf_conntrack", "CONFIG_NF_CONNTRACK", Purpose::Conntrack),
];

/// Option of the kernel that has no module of its own.
const DESTROY: &str = "CONFIG_INET_DIAG_DESTROY";

/// What a module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Attaching programs of tc where the kernel has no tcx links.
    Clsact,
    /// Destroying sockets whose backend is gone.
    Destroy,
    /// The node's own connection tracking, which the agent only tunes.
    Conntrack,
}

/// Where a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Loaded,
    BuiltIn,
    Loadable,
    Absent,
    Unknown,
}

/// Facts about modules.
#[derive(Clone, Debug, Default)]
pub(super) struct ModuleFacts {
    /// Names in `/proc/modules`; missing where the kernel cannot load modules.
    loaded: Reading<BTreeSet<String>>,
    /// Names in `/sys/module`.
    known: BTreeSet<String>,
    /// Names in `modules.builtin`.
    built_in: Reading<BTreeSet<String>>,
    /// Names in `modules.dep`.
    loadable: Reading<BTreeSet<String>>,
    /// `/boot/config-RELEASE`.
    config: Reading<String>,
    /// `kernel.modules_disabled`.
    disabled: bool,
}

impl ModuleFacts {
    /// Whether asking the module's subsystem something cannot have the kernel load it.
    pub(super) fn is_settled(&self, module: &str) -> bool {
        let built_in = self
            .built_in
            .value()
            .is_some_and(|names| names.contains(module));
        let loaded = self
            .loaded
            .value()
            .is_some_and(|names| names.contains(module));
        built_in || loaded || self.loaded == Reading::Missing || self.disabled
    }
}

/// Reads the facts, for a kernel of this release.
pub(super) fn read(files: &Files, release: &str) -> ModuleFacts {
    let dir = format!("/lib/modules/{release}");
    let listed = |name: &str| {
        let text = files.host_text(&format!("{dir}/{name}"));
        text.map(|text| text.lines().filter_map(module_name).collect())
    };
    let loaded = files.text("/proc/modules");
    ModuleFacts {
        loaded: loaded.map(|text| {
            let names = text.lines().filter_map(|line| line.split(' ').next());
            names.map(str::to_owned).collect()
        }),
        known: match files.names("/sys/module") {
            Reading::Value(names) => names.into_iter().collect(),
            Reading::Missing | Reading::Denied | Reading::Failed(_) => BTreeSet::new(),
        },
        built_in: listed("modules.builtin"),
        loadable: listed("modules.dep"),
        config: files.host_text(&format!("/boot/config-{release}")),
        disabled: files.number("/proc/sys/kernel/modules_disabled") == Reading::Value(1),
    }
}

/// `kernel/net/sched/cls_bpf.ko.xz: …` is the module `cls_bpf`.
fn module_name(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// What the facts mean.
///
/// Where the kernel has tcx links, modules for the classic hook of tc are not needed.
pub(super) fn check(facts: &ModuleFacts, socket_lb: SocketLb, has_tcx: bool) -> Vec<NodeFinding> {
    let wanted = |purpose: Purpose| match (purpose, socket_lb) {
        (Purpose::Destroy, SocketLb::Off) => false,
        (Purpose::Clsact, _) => !has_tcx,
        (Purpose::Destroy, SocketLb::All | SocketLb::Host) | (Purpose::Conntrack, _) => true,
    };
    let modules = MODULES.into_iter().filter(|(.., purpose)| wanted(*purpose));
    let mut findings: Vec<_> = modules
        .map(|(name, option, purpose)| finding(facts, name, option, purpose))
        .collect();
    if wanted(Purpose::Destroy) {
        findings.extend(destroy(facts));
    }
    findings
}

fn finding(facts: &ModuleFacts, name: &str, option: &str, purpose: Purpose) -> NodeFinding {
    const CHECK: &str = "module";
    let place = place(facts, name, option);
    let why = match purpose {
        Purpose::Clsact => "without tcx links the programs of tc are attached by it",
        Purpose::Destroy => {
            "sockets that were redirected to a backend stay when it is gone: their processes have to notice"
        }
        Purpose::Conntrack => "the node tracks no connections: there is nothing to tune",
    };
    let finding = match (place, purpose) {
        (Place::Loaded, _) => NodeFinding::ok(CHECK, "loaded"),
        (Place::BuiltIn, _) => NodeFinding::ok(CHECK, "built into the kernel"),
        (Place::Loadable, _) if !facts.disabled => {
            NodeFinding::ok(CHECK, "loaded when it is needed")
        }
        (Place::Absent | Place::Loadable | Place::Unknown, Purpose::Conntrack) => {
            NodeFinding::ok(CHECK, "not loaded: connection tracking is not tuned")
        }
        (Place::Loadable, Purpose::Clsact | Purpose::Destroy) => NodeFinding::warning(
            CHECK,
            "not loaded, and kernel.modules_disabled is 1",
            why,
            format!("load it at boot: /etc/modules-load.d with a line {name}"),
        ),
        (Place::Absent, Purpose::Clsact | Purpose::Destroy) => NodeFinding::warning(
            CHECK,
            "this kernel does not have it",
            why,
            format!("install the distribution's extra kernel modules, or a kernel with {option}"),
        ),
        (Place::Unknown, Purpose::Clsact | Purpose::Destroy) => NodeFinding::unknown(
            CHECK,
            "not loaded, and neither /lib/modules nor /boot tells of it",
            why,
            "in a container, name the node's root file system by --host-root",
        ),
    };
    finding.on(name)
}

fn place(facts: &ModuleFacts, name: &str, option: &str) -> Place {
    let has = |names: &Reading<BTreeSet<String>>| names.value().is_some_and(|it| it.contains(name));
    let configured = facts.config.value().map(|text| configured(text, option));
    if has(&facts.loaded) {
        Place::Loaded
    } else if has(&facts.built_in) || configured == Some(Some('y')) {
        Place::BuiltIn
    } else if facts.known.contains(name) {
        Place::Loaded
    } else if has(&facts.loadable) {
        Place::Loadable
    } else if facts.loadable.value().is_some() || configured == Some(None) {
        Place::Absent
    } else {
        Place::Unknown
    }
}

/// `y` or `m`; none if the option is not set.
fn configured(config: &str, option: &str) -> Option<char> {
    let value = |line: &str| line.strip_prefix(option)?.strip_prefix('=')?.chars().next();
    config.lines().find_map(value)
}

fn destroy(facts: &ModuleFacts) -> Option<NodeFinding> {
    let config = facts.config.value()?;
    if configured(config, DESTROY).is_some() {
        return Some(NodeFinding::ok("module", "set").on(DESTROY));
    }
    let finding = NodeFinding::warning(
        "module",
        "not set in this kernel",
        "sockets that were redirected to a backend stay when it is gone: their processes have to notice",
        "run a kernel that has it, or accept it",
    );
    Some(finding.on(DESTROY))
}

#[cfg(test)]
mod tests {
    use super::{super::finding::FindingState, *};

    fn names(names: &[&str]) -> Reading<BTreeSet<String>> {
        Reading::Value(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn each_module_is_looked_for_once() {
        let names: BTreeSet<_> = MODULES.iter().map(|(name, ..)| name).collect();
        let options: BTreeSet<_> = MODULES.iter().map(|(_, option, _)| option).collect();
        assert_eq!((names.len(), options.len()), (MODULES.len(), MODULES.len()));
    }

    #[test]
    fn a_module_is_found_wherever_it_is() {
        let facts = ModuleFacts {
            loaded: names(&["udp_diag"]),
            built_in: names(&["tcp_diag"]),
            loadable: names(&["cls_bpf"]),
            ..ModuleFacts::default()
        };
        let at = |name: &str| place(&facts, name, "CONFIG_X");
        assert_eq!(at("udp_diag"), Place::Loaded);
        assert_eq!(at("tcp_diag"), Place::BuiltIn);
        assert_eq!(at("cls_bpf"), Place::Loadable);
        assert_eq!(at("sch_ingress"), Place::Absent);
        let hidden = ModuleFacts::default();
        assert_eq!(place(&hidden, "cls_bpf", "CONFIG_X"), Place::Unknown);
        let configured = ModuleFacts {
            config: Reading::Value("CONFIG_NET_CLS_BPF=y\n".into()),
            ..ModuleFacts::default()
        };
        assert_eq!(
            place(&configured, "cls_bpf", "CONFIG_NET_CLS_BPF"),
            Place::BuiltIn
        );
    }

    #[test]
    fn files_of_modules_name_them() {
        assert_eq!(
            module_name("kernel/net/sched/cls_bpf.ko.xz: a.ko").as_deref(),
            Some("cls_bpf")
        );
        assert_eq!(
            module_name("kernel/drivers/net/virtio-net.ko").as_deref(),
            Some("virtio_net")
        );
        assert_eq!(module_name("# comment"), None);
    }

    #[test]
    fn what_cannot_be_loaded_any_more_is_a_warning() {
        let facts = ModuleFacts {
            loaded: names(&[]),
            loadable: names(&["tcp_diag"]),
            disabled: true,
            ..ModuleFacts::default()
        };
        let finding = finding(&facts, "tcp_diag", "CONFIG_X", Purpose::Destroy);
        assert_eq!(finding.state, FindingState::Warning);
    }

    #[test]
    fn sockets_are_not_destroyed_where_none_are_redirected() {
        let facts = ModuleFacts::default();
        let subjects = |socket_lb, has_tcx| {
            let findings = check(&facts, socket_lb, has_tcx);
            let subjects = findings.into_iter().filter_map(|it| it.subject);
            subjects.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            subjects(SocketLb::Off, false),
            "sch_ingress cls_bpf nf_conntrack"
        );
        assert_eq!(subjects(SocketLb::Off, true), "nf_conntrack");
        assert!(subjects(SocketLb::Host, true).contains("udp_diag"));
    }

    #[test]
    fn asking_is_safe_where_nothing_can_be_loaded() {
        let can_load = ModuleFacts {
            loaded: names(&["nf_tables"]),
            ..ModuleFacts::default()
        };
        assert!(can_load.is_settled("nf_tables"));
        assert!(!can_load.is_settled("ip_tables"));
        assert!(ModuleFacts::default().is_settled("ip_tables"));
    }
}

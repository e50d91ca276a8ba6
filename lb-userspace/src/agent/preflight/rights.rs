//! What this process may do.

use super::{files::Files, finding::NodeFinding};
use crate::agent::socket_options::SocketLb;

/// Open files that leave room for a health check port of each of some thousand Services.
const MANY_FILES: u64 = 4096;

/// A capability, by its number in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    /// Interfaces, cgroup programs, kernel parameters of the network.
    NetAdmin = 12,
    /// Mounts, network namespaces; stands for `Bpf` and `Perfmon` too.
    SysAdmin = 21,
    /// What the verifier lets programs do with pointers.
    Perfmon = 38,
    /// Maps and programs.
    Bpf = 39,
}

impl Capability {
    const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// Facts about this process.
#[derive(Clone, Debug, Default)]
pub(super) struct RightsFacts {
    /// Effective user id.
    pub(super) user: u32,
    /// Effective capabilities, a bit each; none if `/proc/self/status` does not say.
    pub(super) capabilities: Option<u64>,
    /// Soft and hard limit of open files; none is no limit.
    pub(super) open_files: Option<(Option<u64>, Option<u64>)>,
    /// Soft and hard limit of locked memory in bytes; none is no limit.
    pub(super) locked_memory: Option<(Option<u64>, Option<u64>)>,
}

impl RightsFacts {
    /// Whether this process has the capability.
    pub(super) fn may(&self, capability: Capability) -> bool {
        let has = |capability: Capability| {
            let bits = self.capabilities.unwrap_or_default();
            bits & (1 << capability as u8) != 0
        };
        match capability {
            Capability::NetAdmin | Capability::SysAdmin => has(capability),
            Capability::Perfmon | Capability::Bpf => has(capability) || has(Capability::SysAdmin),
        }
    }

    /// Whether this is an ordinary user, from whom much is hidden.
    pub(super) fn is_unprivileged(&self) -> bool {
        self.user != 0 && self.capabilities == Some(0)
    }
}

/// Reads the facts.
pub(super) fn read(files: &Files) -> RightsFacts {
    let limits = files.text("/proc/self/limits");
    let limits = limits.value().map_or("", String::as_str);
    RightsFacts {
        user: rustix::process::geteuid().as_raw(),
        capabilities: capabilities(files.text("/proc/self/status").value().map_or("", |it| it)),
        open_files: limit(limits, "Max open files"),
        locked_memory: limit(limits, "Max locked memory"),
    }
}

/// `CapEff` of `/proc/self/status`.
fn capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Soft and hard limit in a line of `/proc/self/limits`.
fn limit(limits: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some((words.next()??, words.next()??))
}

/// What the facts mean.
pub(super) fn check(facts: &RightsFacts, socket_lb: SocketLb) -> Vec<NodeFinding> {
    let rights = capability_finding(facts, socket_lb);
    [Some(rights), open_files(facts), locked_memory(facts)]
        .into_iter()
        .flatten()
        .collect()
}

fn capability_finding(facts: &RightsFacts, socket_lb: SocketLb) -> NodeFinding {
    let needed = [Capability::Bpf, Capability::NetAdmin, Capability::Perfmon];
    let pods = match socket_lb {
        SocketLb::All => Some(Capability::SysAdmin),
        SocketLb::Host | SocketLb::Off => None,
    };
    let lacking: Vec<_> = needed
        .into_iter()
        .chain(pods)
        .filter(|capability| !facts.may(*capability))
        .map(Capability::name)
        .collect();
    if facts.capabilities.is_none() {
        return NodeFinding::unknown(
            "capabilities",
            "/proc/self/status does not tell the capabilities",
            "the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            "run preflight with /proc mounted",
        );
    }
    if lacking.is_empty() {
        return NodeFinding::ok("capabilities", "all that these options need");
    }
    let lacking = lacking.join(", ");
    if facts.is_unprivileged() {
        return NodeFinding::unknown(
            "capabilities",
            format!("this user has none; the agent needs {lacking}"),
            "what root alone may read is not checked",
            "run preflight as root",
        );
    }
    if lacking == Capability::SysAdmin.name() {
        return NodeFinding::warning(
            "capabilities",
            format!("{lacking} is lacking"),
            "--socket-lb all enters network namespaces of pods by it; without it tc serves the pods",
            "grant it (deploy/overlays/pod-sockets), or use --socket-lb host",
        );
    }
    NodeFinding::failure(
        "capabilities",
        format!("{lacking} lacking"),
        "programs and maps cannot be loaded or attached",
        "run as root, or grant the capabilities (deploy/README.md, \"What it may do\")",
    )
}

fn open_files(facts: &RightsFacts) -> Option<NodeFinding> {
    let (soft, hard) = facts.open_files?;
    let found = format!("open files: {}, at most {}", shown(soft), shown(hard));
    Some(match soft {
        Some(number) if number < MANY_FILES => NodeFinding::warning(
            "open-files",
            found,
            "each Service with externalTrafficPolicy Local keeps a health check port open",
            format!("raise the soft limit to {MANY_FILES} or more (ulimit -n, LimitNOFILE=)"),
        ),
        Some(_) | None => NodeFinding::ok("open-files", found),
    })
}

/// Only kernels that do not charge maps to a cgroup count them as locked memory, so a low limit is
/// no fault of its own.
fn locked_memory(facts: &RightsFacts) -> Option<NodeFinding> {
    let (soft, hard) = facts.locked_memory?;
    let (soft, hard) = (shown(soft), shown(hard));
    let found = format!("locked memory: {soft} bytes, at most {hard} (older kernels count maps)");
    Some(NodeFinding::ok("locked-memory", found))
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::{super::finding::FindingState, *};

    const BPF: u64 = 1 << 39;
    const PERFMON: u64 = 1 << 38;
    const SYS_ADMIN: u64 = 1 << 21;
    const NET_ADMIN: u64 = 1 << 12;

    #[test]
    fn the_three_capabilities_of_the_daemon_set_suffice() {
        let rows = [
            (
                0,
                BPF | PERFMON | NET_ADMIN,
                SocketLb::Host,
                FindingState::Ok,
            ),
            (0, SYS_ADMIN | NET_ADMIN, SocketLb::All, FindingState::Ok),
            (
                0,
                BPF | PERFMON | NET_ADMIN,
                SocketLb::All,
                FindingState::Warning,
            ),
            (0, BPF | NET_ADMIN, SocketLb::Host, FindingState::Failure),
            (0, 0, SocketLb::Off, FindingState::Failure),
            (1000, 0, SocketLb::Off, FindingState::Unknown),
        ];
        for (user, bits, socket_lb, expected) in rows {
            let facts = RightsFacts {
                user,
                capabilities: Some(bits),
                ..RightsFacts::default()
            };
            let finding = capability_finding(&facts, socket_lb);
            assert_eq!(finding.state, expected, "{user} {bits:x} {socket_lb:?}");
        }
    }

    #[test]
    fn what_is_lacking_is_named() {
        let facts = RightsFacts {
            capabilities: Some(NET_ADMIN),
            ..RightsFacts::default()
        };
        let found = capability_finding(&facts, SocketLb::Host).found;
        assert_eq!(found, "CAP_BPF, CAP_PERFMON lacking");
    }

    #[test]
    fn the_kernels_words_are_read() {
        let status = "CapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\n";
        assert_eq!(capabilities(status), Some(0x1ff_feff_ffff));
        assert_eq!(capabilities("CapEff:\tx"), None);
        let limits = "Max locked memory         8388608              unlimited            bytes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(
            limit(limits, "Max open files"),
            Some((Some(1024), Some(524_288)))
        );
        assert_eq!(
            limit(limits, "Max locked memory"),
            Some((Some(8_388_608), None))
        );
        assert_eq!(limit(limits, "Max stack size"), None);
    }

    #[test]
    fn few_open_files_are_a_warning() {
        let state = |soft| {
            let facts = RightsFacts {
                open_files: Some((soft, None)),
                ..RightsFacts::default()
            };
            open_files(&facts).map(|finding| finding.state)
        };
        assert_eq!(state(Some(1024)), Some(FindingState::Warning));
        assert_eq!(state(Some(4096)), Some(FindingState::Ok));
        assert_eq!(state(None), Some(FindingState::Ok));
    }
}

//! The BPF file system that programs and maps are pinned in.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use lb_common::maps::ABI_VERSION;
use procfs::{FromBufRead as _, LockKind, Locks};

use super::{
    files::{Files, Reading},
    finding::NodeFinding,
    mounts::{self, Mount},
    rights::{Capability, RightsFacts},
};
use crate::pins::Pins;

/// Whoever may write to a directory besides its owner.
const OTHERS_WRITE: u32 = 0o022;

/// Facts about `--bpffs`.
#[derive(Clone, Debug, Default)]
pub(super) struct PinFacts {
    /// The directory, as the option names it.
    pub(super) dir: PathBuf,
    /// The same with symbolic links followed.
    pub(super) resolved: PathBuf,
    /// What it is.
    pub(super) entry: Reading<Entry>,
    /// Names in its directory `fairlead`.
    pub(super) versions: Reading<Vec<String>>,
    /// The process that holds the lock on the pins of our ABI version.
    pub(super) agent: Option<i32>,
}

/// A directory, or what is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether it is a directory.
    pub(super) directory: bool,
    /// Whether nothing is in it.
    pub(super) empty: bool,
    /// User id of its owner.
    pub(super) owner: u32,
    /// Permission bits.
    pub(super) mode: u32,
}

/// Reads the facts.
pub(super) fn read(files: &Files, bpffs: &Path) -> PinFacts {
    PinFacts {
        dir: bpffs.to_owned(),
        resolved: resolve(bpffs),
        entry: entry(bpffs).into(),
        versions: files.names(bpffs.join("fairlead")),
        agent: agent(files, Pins::new(bpffs).root()),
    }
}

/// The path with links followed, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|ancestor| {
        let resolved = fs::canonicalize(ancestor).ok()?;
        Some(resolved.join(path.strip_prefix(ancestor).ok()?))
    });
    known.unwrap_or_else(|| path.to_owned())
}

fn entry(path: &Path) -> io::Result<Entry> {
    let metadata = fs::metadata(path)?;
    Ok(Entry {
        directory: metadata.is_dir(),
        empty: metadata.is_dir() && fs::read_dir(path).is_ok_and(|mut it| it.next().is_none()),
        owner: metadata.uid(),
        mode: metadata.mode() & 0o7777,
    })
}

/// Who holds the lock on the pins; asked of `/proc/locks`, for taking it would keep an agent from
/// starting.
fn agent(files: &Files, root: &Path) -> Option<i32> {
    let inode = fs::metadata(root).ok()?.ino();
    let text = files.text("/proc/locks");
    holder(text.value()?, inode)
}

fn holder(locks: &str, inode: u64) -> Option<i32> {
    let Locks(locks) = Locks::from_buf_read(locks.as_bytes()).ok()?;
    let ours = |lock: &&procfs::Lock| lock.inode == inode && matches!(lock.kind, LockKind::Write);
    locks.iter().find(ours)?.pid
}

/// What the facts mean.
pub(super) fn check(
    facts: &PinFacts,
    mounts: &Reading<Vec<Mount>>,
    rights: &RightsFacts,
) -> Vec<NodeFinding> {
    let place = match mounts {
        Reading::Value(mounts) => place(facts, mounts, rights),
        Reading::Missing | Reading::Denied | Reading::Failed(_) => NodeFinding::unknown(
            "bpffs",
            "/proc/self/mountinfo cannot be read",
            "whether a BPF file system is mounted is not known",
            "run preflight with /proc mounted",
        ),
    };
    let mut findings = vec![place];
    findings.extend(other_versions(facts));
    findings.extend(facts.agent.map(|pid| {
        NodeFinding::warning(
            "agent",
            format!(
                "an lb-agent runs on {} (process {pid})",
                facts.dir.display()
            ),
            "a second one would not start on the same pins; ports that are taken may be its own",
            "stop it first, or go on to replace it",
        )
    }));
    findings
}

fn place(facts: &PinFacts, mounts: &[Mount], rights: &RightsFacts) -> NodeFinding {
    let dir = facts.dir.display();
    let covering = mounts::covering(mounts, &facts.resolved);
    let mounted = covering.filter(|mount| mount.kind == "bpf");
    match (mounted, &facts.entry) {
        (Some(mount), _) if mount.read_only => NodeFinding::failure(
            "bpffs",
            format!("{dir} is in a BPF file system that is mounted read-only"),
            "the agent can pin nothing there",
            "mount it read-write (readOnly: false in the volume mount)",
        ),
        (Some(_), Reading::Value(entry)) => owned(facts, *entry, rights),
        (Some(_), Reading::Missing) => NodeFinding::ok(
            "bpffs",
            format!("{dir} will be made in a BPF file system that is mounted"),
        ),
        (
            _,
            Reading::Value(Entry {
                directory: false, ..
            }),
        ) => NodeFinding::failure(
            "bpffs",
            format!("{dir} is not a directory"),
            "the agent has nowhere to pin programs and maps",
            "name a directory by --bpffs",
        ),
        (
            None,
            Reading::Value(Entry {
                empty: false,
                owner: 0,
                ..
            }),
        ) if rights.user == 0 => NodeFinding::failure(
            "bpffs",
            format!("{dir} is neither a BPF file system nor empty"),
            "the agent mounts none over files, so it does not start",
            "name an empty directory by --bpffs, or one in a BPF file system",
        ),
        (None, Reading::Value(_) | Reading::Missing) => to_be_mounted(facts, covering, rights),
        (_, Reading::Denied) => NodeFinding::unknown(
            "bpffs",
            format!("{dir} is hidden from this user"),
            "whether the agent can pin there is not known",
            "run preflight as root",
        ),
        (_, Reading::Failed(reason)) => NodeFinding::failure(
            "bpffs",
            format!("{dir}: {reason}"),
            "the agent has nowhere to pin programs and maps",
            "name a directory in a BPF file system by --bpffs",
        ),
    }
}

fn owned(facts: &PinFacts, entry: Entry, rights: &RightsFacts) -> NodeFinding {
    let found = format!(
        "a BPF file system is mounted at {} (owner {}, mode {:03o})",
        facts.dir.display(),
        entry.owner,
        entry.mode
    );
    if entry.owner != 0 || entry.mode & OTHERS_WRITE != 0 {
        return NodeFinding::warning(
            "bpffs",
            found,
            "users other than root can take the agent's lock or put files in its place",
            format!("chown root {0} && chmod 700 {0}", facts.dir.display()),
        );
    }
    if rights.user != 0 && !rights.is_unprivileged() {
        return NodeFinding::failure(
            "bpffs",
            format!("{found}, and this is user {}", rights.user),
            "only root can pin there",
            "run the agent as root (runAsUser: 0)",
        );
    }
    NodeFinding::ok("bpffs", found)
}

fn to_be_mounted(facts: &PinFacts, covering: Option<&Mount>, rights: &RightsFacts) -> NodeFinding {
    let dir = facts.dir.display();
    let found = format!("no BPF file system is mounted at {dir}");
    if rights.is_unprivileged() {
        return NodeFinding::unknown(
            "bpffs",
            found,
            "the agent mounts one if it has CAP_SYS_ADMIN",
            "run preflight as root",
        );
    }
    if !rights.may(Capability::SysAdmin) {
        return NodeFinding::failure(
            "bpffs",
            found,
            "the agent mounts one, which takes CAP_SYS_ADMIN",
            format!("mount -t bpf bpf {dir} on the node, or use deploy/overlays/privileged"),
        );
    }
    // The root of a node is seldom shared where systemd does not run, and needs not be.
    let on_node = |mount: &Mount| mount.point == Path::new("/") && mount.kind != "overlay";
    if covering.is_some_and(|mount| !mount.shared && !on_node(mount)) {
        return NodeFinding::warning(
            "bpffs",
            format!("{found}, and what is mounted there does not propagate"),
            "in a container the mount, and with it every program, ends with the container",
            "mount it on the node, or give the volume mountPropagation: Bidirectional",
        );
    }
    NodeFinding::ok("bpffs", format!("{found}; the agent mounts one"))
}

/// Pins of other ABI versions. Their programs go on serving beside ours.
fn other_versions(facts: &PinFacts) -> Vec<NodeFinding> {
    let ours = format!("v{ABI_VERSION}");
    let dir = facts.dir.join("fairlead");
    match &facts.versions {
        Reading::Value(names) => names
            .iter()
            .map(|name| {
                let path = dir.join(name);
                let found = format!("{} is there", path.display());
                if *name == ours {
                    let found = format!("{found}: the agent takes over what is pinned in it");
                    return NodeFinding::ok("pins", found);
                }
                NodeFinding::warning(
                    "pins",
                    found,
                    "an agent of another version left programs there, which go on serving old state",
                    "run `lb-agent cleanup` of that version, as soon as the new agent serves",
                )
            })
            .collect(),
        Reading::Denied => vec![NodeFinding::unknown(
            "pins",
            format!("{} is hidden from this user", dir.display()),
            "an agent of another version may have left programs there",
            "run preflight as root",
        )],
        Reading::Missing | Reading::Failed(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::FindingState, *};

    const ROOT: RightsFacts = RightsFacts {
        user: 0,
        capabilities: Some(u64::MAX),
        open_files: None,
        locked_memory: None,
    };

    fn facts(entry: Reading<Entry>) -> PinFacts {
        PinFacts {
            dir: "/sys/fs/bpf".into(),
            resolved: "/sys/fs/bpf".into(),
            entry,
            ..PinFacts::default()
        }
    }

    fn directory(empty: bool, owner: u32, mode: u32) -> Reading<Entry> {
        Reading::Value(Entry {
            directory: true,
            empty,
            owner,
            mode,
        })
    }

    fn mount(kind: &str, read_only: bool, shared: bool) -> Vec<Mount> {
        vec![Mount {
            point: "/sys/fs/bpf".into(),
            kind: kind.into(),
            read_only,
            shared,
        }]
    }

    #[test]
    fn a_mounted_file_system_is_to_be_roots_alone() {
        let mounted = mount("bpf", false, true);
        let rows = [
            (directory(false, 0, 0o700), FindingState::Ok),
            (directory(false, 0, 0o755), FindingState::Ok),
            (directory(false, 0, 0o1777), FindingState::Warning),
            (directory(false, 1000, 0o700), FindingState::Warning),
            (Reading::Missing, FindingState::Ok),
            (Reading::Denied, FindingState::Unknown),
        ];
        for (entry, expected) in rows {
            let finding = place(&facts(entry.clone()), &mounted, &ROOT);
            assert_eq!(finding.state, expected, "{entry:?}");
        }
        let read_only = mount("bpf", true, true);
        let finding = place(&facts(directory(true, 0, 0o700)), &read_only, &ROOT);
        assert_eq!(finding.state, FindingState::Failure);
    }

    #[test]
    fn where_none_is_mounted_the_agent_must_be_able_to() {
        let limited = RightsFacts {
            capabilities: Some(1 << Capability::Bpf as u8),
            ..ROOT
        };
        let user = RightsFacts {
            user: 1000,
            capabilities: Some(0),
            ..ROOT
        };
        let empty = directory(true, 0, 0o700);
        let rows = [
            (empty.clone(), true, &ROOT, FindingState::Ok),
            (empty.clone(), false, &ROOT, FindingState::Warning),
            (empty.clone(), true, &limited, FindingState::Failure),
            (empty, true, &user, FindingState::Unknown),
            (
                directory(false, 0, 0o700),
                true,
                &ROOT,
                FindingState::Failure,
            ),
            (Reading::Missing, true, &ROOT, FindingState::Ok),
        ];
        for (entry, shared, rights, expected) in rows {
            let mounted = mount("sysfs", false, shared);
            let finding = place(&facts(entry.clone()), &mounted, rights);
            assert_eq!(finding.state, expected, "{entry:?} {shared} {rights:?}");
        }
    }

    #[test]
    fn pins_of_other_versions_are_warned_of() {
        let facts = PinFacts {
            versions: Reading::Value(vec!["v3".into(), format!("v{ABI_VERSION}")]),
            ..facts(Reading::Missing)
        };
        let states: Vec<_> = other_versions(&facts).iter().map(|it| it.state).collect();
        assert_eq!(states, [FindingState::Warning, FindingState::Ok]);
    }

    #[test]
    fn the_holder_of_the_lock_is_told_by_the_kernel() {
        let locks = "1: POSIX  ADVISORY  READ 12 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 345 00:1c:77 0 EOF\n";
        assert_eq!(holder(locks, 77), Some(345));
        assert_eq!(holder(locks, 78), None);
        assert_eq!(holder("nonsense", 77), None);
    }
}

//! The cgroup2 hierarchy, for the programs of sockets.

use std::path::{Path, PathBuf};

use super::{
    files::Reading,
    finding::{FindingState, NodeFinding},
    mounts::Mount,
};
use crate::agent::{cgroup, socket_options::SocketLb};

/// Facts about `--cgroup`.
#[derive(Clone, Debug)]
pub(super) struct CgroupFacts {
    /// The directory that the agent would use, or why there is none.
    pub(super) located: Result<PathBuf, String>,
}

/// Looks for the directory as the agent does.
pub(super) fn read(named: Option<&Path>) -> CgroupFacts {
    CgroupFacts {
        located: cgroup::locate(named).map_err(|error| error.to_string()),
    }
}

/// What the facts mean.
pub(super) fn check(
    facts: &CgroupFacts,
    mounts: &Reading<Vec<Mount>>,
    socket_lb: SocketLb,
) -> NodeFinding {
    let hierarchy = hierarchy(mounts.value().map_or(&[], Vec::as_slice));
    let whose = match socket_lb {
        SocketLb::Off => {
            let found = format!("not used with --socket-lb off ({hierarchy})");
            return NodeFinding::ok("cgroup", found);
        }
        SocketLb::Host => "the node's processes",
        SocketLb::All => "the node's processes and of pods",
    };
    match &facts.located {
        Ok(dir) => NodeFinding::ok("cgroup", format!("{} ({hierarchy})", dir.display())),
        Err(reason) => NodeFinding::new(
            "cgroup",
            FindingState::Warning,
            format!("{reason} ({hierarchy})"),
            format!(
                "sockets of {whose} are not redirected to backends; packets from elsewhere are served"
            ),
            "mount the node's cgroup2 root into the container and name it by --cgroup, or give \
             --socket-lb off",
        ),
    }
}

/// How the node has its cgroups: by what is mounted of version 1 and 2.
fn hierarchy(mounts: &[Mount]) -> &'static str {
    let has = |kind: &str| mounts.iter().any(|mount| mount.kind == kind);
    match (has("cgroup"), has("cgroup2")) {
        (false, true) => "cgroup2 alone",
        (true, true) => "hybrid: cgroup v1 beside cgroup2",
        (true, false) => "cgroup v1 alone",
        (false, false) => "no cgroup file system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(kinds: &[&str]) -> Reading<Vec<Mount>> {
        let mount = |kind: &&str| Mount {
            point: "/sys/fs/cgroup".into(),
            kind: (*kind).to_owned(),
            read_only: false,
            shared: true,
        };
        Reading::Value(kinds.iter().map(mount).collect())
    }

    #[test]
    fn the_kind_of_hierarchy_is_told() {
        let found = CgroupFacts {
            located: Ok("/sys/fs/cgroup/unified".into()),
        };
        for (kinds, expected) in [
            (["cgroup2"].as_slice(), "cgroup2 alone"),
            (
                ["cgroup", "cgroup2"].as_slice(),
                "hybrid: cgroup v1 beside cgroup2",
            ),
            (["cgroup"].as_slice(), "cgroup v1 alone"),
            ([].as_slice(), "no cgroup file system"),
        ] {
            let finding = check(&found, &mounts(kinds), SocketLb::Host);
            assert_eq!(
                finding.found,
                format!("/sys/fs/cgroup/unified ({expected})")
            );
        }
    }

    #[test]
    fn without_a_hierarchy_sockets_alone_are_not_served() {
        let none = CgroupFacts {
            located: Err("no cgroup2 hierarchy is mounted".into()),
        };
        for (socket_lb, expected) in [
            (SocketLb::Off, FindingState::Ok),
            (SocketLb::Host, FindingState::Warning),
            (SocketLb::All, FindingState::Warning),
        ] {
            let finding = check(&none, &mounts(&["cgroup"]), socket_lb);
            assert_eq!(finding.state, expected, "{socket_lb:?}");
        }
    }
}

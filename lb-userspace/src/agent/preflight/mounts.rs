//! What is mounted, as this process sees it.

use std::path::{Path, PathBuf};

use procfs::{
    FromBufRead as _,
    process::{MountInfos, MountOptFields},
};

use super::files::{Files, Reading};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// Its type: `bpf`, `cgroup2`.
    pub(super) kind: String,
    /// Whether nothing can be written through this mount.
    pub(super) read_only: bool,
    /// Whether a mount made below it shows up in other mount namespaces.
    pub(super) shared: bool,
}

/// Reads `/proc/self/mountinfo`.
pub(super) fn read(files: &Files) -> Reading<Vec<Mount>> {
    match files.text("/proc/self/mountinfo").map(|text| parse(&text)) {
        Reading::Value(Ok(mounts)) => Reading::Value(mounts),
        Reading::Value(Err(reason)) | Reading::Failed(reason) => Reading::Failed(reason),
        Reading::Missing => Reading::Missing,
        Reading::Denied => Reading::Denied,
    }
}

fn parse(text: &str) -> Result<Vec<Mount>, String> {
    let mounts = MountInfos::from_buf_read(text.as_bytes()).map_err(|error| error.to_string())?;
    let mounts = mounts.into_iter().map(|mount| Mount {
        read_only: mount.mount_options.contains_key("ro"),
        shared: mount
            .opt_fields
            .iter()
            .any(|field| matches!(field, MountOptFields::Shared(_))),
        point: mount.mount_point,
        kind: mount.fs_type,
    });
    Ok(mounts.collect())
}

/// The mount that a path lies in: the deepest one, and of several at one place the last.
pub(super) fn covering<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
24 23 0:22 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700
25 23 0:23 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate
26 24 0:24 / /sys/fs/bpf ro - tmpfs tmpfs rw
";

    #[test]
    fn a_path_lies_in_the_deepest_and_last_mount() {
        let mounts = parse(MOUNTINFO).unwrap();
        let kind = |path: &str| covering(&mounts, Path::new(path)).map(|it| it.kind.as_str());
        assert_eq!(kind("/run/fairlead/bpf"), Some("ext4"));
        assert_eq!(kind("/sys/fs/bpf"), Some("tmpfs"));
        assert_eq!(kind("/sys/fs/bpffs"), Some("sysfs"));
        assert_eq!(covering(&[], Path::new("/")), None);
    }

    #[test]
    fn options_and_propagation_are_read() {
        let mounts = parse(MOUNTINFO).unwrap();
        let cgroup = covering(&mounts, Path::new("/sys/fs/cgroup")).unwrap();
        assert!(cgroup.read_only && !cgroup.shared);
        let bpf = &mounts[2];
        assert!(!bpf.read_only && bpf.shared);
        assert!(parse("22 1 8:1").is_err());
    }
}

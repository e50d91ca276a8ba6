//! The cgroup2 hierarchy, wherever it is mounted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;
use thiserror::Error;

/// `f_type` of a cgroup2 file system (`CGROUP2_SUPER_MAGIC` in `linux/magic.h`).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Where the hierarchy usually is.
const USUAL: &str = "/sys/fs/cgroup";

/// The hierarchy cannot be found.
#[derive(Debug, Error)]
pub(super) enum CgroupError {
    /// There is no hierarchy.
    #[error("no cgroup2 hierarchy is mounted; mount one, or name it by --cgroup")]
    NoHierarchy,
    /// A file operation failed.
    #[error("cannot {0} {path}: {2}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
}

/// Where a cgroup2 hierarchy is mounted: at the usual place, or wherever the kernel says. Where cgroup1 is
/// mounted too (a hybrid hierarchy), that is `/sys/fs/cgroup/unified`.
pub(super) fn mounted() -> Result<PathBuf, CgroupError> {
    let usual = PathBuf::from(USUAL);
    if usual.exists() && is_cgroup2(&usual)? {
        return Ok(usual);
    }
    let mounts = Path::new("/proc/self/mounts");
    let text = fs::read_to_string(mounts).map_err(|error| io_error("read", mounts, error))?;
    cgroup2_mount(&text).ok_or(CgroupError::NoHierarchy)
}

/// Whether a directory is in a cgroup2 hierarchy.
pub(super) fn is_cgroup2(dir: &Path) -> Result<bool, CgroupError> {
    let stat = statfs(dir).map_err(|errno| io_error("look at", dir, errno.into()))?;
    #[expect(
        clippy::cast_sign_loss,
        reason = "a magic number, whose type differs between architectures"
    )]
    let kind = stat.f_type as u64;
    Ok(kind & u64::from(u32::MAX) == CGROUP2_MAGIC)
}

/// The first cgroup2 mount of a table of mounts.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| target.into())
    })
}

fn io_error(operation: &'static str, path: &Path, error: io::Error) -> CgroupError {
    CgroupError::Io(operation, path.to_owned(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cgroup2_mount_is_found_among_others() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      cgroup2 /mnt cgroup2 rw 0 0\n";
        let found = Some("/sys/fs/cgroup/unified".into());
        assert_eq!(cgroup2_mount(mounts), found);
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
    }
}

//! The cgroup2 hierarchy, wherever it is mounted.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;
use thiserror::Error;

/// `f_type` of a cgroup2 file system (`CGROUP2_SUPER_MAGIC` in `linux/magic.h`).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Inode number of the hierarchy's root: the first node of its file system.
const ROOT: u64 = 1;

/// Where the hierarchy usually is.
const USUAL: &str = "/sys/fs/cgroup";

/// The hierarchy cannot be found.
#[derive(Debug, Error)]
pub(super) enum CgroupError {
    /// There is no hierarchy.
    #[error("no cgroup2 hierarchy is mounted; mount one, or name it by --cgroup")]
    NoHierarchy,
    /// The named directory is none of one.
    #[error("--cgroup {}: not in a cgroup2 hierarchy; name a directory of one", .0.display())]
    NotCgroup(PathBuf),
    /// It is only a part of one.
    #[error(
        "{} is not the root of the cgroup2 hierarchy but a container's part of it; mount the \
         node's own, and name it by --cgroup",
        .0.display()
    )]
    NotRoot(PathBuf),
    /// A file operation failed.
    #[error("cannot {0} {path}: {2}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
}

/// The directory that `--cgroup` names, or else the root of the hierarchy.
pub(super) fn locate(named: Option<&Path>) -> Result<PathBuf, CgroupError> {
    match named {
        Some(dir) if is_cgroup2(dir)? => Ok(dir.to_owned()),
        Some(dir) => Err(CgroupError::NotCgroup(dir.to_owned())),
        None => find(),
    }
}

/// The hierarchy that all of the node's processes are in.
fn find() -> Result<PathBuf, CgroupError> {
    let dir = mounted()?;
    let root = fs::metadata(&dir).map_err(|error| io_error("look at", &dir, error))?;
    if root.ino() == ROOT {
        Ok(dir)
    } else {
        Err(CgroupError::NotRoot(dir))
    }
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
fn is_cgroup2(dir: &Path) -> Result<bool, CgroupError> {
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

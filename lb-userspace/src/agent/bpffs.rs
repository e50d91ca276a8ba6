//! The BPF file system below which everything is pinned.

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock, statfs},
    io::Errno,
    mount::{MountFlags, mount},
};
use thiserror::Error;
use tracing::info;

use crate::pins::Pins;

/// `f_type` of a BPF file system (`BPF_FS_MAGIC` in `linux/magic.h`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Root's alone, as systemd mounts it: the kernel's default lets anyone create files, or take the
/// lock.
const MOUNT_OPTIONS: &CStr = c"mode=0700";

/// The pin directory cannot be used.
#[derive(Debug, Error)]
pub(super) enum BpffsError {
    /// The given path exists and is not a directory.
    #[error("--bpffs {}: not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// Mounting would hide files.
    #[error(
        "--bpffs {}: not a BPF file system, and not empty, so none is mounted over it; \
         name an empty directory, or one inside a BPF file system",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// The kernel refused the mount.
    #[error(
        "--bpffs {path}: cannot mount a BPF file system ({source}); \
         run as root, or first run `mount -t bpf bpf {path}`",
        path = .0.display(), source = .1
    )]
    Mount(PathBuf, #[source] io::Error),
    /// Any other file operation.
    #[error("cannot {0} {path}: {source}", path = .1.display(), source = .2)]
    Io(&'static str, PathBuf, #[source] io::Error),
    /// The lock is taken.
    #[error(
        "another lb-agent is running on the pins in {}: stop it first, \
         or give this one a --bpffs directory of its own",
        .0.display()
    )]
    Busy(PathBuf),
}

/// Makes sure that `dir` lies in a BPF file system, mounting one there if need be, and that the
/// pin directories exist.
pub(super) fn prepare(dir: &Path, pins: &Pins) -> Result<(), BpffsError> {
    fs::create_dir_all(dir).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            BpffsError::NotDirectory(dir.to_owned())
        }
        _ => io_error("create", dir)(error),
    })?;
    if !is_bpffs(dir)? {
        mount_at(dir)?;
    }
    for path in [pins.maps(), pins.links(), pins.programs()] {
        fs::create_dir_all(&path).map_err(io_error("create", &path))?;
    }
    Ok(())
}

/// Whether `dir` lies in a BPF file system.
pub(super) fn is_bpffs(dir: &Path) -> Result<bool, BpffsError> {
    let stat = statfs(dir)
        .map_err(io::Error::from)
        .map_err(io_error("look at", dir))?;
    #[expect(
        clippy::cast_sign_loss,
        reason = "a magic number, whose type differs between architectures"
    )]
    let kind = stat.f_type as u64;
    Ok(kind & u64::from(u32::MAX) == BPF_FS_MAGIC)
}

fn mount_at(dir: &Path) -> Result<(), BpffsError> {
    let mut entries = fs::read_dir(dir).map_err(io_error("read", dir))?;
    if entries.next().is_some() {
        return Err(BpffsError::NotEmpty(dir.to_owned()));
    }
    mount("bpf", dir, "bpf", MountFlags::empty(), MOUNT_OPTIONS)
        .map_err(|errno| BpffsError::Mount(dir.to_owned(), errno.into()))?;
    info!("mounted a BPF file system at {}", dir.display());
    Ok(())
}

/// Held by the one agent that may change a pin directory; released when dropped, and by the kernel
/// when its process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _dir: File,
}

impl Lock {
    /// Takes the lock: on the directory itself, so that it is the same one by whatever path or
    /// mount the directory is reached.
    pub(super) fn take(pins: &Pins) -> Result<Self, BpffsError> {
        let root = pins.root();
        let dir = File::open(root).map_err(io_error("open", root))?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _dir: dir }),
            Err(Errno::WOULDBLOCK) => Err(BpffsError::Busy(root.to_owned())),
            Err(errno) => Err(io_error("lock", root)(errno.into())),
        }
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BpffsError {
    let path = path.to_owned();
    move |error| BpffsError::Io(operation, path, error)
}

//! A BPF file system that no one else sees.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use lb_userspace::pins::Pins;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A mount that has no place in any directory and goes with its descriptor, however the test ends.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    pins: Pins,
    _mount: OwnedFd,
}

impl Bpffs {
    /// Makes it, with the directories that an agent makes.
    pub fn new() -> Result<Self> {
        let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)
            .context("cannot open a BPF filesystem (root is needed)")?;
        fsconfig_create(&context)?;
        let mount = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        let pins = Pins::new(&path);
        for directory in [pins.maps(), pins.programs()] {
            fs::create_dir_all(directory)?;
        }
        Ok(Self {
            path,
            pins,
            _mount: mount,
        })
    }

    /// Where this process finds it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pins in it.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }
}

//! The cgroup of a site: agents put their hooks of sockets on it, so that no process but those that
//! enter it is led to services.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};

/// The group of a site with this prefix; none where no cgroup2 hierarchy is mounted.
pub fn dir(prefix: &str) -> Option<PathBuf> {
    Some(mount()?.join(prefix))
}

fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| target.into())
    })
}

/// Makes a site's group.
pub(crate) fn make(prefix: &str) -> Result<()> {
    let Some(dir) = dir(prefix) else {
        return Ok(());
    };
    fs::create_dir(&dir).with_context(|| format!("cannot make cgroup {}", dir.display()))
}

/// Removes a site's group, which takes every hook off it; there being none is fine.
pub(crate) fn remove(prefix: &str) -> Result<()> {
    let Some(dir) = dir(prefix) else {
        return Ok(());
    };
    let (members, parent) = (dir.join(PROCESSES), dir.with_file_name(PROCESSES));
    for member in fs::read_to_string(members).unwrap_or_default().lines() {
        // One that is gone in the meantime is as good.
        fs::write(&parent, member).ok();
    }
    match fs::remove_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove cgroup {}", dir.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The file that says which processes are in a group.
const PROCESSES: &str = "cgroup.procs";

/// This process in a group; back where it was when dropped.
#[derive(Debug)]
pub struct Member {
    home: PathBuf,
}

impl Member {
    /// Enters a group. Sockets belong to the group their process was in when it made them.
    pub fn enter(group: &Path) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("cannot tell our cgroup")?;
        let home = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("we are in no cgroup2 hierarchy")?;
        let home = mount().context("no cgroup2 hierarchy")?.join(home);
        move_to(group)?;
        Ok(Self { home })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.home) {
            eprintln!("warning: {error:#}");
        }
    }
}

fn move_to(group: &Path) -> Result<()> {
    fs::write(group.join(PROCESSES), process::id().to_string())
        .with_context(|| format!("cannot enter cgroup {}", group.display()))
}

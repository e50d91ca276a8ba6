//! Folders that exist for the time of their making, and archives of them that a kernel unpacks at boot.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher as _},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::exec::program;

/// A folder that is removed when dropped, and emptied of what an interrupted run left in it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(path: &Path) -> Result<Self> {
        remove(path)?;
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the place of another folder, in one step.
    pub(super) fn become_folder(self, target: &Path) -> Result<()> {
        remove(target)?;
        fs::rename(&self.0, target)
            .with_context(|| format!("cannot move {} to {}", self.0.display(), target.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// A folder for this process, below one that all share. Those of processes that are gone are removed: a signal leaves
/// them where they are.
pub(super) fn of_this_run(runs: &Path) -> Result<Scratch> {
    for run in fs::read_dir(runs).into_iter().flatten().flatten() {
        let process = Path::new("/proc").join(run.file_name());
        if !process.exists() {
            remove(&run.path())?;
        }
    }
    Scratch::new(&runs.join(std::process::id().to_string()))
}

/// A file that is removed when dropped.
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// The file need not exist yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It was never made, if something went wrong before.
        fs::remove_file(&self.0).ok();
    }
}

/// Removes a folder; there being none is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A name for what follows from these.
pub(super) fn fingerprint(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Archives a folder in the form that the kernel unpacks (cpio, `newc`), not compressed: it boots faster so.
/// All files belong to root.
pub(super) fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(folder, Path::new(""), &mut names)?;
    names.sort();
    let file = File::create(archive);
    let file = file.with_context(|| format!("cannot write {}", archive.display()))?;
    let mut cpio = program("cpio");
    cpio.args(["--create", "--format=newc", "--null", "--quiet"]);
    cpio.args(["--owner=+0:+0"]).current_dir(folder);
    let mut child = cpio
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("cannot start cpio")?;
    if let Some(mut stdin) = child.stdin.take() {
        for name in names {
            stdin.write_all(name.to_string_lossy().as_bytes())?;
            stdin.write_all(b"\0")?;
        }
    }
    if !child.wait()?.success() {
        bail!("cpio cannot archive {}", folder.display());
    }
    Ok(())
}

/// Archives one after another are an archive to the kernel.
pub(super) fn join(archives: &[&Path], whole: &Path) -> Result<()> {
    let file = File::create(whole);
    let mut file = file.with_context(|| format!("cannot write {}", whole.display()))?;
    for archive in archives {
        let mut part =
            File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        std::io::copy(&mut part, &mut file)
            .with_context(|| format!("cannot write {}", whole.display()))?;
    }
    Ok(())
}

/// All that is below a folder, folders before what they hold.
fn list(root: &Path, below: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let folder = root.join(below);
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let name = below.join(entry.file_name());
        names.push(name.clone());
        if entry.file_type()?.is_dir() {
            list(root, &name, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_with_its_value() -> Result<()> {
        let path = std::env::temp_dir().join(format!("fairlead-scratch-{}", std::process::id()));
        let scratch = Scratch::new(&path)?;
        fs::write(path.join("file"), "")?;
        drop(scratch);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn what_a_run_left_that_is_gone_is_removed() -> Result<()> {
        let runs = std::env::temp_dir().join(format!("fairlead-runs-{}", std::process::id()));
        let (gone, alive) = (runs.join("0"), runs.join("1"));
        fs::create_dir_all(&gone)?;
        fs::create_dir_all(&alive)?;
        let own = of_this_run(&runs)?;
        assert!(!gone.exists() && alive.exists() && own.path().exists());
        remove(&runs)
    }

    #[test]
    fn a_fingerprint_follows_from_its_contents_alone() {
        assert_eq!(fingerprint(&("a", 1)), fingerprint(&("a", 1)));
        assert_ne!(fingerprint(&("a", 1)), fingerprint(&("a", 2)));
    }
}

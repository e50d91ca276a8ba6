//! `lb-agent cleanup`: takes programs and maps away.

use std::{fs, io, path::Path};

use thiserror::Error;
use tracing::info;

use super::{
    bpffs::{BpffsError, Lock, is_bpffs},
    links,
};
use crate::pins::Pins;

/// Something could not be taken away.
#[derive(Debug, Error)]
pub(super) enum CleanupError {
    /// The pin directory cannot be used.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A file operation failed.
    #[error("cannot {0} {1}: {2}")]
    Io(&'static str, String, #[source] io::Error),
}

/// Removes every link, which detaches its program, then every map. There being nothing is fine.
pub(super) fn cleanup(bpffs: &Path) -> Result<(), CleanupError> {
    let pins = Pins::new(bpffs);
    if !pins.root().exists() || !is_bpffs(bpffs)? {
        info!("nothing to clean up in {}", pins.root().display());
        return Ok(());
    }
    let lock = Lock::take(&pins)?;
    let links = links::list(&pins).or_else(none_if_missing);
    let links = links.map_err(|error| failed("list", &pins.links(), error))?;
    for pin in &links {
        links::remove(&pin.path).map_err(|error| failed("remove", &pin.path, error))?;
    }
    let root = pins.root();
    fs::remove_dir_all(root).map_err(|error| failed("remove", root, error))?;
    drop(lock);
    // Stays if it holds the pins of another version.
    let _ = root.parent().map(fs::remove_dir);
    info!(
        "removed {} links and all maps and programs of {}",
        links.len(),
        root.display()
    );
    Ok(())
}

fn none_if_missing(error: io::Error) -> io::Result<Vec<links::Pin>> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(error),
    }
}

fn failed(operation: &'static str, path: &Path, error: io::Error) -> CleanupError {
    CleanupError::Io(operation, path.display().to_string(), error)
}

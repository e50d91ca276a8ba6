//! `lb-agent cleanup`: takes programs and maps away.

use std::{fs, io, path::Path};

use thiserror::Error;
use tracing::info;

use super::{
    bpffs::{BpffsError, Lock, is_bpffs},
    filters::{FilterError, Filters, Hook},
    links,
};
use crate::pins::Pins;

/// Something could not be taken away.
#[derive(Debug, Error)]
pub(super) enum CleanupError {
    /// The pin directory cannot be used.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// Filters cannot be removed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A file operation failed.
    #[error("cannot {0} {1}: {2}")]
    Io(&'static str, String, #[source] io::Error),
}

/// Removes every link and, in this network namespace, every filter of ours, which detaches their programs, then
/// every map. There being nothing is fine.
///
/// Filters are ours by their name, whatever is pinned: those of an agent whose BPF file system is gone are removed
/// too. As with links, what translates goes before the reverse translation.
pub(super) fn cleanup(bpffs: &Path) -> Result<(), CleanupError> {
    let pins = Pins::new(bpffs);
    let pinned = pins.root().exists() && is_bpffs(bpffs)?;
    let lock = pinned.then(|| Lock::take(&pins)).transpose()?;
    let mut filters = Filters::open()?;
    let indices: Vec<u32> = filters.qdiscs()?.into_keys().collect();
    let [first, last] = Hook::BOTH;
    let mut removed = remove_filters(&mut filters, &indices, first)?;
    let links = if pinned { remove_links(&pins)? } else { 0 };
    removed += remove_filters(&mut filters, &indices, last)?;
    for index in indices {
        filters.remove_empty_qdisc(index)?;
    }
    if removed > 0 {
        info!("removed {removed} filters");
    }
    if !pinned {
        info!("nothing to clean up in {}", pins.root().display());
        return Ok(());
    }
    let root = pins.root();
    fs::remove_dir_all(root).map_err(|error| failed("remove", root, error))?;
    drop(lock);
    // Stays if it holds the pins of another version.
    let _ = root.parent().map(fs::remove_dir);
    info!(
        "removed {links} links and all maps and programs of {}",
        root.display()
    );
    Ok(())
}

fn remove_filters(
    filters: &mut Filters,
    indices: &[u32],
    hook: Hook,
) -> Result<usize, FilterError> {
    let removed = indices.iter().map(|index| filters.remove(*index, hook));
    removed.sum()
}

fn remove_links(pins: &Pins) -> Result<usize, CleanupError> {
    let links = links::list(pins).or_else(none_if_missing);
    let links = links.map_err(|error| failed("list", &pins.links(), error))?;
    for pin in &links {
        links::remove(&pin.path).map_err(|error| failed("remove", &pin.path, error))?;
    }
    Ok(links.len())
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

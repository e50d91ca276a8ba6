//! Where maps and links live in bpffs, so that traffic goes on without the agent.

use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError};
use lb_common::maps::ABI_VERSION;

/// The pin directory of one node: `<bpffs>/fairlead/v<ABI>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

/// A pinned map could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open pinned map {}", path.display())]
pub struct OpenError {
    path: PathBuf,
    source: MapError,
}

impl Pins {
    /// The pins below this bpffs mount.
    pub fn new(bpffs: &Path) -> Self {
        Self {
            root: bpffs.join("fairlead").join(format!("v{ABI_VERSION}")),
        }
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// The directory of the links, one file per program and interface.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The directory of the programs that are pinned by themselves: those of dry runs.
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// Where a program of dry runs is pinned, by its name in [`lb_common::maps::programs`].
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// Where a map is pinned, by its name in [`lb_common::maps`].
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where the link of `program` on an interface is pinned.
    pub fn link(&self, program: &str, interface: &str) -> PathBuf {
        self.links()
            .join(format!("{program}@{}", interface.replace('.', "%2e")))
    }

    /// Opens a pinned map.
    pub fn open(&self, name: &str) -> Result<MapData, OpenError> {
        let path = self.map(name);
        MapData::from_pin(&path).map_err(|source| OpenError { path, source })
    }
}

//! A directory of manifests that changes while agents run on it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

/// A directory of manifests, ours to change.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// Makes the new directory `dir`, with nothing in it.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Copies the manifests of `from` to the new directory `dir`.
    pub fn copy(from: &Path, dir: PathBuf) -> Result<Self> {
        let manifests = Self::new(dir)?;
        manifests.add(from)?;
        Ok(manifests)
    }

    /// Copies the manifests of another directory on top.
    pub fn add(&self, from: &Path) -> Result<()> {
        let list = || format!("cannot read {}", from.display());
        for entry in fs::read_dir(from).with_context(list)? {
            let path = entry.with_context(list)?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && path
                    .extension()
                    .is_some_and(|extension| extension == "yaml")
            {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                self.write(name, &text)?;
            }
        }
        Ok(())
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The text of a file.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.dir.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Writes or replaces a file in one step, as editors do.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let (partial, path) = (
            self.dir.join(format!(".{file}.partial")),
            self.dir.join(file),
        );
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes or replaces a file of these objects.
    pub fn write_objects(&self, file: &str, objects: &[Value]) -> Result<()> {
        // JSON is YAML.
        let documents: Vec<_> = objects.iter().map(Value::to_string).collect();
        self.write(file, &documents.join("\n---\n"))
    }

    /// Removes a file.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// The repository's example manifests.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

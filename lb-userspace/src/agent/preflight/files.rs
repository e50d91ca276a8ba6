//! Files of the node, read without an effect on it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Bytes that are read of a file at most. The longest, `modules.dep`, has about one million.
const LIMIT: u64 = 8 << 20;

/// Where `kubectl debug node` mounts the node's root file system.
const DEBUG_ROOT: &str = "/host";

/// What came of reading something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading<T> {
    /// It is this.
    Value(T),
    /// It does not exist.
    #[default]
    Missing,
    /// This user may not read it.
    Denied,
    /// It cannot be read, for this reason.
    Failed(String),
}

impl<T> Reading<T> {
    /// The value, if there is one.
    pub(super) const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing | Self::Denied | Self::Failed(_) => None,
        }
    }

    /// The reading of something made of the value.
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Value(value) => Reading::Value(make(value)),
            Self::Missing => Reading::Missing,
            Self::Denied => Reading::Denied,
            Self::Failed(reason) => Reading::Failed(reason),
        }
    }
}

impl<T> From<io::Result<T>> for Reading<T> {
    fn from(result: io::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
                io::ErrorKind::PermissionDenied => Self::Denied,
                _ => Self::Failed(error.to_string()),
            },
        }
    }
}

/// The file systems that facts are read from. Paths are absolute, as the node has them.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// Where `/proc` and `/sys` are: `/` but in tests.
    root: PathBuf,
    /// The node's root file system.
    host: PathBuf,
}

impl Files {
    /// Those of this process. `host` is the node's root file system as this process sees it.
    pub(super) fn new(host: Option<PathBuf>) -> Self {
        let debug = Path::new(DEBUG_ROOT);
        let found = debug.join("etc").is_dir().then(|| debug.to_owned());
        Self {
            root: PathBuf::from("/"),
            host: host.or(found).unwrap_or_else(|| PathBuf::from("/")),
        }
    }

    /// A recorded node below a directory.
    #[cfg(test)]
    pub(super) fn recorded(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            host: root.to_owned(),
        }
    }

    /// A file of `/proc` or `/sys`.
    pub(super) fn text(&self, path: &str) -> Reading<String> {
        read(&below(&self.root, path)).into()
    }

    /// A number in a file of `/proc` or `/sys`.
    pub(super) fn number(&self, path: &str) -> Reading<u64> {
        match self.text(path) {
            Reading::Value(text) => text.trim().parse().map_or_else(
                |_| Reading::Failed(format!("{:?} is not a number", text.trim())),
                Reading::Value,
            ),
            Reading::Missing => Reading::Missing,
            Reading::Denied => Reading::Denied,
            Reading::Failed(reason) => Reading::Failed(reason),
        }
    }

    /// Names in a directory of `/proc`, `/sys` or a BPF file system, sorted.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Reading<Vec<String>> {
        names(&below(&self.root, path)).into()
    }

    /// Last part of what a symbolic link of `/sys` leads to.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(below(&self.root, path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// A file of the node's root file system.
    pub(super) fn host_text(&self, path: &str) -> Reading<String> {
        read(&below(&self.host, path)).into()
    }

    /// Names in a directory of the node's root file system, sorted.
    pub(super) fn host_names(&self, path: &str) -> Reading<Vec<String>> {
        names(&below(&self.host, path)).into()
    }
}

fn below(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<_> = names.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

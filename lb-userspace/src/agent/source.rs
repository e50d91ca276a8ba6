//! Where objects come from, as the options say.

use std::{fmt, path::PathBuf};

use crate::source::kubernetes::Access;

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A directory.
    Manifests(PathBuf),
    /// An API server.
    Kubernetes(Access),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(dir) => write!(f, "manifests {}", dir.display()),
            Self::Kubernetes(access) => write!(f, "API server at {access}"),
        }
    }
}

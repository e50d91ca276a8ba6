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

impl Source {
    /// The one that was named, or else that of the Pod we run in.
    pub(super) fn chosen(
        manifests: Option<PathBuf>,
        kubeconfig: Option<PathBuf>,
        server: Option<String>,
    ) -> Result<Self, &'static str> {
        if let Some(dir) = manifests {
            return Ok(Self::Manifests(dir));
        }
        if kubeconfig.is_none() && !Access::in_pod() {
            return Err(
                "this is no Pod with a service account, so --kubeconfig FILE or --manifests DIR \
                 has to say where objects come from",
            );
        }
        Ok(Self::Kubernetes(Access { kubeconfig, server }))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(dir) => write!(f, "manifests {}", dir.display()),
            Self::Kubernetes(access) => write!(f, "API server at {access}"),
        }
    }
}

//! The Kubernetes API server as a source.
//!
//! `objects` has the fields that are read, `convert` makes the model of them, `ledger` knows what
//! has been told and what a relist takes away, `assembly` puts the changes of all kinds into
//! [`Batch`]es, `backoff` says when to try again. These are pure. Around them, `link` holds the
//! connection, `follow` watches one kind, and `watch` ties these together; `events` tells
//! the cluster about the agent; `requests` counts what is asked.
//!
//! [`Batch`]: crate::model::Batch

mod assembly;
mod backoff;
mod convert;
mod events;
mod failure;
mod follow;
mod kind;
mod ledger;
mod link;
mod objects;
mod requests;
#[cfg(test)]
mod tests;
mod watch;

use std::path::{Path, PathBuf};

pub use events::{Event, EventType, Recorder, Regarding};
pub use requests::{Request, Requests};
pub use watch::watch;

/// Where the API server is, and who we are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The kubeconfig to use; none for the service account of the Pod we run in.
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, in place of the one that the above names.
    pub server: Option<String>,
}

impl Access {
    /// Whether this is a Pod with a service account.
    pub fn in_pod() -> bool {
        Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
    }
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The API server.
    pub access: Access,
    /// Name of our own Node.
    pub node_name: String,
    /// Feature gate `AllowServiceExternalIPs`: whether `spec.externalIPs` are served.
    pub external_ips: bool,
    /// Whether the Pods of our node are to be told of.
    pub pods: bool,
    /// Where requests are counted.
    pub requests: Requests,
}

//! An address that a server is to be found at, whatever it takes (SEMANTICS I8).

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::{
    Shared,
    http::{Connections, Site, serve},
    problems::Spot,
    socket::Bind,
};
use crate::source::kubernetes::{Event, EventType, Regarding};

/// The time between two attempts to listen.
const RETRY: Duration = Duration::from_secs(5);

/// Connections to a server.
pub(super) const CONNECTIONS: usize = 64;

/// The servers cannot do their work.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum ServeError {
    /// An address cannot be listened on, and that was to be the end.
    #[error("cannot listen on {bind} for {purpose}: {source}")]
    Listen {
        /// The address.
        bind: Bind,
        /// What was to be there.
        purpose: Purpose,
        /// What the kernel said.
        source: io::Error,
    },
    /// The metrics contradict each other.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Purpose {
    /// `/healthz` and `/livez`.
    Health,
    /// `/metrics` and its neighbours.
    Metrics,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Health => "health",
            Self::Metrics => "metrics",
        })
    }
}

impl Purpose {
    const fn spot(self) -> Spot {
        match self {
            Self::Health => Spot::Health,
            Self::Metrics => Spot::Metrics,
        }
    }

    /// kube-proxy's reason for the Event.
    const fn reason(self) -> &'static str {
        match self {
            Self::Health => "FailedToStartProxierHealthcheck",
            Self::Metrics => "FailedToStartMetricServer",
        }
    }
}

/// An address that is to be listened on.
pub(super) struct Door {
    /// The address.
    pub(super) bind: Bind,
    /// What is behind it.
    pub(super) purpose: Purpose,
    /// Who is told of problems.
    pub(super) shared: Arc<Shared>,
    /// Who is told if that cannot be; if none, it is tried again.
    pub(super) fatal: Option<mpsc::Sender<ServeError>>,
}

impl Door {
    /// Serves the site there, as soon as that is possible.
    pub(super) async fn keep_open(self, site: impl Site) {
        loop {
            match self.bind.open() {
                Ok(listener) => {
                    self.shared.problems.set(self.purpose.spot(), None);
                    return serve(listener, site, Connections::at_most(CONNECTIONS)).await;
                }
                Err(source) => {
                    if self.give_up(source).await {
                        return;
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Tells of the failure. Returns whether that was the end.
    async fn give_up(&self, source: io::Error) -> bool {
        let Self {
            bind,
            purpose,
            shared,
            fatal,
        } = self;
        let line = format!(
            "cannot listen on {bind} for {purpose}: {source}; free the port or choose another, it is tried again every {} s",
            RETRY.as_secs()
        );
        if shared.problems.set(purpose.spot(), Some(line.clone())) {
            (shared.notify)(Event {
                regarding: Regarding::Node(shared.node_name.clone()),
                kind: EventType::Warning,
                reason: purpose.reason(),
                action: "StartKubeProxy",
                note: line,
            });
        }
        let Some(fatal) = fatal else {
            return false;
        };
        let error = ServeError::Listen {
            bind: *bind,
            purpose: *purpose,
            source,
        };
        // Nobody listens any more: the agent is on its way out already.
        drop(fatal.send(error).await);
        true
    }
}

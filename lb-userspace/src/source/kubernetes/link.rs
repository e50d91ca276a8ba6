//! The connection to the API server: how it is made, and when it is tried.

mod build;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kube::Client;
use tokio::{
    sync::Mutex as Turn,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Access,
    backoff::{self, Chance},
    failure::Failure,
    requests::Requests,
};

/// How long the server may take until it begins to answer, the making of a connection included.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest that a server can ask to be left alone.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The connection, shared by all who ask the API server for something.
pub(super) struct Link {
    access: Access,
    requests: Requests,
    state: Mutex<State>,
    /// Held by the one who tries while the server cannot be reached.
    turn: Turn<()>,
    /// Seconds the server asked for, last (`Retry-After`).
    rest: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    server: Option<String>,
    /// Attempts that failed in a row.
    failures: u32,
    next: Option<Instant>,
    slices: usize,
}

impl Link {
    pub(super) fn new(access: Access, requests: Requests) -> Arc<Self> {
        Arc::new(Self {
            access,
            requests,
            state: Mutex::default(),
            turn: Turn::default(),
            rest: Arc::default(),
        })
    }

    /// The server, for people.
    pub(super) fn server(&self) -> String {
        let known = self.state().server.clone();
        known.unwrap_or_else(|| self.access.to_string())
    }

    /// How large the cluster is.
    pub(super) fn set_slices(&self, slices: usize) {
        self.state().slices = slices;
    }

    /// The pause after refusals.
    pub(super) async fn rest(&self, refusals: u32) {
        let asked = Duration::from_secs(self.rest.swap(0, Ordering::Relaxed)).min(LONGEST_REST);
        let longest = backoff::longest(self.state().slices);
        sleep(asked + backoff::pause_refused(refusals, longest, chance())).await;
    }

    /// Makes a client anew before the next request, so that files are read again: a certificate or
    /// a token may have been replaced.
    pub(super) fn renew(&self) {
        self.state().client = None;
    }

    /// Asks the server. While it cannot be reached, callers take turns, each after a pause.
    pub(super) async fn ask<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let _turn = if self.is_down() {
            let turn = self.turn.lock().await;
            // It may have been reached by the one before.
            let next = self.state().next;
            if let Some(next) = next {
                sleep_until(next).await;
            }
            Some(turn)
        } else {
            None
        };
        let answer = self.attempt(request).await;
        self.judge(answer.as_ref().err());
        answer
    }

    async fn attempt<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let client = self.client().await?;
        let answer = timeout(PATIENCE, request(client)).await;
        let late = |_| Failure::Lost(format!("no answer within {} s", PATIENCE.as_secs()));
        Ok(answer.map_err(late)??)
    }

    async fn client(&self) -> Result<Client, Failure> {
        let known = self.state().client.clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let (access, requests) = (self.access.clone(), self.requests.clone());
        let (client, server) = build::client(access, Arc::clone(&self.rest), requests).await?;
        let mut state = self.state();
        state.client = Some(client.clone());
        state.server = Some(server);
        Ok(client)
    }

    /// Whether the last attempt did not reach the server.
    pub(super) fn is_down(&self) -> bool {
        self.state().next.is_some()
    }

    fn judge(&self, failure: Option<&Failure>) {
        let mut state = self.state();
        match failure {
            Some(Failure::Lost(_)) => {
                state.failures = state.failures.saturating_add(1);
                let longest = backoff::longest(state.slices);
                let pause = backoff::pause(state.failures, longest, chance());
                state.next = Some(Instant::now() + pause);
                state.client = None;
            }
            None | Some(Failure::Refused { .. } | Failure::Expired | Failure::Unreadable(_)) => {
                state.failures = 0;
                state.next = None;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each hasher of the standard library has keys of its own, which is chance enough for a pause.
pub(super) fn chance() -> Chance {
    let bits = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or_default();
    Chance(f64::from(bits) / f64::from(u32::MAX))
}

//! What our servers answer, path by path (SEMANTICS I1, I4, I7).

use std::{future::ready, sync::Arc, time::Duration};

use hyper::StatusCode;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    Key, Shared,
    answer::{Answer, Asked, Content, answer, not_found},
    http::Site,
    metrics::Probe,
    moment::Moment,
    problems::Spot,
    service_health,
};

/// What `/proxyMode` says.
const MODE: &str = "ebpf";

/// Paths of the metrics server, as `/statusz` lists them.
const PATHS: &str = "/configz /flagz /healthz /metrics /metrics/slis /proxyMode /statusz";

/// `/healthz` and `/livez`.
#[derive(Clone)]
pub(super) struct HealthSite(pub(super) Arc<Shared>);

impl HealthSite {
    fn tell(&self, path: &str) -> Answer {
        let now = Moment::now();
        let (probe, answer) = match path {
            "/healthz" => (Probe::Healthz, self.0.health().healthz(now)),
            "/livez" => (Probe::Livez, self.0.health().livez(now)),
            _ => return not_found(),
        };
        let code = answer.status().as_u16();
        self.0.metrics.registered.probed(probe, code);
        answer
    }
}

impl Site for HealthSite {
    fn answer(&self, asked: Asked) -> impl Future<Output = Answer> + Send {
        ready(self.tell(&asked.path))
    }
}

/// The metrics, and what else tells of the running agent.
#[derive(Clone)]
pub(super) struct MetricsSite {
    shared: Arc<Shared>,
    /// One scrape at a time reads the maps.
    turn: Arc<Semaphore>,
}

impl MetricsSite {
    /// The site of this agent.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Reads maps and writes much text, which must not keep the agent from its work: it has a
    /// thread to itself.
    async fn metrics(&self) -> Answer {
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return unavailable();
        };
        let shared = Arc::clone(&self.shared);
        let scrape = spawn_blocking(move || {
            let exposition = shared.metrics.exposition();
            drop(turn);
            exposition
        });
        let Ok(exposition) = scrape.await else {
            return unavailable();
        };
        let problem = exposition.problem.map(|why| {
            format!(
                "/metrics: without what the programs have counted, for it cannot be read: {why}"
            )
        });
        self.shared.problems.set(Spot::Scrape, problem);
        answer(StatusCode::OK, Content::Metrics, exposition.text)
    }

    fn slis(&self, method: &str) -> Answer {
        if method == "DELETE" {
            self.shared.metrics.registered.reset_slis();
            return text("metrics reset\n");
        }
        let slis = self.shared.metrics.slis();
        answer(StatusCode::OK, Content::Metrics, slis)
    }

    fn healthz(&self, query: &str) -> Answer {
        self.shared.metrics.registered.pinged();
        let verbose = query
            .split('&')
            .any(|field| field == "verbose" || field.starts_with("verbose="));
        text(if verbose {
            "[+]ping ok\nhealthz check passed\n"
        } else {
            "ok"
        })
    }

    fn flagz(&self) -> Answer {
        let flags = self.shared.flags.iter();
        let lines: Vec<_> = flags
            .map(|(flag, value)| format!("{flag}={value}\n"))
            .collect();
        let lines = lines.concat();
        text(format!(
            "lb-agent: flags and what they are, for people to read\n\n{lines}"
        ))
    }

    fn statusz(&self) -> Answer {
        let started = self.shared.started;
        let now = Moment::now();
        let up = now.instant.saturating_duration_since(started.instant);
        text(format!(
            "lb-agent: how it is, for people to read\n\nStarted: {}\nUp: {:?}\nVersion: {}\nPaths: {PATHS}\n",
            started.wall,
            Duration::from_secs(up.as_secs()),
            env!("CARGO_PKG_VERSION"),
        ))
    }
}

impl Site for MetricsSite {
    async fn answer(&self, asked: Asked) -> Answer {
        match asked.path.as_str() {
            "/metrics" => self.metrics().await,
            "/metrics/slis" => self.slis(&asked.method),
            "/healthz" => self.healthz(&asked.query),
            "/healthz/ping" => text("ok"),
            "/proxyMode" => text(MODE),
            "/configz" => {
                let config = self.shared.configz.to_string();
                answer(StatusCode::OK, Content::Json, config)
            }
            "/flagz" => self.flagz(),
            "/statusz" => self.statusz(),
            _ => not_found(),
        }
    }
}

/// The health check port of a Service: the same on any path.
#[derive(Clone)]
pub(super) struct ServiceSite {
    /// What is known.
    pub(super) shared: Arc<Shared>,
    /// The Service, and the family it is asked about.
    pub(super) key: Key,
}

impl Site for ServiceSite {
    fn answer(&self, _: Asked) -> impl Future<Output = Answer> + Send {
        let local = self.shared.local_endpoints(&self.key);
        let healthy = self.shared.health().healthy(Moment::now());
        ready(service_health::tell(&self.key.service, local, healthy))
    }
}

fn text(body: impl Into<String>) -> Answer {
    answer(StatusCode::OK, Content::Text, body)
}

/// The runtime is on its way out.
fn unavailable() -> Answer {
    answer(StatusCode::SERVICE_UNAVAILABLE, Content::Text, "stopping\n")
}

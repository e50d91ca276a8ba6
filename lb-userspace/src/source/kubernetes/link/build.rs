//! From kubeconfig or service account to a client.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tower::{BoxError, ServiceBuilder};

use crate::source::kubernetes::{
    Access,
    failure::{Failure, root},
};

/// How long connecting may take. A SYN that was lost is sent again after a second.
const CONNECT: Duration = Duration::from_secs(3);

/// A silent connection is probed after this long, and given up after as many probes.
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 2;

/// What was sent must be acknowledged within this time.
const ACKNOWLEDGED: Duration = Duration::from_secs(15);

/// A client, and the address of its server.
///
/// Files are read and credential plugins run here, so it is done beside the agent's own thread.
pub(super) async fn client(
    access: Access,
    rest: Arc<AtomicU64>,
) -> Result<(Client, String), Failure> {
    let runtime = Handle::current();
    let built = spawn_blocking(move || {
        runtime.block_on(async {
            let config = config(&access).await?;
            let server = config.cluster_url.to_string();
            let client = connect(&config, rest).map_err(|error| Failure::Lost(root(&error)))?;
            Ok((client, server.trim_end_matches('/').to_owned()))
        })
    });
    built
        .await
        .unwrap_or_else(|error| Err(Failure::Lost(error.to_string())))
}

async fn config(access: &Access) -> Result<Config, Failure> {
    let Access { kubeconfig, server } = access;
    let mut config = match kubeconfig {
        Some(file) => {
            let unusable = |error: &kube::config::KubeconfigError| {
                Failure::Lost(format!("kubeconfig {}: {}", file.display(), root(error)))
            };
            let read = Kubeconfig::read_from(file).map_err(|error| unusable(&error))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .map_err(|error| unusable(&error))?
        }
        None => Config::incluster().map_err(|error| {
            Failure::Lost(format!("the Pod's service account: {}", root(&error)))
        })?,
    };
    if let Some(server) = server {
        let wrong = |error| Failure::Lost(format!("--master {server}: {error}"));
        config.cluster_url = server.parse().map_err(wrong)?;
    }
    Ok(config)
}

fn connect(config: &Config, rest: Arc<AtomicU64>) -> Result<Client, kube::Error> {
    let https = config.rustls_https_connector_with_connector(tcp())?;
    let http: Http<_, Body> = Http::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_response(move |response: http::Response<_>| {
            let asked = response.headers().get("retry-after");
            let seconds = asked.and_then(|value| value.to_str().ok()?.parse().ok());
            if let Some(seconds) = seconds {
                rest.store(seconds, Ordering::Relaxed);
            }
            response
        })
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// A server that vanished, or a network that swallows everything, is noticed within a quarter of a
/// minute, though a watch may be silent for much longer.
fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(PROBE));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp.set_tcp_user_timeout(Some(ACKNOWLEDGED));
    tcp
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kubeconfig, server } = self;
        match (server, kubeconfig) {
            (Some(server), _) => f.write_str(server),
            (None, Some(file)) => write!(f, "the address in {}", file.display()),
            (None, None) => f.write_str("the service account's address"),
        }
    }
}

//! From kubeconfig or service account to a client.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tower::{BoxError, ServiceBuilder, service_fn};

use crate::source::kubernetes::{
    Access,
    failure::{Failure, root},
    requests::Requests,
};

/// How long connecting may take. A SYN that was lost is sent again after a second.
const CONNECT: Duration = Duration::from_secs(3);

/// A silent connection is probed this often: its end by TCP, the server's by HTTP/2.
const PROBE: Duration = Duration::from_secs(5);

/// Probes of TCP after which a connection is given up.
const PROBES: u32 = 2;

/// How long what was sent, or a probe of HTTP/2, may be without an answer. A slow server takes
/// seconds to one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client, and the address of its server.
///
/// Files are read and credential plugins run here, so it is done beside the agent's own thread.
pub(super) async fn client(
    access: Access,
    rest: Arc<AtomicU64>,
    requests: Requests,
) -> Result<(Client, String), Failure> {
    let runtime = Handle::current();
    let built = spawn_blocking(move || {
        runtime.block_on(async {
            let config = config(&access).await?;
            let server = config.cluster_url.to_string();
            let client =
                connect(&config, rest, requests).map_err(|error| Failure::Lost(root(&error)))?;
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

fn connect(
    config: &Config,
    rest: Arc<AtomicU64>,
    requests: Requests,
) -> Result<Client, kube::Error> {
    let http: Http<_, Body> = Http::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PROBE)
        .http2_keep_alive_timeout(PATIENCE)
        .build(tls(config)?);
    let counted = service_fn(move |request| {
        let sent = requests.sent(&request);
        let answer = http.request(request);
        async move {
            let answer = answer.await;
            if let Ok(answer) = &answer {
                sent.answered(answer.status());
            }
            answer
        }
    });
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
        .service(counted);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// HTTP/2 where the server has it: one connection for all watches, and a server that hangs is told
/// from one that has nothing to say.
fn tls(config: &Config) -> Result<HttpsConnector<HttpConnector>, kube::Error> {
    let builder = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?);
    let mut builder = builder.https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into();
        let name = name.map_err(|error| kube::Error::Service(BoxError::from(error)))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_all_versions().wrap_connector(tcp()))
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
    tcp.set_tcp_user_timeout(Some(PATIENCE));
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

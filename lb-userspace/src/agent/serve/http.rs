//! The HTTP server that ours are: short answers to anyone, at a bounded cost.
//!
//! It runs on the agent's only thread, so nothing here waits but on a socket. A client that is slow,
//! or many that are, lose their connections: they never keep others from being answered.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::debug;

use super::answer::{Answer, Asked};

/// How long a client may take for the head of a request, waiting for the next one included.
const HEAD: Duration = Duration::from_secs(20);

/// How long a connection may last: one that is still open then is a client that does not read.
const LIFETIME: Duration = Duration::from_secs(300);

/// Bytes a connection may buffer: far more than any head that a probe sends.
const BUFFER: usize = 16 << 10;

/// The pause after accepting failed, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers requests.
pub(super) trait Site: Clone + Send + Sync + 'static {
    /// The answer to a request.
    fn answer(&self, asked: Asked) -> impl Future<Output = Answer> + Send;
}

/// Connections that share a limit. One more than it ends the oldest: those of clients that linger.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    limit: usize,
    open: Arc<Mutex<VecDeque<AbortHandle>>>,
}

impl Connections {
    /// At most `limit`.
    pub(super) fn at_most(limit: usize) -> Self {
        Self {
            limit,
            open: Arc::default(),
        }
    }

    fn admit(&self, connection: AbortHandle) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.is_finished());
        while open.len() >= self.limit
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(connection);
    }
}

/// Serves a site until dropped, and then ends its connections too.
pub(super) async fn serve(listener: TcpListener, site: impl Site, connections: Connections) {
    let mut own = JoinSet::new();
    loop {
        let stream = accept(&listener).await;
        while own.try_join_next().is_some() {}
        connections.admit(own.spawn(converse(stream, site.clone())));
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                debug!("cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the connection is at fault, not the node (accept(2)).
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn converse(stream: TcpStream, site: impl Site) {
    let service = service_fn(|request: Request<Incoming>| {
        let (site, asked) = (site.clone(), asked(&request));
        async move { Ok::<_, Infallible>(in_bytes(site.answer(asked).await)) }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .title_case_headers(true);
    let conversation = server.serve_connection(TokioIo::new(stream), service);
    // A client that breaks off or talks nonsense is no news.
    drop(timeout(LIFETIME, pin!(conversation)).await);
}

fn asked(request: &Request<Incoming>) -> Asked {
    Asked {
        method: request.method().as_str().to_owned(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
    }
}

fn in_bytes(answer: Answer) -> Response<Full<Bytes>> {
    answer.map(|body| Full::new(Bytes::from(body)))
}

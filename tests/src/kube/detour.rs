//! A worse way to a server: slow, silent or cut off, as the test says.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::Inside;

/// How many pieces of up to [`PIECE`] may be on their way.
const PIECES: usize = 4096;
const PIECE: usize = 16 * 1024;

/// A listener that carries connections to a server. Dropped, it cuts them.
#[derive(Debug)]
pub struct Detour {
    address: SocketAddr,
    state: watch::Sender<State>,
    carrier: AbortHandle,
}

/// What befalls connections.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    delay: Duration,
    silent: bool,
    /// Connections of earlier generations are cut.
    generation: u32,
}

impl Detour {
    /// A way to `server`, at a port of its own on `host`; as good as none until told otherwise.
    pub(super) fn start(inside: &Inside, host: Ipv4Addr, server: SocketAddr) -> Result<Self> {
        let listener = inside
            .run(TcpListener::bind((IpAddr::V4(host), 0)))?
            .context("cannot listen for a detour")?;
        let address = listener.local_addr()?;
        let (state, states) = watch::channel(State::default());
        let carrier = inside.spawn(accept(listener, server, states))?;
        Ok(Self {
            address,
            state,
            carrier: carrier.abort_handle(),
        })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has each reply come later by this much, those on their way included.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Holds everything back, also what begins or ends a connection, for as long as it is on.
    pub fn black_hole(&self, on: bool) {
        self.state.send_modify(|state| state.silent = on);
    }

    /// Cuts the connections that there are.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: watch::Receiver<State>) {
    // Aborted with this task, when it is.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let state = state.clone();
                    connections.spawn(async move { carry(client, server, state).await });
                }
                Err(error) => eprintln!("warning: a detour cannot accept: {error}"),
            },
            // How a connection ended is for its two ends to tell.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(
    client: TcpStream,
    server: SocketAddr,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let generation = state.borrow().generation;
    let mut states = state.clone();
    let both_ways = async {
        speaks(&mut states).await;
        let server = TcpStream::connect(server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let requests = async {
            requests(from_client, to_server, states.clone()).await.ok();
            // A client that has asked everything still waits for replies.
            std::future::pending::<io::Result<()>>().await
        };
        tokio::select! {
            outcome = replies(from_server, to_client, states.clone()) => outcome,
            outcome = requests => outcome,
        }
    };
    tokio::select! {
        outcome = both_ways => outcome,
        _ = state.wait_for(|state| state.generation != generation) => Ok(()),
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        speaks(&mut state).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// Reads as fast as the server writes, and hands on each piece when it is due.
async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE];
            // A connection that broke ends here as one that was closed.
            let length = from.read(&mut piece).await.unwrap_or(0);
            piece.truncate(length);
            if sender.send((Instant::now(), piece)).await.is_err() || length == 0 {
                return;
            }
        }
    };
    let write = async move {
        while let Some((came, piece)) = receiver.recv().await {
            is_due(came, &mut state).await;
            speaks(&mut state).await;
            if piece.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&piece).await?;
        }
        Ok(())
    };
    let ((), written) = tokio::join!(read, write);
    written
}

/// Waits until what came at that time has been delayed enough.
async fn is_due(came: Instant, state: &mut watch::Receiver<State>) {
    loop {
        let due = came + state.borrow_and_update().delay;
        tokio::select! {
            () = sleep_until(due) => return,
            // An error means that the detour is gone, and this task with it.
            Ok(()) = state.changed() => {}
        }
    }
}

/// Waits until nothing is held back.
async fn speaks(state: &mut watch::Receiver<State>) {
    // An error means that the detour is gone, and this task with it.
    state.wait_for(|state| !state.silent).await.ok();
}

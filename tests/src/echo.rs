//! The servers inside pods: they say who they are and who they think is asking.
//!
//! A UDP datagram, or a line over TCP, is answered with an [`Answer`] as one line of JSON. Over
//! TCP the line `transfer N` makes the server return the N bytes that follow it.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_buf},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
};

use crate::netns::Netns;

/// What a server tells its client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the server, e.g. of its pod.
    pub server: String,
    /// Source address and port the server saw.
    pub client: SocketAddr,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// Servers in one namespace, stopped when dropped.
#[derive(Debug)]
pub struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Serves TCP and UDP, IPv4 and IPv6, on these ports of every address of the namespace.
    pub fn start(netns: &Netns, server: &str, ports: &[u16]) -> Result<Self> {
        Self::on(netns.run(|| bind(ports))??, server)
    }

    /// The same in the namespace the process is in.
    pub fn here(server: &str, ports: &[u16]) -> Result<Self> {
        Self::on(bind(ports)?, server)
    }

    fn on(sockets: Listening, server: &str) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let server: Arc<str> = server.into();
        let thread = thread::Builder::new()
            .name(format!("serve {server}"))
            .spawn(move || {
                if let Err(error) = serve(sockets, &server, stopped) {
                    eprintln!("warning: a server stopped: {error:#}");
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Serves for as long as the process lives.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            drop(thread.join());
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

type Listening = (Vec<std::net::TcpListener>, Vec<std::net::UdpSocket>);

fn bind(ports: &[u16]) -> Result<Listening> {
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for port in ports {
        // The IPv6 wildcard takes IPv4 too.
        let address = (Ipv6Addr::UNSPECIFIED, *port);
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen on TCP port {port}"))?;
        listener.set_nonblocking(true)?;
        tcp.push(listener);
        let socket = std::net::UdpSocket::bind(address)
            .with_context(|| format!("cannot bind UDP port {port}"))?;
        socket.set_nonblocking(true)?;
        udp.push(socket);
    }
    Ok((tcp, udp))
}

fn serve((tcp, udp): Listening, server: &Arc<str>, stopped: oneshot::Receiver<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let context = runtime.enter();
    for listener in tcp {
        tokio::spawn(accept(TcpListener::from_std(listener)?, server.clone()));
    }
    for socket in udp {
        tokio::spawn(datagrams(UdpSocket::from_std(socket)?, server.clone()));
    }
    drop(context);
    // The sender is only ever dropped, which is what ends the wait.
    drop(runtime.block_on(stopped));
    Ok(())
}

async fn accept(listener: TcpListener, server: Arc<str>) {
    loop {
        // A connection that failed before it was accepted is the client's to notice.
        if let Ok((stream, client)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                // So is one that breaks.
                drop(converse(stream, &server, client).await);
            });
        }
    }
}

async fn converse(stream: TcpStream, server: &str, client: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    while reader.read_line(&mut line).await? > 0 {
        match line.trim_end().strip_prefix("transfer ") {
            Some(count) => {
                copy_buf(&mut (&mut reader).take(count.parse()?), &mut writer).await?;
            }
            None => writer.write_all(&answer(server, client)?).await?,
        }
        line.clear();
    }
    Ok(())
}

async fn datagrams(socket: UdpSocket, server: Arc<str>) {
    let mut datagram = [0; 64];
    loop {
        // Errors are those of earlier answers (a client that is gone).
        if let Ok((_, client)) = socket.recv_from(&mut datagram).await
            && let Ok(answer) = answer(&server, client)
        {
            drop(socket.send_to(&answer, client).await);
        }
    }
}

fn answer(server: &str, client: SocketAddr) -> Result<Vec<u8>> {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let mut line = serde_json::to_vec(&Answer {
        server: server.to_owned(),
        client,
    })?;
    line.push(b'\n');
    Ok(line)
}

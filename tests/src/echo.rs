//! The servers inside pods: they say who they are and who they think is asking.
//!
//! A UDP datagram, a message over SCTP, or a line over TCP, is answered with an [`Answer`] as one
//! line of JSON. Over TCP the line `transfer N` makes the server return the N bytes that follow it; so it does over an
//! SCTP association of the kernel's.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use rustix::net::ipproto;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_buf},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
};

use crate::{crafted, netns::Netns, sctp};

/// What a server tells its client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the server, e.g. of its pod.
    pub server: String,
    /// Port it was reached at.
    pub port: u16,
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
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Both that sockets have everywhere.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];
    /// All.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

/// Servers in one namespace, stopped when dropped.
#[derive(Debug)]
pub struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Serves all protocols, IPv4 and IPv6, on these ports of every address of the namespace.
    pub fn start(netns: &Netns, server: &str, ports: &[u16]) -> Result<Self> {
        Self::on(netns.run(|| bind(ports))??, server)
    }

    /// The same in the namespace the process is in.
    pub fn here(server: &str, ports: &[u16]) -> Result<Self> {
        Self::on(bind(ports)?, server)
    }

    /// Serves associations of the kernel's own SCTP at these addresses, as [`start`](Self::start) does connections. None
    /// of them may be a wildcard: a peer would be told all addresses of the namespace, and use them.
    pub fn associations(netns: &Netns, server: &str, at: &[SocketAddr]) -> Result<Self> {
        let listen = |address: &SocketAddr| {
            let socket = sctp::listen(*address);
            let listener = std::net::TcpListener::from(
                socket.with_context(|| format!("cannot listen on {address} for SCTP"))?,
            );
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listening = netns.run(|| at.iter().map(listen).collect::<Result<_>>())?;
        let sockets = Listening {
            streams: listening?,
            udp: Vec::new(),
            sctp: Vec::new(),
            ports: Arc::default(),
        };
        Self::on(sockets, server)
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

/// A datagram that begins like this comes back as it is.
pub(crate) const ECHO: &[u8] = b"echo ";

struct Listening {
    /// For connections of TCP, and of the kernel's SCTP: to who reads and writes these are the same.
    streams: Vec<std::net::TcpListener>,
    udp: Vec<std::net::UdpSocket>,
    /// Raw sockets, one a family, that have what is for any port.
    sctp: Vec<std::net::UdpSocket>,
    ports: Arc<[u16]>,
}

fn bind(ports: &[u16]) -> Result<Listening> {
    let (mut streams, mut udp, mut sctp) = (Vec::new(), Vec::new(), Vec::new());
    for any in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
        let socket = crafted::raw(any, ipproto::SCTP).context("cannot listen for SCTP")?;
        let socket = std::net::UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        sctp.push(socket);
    }
    for port in ports {
        // The IPv6 wildcard takes IPv4 too.
        let address = (Ipv6Addr::UNSPECIFIED, *port);
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen on TCP port {port}"))?;
        listener.set_nonblocking(true)?;
        streams.push(listener);
        let socket = std::net::UdpSocket::bind(address)
            .with_context(|| format!("cannot bind UDP port {port}"))?;
        socket.set_nonblocking(true)?;
        udp.push(socket);
    }
    let ports = ports.into();
    Ok(Listening {
        streams,
        udp,
        sctp,
        ports,
    })
}

fn serve(sockets: Listening, server: &Arc<str>, stopped: oneshot::Receiver<()>) -> Result<()> {
    let Listening {
        streams,
        udp,
        sctp,
        ports,
    } = sockets;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let context = runtime.enter();
    for listener in streams {
        tokio::spawn(accept(TcpListener::from_std(listener)?, server.clone()));
    }
    for socket in udp {
        tokio::spawn(datagrams(UdpSocket::from_std(socket)?, server.clone()));
    }
    for socket in sctp {
        let socket = UdpSocket::from_std(socket)?;
        tokio::spawn(messages(socket, ports.clone(), server.clone()));
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
    // SCTP has no such option of TCP's.
    drop(stream.set_nodelay(true));
    let port = stream.local_addr()?.port();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    while reader.read_line(&mut line).await? > 0 {
        match line.trim_end().strip_prefix("transfer ") {
            Some(count) => {
                copy_buf(&mut (&mut reader).take(count.parse()?), &mut writer).await?;
            }
            None => writer.write_all(&answer(server, port, client)?).await?,
        }
        line.clear();
    }
    Ok(())
}

async fn datagrams(socket: UdpSocket, server: Arc<str>) {
    let mut datagram = vec![0; 1 << 16];
    loop {
        // Errors are those of earlier answers (a client that is gone).
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        let question = &datagram[..length];
        if question.starts_with(ECHO) {
            drop(socket.send_to(question, client).await);
        } else if let Ok(own) = socket.local_addr()
            && let Ok(answer) = answer(&server, own.port(), client)
        {
            drop(socket.send_to(&answer, client).await);
        }
    }
}

async fn messages(socket: UdpSocket, ports: Arc<[u16]>, server: Arc<str>) {
    let mut packet = [0; 1500];
    loop {
        if let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            let speak = |port, own| answer(&server, own, SocketAddr::new(peer.ip(), port)).ok();
            if let Some(said) = sctp::answer(&packet[..length], peer.ip(), &ports, speak) {
                drop(socket.send_to(&said, peer).await);
            }
        }
    }
}

fn answer(server: &str, port: u16, client: SocketAddr) -> Result<Vec<u8>> {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let mut line = serde_json::to_vec(&Answer {
        server: server.to_owned(),
        port,
        client,
    })?;
    line.push(b'\n');
    Ok(line)
}

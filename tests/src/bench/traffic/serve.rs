//! The servers in a pod: a thread each, plain and blocking, so that what is measured is the way there.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};

use super::cpu::{self, Cpu};
use crate::netns::Netns;

/// TCP: answers one request and closes the connection.
pub(super) const ONCE: u16 = 7001;
/// TCP: answers requests until the client closes the connection.
pub(super) const OFTEN: u16 = 7002;
/// TCP: sends until the client closes the connection.
pub(super) const BULK: u16 = 7003;
/// UDP: answers datagrams.
pub(super) const DATAGRAMS: u16 = 7004;
/// UDP: takes datagrams and says nothing.
pub(super) const SINK: u16 = 7005;

/// The length of a request, and that of an answer.
pub(super) const MESSAGE: usize = 64;
/// How much is written, and read, at a time.
pub(super) const PIECE: usize = 128 << 10;

/// Nothing stays in `TIME_WAIT`. A proxy that masquerades has another source port for each connection, drawn
/// at random: with thousands waiting from before, some are refused at first and tried again after 8 ms, which
/// with one client and one server tells more of how long the measurement is than of the proxy.
const NO_TIME_WAIT: [(&str, &str); 1] = [("net/ipv4/tcp_max_tw_buckets", "0")];

type Loop<S> = fn(&S, &AtomicBool) -> io::Result<()>;

/// Servers, ended when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    netns: Netns,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// What nobody reads from: what does not fit into its buffer is dropped there.
    _sink: UdpSocket,
}

impl Servers {
    /// Starts them in a pod.
    pub(super) fn start(netns: &Netns) -> Result<Self> {
        netns.sysctl(&NO_TIME_WAIT)?;
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let bind = || -> io::Result<_> {
            let [once, often, bulk] = [ONCE, OFTEN, BULK].map(|port| TcpListener::bind(any(port)));
            let [datagrams, sink] = [DATAGRAMS, SINK].map(|port| UdpSocket::bind(any(port)));
            Ok((once?, often?, bulk?, datagrams?, sink?))
        };
        let (tcp_once, tcp_often, tcp_bulk, datagrams, sink) =
            netns.run(bind)?.context("cannot serve in a pod")?;
        let mut servers = Self {
            netns: netns.try_clone()?,
            ended: Arc::default(),
            threads: Vec::new(),
            _sink: sink,
        };
        servers.spawn("once", tcp_once, once)?;
        servers.spawn("often", tcp_often, often)?;
        servers.spawn("bulk", tcp_bulk, bulk)?;
        servers.spawn("datagrams", datagrams, answers)?;
        Ok(servers)
    }

    fn spawn<S: Send + 'static>(&mut self, name: &str, socket: S, serve: Loop<S>) -> Result<()> {
        let ended = Arc::clone(&self.ended);
        let serve = move || {
            let served = cpu::pin(Cpu::SERVER).and_then(|()| Ok(serve(&socket, &ended)?));
            if let Err(error) = served {
                eprintln!("warning: a server stopped: {error:#}");
            }
        };
        let thread = thread::Builder::new().name(format!("serve {name}"));
        self.threads.push(thread.spawn(serve)?);
        Ok(())
    }
}

/// Gives each thread something to do, so that it sees that it is to end.
fn wake() -> io::Result<()> {
    for port in [ONCE, OFTEN, BULK] {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    }
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.send_to(&[], (Ipv4Addr::LOCALHOST, DATAGRAMS))?;
    Ok(())
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        match self.netns.run(wake) {
            Ok(Ok(())) => {
                for thread in self.threads.drain(..) {
                    // A panic there has been printed already.
                    drop(thread.join());
                }
            }
            Ok(Err(error)) => eprintln!("warning: servers do not end: {error}"),
            Err(error) => eprintln!("warning: servers do not end: {error:#}"),
        }
    }
}

/// Serves one connection after the other. One that breaks is the client's to notice.
fn connections(
    listener: &TcpListener,
    ended: &AtomicBool,
    mut serve: impl FnMut(TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        if ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        drop(serve(stream));
    }
}

/// The server ends first, so that no port of the client's is kept in `TIME_WAIT`, and the client has ended
/// too before the server lets go of its socket.
fn once(listener: &TcpListener, ended: &AtomicBool) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    connections(listener, ended, |mut stream| {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
        stream.shutdown(Shutdown::Write)?;
        stream.read(&mut message).map(drop)
    })
}

fn often(listener: &TcpListener, ended: &AtomicBool) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    connections(listener, ended, |mut stream| {
        stream.set_nodelay(true)?;
        loop {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
    })
}

fn bulk(listener: &TcpListener, ended: &AtomicBool) -> io::Result<()> {
    let piece = vec![0; PIECE];
    connections(listener, ended, |mut stream| {
        loop {
            stream.write_all(&piece)?;
        }
    })
}

fn answers(socket: &UdpSocket, ended: &AtomicBool) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    while !ended.load(Ordering::Relaxed) {
        let (length, client) = socket.recv_from(&mut message)?;
        // A client that has gone is told of by an error of what was sent before.
        drop(socket.send_to(&message[..length], client));
    }
    Ok(())
}

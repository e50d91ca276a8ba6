//! Clients of the [`echo`](crate::echo) servers, from inside any namespace.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::net::{
    AddressFamily, SocketType, bind, connect, socket,
    sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout},
};

use crate::{
    echo::{Answer, Protocol},
    netns::Netns,
};

/// How long one step of a conversation may take.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A TCP connection or a connected UDP socket: one flow.
#[derive(Debug)]
pub struct Conversation {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Conversation {
    /// Begins a flow to `to`; over TCP that is the handshake. `from` is a source port, 0 for any.
    pub fn open(netns: &Netns, protocol: Protocol, to: SocketAddr, from: u16) -> io::Result<Self> {
        let from = SocketAddr::new(unspecified(to.ip()), from);
        Self::open_from(netns, protocol, to, from)
    }

    /// The same from one of several addresses.
    pub fn open_from(
        netns: &Netns,
        protocol: Protocol,
        to: SocketAddr,
        from: SocketAddr,
    ) -> io::Result<Self> {
        netns
            .run(|| open(protocol, to, from, PATIENCE))
            .map_err(io::Error::other)?
    }

    /// Asks once and returns the answer.
    pub fn ask(&mut self) -> io::Result<Answer> {
        let line = match &mut self.socket {
            Socket::Tcp(stream) => ask_tcp(stream)?,
            Socket::Udp(socket) => ask_udp(socket)?,
        };
        Ok(serde_json::from_slice(&line)?)
    }

    /// Our own end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Tcp(stream) => stream.get_ref().local_addr(),
            Socket::Udp(socket) => socket.local_addr(),
        }
    }

    /// The other end, as the kernel tells it.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Tcp(stream) => stream.get_ref().peer_addr(),
            Socket::Udp(socket) => socket.peer_addr(),
        }
    }

    /// Sends `count` bytes over TCP, both ways at once, and checks that the same came back.
    pub fn transfer(&mut self, count: usize) -> Result<()> {
        let Socket::Tcp(stream) = &mut self.socket else {
            return Err(anyhow!("only TCP transfers streams"));
        };
        let mut writer = stream.get_ref().try_clone()?;
        let sent = noise(count);
        let mut received = vec![0; count];
        thread::scope(|scope| -> Result<()> {
            let sending = scope.spawn(|| {
                writer.write_all(format!("transfer {count}\n").as_bytes())?;
                writer.write_all(&sent)
            });
            stream
                .read_exact(&mut received)
                .context("cannot read all of a transfer back")?;
            sending
                .join()
                .map_err(|_| anyhow!("the sender panicked"))??;
            Ok(())
        })?;
        ensure!(sent == received, "{count} bytes came back changed");
        Ok(())
    }
}

/// A UDP socket that is connected to nobody.
#[derive(Debug)]
pub struct Loose {
    socket: UdpSocket,
}

impl Loose {
    /// A socket of the family of `to`.
    pub fn open(netns: &Netns, to: SocketAddr) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((unspecified(to.ip()), 0)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Asks `to`; its answer, and whom the kernel says that is from.
    pub fn ask(&self, to: SocketAddr) -> io::Result<(Answer, SocketAddr)> {
        self.socket.send_to(b"who\n", to)?;
        let mut datagram = vec![0; 1500];
        let (length, from) = self.socket.recv_from(&mut datagram).map_err(no_answer)?;
        Ok((serde_json::from_slice(&datagram[..length])?, from))
    }
}

/// The address that means any, of the family of `ip`.
fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A flow of one question.
pub fn ask(netns: &Netns, protocol: Protocol, to: SocketAddr) -> io::Result<Answer> {
    Conversation::open(netns, protocol, to, 0)?.ask()
}

/// The same, with less patience.
pub fn ask_within(
    netns: &Netns,
    protocol: Protocol,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<Answer> {
    let from = SocketAddr::new(unspecified(to.ip()), 0);
    let open = || open(protocol, to, from, patience);
    netns.run(open).map_err(io::Error::other)??.ask()
}

fn open(
    protocol: Protocol,
    to: SocketAddr,
    from: SocketAddr,
    patience: Duration,
) -> io::Result<Conversation> {
    let family = match to.ip() {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let descriptor = socket(family, kind, None)?;
    // The send timeout is also that of connecting.
    set_socket_timeout(&descriptor, Timeout::Send, Some(patience))?;
    set_socket_timeout(&descriptor, Timeout::Recv, Some(patience))?;
    if from.port() != 0 || !from.ip().is_unspecified() {
        set_socket_reuseaddr(&descriptor, true)?;
        bind(&descriptor, &from)?;
    }
    connect(&descriptor, &to).map_err(timed_out)?;
    let socket = match protocol {
        Protocol::Tcp => {
            let stream = TcpStream::from(descriptor);
            stream.set_nodelay(true)?;
            Socket::Tcp(BufReader::new(stream))
        }
        Protocol::Udp => Socket::Udp(UdpSocket::from(descriptor)),
    };
    Ok(Conversation { socket })
}

/// A connect that outlives its timeout reports `EINPROGRESS`.
fn timed_out(error: rustix::io::Errno) -> io::Error {
    if error == rustix::io::Errno::INPROGRESS {
        return io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer to the connection attempt",
        );
    }
    error.into()
}

fn ask_tcp(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    stream.get_mut().write_all(b"who\n")?;
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line).map_err(no_answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

fn ask_udp(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    socket.send(b"who\n")?;
    let mut datagram = vec![0; 1500];
    let length = socket.recv(&mut datagram).map_err(no_answer)?;
    datagram.truncate(length);
    Ok(datagram)
}

fn no_answer(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, "no answer");
    }
    error
}

/// Bytes in which a shifted, lost or repeated piece shows (a linear congruential generator).
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

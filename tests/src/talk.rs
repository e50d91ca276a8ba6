//! Clients of the [`echo`](crate::echo) servers, from inside any namespace.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use rustix::{
    fd::OwnedFd,
    net::{
        SocketType, bind, connect, ipproto, socket,
        sockopt::{Timeout, set_ipv6_unicast_hops, set_socket_reuseaddr, set_socket_timeout},
    },
};

use crate::{
    crafted::{family, raw},
    echo::{Answer, ECHO, Protocol},
    netns::Netns,
    patience::patient,
    sctp::{self, Association},
};

/// How much is sent at a time, in bytes.
const PIECE: usize = 16 << 10;

/// How long one step of a conversation may take.
pub fn patience() -> Duration {
    patient(Duration::from_secs(2))
}

/// A TCP connection, a connected UDP socket or an SCTP association: one flow.
#[derive(Debug)]
pub struct Conversation {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// Of TCP, or of the kernel's SCTP.
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
    Sctp(Association),
}

impl Conversation {
    /// Begins a flow to `to`; over TCP and SCTP that is the handshake. `from` is a source port, 0 for
    /// any.
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
        Self::open_within(netns, protocol, to, from, patience())
    }

    /// The same, with another patience for each step of it.
    pub fn open_within(
        netns: &Netns,
        protocol: Protocol,
        to: SocketAddr,
        from: SocketAddr,
        patience: Duration,
    ) -> io::Result<Self> {
        netns
            .run(|| open(protocol, to, from, patience))
            .map_err(io::Error::other)?
    }

    /// Begins a flow to `to` with the kernel's own SCTP. `from` is the only address that the peer is told, so that it
    /// keeps to the one way.
    pub fn associate(netns: &Netns, to: SocketAddr, from: IpAddr) -> io::Result<Self> {
        let open = || -> io::Result<_> {
            let socket = sctp::stream(family(to.ip()))?;
            let from = SocketAddr::new(from, 0);
            let socket = connected_by(socket, to, Some(from), patience())?;
            let socket = Socket::Tcp(BufReader::new(socket.into()));
            Ok(Self { socket })
        };
        netns.run(open).map_err(io::Error::other)?
    }

    /// Asks once and returns the answer.
    pub fn ask(&mut self) -> io::Result<Answer> {
        let line = match &mut self.socket {
            Socket::Tcp(stream) => ask_tcp(stream)?,
            Socket::Udp(socket) => ask_udp(socket)?,
            Socket::Sctp(association) => association.ask(b"who\n").map_err(no_answer)?,
        };
        Ok(serde_json::from_slice(&line)?)
    }

    /// Sends a UDP datagram of `count` bytes, and checks that the same came back.
    pub fn echo(&mut self, count: usize) -> Result<()> {
        let Socket::Udp(socket) = &self.socket else {
            return Err(anyhow!("only datagrams are echoed"));
        };
        let mut sent = noise(count);
        sent.splice(..ECHO.len(), ECHO.iter().copied());
        socket.send(&sent)?;
        let mut received = vec![0; count + 1];
        let length = socket.recv(&mut received).map_err(no_answer)?;
        ensure!(received[..length] == sent, "{length} other bytes came back");
        Ok(())
    }

    /// Changes how long a step may take from here on.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(stream) => stream.get_ref().set_read_timeout(Some(patience)),
            Socket::Udp(socket) => socket.set_read_timeout(Some(patience)),
            Socket::Sctp(association) => association.set_patience(patience),
        }
    }

    /// Our own end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Tcp(stream) => stream.get_ref().local_addr(),
            Socket::Udp(socket) => socket.local_addr(),
            Socket::Sctp(association) => association.local(),
        }
    }

    /// The other end, as the kernel tells it.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Tcp(stream) => stream.get_ref().peer_addr(),
            Socket::Udp(socket) => socket.peer_addr(),
            Socket::Sctp(association) => Ok(association.peer()),
        }
    }

    /// Sends `count` bytes over TCP or the kernel's SCTP, both ways at once, and checks that the same came back.
    pub fn transfer(&mut self, count: usize) -> Result<()> {
        let Socket::Tcp(stream) = &mut self.socket else {
            return Err(anyhow!("only TCP and the kernel's SCTP transfer streams"));
        };
        let mut writer = stream.get_ref().try_clone()?;
        let sent = noise(count);
        let mut received = vec![0; count];
        thread::scope(|scope| -> Result<()> {
            let sending = scope.spawn(|| {
                writer.write_all(format!("transfer {count}\n").as_bytes())?;
                // SCTP makes a message of each, and takes none that is longer than its buffer.
                sent.chunks(PIECE)
                    .try_for_each(|piece| writer.write_all(piece))
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
        socket.set_read_timeout(Some(patience()))?;
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
pub fn unspecified(ip: IpAddr) -> IpAddr {
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
    Conversation::open_within(netns, protocol, to, from, patience)?.ask()
}

fn open(
    protocol: Protocol,
    to: SocketAddr,
    from: SocketAddr,
    patience: Duration,
) -> io::Result<Conversation> {
    let socket = match protocol {
        Protocol::Tcp => {
            let stream = TcpStream::from(connected(SocketType::STREAM, to, from, patience)?);
            stream.set_nodelay(true)?;
            Socket::Tcp(BufReader::new(stream))
        }
        Protocol::Udp => Socket::Udp(connected(SocketType::DGRAM, to, from, patience)?.into()),
        Protocol::Sctp => Socket::Sctp(Association::open(to, from, patience).map_err(no_answer)?),
    };
    Ok(Conversation { socket })
}

/// A connected socket, from any port where 0 is said.
pub(crate) fn connected(
    kind: SocketType,
    to: SocketAddr,
    from: SocketAddr,
    patience: Duration,
) -> io::Result<OwnedFd> {
    let descriptor = socket(family(to.ip()), kind, None)?;
    let chosen = from.port() != 0 || !from.ip().is_unspecified();
    if chosen {
        // Past connections that wait may share the port. Datagram sockets that do, live ones too, would
        // take each other's answers.
        set_socket_reuseaddr(&descriptor, kind == SocketType::STREAM)?;
    }
    connected_by(descriptor, to, chosen.then_some(from), patience)
}

/// Connects a socket, from an address or any.
fn connected_by(
    descriptor: OwnedFd,
    to: SocketAddr,
    from: Option<SocketAddr>,
    patience: Duration,
) -> io::Result<OwnedFd> {
    // The send timeout is also that of connecting.
    set_socket_timeout(&descriptor, Timeout::Send, Some(patience))?;
    set_socket_timeout(&descriptor, Timeout::Recv, Some(patience))?;
    if let Some(from) = from {
        bind(&descriptor, &from)?;
    }
    connect(&descriptor, &to).map_err(timed_out)?;
    Ok(descriptor)
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

/// Sends an ICMP echo request and waits for the reply.
pub fn ping(netns: &Netns, to: IpAddr) -> io::Result<()> {
    // Sockets for pings are for the groups that are named here.
    let everybody = [("net/ipv4/ping_group_range", "0 2147483647")];
    netns.sysctl(&everybody).map_err(io::Error::other)?;
    let (protocol, request) = match to {
        IpAddr::V4(_) => (ipproto::ICMP, 8),
        IpAddr::V6(_) => (ipproto::ICMPV6, 128),
    };
    let make = || socket(family(to), SocketType::DGRAM, Some(protocol));
    let socket = UdpSocket::from(netns.run(make).map_err(io::Error::other)??);
    socket.set_read_timeout(Some(patience()))?;
    socket.connect((to, 0))?;
    // The kernel has identifier and checksum put in.
    socket.send(&[request, 0, 0, 0, 0, 0, 0, 1])?;
    socket.recv(&mut [0; 64]).map(drop).map_err(no_answer)
}

/// Sends a datagram that comes no further than so many hops, as tracing a route does: who says so, and
/// to whom the datagram went that is quoted.
pub fn trace(netns: &Netns, to: SocketAddr, hops: u8) -> Result<(IpAddr, SocketAddr)> {
    let (protocol, expired) = match to {
        SocketAddr::V4(_) => (ipproto::ICMP, 11),
        SocketAddr::V6(_) => (ipproto::ICMPV6, 3),
    };
    let make = || -> io::Result<_> {
        let socket = UdpSocket::bind((unspecified(to.ip()), 0))?;
        Ok((UdpSocket::from(raw(to.ip(), protocol)?), socket))
    };
    let (errors, socket) = netns.run(make)??;
    errors.set_read_timeout(Some(patience()))?;
    match to {
        SocketAddr::V4(_) => socket.set_ttl(hops.into())?,
        SocketAddr::V6(_) => set_ipv6_unicast_hops(&socket, Some(hops))?,
    }
    socket.send_to(b"who\n", to)?;
    let mut bytes = vec![0; 1500];
    loop {
        let (length, from) = errors.recv_from(&mut bytes).map_err(no_answer)?;
        // Of IPv4 the header comes too.
        let header = match to {
            SocketAddr::V4(_) => usize::from(bytes[0] & 0x0f) * 4,
            SocketAddr::V6(_) => 0,
        };
        if let Some([kind, _, _, _, _, _, _, _, quote @ ..]) = bytes[..length].get(header..)
            && *kind == expired
        {
            return Ok((from.ip(), destination(quote)?));
        }
    }
}

/// Where a UDP packet goes, from its IP header on; of which there is so much as is quoted.
fn destination(packet: &[u8]) -> Result<SocketAddr> {
    let packet = LaxSlicedPacket::from_ip(packet)?;
    let ip = match packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => ip.header().destination_addr().into(),
        Some(LaxNetSlice::Ipv6(ip)) => ip.header().destination_addr().into(),
        Some(LaxNetSlice::Arp(_)) | None => bail!("no IP packet is quoted"),
    };
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => Ok(SocketAddr::new(ip, udp.destination_port())),
        _ => bail!("no datagram is quoted"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_flows_of_datagrams_never_share_a_port() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = server.local_addr().unwrap();
        let from = |port| SocketAddr::new(to.ip(), port);
        let first = open(Protocol::Udp, to, from(0), patience()).unwrap();
        let Socket::Udp(first) = first.socket else {
            panic!("not a socket for datagrams");
        };
        let taken = from(first.local_addr().unwrap().port());
        let second = open(Protocol::Udp, to, taken, patience());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}

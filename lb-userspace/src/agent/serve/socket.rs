//! Listening sockets.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};
use thiserror::Error;
use tokio::net::TcpListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::agent) enum Bind {
    /// On every address of both families, as far as the node has them.
    Any(u16),
    /// On every address of one family.
    AnyOf(Family, u16),
    /// On one address.
    One(SocketAddr),
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::agent) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A text is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no IP address with a port, such as 0.0.0.0:10256 or [::1]:10249")]
pub(in crate::agent) struct NotAnAddress(String);

impl FromStr for Bind {
    type Err = NotAnAddress;

    /// An address with a port. The unspecified address of either family, and none, stand for every
    /// address of both (SEMANTICS I9).
    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let wrong = || NotAnAddress(text.to_owned());
        if let Some(port) = text.strip_prefix(':') {
            return port.parse().map(Self::Any).map_err(|_| wrong());
        }
        let at: SocketAddr = text.parse().map_err(|_| wrong())?;
        if at.ip().is_unspecified() {
            Ok(Self::Any(at.port()))
        } else {
            Ok(Self::One(at))
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Any(port) => write!(f, "port {port} of every address"),
            Self::AnyOf(Family::V4, port) => write!(f, "port {port} of every IPv4 address"),
            Self::AnyOf(Family::V6, port) => write!(f, "port {port} of every IPv6 address"),
            Self::One(at) => at.fmt(f),
        }
    }
}

impl Bind {
    /// Opens the listening socket. To be called inside the runtime that will accept from it.
    pub(super) fn open(self) -> io::Result<TcpListener> {
        match self {
            Self::One(at) => open(at, false),
            Self::AnyOf(Family::V4, port) => open(any(Ipv4Addr::UNSPECIFIED.into(), port), false),
            Self::AnyOf(Family::V6, port) => open(any(Ipv6Addr::UNSPECIFIED.into(), port), true),
            Self::Any(port) => match open(any(Ipv6Addr::UNSPECIFIED.into(), port), false) {
                Err(error) if lacks_ipv6(&error) => {
                    open(any(Ipv4Addr::UNSPECIFIED.into(), port), false)
                }
                opened => opened,
            },
        }
    }
}

const fn any(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Whether the node has no IPv6, or none in this network namespace.
fn lacks_ipv6(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::AFNOSUPPORT) || errno == Some(Errno::ADDRNOTAVAIL)
}

fn open(at: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // So that connections of an earlier agent, closed but not forgotten, are not in the way.
    set_socket_reuseaddr(&socket, true)?;
    if at.is_ipv6() {
        set_ipv6_v6only(&socket, only_v6)?;
    }
    bind(&socket, &at)?;
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_addresses_of_either_family() {
        let rows = [
            "0.0.0.0:10256",
            "[::]:10256",
            ":10256",
            "127.0.0.1:10249",
            "[::1]:10249",
            "192.0.2.1:0",
            "10256",
            "localhost:10256",
            "::1:10256",
            "[::1]",
            "0.0.0.0:65536",
            ":",
            "",
        ];
        let shown = rows.map(|row| match row.parse::<Bind>() {
            Ok(bind) => format!("{row:?}: {bind}"),
            Err(error) => format!("{row:?}: error: {error}"),
        });
        insta::assert_snapshot!(shown.join("\n"));
    }

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn i9_any_takes_both_families_and_one_family_leaves_the_other_free() {
        let any = Bind::Any(0).open().unwrap();
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            tokio::net::TcpStream::connect((ip, port(&any)))
                .await
                .unwrap();
        }
        let v6 = Bind::AnyOf(Family::V6, 0).open().unwrap();
        let v4 = Bind::AnyOf(Family::V4, port(&v6)).open().unwrap();
        assert_eq!(port(&v4), port(&v6));
        let taken = Bind::AnyOf(Family::V4, port(&v6)).open().unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}

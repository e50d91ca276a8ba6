//! Sockets of a network namespace, as the kernel tells of them and destroys them over netlink
//! (`sock_diag(7)`).

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use lb_common::{proto, socket::Cookie};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkPayload},
    sys::protocols::NETLINK_SOCK_DIAG,
};

use crate::agent::netlink::Asker;

/// A protocol whose sockets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::agent) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The IP header's number of the protocol.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
        }
    }

    /// States of sockets that are connected to another end.
    const fn connected(self) -> StateFlags {
        match self {
            Self::Udp => StateFlags::ESTABLISHED,
            Self::Tcp => StateFlags::ESTABLISHED
                .union(StateFlags::SYN_SENT)
                .union(StateFlags::FIN_WAIT1)
                .union(StateFlags::FIN_WAIT2)
                .union(StateFlags::CLOSE_WAIT)
                .union(StateFlags::LAST_ACK)
                .union(StateFlags::CLOSING),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A family of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    /// May be connected to an IPv4 address, too.
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    const fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }

    fn any(self) -> SocketId {
        match self {
            Self::V4 => SocketId::new_v4(),
            Self::V6 => SocketId::new_v6(),
        }
    }
}

/// A socket that is connected to another end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connected {
    protocol: Protocol,
    family: u8,
    id: SocketId,
}

impl Connected {
    /// The socket's name among all that there are.
    pub(super) fn cookie(&self) -> Cookie {
        let [l0, l1, l2, l3, h0, h1, h2, h3] = self.id.cookie;
        let low = u32::from_ne_bytes([l0, l1, l2, l3]);
        let high = u32::from_ne_bytes([h0, h1, h2, h3]);
        Cookie::new(u64::from(high) << 32 | u64::from(low))
    }

    /// Its other end; of an IPv6 socket that talks IPv4, the IPv4 address.
    pub(super) fn peer(&self) -> SocketAddr {
        let ip = match self.id.destination_address {
            IpAddr::V6(ip) => ip.to_canonical(),
            ip @ IpAddr::V4(_) => ip,
        };
        SocketAddr::new(ip, self.id.destination_port)
    }
}

/// Who asks for sockets.
pub(super) struct Diag(Asker);

impl Diag {
    /// In the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        Asker::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Goes through the connected sockets of a protocol and a family.
    pub(super) fn each(
        &mut self,
        protocol: Protocol,
        family: Family,
        mut take: impl FnMut(Connected),
    ) -> io::Result<()> {
        let request = InetRequest {
            family: family.number(),
            protocol: protocol.number(),
            extensions: ExtensionFlags::empty(),
            states: protocol.connected(),
            socket_id: family.any(),
        };
        let message = SockDiagMessage::InetRequest(request);
        self.0.send(NLM_F_REQUEST | NLM_F_DUMP, message)?;
        self.0.answers(|message| {
            if let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) =
                message.payload
            {
                let InetResponseHeader {
                    family, socket_id, ..
                } = response.header;
                take(Connected {
                    protocol,
                    family,
                    id: socket_id,
                });
            }
        })
    }

    /// Destroys a socket: its process gets `ECONNABORTED` from the next call. Returns whether it
    /// was still there.
    pub(super) fn destroy(&mut self, socket: Connected) -> io::Result<bool> {
        let Connected {
            protocol,
            family,
            id,
        } = socket;
        let states = protocol.connected();
        let message = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: protocol.number(),
            extensions: ExtensionFlags::empty(),
            states,
            socket_id: id,
        });
        let message = SockDiagDestroy::new(message);
        self.0.send(NLM_F_REQUEST | NLM_F_ACK, message)?;
        match self.0.answers::<SockDiagMessage>(|_| {}) {
            Ok(()) => Ok(true),
            // It is gone, or another one has its addresses by now.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

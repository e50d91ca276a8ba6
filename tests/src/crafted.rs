//! Packets that no socket of the kernel's sends by itself, by way of raw sockets: the kernel puts
//! the IP header before them.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context, Result, bail};
use etherparse::TcpHeader;
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, Protocol, SocketType, bind, ipproto, socket},
};

use crate::netns::Netns;

/// The payload of [`segment`]s, by which a capture knows them.
pub const MARK: &[u8] = b"not in this stream";

/// A raw socket of the family of `ip`. Addresses it is given have port 0.
pub(crate) fn raw(ip: IpAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    Ok(socket(family(ip), SocketType::RAW, Some(protocol))?)
}

/// The family of an address.
pub(crate) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    }
}

/// Sends a TCP segment with [`MARK`] as payload, whatever the connection between these ends is at.
pub fn segment(netns: &Netns, from: SocketAddr, to: SocketAddr, sequence: u32) -> Result<()> {
    let mut header = TcpHeader::new(from.port(), to.port(), sequence, 1000);
    header.ack = true;
    header.checksum = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.calc_checksum_ipv4_raw(from.octets(), to.octets(), MARK)?
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.calc_checksum_ipv6_raw(from.octets(), to.octets(), MARK)?
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            bail!("{from} and {to} are of two families")
        }
    };
    let bytes = [&header.to_bytes(), MARK].concat();
    let send = || -> io::Result<()> {
        let socket = raw(from.ip(), ipproto::TCP)?;
        bind(&socket, &SocketAddr::new(from.ip(), 0))?;
        let peer = SocketAddr::new(to.ip(), 0);
        UdpSocket::from(socket).send_to(&bytes, peer).map(drop)
    };
    netns
        .run(send)?
        .with_context(|| format!("cannot send a segment from {from} to {to}"))
}

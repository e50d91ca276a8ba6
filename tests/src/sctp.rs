//! Just enough of SCTP (RFC 9260) to ask and to answer, on raw sockets: kernels need not have any. And sockets of the
//! kernel's own, where it has it.
//!
//! An association is asked for (INIT) and granted (INIT ACK), then each question and each answer is
//! a DATA chunk. Nothing is sent again, and who wants no more just stops.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use lb_ebpf::crc32c;
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketType, bind, connect, ipproto, listen as accept_from, socket},
};

use crate::crafted;

/// Length of the common header.
const HEADER: usize = 12;
/// Where in it the checksum is.
const CHECKSUM: std::ops::Range<usize> = 8..HEADER;
/// Length of a chunk's type, flags and length.
const CHUNK: usize = 4;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// The tag both ends of every association choose: who answers need not remember it.
const TAG: u32 = 0x0fa1_71ea;
/// Receive window, streams out and in, and first sequence number, as INIT and INIT ACK have them.
const CAPACITY: [u8; 12] = [0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
/// The state cookie, which an INIT ACK must have.
const COOKIE: [u8; 8] = [0, 7, 0, 8, b'n', b'o', b'n', b'e'];
/// Sequence number, stream and place in it, and kind of payload, as DATA has them.
const PLACE: [u8; 12] = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
/// A DATA chunk that is first and last of its message.
const WHOLE: u8 = 0x03;

/// An association with a server.
#[derive(Debug)]
pub(crate) struct Association {
    /// Raw, and connected to the server's address: errors about what it sent reach it.
    socket: UdpSocket,
    server: SocketAddr,
    port: u16,
}

impl Association {
    /// Changes how long a step may take from here on.
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(patience))
    }

    /// Asks for an association, from an address that may be unspecified and a port, 0 for one that was
    /// not used lately.
    pub(crate) fn open(to: SocketAddr, from: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = crafted::raw(to.ip(), ipproto::SCTP)?;
        if !from.ip().is_unspecified() {
            bind(&socket, &SocketAddr::new(from.ip(), 0))?;
        }
        connect(&socket, &SocketAddr::new(to.ip(), 0))?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(patience))?;
        let association = Self {
            socket,
            server: to,
            port: match from.port() {
                0 => unused_port(),
                port => port,
            },
        };
        let asked = [&TAG.to_be_bytes()[..], &CAPACITY].concat();
        association.exchange(0, (INIT, 0, &asked), INIT_ACK)?;
        Ok(association)
    }

    /// Sends a message; the one that comes back.
    pub(crate) fn ask(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let chunk = [&PLACE, message].concat();
        let answer = self.exchange(TAG, (DATA, WHOLE, &chunk), DATA)?;
        let message = answer.get(PLACE.len()..);
        message.map(<[u8]>::to_vec).ok_or_else(too_short)
    }

    /// Our own end.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(self.socket.local_addr()?.ip(), self.port))
    }

    /// The other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.server
    }

    /// Sends a chunk, and waits for one of this kind: what it says.
    fn exchange(&self, tag: u32, chunk: (u8, u8, &[u8]), kind: u8) -> io::Result<Vec<u8>> {
        let ports = (self.port, self.server.port());
        self.socket.send(&packet(ports, tag, chunk))?;
        let mut bytes = vec![0; 1500];
        loop {
            let length = self.socket.recv(&mut bytes)?;
            let received = Packet::read(content(&bytes[..length], self.server.ip())?)?;
            let is_ours = received.ports == (ports.1, ports.0) && received.tag == TAG;
            if is_ours && received.kind == kind {
                return Ok(received.value.to_vec());
            }
        }
    }
}

/// Whether the kernel has SCTP sockets of its own.
pub fn kernel_has_it() -> bool {
    stream(AddressFamily::INET).is_ok()
}

/// A socket of the kernel's SCTP that is used like one of TCP: it is one association, read and written as a stream.
pub(crate) fn stream(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(family, SocketType::STREAM, Some(ipproto::SCTP))?)
}

/// Such a socket that waits for peers.
pub(crate) fn listen(at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream(crafted::family(at.ip()))?;
    bind(&socket, &at)?;
    accept_from(&socket, 16)?;
    Ok(socket)
}

/// A port that no association was opened from for the last 20,000.
fn unused_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    40_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000
}

/// What a server at one of these ports says to what `client` sent it; nothing to what is not for
/// it, or has a wrong checksum. `speak` has the client's port and the server's.
pub(crate) fn answer(
    received: &[u8],
    client: IpAddr,
    ports: &[u16],
    speak: impl FnOnce(u16, u16) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let received = Packet::read(content(received, client).ok()?).ok()?;
    let (from, to) = received.ports;
    if !ports.contains(&to) {
        return None;
    }
    match (received.kind, received.tag) {
        (INIT, 0) => {
            let granted = [&TAG.to_be_bytes()[..], &CAPACITY, &COOKIE].concat();
            Some(packet((to, from), TAG, (INIT_ACK, 0, &granted)))
        }
        (DATA, TAG) => {
            let message = [&PLACE[..], &speak(from, to)?].concat();
            Some(packet((to, from), TAG, (DATA, WHOLE, &message)))
        }
        _ => None,
    }
}

/// What follows the IP header, which raw sockets of IPv4 show and those of IPv6 don't.
fn content(received: &[u8], peer: IpAddr) -> io::Result<&[u8]> {
    let header = match (peer, received.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 0x0f) * 4,
        (IpAddr::V4(_), None) | (IpAddr::V6(_), _) => 0,
    };
    received.get(header..).ok_or_else(too_short)
}

/// A packet of one chunk.
struct Packet<'a> {
    ports: (u16, u16),
    tag: u32,
    kind: u8,
    value: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the first chunk of a packet whose checksum is right.
    fn read(bytes: &'a [u8]) -> io::Result<Self> {
        if !checksum_holds(bytes) {
            let wrong = format!("an SCTP packet with a wrong checksum: {bytes:02x?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        let (header, chunk) = bytes.split_at_checked(HEADER).ok_or_else(too_short)?;
        let [kind, _, high, low, ..] = *chunk else {
            return Err(too_short());
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let tag = header.get(4..).and_then(<[u8]>::first_chunk);
        Ok(Self {
            ports: ports(header).ok_or_else(too_short)?,
            tag: u32::from_be_bytes(*tag.ok_or_else(too_short)?),
            kind,
            value: chunk.get(CHUNK..length).ok_or_else(too_short)?,
        })
    }
}

/// The source and destination ports of a packet.
pub(crate) fn ports(packet: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *packet.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an SCTP packet that is cut off")
}

/// A packet with one chunk: its type, flags and value.
pub(crate) fn packet(
    (from, to): (u16, u16),
    tag: u32,
    (kind, flags, value): (u8, u8, &[u8]),
) -> Vec<u8> {
    let length = (CHUNK + value.len()) as u16;
    let mut bytes = [
        &from.to_be_bytes()[..],
        &to.to_be_bytes(),
        &tag.to_be_bytes(),
        &[0; 4],
        &[kind, flags],
        &length.to_be_bytes(),
        value,
    ]
    .concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let sum = crc32c(&bytes);
    bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Whether a packet has the checksum that its bytes ask for.
pub(crate) fn checksum_holds(packet: &[u8]) -> bool {
    let mut without = packet.to_vec();
    let Some(field) = without.get_mut(CHECKSUM) else {
        return false;
    };
    field.fill(0);
    packet[CHECKSUM] == crc32c(&without).to_le_bytes()
}

/// Whether a packet's checksum is zero, as it is before it is made.
pub(crate) fn has_no_checksum(packet: &[u8]) -> bool {
    packet.get(CHECKSUM).is_some_and(|field| field == [0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_server_answers_what_is_right_and_for_it() {
        let asked = packet((40_000, 8080), TAG, (DATA, WHOLE, &PLACE));
        let said = |bytes: &[u8]| {
            let speak = |from: u16, _| Some(from.to_string().into_bytes());
            answer(bytes, CLIENT, &[8080], speak)
        };
        let answer = said(&asked).unwrap();
        let read = Packet::read(&answer).unwrap();
        assert_eq!((read.ports, read.tag), ((8080, 40_000), TAG));
        assert_eq!(read.value[PLACE.len()..], *b"40000");
        for place in 0..asked.len() {
            let mut damaged = asked.clone();
            damaged[place] ^= 1;
            assert_eq!(said(&damaged), None, "byte {place} is wrong");
        }
        assert_eq!(
            said(&packet((40_000, 8081), TAG, (DATA, WHOLE, &PLACE))),
            None
        );
        assert_eq!(
            said(&packet((40_000, 8080), 1, (DATA, WHOLE, &PLACE))),
            None
        );
        assert_eq!(said(&[]), None);
    }
}

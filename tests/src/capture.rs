//! A capture that checks every checksum it sees.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice, err::ValueTooBigError};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketType, eth, recv, socket,
        sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
    },
};

use crate::{crafted, echo::Protocol, netns::Netns, patience::patient, sctp};

/// Room for bursts while the checking thread waits for a processor.
const BUFFER: usize = 64 << 20;
/// How often a quiet capture looks whether it is to end; also how long it listens on when told to,
/// for what is still under way.
const QUIET: Duration = Duration::from_millis(50);

/// A capture on all interfaces of a namespace, both ways; it ends with [`Capture::finish`].
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Seen>>>,
}

/// What a capture saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// IP packets; one that passes two interfaces counts twice.
    pub packets: usize,
    /// Packets with a wrong checksum or that don't parse, in words; the first few.
    pub bad: Vec<String>,
    /// SCTP packets that have no checksum, in words; the first few. The kernel's own SCTP sends one now and then in the
    /// midst of a bulk (seen on 6.1, 6.12 and 7.3 between two hosts without Fairlead), and then sends it again.
    pub unsummed: Vec<String>,
    /// Flows, in each direction they were seen in.
    pub flows: BTreeSet<Flow>,
    /// Those of crafted [segments](crate::crafted::segment).
    pub crafted: BTreeSet<Flow>,
}

/// Number of the protocol, source and destination.
pub type Flow = (u8, SocketAddr, SocketAddr);

impl Seen {
    /// All that is wrong with what was sent, if no socket of the kernel's SCTP sent any of it.
    pub fn faults(&self) -> Vec<String> {
        [&self.bad[..], &self.unsummed].concat()
    }

    /// Whether a packet of `protocol` from and to these addresses was seen, whatever the ports.
    pub fn between(&self, protocol: Protocol, from: IpAddr, to: IpAddr) -> bool {
        let number = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        };
        let flows = &mut self.flows.iter();
        flows.any(|(proto, src, dst)| *proto == number && src.ip() == from && dst.ip() == to)
    }
}

impl Capture {
    /// Starts to listen in the namespace.
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns
            .run(|| socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL)))?
            .with_context(|| format!("cannot capture in {}", netns.name()))?;
        set_socket_recv_buffer_size_force(&socket, BUFFER)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(patient(QUIET)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || listen(&socket, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the capture, once the wire is quiet.
    pub fn finish(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the capture has ended")?;
        thread.join().map_err(|_| anyhow!("the capture panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn listen(socket: &OwnedFd, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut frame = vec![0; 1 << 16];
    loop {
        match recv(socket, &mut *frame, RecvFlags::empty()) {
            Ok((length, _)) => seen.add(&frame[..length]),
            Err(Errno::AGAIN) if stop.load(Ordering::Relaxed) => return Ok(seen),
            // A port that goes down says so once.
            Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => {}
            Err(error) => return Err(error).context("cannot go on capturing"),
        }
    }
}

impl Seen {
    fn add(&mut self, frame: &[u8]) {
        let packet = match SlicedPacket::from_ethernet(frame) {
            Ok(packet) => packet,
            Err(error) => return complain(&mut self.bad, &error.to_string(), frame),
        };
        let (src, dst) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            Some(NetSlice::Ipv6(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            Some(NetSlice::Arp(_)) | None => return,
        };
        self.packets += 1;
        if let Some((proto, sport, dport)) = ports(&packet) {
            let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
            self.flows.insert((proto, src, dst));
            if is_crafted(&packet) {
                self.crafted.insert((proto, src, dst));
            }
        }
        let is_unsummed = of_sctp(&packet).is_some_and(sctp::has_no_checksum);
        match wrong(&packet, src, dst) {
            Ok(None) => {}
            Ok(Some(what)) => {
                let list = if is_unsummed {
                    &mut self.unsummed
                } else {
                    &mut self.bad
                };
                let text = format!("wrong {what} checksum, {src} to {dst}");
                complain(list, &text, frame);
            }
            Err(error) => complain(&mut self.bad, &error.to_string(), frame),
        }
    }
}

fn complain(list: &mut Vec<String>, what: &str, frame: &[u8]) {
    const ENOUGH: usize = 10;
    if list.len() < ENOUGH {
        let head = &frame[..frame.len().min(90)];
        list.push(format!("{what}: {} bytes, {head:02x?}", frame.len()));
    }
}

fn ports(packet: &SlicedPacket<'_>) -> Option<(u8, u16, u16)> {
    match packet.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => Some((6, tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((17, udp.source_port(), udp.destination_port())),
        Some(_) => None,
        None => {
            let (sport, dport) = sctp::ports(of_sctp(packet)?)?;
            Some((132, sport, dport))
        }
    }
}

/// The SCTP packet within, which is of no transport that etherparse knows.
fn of_sctp<'a>(packet: &SlicedPacket<'a>) -> Option<&'a [u8]> {
    let content = packet.ip_payload()?;
    (content.ip_number == IpNumber::SCTP).then_some(content.payload)
}

fn is_crafted(packet: &SlicedPacket<'_>) -> bool {
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.payload() == crafted::MARK,
        Some(_) | None => false,
    }
}

/// Which checksum of a packet is wrong, if one is.
fn wrong(
    packet: &SlicedPacket<'_>,
    src: IpAddr,
    dst: IpAddr,
) -> Result<Option<&'static str>, ValueTooBigError<usize>> {
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        if header.header_checksum != header.calc_header_checksum() {
            return Ok(Some("IPv4"));
        }
    }
    let Some(transport) = &packet.transport else {
        let damaged = |sctp: &[u8]| !sctp::checksum_holds(sctp);
        return Ok(of_sctp(packet).is_some_and(damaged).then_some("SCTP"));
    };
    match transport {
        TransportSlice::Tcp(tcp) => {
            let expected = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    tcp.calc_checksum_ipv4(src.octets(), dst.octets())?
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    tcp.calc_checksum_ipv6(src.octets(), dst.octets())?
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
            };
            Ok((!agree(tcp.checksum(), expected)).then_some("TCP"))
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let expected = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), udp.payload())?
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), udp.payload())?
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
            };
            // Zero says that an IPv4 sender made none.
            let unmade = udp.checksum() == 0 && src.is_ipv4();
            Ok((!unmade && udp.checksum() != expected).then_some("UDP"))
        }
        TransportSlice::Icmpv4(icmp) => {
            let expected = icmp.icmp_type().calc_checksum(icmp.payload());
            Ok((!agree(icmp.checksum(), expected)).then_some("ICMP"))
        }
        TransportSlice::Icmpv6(icmp) => match (src, dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let valid = icmp.is_checksum_valid(src.octets(), dst.octets());
                Ok((!valid).then_some("ICMPv6"))
            }
            _ => Ok(Some("ICMPv6 over IPv4")),
        },
        TransportSlice::Igmp(_) => Ok(None),
    }
}

/// Ones' complement has two zeros, and receivers take either: kernels write `0xffff` where they
/// complete a checksum that comes out as zero.
fn agree(found: u16, expected: u16) -> bool {
    let zero = |sum| matches!(sum, 0 | 0xffff);
    found == expected || zero(found) && zero(expected)
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};

    use super::Seen;
    use crate::sctp;

    /// A TCP, a UDP, an ICMP and an SCTP frame of each family, with where each keeps its checksums.
    fn frames() -> Vec<(&'static str, Vec<u8>, Vec<usize>)> {
        let v4 = || PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let v6 = || PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6([1; 16], [2; 16], 64);
        let tcp = |step: PacketBuilderStep<_>| {
            let mut frame = Vec::new();
            step.tcp(1, 2, 3, 4).write(&mut frame, b"payload").unwrap();
            frame
        };
        let udp = |step: PacketBuilderStep<_>| {
            let mut frame = Vec::new();
            step.udp(1, 2).write(&mut frame, b"payload").unwrap();
            frame
        };
        let mut icmp4 = Vec::new();
        v4().icmpv4_echo_request(1, 2)
            .write(&mut icmp4, b"payload")
            .unwrap();
        let mut icmp6 = Vec::new();
        v6().icmpv6_echo_request(1, 2)
            .write(&mut icmp6, b"payload")
            .unwrap();
        let message = sctp::packet((1, 2), 3, (0, 3, b"payload"));
        let (mut sctp4, mut sctp6) = (Vec::new(), Vec::new());
        v4().write(&mut sctp4, IpNumber::SCTP, &message).unwrap();
        v6().write(&mut sctp6, IpNumber::SCTP, &message).unwrap();
        vec![
            ("TCP over IPv4", tcp(v4()), vec![24, 50]),
            ("TCP over IPv6", tcp(v6()), vec![70]),
            ("UDP over IPv4", udp(v4()), vec![24, 40]),
            ("UDP over IPv6", udp(v6()), vec![60]),
            ("ICMP", icmp4, vec![24, 36]),
            ("ICMPv6", icmp6, vec![56]),
            ("SCTP over IPv4", sctp4, vec![24, 42]),
            ("SCTP over IPv6", sctp6, vec![62]),
        ]
    }

    fn bad(frame: &[u8]) -> usize {
        let mut seen = Seen::default();
        seen.add(frame);
        assert_eq!(seen.packets, 1);
        seen.faults().len()
    }

    #[test]
    fn both_zeros_of_a_tcp_checksum_pass() {
        // The window makes up for the rest of the sum.
        let (_, mut frame, checksums) = frames().swap_remove(0);
        let checksum = checksums[1];
        let window = checksum - 2;
        let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (total, carry) = word(&frame, window).overflowing_add(word(&frame, checksum));
        frame[window..][..2].copy_from_slice(&(total + u16::from(carry)).to_be_bytes());
        for zero in [[0, 0], [0xff, 0xff]] {
            frame[checksum..][..2].copy_from_slice(&zero);
            assert_eq!(bad(&frame), 0, "{zero:?}");
        }
    }

    #[test]
    fn good_checksums_pass_and_each_bad_one_is_found() {
        for (name, frame, checksums) in frames() {
            assert_eq!(bad(&frame), 0, "{name}");
            for offset in checksums {
                let mut broken = frame.clone();
                broken[offset] ^= 0x10;
                assert_eq!(bad(&broken), 1, "{name}, checksum at {offset} changed");
            }
            let mut broken = frame;
            *broken.last_mut().unwrap() ^= 0x10;
            assert_eq!(bad(&broken), 1, "{name}, payload changed");
        }
    }
}

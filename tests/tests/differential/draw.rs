//! What happens next: packets between those of the world, and changes of the world, drawn at random.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use etherparse::{IpNumber, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder, TcpOptions};
use lb_common::{flow::Direction, proto};
use lb_model::{
    family::at,
    frame::{Frame, Segment, chunk, flag},
    icmp::Error,
};
use tests::{fixture::names, random::Random, topology::Family};

use crate::{
    change::Change,
    fragment,
    place::Place,
    spoil,
    twins::Known,
    world::{PROTOCOLS, World},
};

/// Who begins flows.
const CLIENTS: [&str; 10] = [
    "client",
    "client",
    "client",
    "other",
    "narrow-client",
    "pod",
    "pod",
    "pod2",
    "remote",
    "node",
];
/// Whoever has an address.
const ANYBODY: [&str; 14] = [
    "client", "other", "nobody", "group", "node", "pod", "pod2", "remote", "across", "no-xdp",
    "overlay", "web", "free", "external",
];
/// Flags of TCP segments, the usual ones more often.
const FLAGS: [u8; 14] = [
    flag::SYN,
    flag::SYN,
    flag::SYN | flag::ACK,
    flag::SYN | flag::ACK,
    flag::ACK,
    flag::ACK,
    flag::ACK | 0x08,
    flag::FIN | flag::ACK,
    flag::FIN | flag::ACK,
    flag::RST,
    flag::RST | flag::ACK,
    flag::SYN | flag::FIN,
    0,
    0xff,
];

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A packet is seen, or the fragments of one.
    Packet(Place, Vec<Vec<u8>>),
    /// Something else.
    Change(Change),
}

/// A source of events.
pub(crate) struct Draw {
    random: Random,
}

impl Draw {
    pub(crate) const fn new(random: Random) -> Self {
        Self { random }
    }

    /// What happens next where these rows are known.
    pub(crate) fn next(&mut self, world: &World, known: &[Known]) -> Result<Event> {
        if self.random.one_in(40) {
            return Ok(Event::Change(self.change(world, known)));
        }
        let family = self.random.pick(&Family::BOTH);
        let (place, frame) = match self.random.below(100) {
            0..35 => self.of_service(world, family)?,
            35..65 if !known.is_empty() => self.of_flow(known),
            65..77 => self.error(family, known)?,
            77..83 => self.echo(family)?,
            83..96 => self.between(family)?,
            _ => (self.anywhere(), self.noise()),
        };
        let mut frames = vec![frame];
        if self.random.one_in(12) {
            frames = fragment::split(&frames[0], &mut self.random);
        }
        for frame in &mut frames {
            while self.random.one_in(3) {
                spoil::spoil(frame, &mut self.random);
            }
        }
        Ok(Event::Packet(place, frames))
    }

    fn change(&mut self, world: &World, known: &[Known]) -> Change {
        let family = self.random.pick(&Family::BOTH);
        let frontend = self.random.below(world.frontends.len());
        match self.random.below(11) {
            0 if !known.is_empty() => Change::Evict(self.random.pick(known)),
            1 => Change::Epoch,
            2 => Change::Age,
            3 => Change::Withdraw(family, frontend),
            4 | 5 => {
                let service = self.random.below(World::services() as usize);
                Change::PassOn(family, frontend, service as u32)
            }
            6 => Change::Restore,
            7 => Change::Abandon,
            _ => Change::Backend(family, self.random.below(world.backends.len())),
        }
    }

    /// A packet to a service, or beside it.
    fn of_service(&mut self, world: &World, family: Family) -> Result<(Place, Vec<u8>)> {
        let (mut name, mut port) = self.random.pick(&world.frontends);
        if self.random.one_in(12) {
            port = self.port();
        }
        if self.random.one_in(16) {
            name = "free";
        }
        let from = self.random.pick(&CLIENTS);
        let place = match from {
            _ if self.random.one_in(16) => self.anywhere(),
            "pod" | "pod2" => Place::PodSends,
            _ => Place::Enters,
        };
        let proto = self.random.pick(&PROTOCOLS);
        let src = at(names::address(from, family)?, self.client_port());
        let dst = at(names::address(name, family)?, port);
        let frame = if self.random.one_in(4) {
            self.segment(proto, src, dst)
        } else {
            Frame::first(proto, src, dst)
        };
        Ok((place, self.dressed(frame).build()))
    }

    /// A packet that a row is there for, where it is looked up.
    fn of_flow(&mut self, known: &[Known]) -> (Place, Vec<u8>) {
        let Known {
            proto,
            direction,
            src,
            dst,
            ..
        } = self.random.pick(known);
        let places = match direction {
            Direction::Ingress => [Place::Enters, Place::PodSends],
            Direction::Egress => [Place::Leaves, Place::PodGets],
        };
        let frame = self.segment(proto, src, dst);
        (self.random.pick(&places), self.dressed(frame).build())
    }

    /// A packet that has little to do with services.
    fn between(&mut self, family: Family) -> Result<(Place, Vec<u8>)> {
        let frame = self.anything(family)?;
        Ok((self.anywhere(), self.dressed(frame).build()))
    }

    fn anything(&mut self, family: Family) -> Result<Frame> {
        let [from, to] = [self.random.pick(&ANYBODY), self.random.pick(&ANYBODY)];
        let proto = self.random.pick(&PROTOCOLS);
        let src = at(names::address(from, family)?, self.port());
        let dst = at(names::address(to, family)?, self.port());
        Ok(self.segment(proto, src, dst))
    }

    /// An ICMP error about a packet of a flow, as that went on from here, or about any.
    fn error(&mut self, family: Family, known: &[Known]) -> Result<(Place, Vec<u8>)> {
        let about = if known.is_empty() || self.random.one_in(4) {
            self.anything(family)?
        } else {
            let Known {
                proto,
                onward: (src, dst),
                ..
            } = self.random.pick(known);
            self.segment(proto, src, dst)
        };
        let about = self.dressed(about);
        let other_end = about.dst.ip();
        let from = if self.random.one_in(2) {
            other_end
        } else {
            names::address(self.random.pick(&ANYBODY), family_of(other_end))?
        };
        let whole = about.build();
        let quotes = match self.random.below(3) {
            0 => self.random.pick(&[0, 4, 7, 8, 20]),
            1 => self.random.below(100),
            _ => whole.len(),
        };
        let mut error = Error::new(from, quotes);
        let kinds: &[(u8, u8)] = match from {
            IpAddr::V4(_) => &[
                (3, 0),
                (3, 3),
                (3, 4),
                (11, 0),
                (12, 0),
                (4, 0),
                (5, 1),
                (0, 0),
            ],
            IpAddr::V6(_) => &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (137, 0), (128, 0)],
        };
        error.kind = self.random.pick(kinds);
        error.ttl = self.ttl();
        Ok((self.anywhere(), error.about(&whole)))
    }

    fn echo(&mut self, family: Family) -> Result<(Place, Vec<u8>)> {
        let [from, to] = [self.random.pick(&CLIENTS), self.random.pick(&ANYBODY)];
        let (from, to) = (names::address(from, family)?, names::address(to, family)?);
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x20], [2, 0, 0, 0, 0, 0x10]);
        let mut frame = Vec::new();
        let ttl = self.ttl();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet
                .ipv4(from.octets(), to.octets(), ttl)
                .icmpv4_echo_request(7, 8)
                .write(&mut frame, b"who is there")?,
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet
                .ipv6(from.octets(), to.octets(), ttl)
                .icmpv6_echo_request(7, 8)
                .write(&mut frame, b"who is there")?,
            mixed => anyhow::bail!("{mixed:?} are of two families"),
        }
        Ok((self.anywhere(), frame))
    }

    /// Bytes, in half of all cases behind an Ethernet header that promises an IP packet.
    fn noise(&mut self) -> Vec<u8> {
        let length = self.random.below(150);
        let mut frame = self.random.bytes(length);
        if length > 14 && self.random.one_in(2) {
            let kind = self
                .random
                .pick(&[[0x08, 0, 0x45], [0x86, 0xdd, 0x60], [0x81, 0, 0]]);
            frame[12..15].copy_from_slice(&kind);
        }
        frame
    }

    /// A packet of this protocol in any state of its flow.
    fn segment(&mut self, protocol: u8, src: SocketAddr, dst: SocketAddr) -> Frame {
        match protocol {
            proto::TCP => {
                let flags = self.random.pick(&FLAGS);
                let mut frame = Frame::tcp(src, dst, flags);
                if let Segment::Tcp(header) = &mut frame.segment {
                    header.psh = flags & 0x08 != 0;
                    header.urg = flags & 0x20 != 0;
                    header.ece = flags & 0x40 != 0;
                    header.cwr = flags & 0x80 != 0;
                }
                frame
            }
            proto::SCTP => {
                let chunk = self.random.pick(&[chunk::INIT, chunk::DATA, 2, 6, 14]);
                Frame::sctp(src, dst, chunk)
            }
            _ => Frame::udp(src, dst),
        }
    }

    /// Everything about a packet that does not matter to whom it is for.
    fn dressed(&mut self, mut frame: Frame) -> Frame {
        frame.ttl = self.ttl();
        if self.random.one_in(16) {
            frame.tag = Some(self.random.pick(&[0, 0x2000, 0xf000, 0x1000, 5]));
        }
        if self.random.one_in(12) {
            let words = 1 + self.random.below(10);
            let options = vec![1; words * 4];
            if let Ok(options) = options.as_slice().try_into() {
                frame.options = options;
            }
        }
        if self.random.one_in(8) {
            self.extend(&mut frame);
        }
        let length = match self.random.below(16) {
            0 => self.random.below(1450),
            // About as long as a narrow way takes.
            2 => 1200 + self.random.below(250),
            1 => 0,
            _ => self.random.below(64),
        };
        frame.payload = self.random.bytes(length);
        match &mut frame.segment {
            Segment::Udp { checksum } => *checksum = !self.random.one_in(8),
            Segment::Tcp(header) if self.random.one_in(8) => {
                let words = 1 + self.random.below(10);
                let options = [1; 40];
                if let Ok(options) = TcpOptions::try_from_slice(&options[..words * 4]) {
                    header.options = options;
                }
            }
            Segment::Tcp(_) | Segment::Sctp { .. } => {}
        }
        frame
    }

    /// Gives a frame extension headers, if it is IPv6.
    fn extend(&mut self, frame: &mut Frame) {
        let chain = &mut frame.extensions;
        let header = |size: usize| {
            let mut payload = vec![0; 6 + size * 8];
            payload[0] = 1;
            payload[1] = payload.len() as u8 - 2;
            Ipv6RawExtHeader::new_raw(IpNumber(0), &payload).ok()
        };
        let some = |random: &mut Random| header(random.below(4)).filter(|_| random.one_in(2));
        chain.hop_by_hop_options = some(&mut self.random);
        chain.destination_options = some(&mut self.random);
        let left = u8::from(self.random.one_in(4));
        let payload = [2, left, 0, 0, 0, 0];
        if let Ok(routing) = Ipv6RawExtHeader::new_raw(IpNumber(0), &payload)
            && self.random.one_in(3)
        {
            chain.routing = Some(Ipv6RoutingExtensions {
                routing,
                final_destination_options: some(&mut self.random),
            });
        }
    }

    fn ttl(&mut self) -> u8 {
        self.random.pick(&[64, 64, 64, 64, 255, 128, 2, 1, 0])
    }

    /// Few, so that flows meet; some are of the node's range.
    fn client_port(&mut self) -> u16 {
        self.random
            .pick(&[1024, 40000, 40001, 40002, 61000, 61001, 61999])
    }

    fn port(&mut self) -> u16 {
        self.random
            .pick(&[0, 53, 80, 443, 8080, 40000, 61000, 61001])
    }

    fn anywhere(&mut self) -> Place {
        self.random.pick(&Place::ALL)
    }
}

fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

//! The 5-tuple of a frame, read by nothing but offsets: no code of the pipeline's, nor of etherparse's,
//! which is stricter in one place and laxer in another.

use std::{fmt, net::IpAddr};

use lb_common::{
    Addr, Port,
    flow::{Direction, FlowKey},
    proto,
};

/// Where the headers of a frame are, and the ends it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    /// Offset of the IP header.
    pub(crate) l3: usize,
    /// Offset of what follows it and its extensions.
    pub(crate) l4: usize,
    pub(crate) proto: u8,
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
}

impl Tuple {
    /// The tuple of a frame; none if there are no addresses. Ports that are not there are zero.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let l3 = if word(frame, 12)? == 0x8100 { 18 } else { 14 };
        match word(frame, l3 - 2)? {
            0x0800 => {
                let l4 = l3 + usize::from(frame.get(l3)? & 0x0f) * 4;
                let address = |at| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<4>()?));
                let ends = (address(l3 + 12)?, address(l3 + 16)?);
                Some(Self::with_ports(frame, l3, l4, *frame.get(l3 + 9)?, ends))
            }
            0x86dd => {
                let (l4, proto) = behind_extensions(frame, l3 + 40, *frame.get(l3 + 6)?)?;
                let address = |at| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<16>()?));
                let ends = (address(l3 + 8)?, address(l3 + 24)?);
                Some(Self::with_ports(frame, l3, l4, proto, ends))
            }
            _ => None,
        }
    }

    fn with_ports(
        frame: &[u8],
        l3: usize,
        l4: usize,
        proto: u8,
        (src, dst): (IpAddr, IpAddr),
    ) -> Self {
        let has_ports = matches!(proto, proto::TCP | proto::UDP | proto::SCTP);
        let port = |at| word(frame, at).filter(|_| has_ports).unwrap_or(0);
        Self {
            l3,
            l4,
            proto,
            src: (src, port(l4)),
            dst: (dst, port(l4 + 2)),
        }
    }

    /// The key of its flow's row at a hook of this direction; none if it is of the other family.
    pub(crate) fn key<A: Addr>(&self, direction: Direction) -> Option<FlowKey<A>> {
        let end = |(address, port)| Some((A::from_ip(address)?, Port::new(port)));
        let (src, dst) = (end(self.src)?, end(self.dst)?);
        Some(FlowKey::new(direction, self.proto, src, dst))
    }
}

fn behind_extensions(frame: &[u8], mut l4: usize, mut proto: u8) -> Option<(usize, u8)> {
    const OPTIONS: [u8; 3] = [0, 43, 60];
    const FRAGMENT: u8 = 44;
    // Of fragments only the first has the transport header.
    while OPTIONS.contains(&proto) || proto == FRAGMENT && word(frame, l4 + 2)? >> 3 == 0 {
        let header = frame.get(l4..)?.first_chunk::<2>()?;
        let units = if proto == FRAGMENT { 0 } else { header[1] };
        proto = header[0];
        l4 += (usize::from(units) + 1) * 8;
    }
    Some((l4, proto))
}

/// The 16-bit number at an offset.
pub(crate) fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

/// A frame for people: who, to whom, what, and all its bytes.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(frame) = self;
        match Tuple::of(frame) {
            Some(Tuple {
                l4,
                proto,
                src,
                dst,
                ..
            }) => {
                write!(
                    f,
                    "{}.{} > {}.{} protocol {proto}",
                    src.0, src.1, dst.0, dst.1
                )?;
                if let (proto::TCP, Some(flags)) = (proto, frame.get(l4 + 13)) {
                    write!(f, " flags {flags:#04x}")?;
                }
            }
            None => write!(f, "no IP packet")?,
        }
        write!(f, ", {} bytes\n  ", frame.len())?;
        frame.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

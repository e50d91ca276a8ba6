//! The packet that is asked about: the plainest that begins a flow. It never leaves the machine, so
//! its checksums are left out.

use std::net::IpAddr;

use crate::model::Protocol;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Hops a packet may still make; as many as senders give it.
const TTL: u8 = 64;

/// Who sends it to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    /// Source.
    pub(super) from: (IpAddr, u16),
    /// Destination, of the same family.
    pub(super) to: (IpAddr, u16),
    /// What they speak.
    pub(super) protocol: Protocol,
}

impl Tuple {
    /// The frame, from the Ethernet header on. None if the families differ.
    pub(super) fn frame(&self) -> Option<Vec<u8>> {
        let transport = self.transport();
        let number = self.protocol.number();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let [high, low] = (20 + transport.len() as u16).to_be_bytes();
                frame.extend([0x08, 0x00]);
                frame.extend([0x45, 0, high, low, 0, 0, 0, 0, TTL, number, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let [high, low] = (transport.len() as u16).to_be_bytes();
                frame.extend([0x86, 0xdd]);
                frame.extend([0x60, 0, 0, 0, high, low, number, TTL]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        }
        frame.extend(transport);
        Some(frame)
    }

    /// A SYN, a datagram without content, or an INIT chunk (RFC 9260, 3.3.2).
    fn transport(&self) -> Vec<u8> {
        const SYN: u8 = 0x02;
        let mut bytes = Vec::with_capacity(32);
        bytes.extend(self.from.1.to_be_bytes());
        bytes.extend(self.to.1.to_be_bytes());
        match self.protocol {
            Protocol::Tcp => {
                bytes.extend([0; 8]);
                bytes.extend([0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]);
            }
            Protocol::Udp => bytes.extend([0, 8, 0, 0]),
            Protocol::Sctp => {
                bytes.extend([0; 8]);
                bytes.extend([1, 0, 0, 20, 0, 0, 0, 1]);
                bytes.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
            }
        }
        bytes
    }
}

/// The source of a frame that a program has rewritten. None if it is not as [`Tuple::frame`] makes
/// them.
pub(super) fn source(frame: &[u8]) -> Option<(IpAddr, u16)> {
    let ethertype = frame.get(12..ETHERNET)?;
    let (address, port): (IpAddr, _) = if ethertype == [0x08, 0x00] {
        let octets: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
        (octets.into(), frame.get(34..36)?)
    } else {
        let octets: [u8; 16] = frame.get(22..38)?.try_into().ok()?;
        (octets.into(), frame.get(54..56)?)
    };
    Some((address, u16::from_be_bytes(port.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_source() {
        for (from, to) in [("10.0.0.5", "10.96.0.1"), ("fd00::5", "fd00:96::1")] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let tuple = Tuple {
                    from: (from.parse().unwrap(), 40_000),
                    to: (to.parse().unwrap(), 80),
                    protocol,
                };
                assert_eq!(source(&tuple.frame().unwrap()), Some(tuple.from));
            }
        }
        assert_eq!(source(&[0; 20]), None);
    }
}

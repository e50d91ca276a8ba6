//! What is said of any answer that this node makes.

use std::net::IpAddr;

use etherparse::{Icmpv4Header, Icmpv6Header, TransportSlice};

use super::{
    frame::{Frame, MACS_BACK},
    wire::{self, Headers},
};

/// Checks that an answer goes back where the request came from, and that it is sound.
pub(crate) fn assert_is_sent_back(reply: &[u8], to: &Frame) {
    assert!(wire::is_sound(reply), "{reply:02x?}");
    let headers = Headers::find(reply).unwrap();
    assert_eq!((headers.src, headers.dst), (to.dst.ip(), to.src.ip()));
    assert_eq!(headers.end, reply.len(), "nothing follows it");
    assert_eq!(reply[..12], MACS_BACK);
    let ip = &reply[headers.l3..];
    if headers.src.is_ipv4() {
        // No identification, and not to be fragmented (RFC 6864).
        assert_eq!((&ip[4..8], ip[8]), (&[0, 0, 0x40, 0][..], 64));
    } else {
        assert_eq!((&ip[..4], ip[7]), (&[0x60, 0, 0, 0][..], 64));
    }
}

/// An ICMP error: type and code over IPv4 and over IPv6, and the word that follows the checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Error {
    pub(crate) v4: (u8, u8),
    pub(crate) v6: (u8, u8),
    pub(crate) detail: u32,
}

/// Port unreachable (RFC 792; RFC 4443, 3.1).
pub(crate) const UNREACHABLE: Error = Error {
    v4: (3, 3),
    v6: (1, 4),
    detail: 0,
};

/// Time exceeded in transit (RFC 792; RFC 4443, 3.3).
pub(crate) const EXPIRED: Error = Error {
    v4: (11, 0),
    v6: (3, 0),
    detail: 0,
};

/// Fragmentation needed (RFC 1191), or packet too big (RFC 4443, 3.2).
pub(crate) const fn too_long(mtu: u16) -> Error {
    Error {
        v4: (3, 4),
        v6: (2, 0),
        detail: mtu as u32,
    }
}

/// Checks that an answer is this error, and quotes the packet.
pub(crate) fn assert_is_error(reply: &[u8], to: &Frame, error: Error) {
    assert_is_sent_back(reply, to);
    assert_says(reply, to, error);
}

/// The same of an answer whose checksums need not be right.
pub(crate) fn assert_says(reply: &[u8], to: &Frame, error: Error) {
    let quote = match wire::parse(reply).transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            assert_eq!((icmp.type_u8(), icmp.code_u8()), error.v4);
            assert_eq!(u32::from_be_bytes(icmp.bytes5to8()), error.detail);
            icmp.slice()[Icmpv4Header::MIN_LEN..].to_vec()
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!((icmp.type_u8(), icmp.code_u8()), error.v6);
            assert_eq!(u32::from_be_bytes(icmp.bytes5to8()), error.detail);
            icmp.slice()[Icmpv6Header::MIN_LEN..].to_vec()
        }
        other => panic!("{other:?} instead of ICMP"),
    };
    assert_quotes(&quote, to);
}

/// Checks a quote: the IP header without options or extensions, and eight bytes at least.
fn assert_quotes(quote: &[u8], to: &Frame) {
    let asked = to.build();
    let headers = Headers::find(&asked).unwrap();
    let (src, dst) = (octets(to.src.ip()), octets(to.dst.ip()));
    let (ip, addresses) = match to.src.ip() {
        IpAddr::V4(_) => (&quote[..20], 12),
        IpAddr::V6(_) => (&quote[..40], 8),
    };
    match to.src.ip() {
        IpAddr::V4(_) => {
            assert_eq!(
                wire::sum(ip).ones_complement(),
                0,
                "the quoted header's checksum"
            );
            assert_eq!((ip[0], ip[9]), (0x45, to.protocol()));
        }
        IpAddr::V6(_) => assert_eq!((ip[0] >> 4, ip[6]), (6, to.protocol())),
    }
    assert_eq!(ip[addresses..], [src, dst].concat());
    let transport = &quote[ip.len()..];
    assert!(transport.len() >= 8, "{transport:02x?}");
    // A UDP header ends with its checksum, which need not have been computed.
    let certain = if to.protocol() == lb_common::proto::UDP {
        6
    } else {
        8
    };
    assert_eq!(
        transport[..certain],
        asked[headers.l4..headers.l4 + certain]
    );
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

//! Addresses and ports as they stand in packets and keys.

use core::{
    fmt::Debug,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv4 address: one word in network byte order.
pub type V4 = [u32; 1];
/// An IPv6 address: four words in network byte order.
pub type V6 = [u32; 4];

/// An address of one family: an array of 32-bit words in network byte order.
///
/// Words rather than bytes because the verifier wants aligned stack accesses and checksums are
/// sums of words.
pub trait Addr: Copy + Eq + Ord + Hash + Debug + Default + 'static {
    /// Whether this is the IPv6 family.
    const IS_V6: bool;
    /// The words, in network byte order.
    fn words(&self) -> &[u32];
    /// The address whose words these are, in network byte order, by their number.
    fn from_words(word: impl Fn(usize) -> u32) -> Self;
    /// This family's view of `ip`; none if it is of the other family.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// The address as the standard library has it.
    fn to_ip(&self) -> IpAddr;
}

impl Addr for V4 {
    const IS_V6: bool = false;

    #[inline(always)]
    fn words(&self) -> &[u32] {
        self
    }

    #[inline(always)]
    fn from_words(word: impl Fn(usize) -> u32) -> Self {
        [word(0)]
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some([u32::from_ne_bytes(ip.octets())]),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_octets(self[0].to_ne_bytes()))
    }
}

impl Addr for V6 {
    const IS_V6: bool = true;

    #[inline(always)]
    fn words(&self) -> &[u32] {
        self
    }

    #[inline(always)]
    fn from_words(word: impl Fn(usize) -> u32) -> Self {
        [word(0), word(1), word(2), word(3)]
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => {
                let mut words = [0; 4];
                for (word, bytes) in words.iter_mut().zip(ip.octets().as_chunks::<4>().0) {
                    *word = u32::from_ne_bytes(*bytes);
                }
                Some(words)
            }
        }
    }

    fn to_ip(&self) -> IpAddr {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(self) {
            *bytes = word.to_ne_bytes();
        }
        IpAddr::V6(Ipv6Addr::from_octets(octets))
    }
}

/// A TCP, UDP or SCTP port in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    /// The port with this number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The port whose network-order word this is.
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(word)
    }

    /// The two bytes of a packet.
    #[inline(always)]
    pub const fn to_wire(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// The port's number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The network-order word, as it lies in a packet and as a checksum sums it.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0
    }
}

/// Protocol numbers of the IP header (IANA).
pub mod proto {
    /// ICMP for IPv4, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_network_order() {
        let four: IpAddr = "192.0.2.7".parse().unwrap();
        let six: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(V4::from_ip(four).unwrap()[0].to_ne_bytes(), [192, 0, 2, 7]);
        assert_eq!(V4::from_ip(four).unwrap().to_ip(), four);
        assert_eq!(V6::from_ip(six).unwrap().to_ip(), six);
        assert_eq!((V4::from_ip(six), V6::from_ip(four)), (None, None));
    }

    #[test]
    fn ports_keep_network_order() {
        assert_eq!(Port::new(0x1234).to_wire(), [0x12, 0x34]);
        assert_eq!(
            Port::from_word(u16::from_ne_bytes([0x12, 0x34])).number(),
            0x1234
        );
    }
}

//! The Internet checksum (RFC 1071), and its incremental update (RFC 1624).
//!
//! Sums are taken over words as they lie in memory: one's complement addition commutes with
//! swapping bytes (RFC 1071, 2B), so no word is ever converted to host order.

use lb_common::{Addr, Port};

use crate::TransportChecksum;

/// A running one's complement sum; the carries are folded in at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds a 16-bit word in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds a 32-bit word in memory order: its halves have the same weight.
    #[inline(always)]
    #[must_use]
    pub const fn double(self, double: u32) -> Self {
        Self(self.0 + double as u64)
    }

    /// Adds bytes that start at an even offset of what is summed; an odd one out at the end
    /// counts as followed by zero.
    #[inline(always)]
    #[must_use]
    pub fn bytes<const N: usize>(mut self, bytes: &[u8; N]) -> Self {
        let (words, rest) = bytes.as_chunks::<2>();
        for word in words {
            self = self.word(u16::from_ne_bytes(*word));
        }
        match rest {
            [last] => self.word(u16::from_ne_bytes([*last, 0])),
            _ => self,
        }
    }

    /// Adds an address.
    #[inline(always)]
    #[must_use]
    pub fn addr<A: Addr>(mut self, addr: &A) -> Self {
        for word in addr.words() {
            self = self.double(*word);
        }
        self
    }

    /// Adds what must be added when `addr` is taken away.
    #[inline(always)]
    #[must_use]
    pub fn without_addr<A: Addr>(mut self, addr: &A) -> Self {
        for word in addr.words() {
            self = self.double(!*word);
        }
        self
    }

    /// Adds a port.
    #[inline(always)]
    #[must_use]
    pub const fn port(self, port: Port) -> Self {
        self.word(port.word())
    }

    /// Adds what must be added when `port` is taken away.
    #[inline(always)]
    #[must_use]
    pub const fn without_port(self, port: Port) -> Self {
        self.word(!port.word())
    }

    /// The sum with all carries folded in, in memory order.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// The checksum of what was summed.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The checksum `old` after the data it covers changed by `delta`.
#[inline(always)]
pub(crate) const fn update(old: u16, delta: u16) -> u16 {
    let sum = !old as u32 + delta as u32;
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The transport checksum `old` after addresses and ports changed: how a packet without hardware
/// help brings it into line.
#[inline(always)]
pub const fn update_checksum(
    at: TransportChecksum,
    old: u16,
    addr_delta: u16,
    port_delta: u16,
) -> u16 {
    if at.zero_is_none && old == 0 {
        return 0;
    }
    let new = update(update(old, addr_delta), port_delta);
    // A UDP checksum that comes out as zero is sent as its other form (RFC 768).
    if at.zero_is_none && new == 0 {
        0xffff
    } else {
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn incremental_equals_full(
            mut data: [u8; 40], at in 0_usize..20, word: [u8; 2],
        ) {
            let before = Sum::new().bytes(&data).checksum();
            let at = at * 2;
            let delta = Sum::new()
                .word(!u16::from_ne_bytes([data[at], data[at + 1]]))
                .word(u16::from_ne_bytes(word))
                .fold();
            data[at..at + 2].copy_from_slice(&word);
            let full = Sum::new().bytes(&data).checksum();
            // Zero has two forms; data that is not all zero yields the same one both ways.
            prop_assume!(data != [0; 40]);
            prop_assert_eq!(update(before, delta), full);
        }
    }

    #[test]
    fn example_of_rfc_1071() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold().to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn odd_length_is_padded_with_zero() {
        assert_eq!(
            Sum::new().bytes(&[1, 2, 3]),
            Sum::new().bytes(&[1, 2, 3, 0])
        );
    }
}

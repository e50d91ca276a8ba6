//! A packet as the pipeline sees it.

use crate::sctp_checksum_change;

/// Where a transport checksum is, and how its protocol treats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportChecksum {
    /// Offset of the two bytes in the packet.
    pub offset: usize,
    /// UDP, where zero means that the sender did not compute one (RFC 768).
    pub zero_is_none: bool,
    /// Carried by IPv6, whose header has no checksum of its own.
    pub ipv6: bool,
    /// The sum of the pseudo header before the change: what the checksum is if it is left to
    /// hardware. Only given where [`Packet::HARDWARE_CHECKSUMS`].
    pub pseudo: u16,
}

/// What [`Packet::segment`] says of a packet of SCTP's that stands for several (`GSO_BY_FRAGS` of the kernel): the
/// common header, then a list of what follows it in each.
pub const OF_ANY_LENGTH: usize = 0xffff;

/// Bytes of one packet, from the Ethernet header on.
///
/// Offsets are bounded by [`Packet::MAX_OFFSET`]; reads and writes outside the packet yield none.
/// No reference outlives the next mutable call: growing, shrinking or a checksum helper may
/// move the bytes.
pub trait Packet: Sized {
    /// No access starts behind this offset: the deepest header chain that is parsed ends before.
    const MAX_OFFSET: usize = 255;

    /// Whether checksums may have been left to hardware.
    const HARDWARE_CHECKSUMS: bool;

    /// The 16-bit word at `at`, in memory order.
    ///
    /// Words are read and written through the packet: headers are aligned to two bytes at best,
    /// and the compiler for BPF would take such accesses apart into single bytes.
    #[inline(always)]
    fn load16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
        u16::from_ne_bytes([bytes[at], bytes[at + 1]])
    }

    /// The 32-bit word at `at`, in memory order.
    #[inline(always)]
    fn load32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    /// Writes the 16-bit word at `at`.
    #[inline(always)]
    fn store16<const N: usize>(bytes: &mut [u8; N], at: usize, word: u16) {
        [bytes[at], bytes[at + 1]] = word.to_ne_bytes();
    }

    /// Writes the 32-bit word at `at`.
    #[inline(always)]
    fn store32<const N: usize>(bytes: &mut [u8; N], at: usize, word: u32) {
        [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]] = word.to_ne_bytes();
    }

    /// Total length in bytes, which may be more than what is directly readable.
    fn len(&self) -> usize;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes at `offset`.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// `N` bytes at `offset`, to be written.
    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// The VLAN tag the device has taken off the frame, if it did: its TCI field.
    fn stripped_vlan(&self) -> Option<u16>;

    /// Whether it was made by a socket of this node's stack, and does not merely pass it.
    fn is_own(&self) -> bool {
        false
    }

    /// Bytes of payload in each of the packets that it stands for, but the last; 0 if it is one, and
    /// [`OF_ANY_LENGTH`] if each has a length of its own.
    fn segment(&self) -> usize {
        0
    }

    /// Brings a transport checksum into line with changed addresses (which it covers through the
    /// pseudo header) and changed ports, each given as one's complement difference. False if the
    /// packet ends before it.
    fn adjust_checksum(&mut self, at: TransportChecksum, addr_delta: u16, port_delta: u16) -> bool;

    /// Tells of a change by this difference that no checksum in the packet balances, where a sum over all
    /// of it is kept beside it (`CHECKSUM_COMPLETE`).
    fn unbalance(&mut self, _delta: u16) {}

    /// Says what [`sctp_checksum_change`] says.
    ///
    /// Through the packet because of the verifier: it walks every round of every call of a function,
    /// unless the function is one it checks apart.
    #[inline(always)]
    fn sctp_checksum_change(ports: u32, length: u16) -> u32 {
        sctp_checksum_change(ports, length)
    }

    /// Whether the checksum at this offset is still to be completed by hardware (`CHECKSUM_PARTIAL`):
    /// then it holds the sum of the pseudo header only, or nothing yet in SCTP, which has none.
    fn checksum_is_partial(&mut self, offset: usize) -> bool;

    /// Cuts or grows the packet at its end to this length. False if that cannot be.
    fn resize(&mut self, length: usize) -> bool;

    /// Makes room of this many bytes between the Ethernet and the IP header, where a checksum is left to
    /// hardware: which is not told of bytes that move. False if that cannot be.
    fn make_room(&mut self, _length: u16) -> bool {
        false
    }
}

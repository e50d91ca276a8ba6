//! A packet as a byte vector.

use lb_common::proto;
use lb_ebpf::{Packet, TransportChecksum, crc32c, update_checksum};

use crate::{
    frame::Frame,
    wire::{self, Headers},
};

/// A packet in a buffer of limited size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPacket {
    bytes: Vec<u8>,
    /// Longest it can become.
    room: usize,
    /// How much of it can be read directly; the rest is in other pages.
    readable: usize,
    vlan: Option<u16>,
    /// Whether it is of this node's own stack.
    own: bool,
    partial: Option<Partial>,
    segment: usize,
}

/// A checksum that is left to hardware (`CHECKSUM_PARTIAL`): over everything from `start` on, to
/// be stored at `field`, which holds the sum of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partial {
    start: usize,
    field: usize,
}

/// Length of an Ethernet header without a tag.
const ETHERNET: usize = 14;
/// What may be appended unless a test says otherwise.
const ROOM: usize = 256;

impl HostPacket {
    /// A packet that came as these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            room: bytes.len() + ROOM,
            readable: usize::MAX,
            vlan: None,
            own: false,
            partial: None,
            segment: 0,
            bytes,
        }
    }

    /// The frame as its sender's stack leaves it when the device computes checksums.
    pub fn with_partial_checksum(frame: &Frame) -> Self {
        let mut packet = Self::new(frame.build());
        let headers = Headers::find(&packet.bytes).unwrap();
        let field = headers.checksum_field().unwrap();
        // The sum itself, not its complement; SCTP has no pseudo header, and nothing.
        let sum = !headers.pseudo_sum().ones_complement();
        packet.partial = Some(Partial {
            start: headers.l4,
            field,
        });
        if frame.protocol() == proto::SCTP {
            packet.bytes[field..field + 4].fill(0);
        } else {
            packet.bytes[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
        }
        packet
    }

    /// A packet that stands for several with this much payload each.
    pub fn in_segments_of(mut self, payload: usize) -> Self {
        self.segment = payload;
        self
    }

    /// A packet that can't grow.
    pub fn without_room(mut self) -> Self {
        self.room = self.bytes.len();
        self
    }

    /// A packet whose tag the device has taken off.
    pub fn with_stripped_vlan(mut self, tci: u16) -> Self {
        self.vlan = Some(tci);
        self
    }

    /// A packet that this node's own stack has made.
    pub fn of_this_node(mut self) -> Self {
        self.own = true;
        self
    }

    /// A packet of which only the beginning can be read.
    pub fn readable_to(mut self, length: usize) -> Self {
        self.readable = length;
        self
    }

    /// As it is.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The packet as it arrives: with its checksum completed, as `skb_checksum_help` does.
    pub fn on_wire(self) -> Vec<u8> {
        let mut bytes = self.bytes;
        let Some(Partial { start, field }) = self.partial else {
            return bytes;
        };
        if Headers::find(&bytes).is_some_and(|headers| headers.proto == proto::SCTP) {
            let sum = crc32c(&bytes[start..]);
            bytes[field..field + 4].copy_from_slice(&sum.to_le_bytes());
        } else {
            let sum = wire::sum(&bytes[start..]).to_ones_complement_with_no_zero();
            bytes[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
        }
        bytes
    }

    fn is_readable<const N: usize>(&self, offset: usize) -> bool {
        offset <= Self::MAX_OFFSET && offset + N <= self.readable
    }
}

impl From<&Frame> for HostPacket {
    fn from(frame: &Frame) -> Self {
        Self::new(frame.build())
    }
}

impl Packet for HostPacket {
    const HARDWARE_CHECKSUMS: bool = true;

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let is_readable = self.is_readable::<N>(offset);
        let rest = self.bytes.get(offset..).filter(|_| is_readable)?;
        rest.first_chunk()
    }

    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let is_readable = self.is_readable::<N>(offset);
        let rest = self.bytes.get_mut(offset..).filter(|_| is_readable)?;
        rest.first_chunk_mut()
    }

    fn stripped_vlan(&self) -> Option<u16> {
        self.vlan
    }

    fn is_own(&self) -> bool {
        self.own
    }

    fn segment(&self) -> usize {
        self.segment
    }

    /// Like `bpf_l4_csum_replace`: of a partial checksum only the pseudo header's part is there.
    fn adjust_checksum(&mut self, at: TransportChecksum, addr_delta: u16, port_delta: u16) -> bool {
        let is_partial = self.checksum_is_partial(at.offset);
        let Some(field) = self.bytes_mut::<2>(at.offset) else {
            return false;
        };
        let old = u16::from_ne_bytes(*field);
        let new = if is_partial {
            assert_eq!(old, at.pseudo, "the sign of a partial checksum");
            let sum = u32::from(old) + u32::from(addr_delta);
            (sum + (sum >> 16)) as u16
        } else {
            update_checksum(at, old, addr_delta, port_delta)
        };
        *field = new.to_ne_bytes();
        true
    }

    fn checksum_is_partial(&mut self, offset: usize) -> bool {
        self.partial.is_some_and(|partial| partial.field == offset)
    }

    /// Like `bpf_skb_change_tail`: a checksum that hardware is to write stays inside.
    fn resize(&mut self, length: usize) -> bool {
        let least = self.partial.map_or(0, |partial| partial.field + 2);
        let possible = (least..=self.room).contains(&length);
        if possible {
            self.bytes.resize(length, 0);
            self.readable = usize::MAX;
            self.segment = 0;
        }
        possible
    }

    /// Like `bpf_skb_adjust_room` in its mode for MACs.
    fn make_room(&mut self, length: u16) -> bool {
        let length = usize::from(length);
        let possible = self.bytes.len() + length <= self.room;
        if possible {
            self.bytes.splice(ETHERNET..ETHERNET, vec![0; length]);
            if let Some(Partial { start, field }) = &mut self.partial {
                *start += length;
                *field += length;
            }
        }
        possible
    }
}

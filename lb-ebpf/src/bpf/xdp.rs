//! Packets at XDP: plain memory, checksums by arithmetic.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
};
use lb_ebpf::{Packet, TransportChecksum, update_checksum};

use crate::words;

/// A packet at XDP.
pub(crate) struct XdpPacket {
    ctx: *mut xdp_md,
}

impl XdpPacket {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    words::bounds!(xdp_md, ctx);

    /// Grows the packet where its buffer ends with it, as a veth's may: all devices leave room in
    /// front, so the bytes are moved there. Only what lies within [`Packet::MAX_OFFSET`] is, more
    /// than any packet has that is grown for a reply.
    #[inline(always)]
    fn grow_in_front(&mut self, by: i32) -> bool {
        const BOUND: i32 = 127;
        if !(0..=BOUND).contains(&by) {
            return false;
        }
        // SAFETY: the context is the program's own.
        if unsafe { bpf_xdp_adjust_head(self.ctx, -by) } != 0 {
            return false;
        }
        let by = words::masked::<BOUND>(by).unsigned_abs() as usize;
        for at in (0..Self::MAX_OFFSET / 2).step_by(2) {
            let Some(word) = self.bytes::<2>(at + by).map(|word| Self::load16(word, 0)) else {
                break;
            };
            let Some(place) = self.bytes_mut::<2>(at) else {
                break;
            };
            Self::store16(place, 0, word);
        }
        true
    }
}

impl Packet for XdpPacket {
    const HARDWARE_CHECKSUMS: bool = false;

    words::access_methods!();

    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn stripped_vlan(&self) -> Option<u16> {
        None
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, at: TransportChecksum, addr_delta: u16, port_delta: u16) -> bool {
        let Some(bytes) = self.bytes_mut::<2>(at.offset) else {
            return false;
        };
        let sum = update_checksum(at, Self::load16(bytes, 0), addr_delta, port_delta);
        Self::store16(bytes, 0, sum);
        true
    }

    #[inline(always)]
    fn checksum_is_partial(&mut self, _offset: usize) -> bool {
        false
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> bool {
        let (Ok(new), Ok(old)) = (i32::try_from(length), i32::try_from(self.len())) else {
            return false;
        };
        let delta = new - old;
        // SAFETY: the context is the program's own.
        delta == 0
            || unsafe { bpf_xdp_adjust_tail(self.ctx, delta) } == 0
            || self.grow_in_front(delta)
    }
}

//! Packets at XDP: plain memory, checksums by arithmetic.

use crate::words;
use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail};
use lb_ebpf::{Packet, TransportChecksum, update_checksum};

/// A packet at XDP.
pub(crate) struct XdpPacket {
    ctx: *mut xdp_md,
}

impl XdpPacket {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the program's own, and `data` a packet pointer.
        unsafe { words::packet_pointer::<{ offset_of!(xdp_md, data) }>(self.ctx.cast()) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context is the program's own, and `data_end` a packet pointer.
        unsafe { words::packet_pointer::<{ offset_of!(xdp_md, data_end) }>(self.ctx.cast()) }
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        let start = words::start(self.data(), offset);
        (offset <= Self::MAX_OFFSET && start + N <= self.data_end())
            .then_some(start as *mut [u8; N])
    }
}

impl Packet for XdpPacket {
    const HARDWARE_CHECKSUMS: bool = false;

    words::word_methods!();

    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: within the packet, as just checked; an array of bytes has no alignment.
        self.at(offset).map(|bytes| unsafe { &*bytes })
    }

    #[inline(always)]
    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `bytes`; `&mut self` keeps other references away.
        self.at(offset).map(|bytes| unsafe { &mut *bytes })
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
        let delta = length as i32 - self.len() as i32;
        // SAFETY: the context is the program's own.
        delta == 0 || unsafe { bpf_xdp_adjust_tail(self.ctx, delta) } == 0
    }
}

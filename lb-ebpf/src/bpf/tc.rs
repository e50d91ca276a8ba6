//! Packets at tc: checksums through helpers, which know what is left to hardware.

use crate::words;
use core::mem::offset_of;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{
        bpf_csum_update, bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_pull_data,
    },
};
use lb_ebpf::{Packet, Sum, TransportChecksum, update_checksum};

/// Bytes that are made readable at once: all headers of the usual layouts.
const HEAD: u32 = 128;

/// A packet at tc.
pub(crate) struct TcPacket {
    skb: *mut __sk_buff,
}

impl TcPacket {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        let packet = Self { skb };
        // SAFETY: the kernel hands a valid context to the program.
        let length = unsafe { (*skb).len };
        let wanted = if length < HEAD { length } else { HEAD };
        if packet.data_end() - packet.data() < wanted as usize {
            // What cannot be pulled is found missing when it is read.
            // SAFETY: the context is the program's own.
            let _ = unsafe { bpf_skb_pull_data(skb, wanted) };
        }
        packet
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the program's own, and `data` a packet pointer.
        unsafe { words::packet_pointer::<{ offset_of!(__sk_buff, data) }>(self.skb.cast()) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context is the program's own, and `data_end` a packet pointer.
        unsafe { words::packet_pointer::<{ offset_of!(__sk_buff, data_end) }>(self.skb.cast()) }
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        let start = words::start(self.data(), offset);
        (offset <= Self::MAX_OFFSET && start + N <= self.data_end())
            .then_some(start as *mut [u8; N])
    }

    /// Brings a checksum that was `before`, and has just been told of the addresses, into line
    /// with the ports. A second helper call would know best, at the price of half a lookup; what
    /// the first one made of the checksum tells as much: a complete one is the complement of a
    /// sum, and to be changed, a partial one is a sum without ports, and to be left alone.
    #[inline(always)]
    fn adjust_ports(
        &mut self,
        at: TransportChecksum,
        before: u16,
        addr_delta: u16,
        port_delta: u16,
    ) -> bool {
        let Some(bytes) = self.bytes_mut::<2>(at.offset) else {
            return false;
        };
        let after = Self::load16(bytes, 0);
        let if_complete = update_checksum(at, before, addr_delta, 0);
        let if_partial = Sum::new().word(before).word(addr_delta).fold();
        if after == if_complete && after != if_partial {
            Self::store16(bytes, 0, update_checksum(at, after, 0, port_delta));
            return true;
        }
        if after == if_partial && after != if_complete {
            return true;
        }
        let none = if at.zero_is_none {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        self.replace(at.offset, port_delta, none)
    }

    /// Adds a difference to the checksum at `offset`.
    #[inline(always)]
    fn replace(&self, offset: usize, delta: u16, flags: u64) -> bool {
        // SAFETY: the context is the program's own; the helper checks the offset.
        unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(delta), flags) == 0 }
    }
}

impl Packet for TcPacket {
    words::word_methods!();

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.skb).len as usize }
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
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { ((*self.skb).vlan_present != 0).then(|| (*self.skb).vlan_tci as u16) }
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, at: TransportChecksum, addr_delta: u16, port_delta: u16) -> bool {
        let Some(before) = self.bytes::<2>(at.offset).map(|sum| Self::load16(sum, 0)) else {
            return false;
        };
        let none = if at.zero_is_none {
            if before == 0 {
                return true;
            }
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        if !self.replace(at.offset, addr_delta, none | u64::from(BPF_F_PSEUDO_HDR)) {
            return false;
        }
        if at.ipv6 {
            // The helper moves a sum over the whole packet (CHECKSUM_COMPLETE) along with the
            // pseudo header. In IPv6 the addresses' own change already balances the checksum's,
            // so that move is taken back (linux 6.16 has BPF_F_IPV6 for this).
            // SAFETY: the context is the program's own.
            unsafe { bpf_csum_update(self.skb, u32::from(addr_delta)) };
        }
        // Most services keep the port.
        is_nothing(port_delta) || self.adjust_ports(at, before, addr_delta, port_delta)
    }

    #[inline(always)]
    fn checksum_is_partial(&mut self, offset: usize) -> bool {
        let Some(before) = self.bytes::<2>(offset).copied() else {
            return false;
        };
        // The helper leaves a partial checksum alone unless the pseudo header changes.
        self.replace(offset, 1, 0);
        let Some(after) = self.bytes_mut::<2>(offset) else {
            return false;
        };
        let partial = *after == before;
        *after = before;
        partial
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> bool {
        // SAFETY: the context is the program's own.
        unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) == 0 }
    }
}

/// Whether a difference is zero in one of its two forms.
#[inline(always)]
fn is_nothing(delta: u16) -> bool {
    delta == 0 || delta == 0xffff
}

//! Packets at tc: checksums through helpers, which know what is left to hardware.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_pull_data,
    },
};
use lb_ebpf::{OF_ANY_LENGTH, Packet, TransportChecksum, update_checksum};

use crate::words;

/// Bytes that are made readable at once: all headers of the usual layouts.
const HEAD: u32 = 128;

/// The shortest headers of Ethernet, IP and what follows it.
const LEAST_HEADERS: u32 = 14 + 20 + 8;

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
            packet.pull(wanted);
        }
        packet
    }

    /// Makes so many bytes readable, but none of a second packet.
    ///
    /// A packet that stands for many may be a list of them, each to be sent as it is. Bytes that are moved from the list to
    /// the packet in front spoil it: Linux 6.12 stopped with a panic (`skb_segment`) on such a list of SCTP. The packet in
    /// front has all headers, of SCTP without a chunk, and the first packet's payload if payloads are of a fixed length.
    #[inline(always)]
    fn pull(&self, wanted: u32) {
        let wanted = match self.segment() as u32 {
            0 => wanted,
            segment if segment as usize == OF_ANY_LENGTH => return,
            segment if LEAST_HEADERS + segment < wanted => LEAST_HEADERS + segment,
            _ => wanted,
        };
        // What cannot be pulled is found missing when it is read.
        // SAFETY: the context is the program's own.
        let _ = unsafe { bpf_skb_pull_data(self.skb, wanted) };
    }

    words::bounds!(__sk_buff, skb);

    /// Whether a checksum may be left to hardware (`CHECKSUM_PARTIAL`). Then it is the pseudo
    /// header's sum; one in 65,536 others is too. The kernel keeps to itself which it is, but its
    /// helpers know: they are asked only then, for they cost as much as a lookup.
    #[inline(always)]
    fn may_be_partial(&self, sum: u16, pseudo: u16) -> bool {
        // What is yet to be segmented is left to hardware, and its length is that of all segments.
        self.segment() != 0 || sum == pseudo || is_nothing(sum) && is_nothing(pseudo)
    }

    /// Brings a checksum into line through helpers, which leave a partial one without ports.
    #[inline(always)]
    fn adjust_with_help(&self, at: TransportChecksum, addr_delta: u16, port_delta: u16) -> bool {
        let none = if at.zero_is_none {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        if !self.replace(at.offset, addr_delta, none | u64::from(BPF_F_PSEUDO_HDR)) {
            return false;
        }
        if at.ipv6 {
            // The helper moves a sum over the whole packet along with the pseudo header, though
            // in IPv6 it is balanced already: that move is taken back (linux 6.16 has BPF_F_IPV6).
            // SAFETY: the context is the program's own.
            unsafe { bpf_csum_update(self.skb, u32::from(addr_delta)) };
        }
        // Most services keep the port.
        is_nothing(port_delta) || self.replace(at.offset, port_delta, none)
    }

    /// Adds a difference to the checksum at `offset`.
    #[inline(always)]
    fn replace(&self, offset: usize, delta: u16, flags: u64) -> bool {
        // SAFETY: the context is the program's own; the helper checks the offset.
        unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(delta), flags) == 0 }
    }
}

impl Packet for TcPacket {
    const HARDWARE_CHECKSUMS: bool = true;

    words::access_methods!();

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn stripped_vlan(&self) -> Option<u16> {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { ((*self.skb).vlan_present != 0).then(|| (*self.skb).vlan_tci as u16) }
    }

    #[inline(always)]
    fn is_own(&self) -> bool {
        // SAFETY: the kernel hands a valid context to the program. Read at once: the verifier takes
        // pointers whole.
        let socket = unsafe { (&raw const (*self.skb).__bindgen_anon_2.sk).read_volatile() };
        !socket.is_null()
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, at: TransportChecksum, addr_delta: u16, port_delta: u16) -> bool {
        let Some(bytes) = self.bytes_mut::<2>(at.offset) else {
            return false;
        };
        let before = Self::load16(bytes, 0);
        if at.zero_is_none && before == 0 {
            return true;
        }
        if self.may_be_partial(before, at.pseudo) {
            return self.adjust_with_help(at, addr_delta, port_delta);
        }
        let Some(bytes) = self.bytes_mut::<2>(at.offset) else {
            return false;
        };
        let sum = update_checksum(at, before, addr_delta, port_delta);
        Self::store16(bytes, 0, sum);
        if !at.ipv6 {
            // A sum over the whole packet (CHECKSUM_COMPLETE) sees the addresses balanced by the
            // IP header's own checksum, and the ports by this one; only what the pseudo header
            // changed here is not. In IPv6 the addresses balance that.
            // SAFETY: the context is the program's own.
            unsafe { bpf_csum_update(self.skb, u32::from(!addr_delta)) };
        }
        true
    }

    #[inline(always)]
    fn unbalance(&mut self, delta: u16) {
        // SAFETY: the context is the program's own.
        unsafe { bpf_csum_update(self.skb, u32::from(delta)) };
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
    fn segment(&self) -> usize {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.skb).gso_size as usize }
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> bool {
        // SAFETY: the context is the program's own.
        unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) == 0 }
    }

    #[inline(always)]
    fn make_room(&mut self, length: u16) -> bool {
        // SAFETY: the context is the program's own.
        unsafe { bpf_skb_adjust_room(self.skb, length.into(), BPF_ADJ_ROOM_MAC, 0) == 0 }
    }
}

/// Whether a difference is zero in one of its two forms.
#[inline(always)]
fn is_nothing(delta: u16) -> bool {
    delta == 0 || delta == 0xffff
}

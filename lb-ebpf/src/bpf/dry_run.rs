//! Answers of dry runs, in the control block of the packet that was asked about.
//!
//! Whoever calls any of these has first seen [`is_on`]: where it is not, the verifier takes the call
//! away, and so it does not matter that XDP has no control block.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use lb_common::{
    Addr, Port, V4, V6,
    counters::Reason,
    dry_run::{Outcome, REASON_MASK, flow_bits, reason_bits, told, word},
    flow::{Flow, Half, Route},
    service::{Frontend, Slots, frontend},
    socket::{Cookie, SocketKey, SocketPeer},
};
use lb_ebpf::{
    Answer, Call, InsertError, Operation, Packet as _, Sockets, Tables, Verdict,
    lead as lead_socket,
};

use crate::{maps, tables::KernelTables, tc::TcPacket};

/// Whether this is a dry run: nothing but the packet, its metadata and what is staged may be
/// written. A constant to the verifier.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    maps::DRY_RUN.load() != 0
}

/// What becomes of the packet.
#[inline(always)]
pub(crate) fn outcome(ctx: *mut c_void, verdict: Verdict) {
    let outcome = match verdict {
        Verdict::Pass => Outcome::Pass,
        Verdict::Deliver
        | Verdict::Transmit { .. }
        | Verdict::Enter { .. }
        | Verdict::Resolve { .. }
        | Verdict::Reflect => Outcome::Forward,
        Verdict::Reject(_) => Outcome::Reject,
        Verdict::Drop => Outcome::Drop,
    };
    tell(ctx, 0, outcome.bits());
}

/// Why it is not translated.
#[inline(always)]
pub(crate) fn reason(ctx: *mut c_void, reason: Reason) {
    tell(ctx, REASON_MASK, reason_bits(reason));
}

/// The frontend it is for, and its backends for this client.
#[inline(always)]
pub(crate) fn considered(ctx: *mut c_void, frontend: &Frontend, slots: Slots) {
    write(ctx, word::SERVICE, frontend.service);
    write(ctx, word::FIRST_SLOT, slots.offset);
    write(ctx, word::SLOT_COUNT, slots.count);
    let list = match frontend.flags & frontend::HASHED {
        0 => 0,
        _ => told::LIST,
    };
    tell(ctx, 0, told::FRONTEND | list);
}

/// That a slot was drawn.
#[inline(always)]
pub(crate) fn drawn(ctx: *mut c_void) {
    tell(ctx, 0, told::DRAWN);
}

/// That what is drawn follows from the flow's hash.
#[inline(always)]
pub(crate) fn hashed(ctx: *mut c_void) {
    tell(ctx, 0, told::HASHED);
}

/// The row it is rewritten by.
#[inline(always)]
pub(crate) fn followed<A: Addr>(ctx: *mut c_void, flow: &Flow<A>) {
    write(ctx, word::SERVICE, flow.service);
    write(ctx, word::BACKEND, flow.backend);
    tell(ctx, 0, flow_bits(flow.route(), flow.half()));
}

/// A number in place of a random one: first the packet's mark, then what follows from it (a linear
/// congruential generator, Numerical Recipes).
#[inline(always)]
pub(crate) fn random(ctx: *mut c_void) -> u32 {
    let skb = ctx.cast::<__sk_buff>();
    // SAFETY: the context is the program's own; a program of tc may read and write the mark.
    unsafe {
        let mark = &raw mut (*skb).mark;
        let number = mark.read_volatile();
        mark.write_volatile(number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        number
    }
}

/// Puts bits into the first word, in place of those of the mask.
#[inline(always)]
fn tell(ctx: *mut c_void, mask: u32, bits: u32) {
    let skb = ctx.cast::<__sk_buff>();
    // SAFETY: the context is the program's own; a program of tc may read and write the control
    // block, word by word, which merged accesses would not be.
    unsafe {
        let first = (&raw mut (*skb).cb).cast::<u32>();
        first.write_volatile(first.read_volatile() & !mask | bits);
    }
}

#[inline(always)]
fn write(ctx: *mut c_void, word: usize, value: u32) {
    let skb = ctx.cast::<__sk_buff>();
    // SAFETY: as for `tell`; `word` is one of the constants for the five words.
    unsafe {
        (&raw mut (*skb).cb)
            .cast::<u32>()
            .add(word)
            .write_volatile(value);
    }
}

/// Does with a packet what the hooks of sockets would do with the call behind it: hooks on cgroups
/// cannot be run on demand. Attached nowhere.
#[classifier]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn tc_host(ctx: TcContext) -> i32 {
    if is_on() {
        host(ctx.as_ptr().cast());
    }
    TC_ACT_UNSPEC
}

/// Reads a packet of the plainest layout, which those who ask send: no VLAN tag, no options.
#[inline(always)]
fn host(skb: *mut __sk_buff) {
    const IPV4: u16 = 0x0800_u16.to_be();
    const IPV6: u16 = 0x86dd_u16.to_be();
    let packet = TcPacket::new(skb);
    let tables = KernelTables::<true>::of_tc(skb);
    let Some(ether) = packet.bytes::<14>(0) else {
        return;
    };
    match TcPacket::load16(ether, 12) {
        IPV4 => {
            if let Some(header) = packet.bytes::<{ 20 + 4 }>(14) {
                let addr = [TcPacket::load32(header, 16)];
                let port = Port::from_word(TcPacket::load16(header, 22));
                call::<V4>(skb.cast(), header[9], (addr, port), &tables);
            }
        }
        IPV6 => {
            if let Some(header) = packet.bytes::<{ 40 + 4 }>(14) {
                let addr = [24, 28, 32, 36].map(|at| TcPacket::load32(header, at));
                let port = Port::from_word(TcPacket::load16(header, 42));
                call::<V6>(skb.cast(), header[6], (addr, port), &tables);
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn call<A: Addr>(ctx: *mut c_void, proto: u8, peer: (A, Port), tables: &KernelTables<true>)
where
    KernelTables<true>: Tables<A>,
{
    let call = Call {
        netns: Tables::<A>::config(tables).map_or(Cookie::NONE, |config| config.netns),
        proto,
        peer,
    };
    let outcome = match lead_socket(Operation::Connect, &call, &mut Asked { ctx }, tables).answer {
        Answer::Pass => Outcome::Pass,
        Answer::Lead => Outcome::Forward,
        Answer::Refuse => Outcome::Reject,
        Answer::Forbid => Outcome::Drop,
    };
    tell(ctx, 0, outcome.bits());
}

/// The sockets of one that does not exist.
struct Asked {
    ctx: *mut c_void,
}

impl<A: Addr> Sockets<A> for Asked {
    #[inline(always)]
    fn cookie(&self) -> Cookie {
        Cookie::NONE
    }

    #[inline(always)]
    fn get(&self, _: &SocketKey<A>) -> Option<&SocketPeer<A>> {
        None
    }

    #[inline(always)]
    fn insert(&mut self, _: &SocketKey<A>, peer: &SocketPeer<A>) -> Result<(), InsertError> {
        write(self.ctx, word::SERVICE, peer.service);
        write(self.ctx, word::BACKEND, peer.backend);
        tell(self.ctx, 0, flow_bits(Route::Stack, Half::Request));
        Ok(())
    }

    #[inline(always)]
    fn pod(&self, _: Cookie) -> Option<&A> {
        None
    }
}

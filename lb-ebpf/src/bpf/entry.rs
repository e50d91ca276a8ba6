//! Entry points. Actions are named here and nowhere else.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    helpers::generated::{bpf_redirect, bpf_redirect_neigh},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_ebpf::{Hook, Verdict, process, reject, sctp_checksum_change};

use crate::{
    dry_run,
    tables::{FlowTables, KernelTables},
    tc::TcPacket,
    xdp::XdpPacket,
};

/// Licence of the object: most helpers are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn xdp_external(ctx: XdpContext) -> u32 {
    let raw = ctx.ctx;
    let tables = KernelTables::of_xdp(raw);
    let ingress = tables.ifindex;
    match process(
        Hook::XDP_EXTERNAL,
        &mut XdpPacket::new(raw),
        &mut FlowTables,
        &tables,
    ) {
        Verdict::Pass | Verdict::Deliver => XDP_PASS,
        Verdict::Transmit { ifindex } if ifindex == ingress => XDP_TX,
        // SAFETY: the helper takes numbers only.
        Verdict::Transmit { ifindex } => unsafe { bpf_redirect(ifindex, 0).unsigned_abs() as u32 },
        Verdict::Reflect => XDP_TX,
        // SAFETY: the context is the program's own.
        Verdict::Reject => unsafe { reject_xdp(raw) },
        // XDP never answers `Resolve`: it passes such packets to tc.
        Verdict::Resolve { .. } | Verdict::Drop => XDP_DROP,
    }
}

/// Answers a rejected packet. A function of its own, which the verifier checks apart and whose
/// stack is not the pipeline's.
///
/// # Safety
///
/// `ctx` is the context the kernel gave the program.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn reject_xdp(ctx: *mut xdp_md) -> u32 {
    let tables = KernelTables::of_xdp(ctx);
    match reject(&mut XdpPacket::new(ctx), &tables) {
        Verdict::Reflect => XDP_TX,
        _ => XDP_DROP,
    }
}

#[classifier]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn tc_ext_in(ctx: TcContext) -> i32 {
    classify(Hook::TC_EXTERNAL_INGRESS, ctx.as_ptr().cast())
}

#[classifier]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn tc_ext_out(ctx: TcContext) -> i32 {
    classify(Hook::TC_EXTERNAL_EGRESS, ctx.as_ptr().cast())
}

#[classifier]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn tc_pod_in(ctx: TcContext) -> i32 {
    classify(Hook::TC_POD_INGRESS, ctx.as_ptr().cast())
}

#[classifier]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn tc_pod_out(ctx: TcContext) -> i32 {
    classify(Hook::TC_POD_EGRESS, ctx.as_ptr().cast())
}

#[inline(always)]
fn classify(hook: Hook, skb: *mut __sk_buff) -> i32 {
    let tables = KernelTables::of_tc(skb);
    let verdict = process(hook, &mut TcPacket::new(skb), &mut FlowTables, &tables);
    if dry_run::is_on() {
        dry_run::outcome(skb.cast(), verdict);
        return TC_ACT_UNSPEC;
    }
    match verdict {
        // The next program on the device has its turn (`TCX_NEXT`), then the stack.
        Verdict::Pass | Verdict::Deliver => TC_ACT_UNSPEC,
        // SAFETY: the helper takes numbers only.
        Verdict::Transmit { ifindex } => unsafe { bpf_redirect(ifindex, 0) as i32 },
        // SAFETY: no parameters are given (null and zero), so the kernel looks the route up.
        Verdict::Resolve { ifindex } => unsafe {
            bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32
        },
        // SAFETY: the helper takes numbers only.
        Verdict::Reflect => unsafe { bpf_redirect(tables.ifindex, 0) as i32 },
        // SAFETY: the context is the program's own.
        Verdict::Reject => unsafe { reject_tc(skb) },
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// [`reject_xdp`] for tc.
///
/// # Safety
///
/// `skb` is the context the kernel gave the program.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn reject_tc(skb: *mut __sk_buff) -> i32 {
    let tables = KernelTables::of_tc(skb);
    match reject(&mut TcPacket::new(skb), &tables) {
        // SAFETY: the helper takes numbers only.
        Verdict::Reflect => unsafe { bpf_redirect(tables.ifindex, 0) as i32 },
        _ => TC_ACT_SHOT,
    }
}

/// What an SCTP checksum changes by. A function of its own like [`reject_xdp`].
///
/// # Safety
///
/// None is needed; the verifier checks it for whatever numbers.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sctp_change(ports: u32, length: u16) -> u32 {
    sctp_checksum_change(ports, length)
}

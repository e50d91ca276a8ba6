//! Entry points. Actions are named here and nowhere else.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    helpers::generated::{bpf_redirect, bpf_redirect_neigh},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::flow::Direction;
use lb_ebpf::{Hook, Notice, Verdict, fast, process, reject, sctp_checksum_change, unfinished};

use crate::{
    dry_run, maps,
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
    let tables = KernelTables::<false>::of_xdp(raw);
    let mut packet = XdpPacket::new(raw);
    let flows = &mut FlowTables::<false>;
    if let Some(verdict) = fast(Hook::XDP_EXTERNAL, &mut packet, flows, &tables) {
        return act_xdp::<false>(verdict, raw, tables.ifindex);
    }
    // SAFETY: nothing is left to be dropped.
    unsafe { maps::XDP_FULL.tail_call(&ctx, 0) };
    act_xdp::<false>(unfinished(&tables), raw, tables.ifindex)
}

#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn xdp_external_full(ctx: XdpContext) -> u32 {
    let raw = ctx.ctx;
    let tables = KernelTables::<false>::of_xdp(raw);
    let mut packet = XdpPacket::new(raw);
    let verdict = process(
        Hook::XDP_EXTERNAL,
        &mut packet,
        &mut FlowTables::<false>,
        &tables,
    );
    act_xdp::<true>(verdict, raw, tables.ifindex)
}

/// The action for a verdict. The fast path rejects nothing (`REJECTS` is false there): without the call to
/// [`reject_xdp`] its stack and that function's do not add up.
#[inline(always)]
fn act_xdp<const REJECTS: bool>(verdict: Verdict, ctx: *mut xdp_md, ingress: u32) -> u32 {
    match verdict {
        Verdict::Pass | Verdict::Deliver => XDP_PASS,
        Verdict::Transmit { ifindex } if ifindex == ingress => XDP_TX,
        // SAFETY: the helper takes numbers only.
        Verdict::Transmit { ifindex } => unsafe { bpf_redirect(ifindex, 0).unsigned_abs() as u32 },
        Verdict::Reflect => XDP_TX,
        // SAFETY: the context is the program's own.
        Verdict::Reject(notice) if REJECTS => unsafe { reject_xdp(ctx, notice.number()) },
        // XDP never answers `Resolve` nor `Enter`: it passes such packets to tc, or to the stack.
        Verdict::Resolve { .. } | Verdict::Enter { .. } | Verdict::Reject(_) | Verdict::Drop => {
            XDP_DROP
        }
    }
}

/// Answers a rejected packet with the notice of this number. A function of its own, which the verifier
/// checks apart and whose stack is not the pipeline's.
///
/// # Safety
///
/// `ctx` is the context the kernel gave the program.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn reject_xdp(ctx: *mut xdp_md, notice: u32) -> u32 {
    let tables = KernelTables::<false>::of_xdp(ctx);
    let notice = Notice::from_number(notice);
    match reject(&mut XdpPacket::new(ctx), notice, &tables) {
        Verdict::Reflect => XDP_TX,
        _ => XDP_DROP,
    }
}

/// Both programs of a hook of tc; `$full` is where [`maps::TC_FULL`] has the second, as
/// [`lb_common::maps::programs::TC_FULL`] says.
macro_rules! tc {
    ($fast:ident, $process:ident, $hook:expr, $full:literal) => {
        #[classifier]
        #[inline(always)]
        fn $fast(ctx: TcContext) -> i32 {
            let skb = ctx.as_ptr().cast();
            let tables = KernelTables::<false>::of_tc(skb);
            let (packet, flows) = (&mut TcPacket::new(skb), &mut FlowTables::<false>);
            if let Some(verdict) = fast($hook, packet, flows, &tables) {
                return act_tc::<false>($hook, verdict, skb, tables.ifindex);
            }
            // SAFETY: nothing is left to be dropped.
            unsafe { maps::TC_FULL.tail_call(&ctx, $full) };
            act_tc::<false>($hook, unfinished(&tables), skb, tables.ifindex)
        }

        #[classifier]
        #[inline(always)]
        fn $process(ctx: TcContext) -> i32 {
            let skb = ctx.as_ptr().cast();
            let tables = KernelTables::<true>::of_tc(skb);
            let verdict = process(
                $hook,
                &mut TcPacket::new(skb),
                &mut FlowTables::<true>,
                &tables,
            );
            if dry_run::is_on() {
                dry_run::outcome(skb.cast(), verdict);
                return TC_ACT_UNSPEC;
            }
            act_tc::<true>($hook, verdict, skb, tables.ifindex)
        }
    };
}

tc!(tc_ext_in, tc_ext_in_full, Hook::TC_EXTERNAL_INGRESS, 0);
tc!(tc_ext_out, tc_ext_out_full, Hook::TC_EXTERNAL_EGRESS, 1);
tc!(tc_pod_in, tc_pod_in_full, Hook::TC_POD_INGRESS, 2);
tc!(tc_pod_out, tc_pod_out_full, Hook::TC_POD_EGRESS, 3);

/// [`act_xdp`] for tc.
#[inline(always)]
fn act_tc<const REJECTS: bool>(
    hook: Hook,
    verdict: Verdict,
    skb: *mut __sk_buff,
    here: u32,
) -> i32 {
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
        Verdict::Enter { ifindex } => unsafe {
            bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32
        },
        // SAFETY: the helper takes numbers only.
        Verdict::Reflect => unsafe { bpf_redirect(here, 0) as i32 },
        // SAFETY: the context is the program's own.
        Verdict::Reject(notice) if REJECTS => unsafe {
            reject_tc(skb, notice.number(), back(hook))
        },
        Verdict::Reject(_) | Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Where the sender of what is seen at a hook hears an answer: behind the interface, or in this node's own
/// stack.
const fn back(hook: Hook) -> u32 {
    match hook.direction {
        Direction::Ingress => 0,
        Direction::Egress => BPF_F_INGRESS,
    }
}

/// [`reject_xdp`] for tc; `flags` are those of the redirection.
///
/// # Safety
///
/// `skb` is the context the kernel gave the program.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn reject_tc(skb: *mut __sk_buff, notice: u32, flags: u32) -> i32 {
    let tables = KernelTables::<false>::of_tc(skb);
    let notice = Notice::from_number(notice);
    match reject(&mut TcPacket::new(skb), notice, &tables) {
        // SAFETY: the helper takes numbers only.
        Verdict::Reflect => unsafe { bpf_redirect(tables.ifindex, u64::from(flags)) as i32 },
        _ => TC_ACT_SHOT,
    }
}

/// What an SCTP checksum changes by. A function of its own like [`reject_xdp`]; checked for a length
/// of any word, whereas of a half one the compiler would take for granted that it is no more.
///
/// # Safety
///
/// None is needed; the verifier checks it for whatever numbers.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sctp_change(ports: u32, length: u32) -> u32 {
    sctp_checksum_change(ports, length as u16)
}

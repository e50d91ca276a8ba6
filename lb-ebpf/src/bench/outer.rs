//! The outer programs: lay the packet of the next flow, and call the target.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action::XDP_ABORTED},
    btf_maps::{Array, PerCpuArray, ProgramArray},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::bench::{Cursor, HEAD, Template, draw};

/// Licence of the object: most helpers are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The packet, and how flows differ from it.
#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();
/// The next flow.
#[btf_map]
static CURSOR: PerCpuArray<Cursor, 1> = PerCpuArray::new();
/// The XDP program to measure.
#[btf_map]
static XDP_TARGET: ProgramArray<1> = ProgramArray::new();
/// The tc program to measure.
#[btf_map]
static TC_TARGET: ProgramArray<1> = ProgramArray::new();

#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn outer_xdp(ctx: XdpContext) -> u32 {
    if lay(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: nothing is left to be dropped.
        unsafe { XDP_TARGET.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn outer_tc(ctx: TcContext) -> i32 {
    if lay(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: nothing is left to be dropped.
        unsafe { TC_TARGET.tail_call(&ctx, 0) };
    }
    TC_ACT_SHOT
}

/// Writes the headers of the next flow's packet.
#[inline(always)]
fn lay(data: usize, end: usize) -> Option<()> {
    let template = TEMPLATE.get(0)?;
    let cursor = CURSOR.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, and the program does not run within itself.
    let flow = unsafe {
        (*cursor).next = (*cursor).next.wrapping_add(1);
        (*cursor).next & (*cursor).mask
    };
    if data + HEAD > end {
        return None;
    }
    // SAFETY: the packet has that many bytes, as just checked, and the array in the map is
    // aligned to eight; packets may be written at any alignment.
    unsafe { *(data as *mut [u64; HEAD / 8]) = template.head };
    let (client, service) = draw(flow, template.services);
    let client_at = (template.client as usize) & 0x3f;
    let service_at = (template.service as usize) & 0x3f;
    put(
        data,
        end,
        client_at,
        template.client_word.wrapping_add(client),
    )?;
    put(
        data,
        end,
        service_at,
        template.service_word.wrapping_add(service),
    )
}

/// Writes a big-endian word at an offset.
#[inline(always)]
fn put(data: usize, end: usize, at: usize, word: u32) -> Option<()> {
    let start = data + at;
    if start + 4 > end {
        return None;
    }
    // SAFETY: within the packet, as just checked.
    unsafe { *(start as *mut u32) = word.to_be() };
    Some(())
}

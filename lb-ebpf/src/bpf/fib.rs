//! Questions to the FIB, and its answers.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibParams,
};
use lb_common::{Addr, flow::Macs};
use lb_ebpf::{Fib, Reach};

use crate::words;

/// What a helper's answer in `params` means.
#[inline(always)]
pub(crate) fn fib_answer<A: Addr>(code: i64, params: &FibParams, src: A) -> Fib<A> {
    const NEIGHBOUR: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;
    const NO_NEIGHBOUR: i64 = BPF_FIB_LKUP_RET_NO_NEIGH as i64;
    const NOT_FORWARDED: i64 = BPF_FIB_LKUP_RET_NOT_FWDED as i64;
    let reach = match code {
        NEIGHBOUR => Reach::Neighbour,
        NO_NEIGHBOUR => Reach::Route,
        NOT_FORWARDED => Reach::NotForwarded,
        _ => Reach::Unreachable,
    };
    Fib {
        reach,
        ifindex: params.ifindex,
        macs: macs(params),
        src,
        // SAFETY: both members of the union are the same word.
        mtu: unsafe { params.__bindgen_anon_1.mtu_result },
    }
}

/// The MACs the FIB filled in, the destination's first as in a frame.
///
/// Read word by word: merged into wider loads, which the compiler may do with packets, they would
/// be misaligned on the stack, and the verifier refuses that.
#[inline(always)]
fn macs(params: &FibParams) -> Macs {
    const SOURCE_FIRST: [usize; 6] = [3, 4, 5, 0, 1, 2];
    let words = (&raw const params.__bindgen_anon_6).cast::<u16>();
    // SAFETY: the union holds source and destination MAC, six words that end the struct.
    SOURCE_FIRST.map(|i| unsafe { words.add(i).read_volatile() })
}

/// What the helper is told of `bpf_fib_lookup`'s size.
pub(crate) const PARAMS_SIZE: i32 = 64;
const _: () = assert!(size_of::<FibParams>() == 64);

/// `AF_INET` and `AF_INET6`, as the FIB helper wants them.
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

#[inline(always)]
pub(crate) fn fib_params(
    place: &mut MaybeUninit<FibParams>,
    family: u8,
    proto: u8,
    ifindex: u32,
) -> &mut FibParams {
    // SAFETY: all fields are integers, or unions and arrays of them; the struct is sixteen words.
    let params = unsafe {
        words::zero(place.as_mut_ptr());
        place.assume_init_mut()
    };
    params.family = family;
    params.l4_protocol = proto;
    params.ifindex = ifindex;
    // Shorter than any packet: the route's MTU is told, and not checked, at XDP and at tc alike.
    params.__bindgen_anon_1.tot_len = 1;
    params
}

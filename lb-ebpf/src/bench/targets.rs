//! Targets that do one thing: the prices the pipeline is held against.
//!
//! Each reads its key from the packet that the outer program laid: an untagged one without
//! options.

use core::hint::black_box;

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_MMAPABLE, BPF_FIB_LOOKUP_SRC, BPF_NOEXIST, TC_ACT_SHOT,
        bpf_fib_lookup as FibParams, xdp_action::XDP_PASS,
    },
    btf_maps::{Array, HashMap, LruHashMap},
    helpers::generated::{bpf_fib_lookup, bpf_get_prandom_u32},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    Addr, Port, V4, V6,
    bench::{CHOICES, DRAWN, LISTED},
    flow::{Direction, Flow, FlowKey, Half, Route},
    maps::{FLOWS_MAX, FRONTENDS_MAX, SLOTS_MAX},
    service::{Frontend, FrontendKey},
};
use lb_ebpf::{drawn, flow_hash, listed};

/// The production tables: the loader puts the ones of the measured programs in their place.
#[btf_map]
static FLOWS4: LruHashMap<FlowKey<V4>, Flow<V4>, { FLOWS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static FLOWS6: LruHashMap<FlowKey<V6>, Flow<V6>, { FLOWS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static FRONTENDS4: HashMap<FrontendKey<V4>, Frontend, { FRONTENDS_MAX as usize }, 1> =
    HashMap::new();
#[btf_map]
static FRONTENDS6: HashMap<FrontendKey<V6>, Frontend, { FRONTENDS_MAX as usize }, 1> =
    HashMap::new();
#[btf_map]
static SLOTS4: Array<u32, { SLOTS_MAX as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What the floor calls: nothing.
#[xdp]
fn nop_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// What the floor calls: nothing.
#[classifier]
fn nop_tc(_ctx: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// Backends that chance chooses.
#[xdp]
fn random(_ctx: XdpContext) -> u32 {
    let mut chosen = 2;
    for _ in 0..CHOICES {
        // SAFETY: the helper takes nothing, and changes nothing of ours.
        let number = unsafe { bpf_get_prandom_u32() };
        let Some(index) = drawn(DRAWN, number, |at| SLOTS4.get(at).copied()) else {
            return 0;
        };
        chosen |= index << 2;
    }
    chosen
}

macro_rules! family {
    ($addr:ty, $flows:ident, $frontends:ident, $ports:expr, $src:expr, $dst:expr, $af:expr,
     $lookup:ident, $frontend:ident, $insert:ident, $fib:ident, $hash:ident, $member:ident,
     $word:expr) => {
        /// One lookup of a flow.
        #[xdp]
        fn $lookup(ctx: XdpContext) -> u32 {
            let Some(key) = key::<$addr, { $ports }, { $src }, { $dst }>(&ctx) else {
                return 0;
            };
            // SAFETY: the row outlives the program, and one word of it is read.
            unsafe { $flows.get(&key).map_or(1, |flow| flow.service | 2) }
        }

        /// One lookup of a frontend.
        #[xdp]
        fn $frontend(ctx: XdpContext) -> u32 {
            let Some(key) = key::<$addr, { $ports }, { $src }, { $dst }>(&ctx) else {
                return 0;
            };
            let key = FrontendKey::new(key.dst, key.dport, key.proto);
            // SAFETY: the row outlives the program, and one word of it is read.
            unsafe {
                $frontends
                    .get(&key)
                    .map_or(1, |frontend| frontend.service | 2)
            }
        }

        /// One insertion of a flow.
        #[xdp]
        fn $insert(ctx: XdpContext) -> u32 {
            let Some(key) = key::<$addr, { $ports }, { $src }, { $dst }>(&ctx) else {
                return 0;
            };
            let there = (key.dst, key.dport);
            let flow = Flow::new(Half::Request, Route::Stack, there, there);
            match $flows.insert(&key, &flow, u64::from(BPF_NOEXIST | BPF_ANY)) {
                Ok(()) => 2,
                Err(_) => 1,
            }
        }

        /// One question to the FIB: the way to the packet's destination.
        #[xdp]
        fn $fib(ctx: XdpContext) -> u32 {
            let Some(key) = key::<$addr, { $ports }, { $src }, { $dst }>(&ctx) else {
                return 0;
            };
            // SAFETY: all fields are integers, or unions and arrays of them.
            let mut params: FibParams = unsafe { core::mem::zeroed() };
            params.family = $af;
            params.l4_protocol = key.proto;
            // SAFETY: the kernel hands a valid context to the program.
            params.ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
            params.__bindgen_anon_4.$member = ($word)(key.dst);
            let ctx = ctx.ctx.cast();
            // SAFETY: `params` is a whole `bpf_fib_lookup` (64 bytes), the context the program's own.
            let code = unsafe { bpf_fib_lookup(ctx, &mut params, 64, BPF_FIB_LOOKUP_SRC) };
            2 + code.unsigned_abs() as u32
        }

        /// Backends that a Maglev table has, each for a flow that follows from the one before: a choice has to
        /// wait for its number.
        #[xdp]
        fn $hash(ctx: XdpContext) -> u32 {
            let Some(mut key) = key::<$addr, { $ports }, { $src }, { $dst }>(&ctx) else {
                return 0;
            };
            for _ in 0..CHOICES {
                // Of what the compiler knows to stay the same it would multiply once for all.
                let number = flow_hash(black_box(&key));
                let Some(index) = listed(LISTED, number, |at| SLOTS4.get(at).copied()) else {
                    return 0;
                };
                key.sport = Port::from_word((number ^ index) as u16);
            }
            u32::from(key.sport.word()) | 2
        }
    };
}

family!(
    V4,
    FLOWS4,
    FRONTENDS4,
    34,
    26,
    30,
    2,
    lookup4,
    frontend4,
    insert4,
    fib4,
    hash4,
    ipv4_dst,
    |addr: V4| addr[0]
);
family!(
    V6,
    FLOWS6,
    FRONTENDS6,
    54,
    22,
    38,
    10,
    lookup6,
    frontend6,
    insert6,
    fib6,
    hash6,
    ipv6_dst,
    |addr: V6| addr
);

/// The packet's key, by the shortest way.
#[inline(always)]
fn key<A: Addr, const PORTS: usize, const SRC: usize, const DST: usize>(
    ctx: &XdpContext,
) -> Option<FlowKey<A>> {
    let data = ctx.data();
    if data + PORTS + 4 > ctx.data_end() {
        return None;
    }
    let proto_at = if A::IS_V6 { 20 } else { 23 };
    // SAFETY: all lie before the end of the ports, as just checked; packets may be read at any
    // alignment.
    unsafe {
        let port = |at: usize| Port::from_word(*((data + at) as *const u16));
        Some(FlowKey::new(
            Direction::Ingress,
            *((data + proto_at) as *const u8),
            (*((data + SRC) as *const A), port(PORTS)),
            (*((data + DST) as *const A), port(PORTS + 2)),
        ))
    }
}

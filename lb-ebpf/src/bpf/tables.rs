//! The pipeline's tables, on BPF maps and helpers.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_ANY, BPF_FIB_LOOKUP_SRC, BPF_NOEXIST, bpf_fib_lookup as FibParams,
        bpf_sock_addr, xdp_md,
    },
    helpers::generated::{bpf_fib_lookup, bpf_get_prandom_u32, bpf_jiffies64},
};
use lb_common::{
    Tick, V4, V6,
    config::{Config, FamilyConfig},
    counters::{Reason, ServiceCounters},
    flow::{FirstFragment, Flow, FlowKey, FragmentKey, Half, Staged},
    kernel,
    service::{Backend, ClientKey, Frontend, FrontendKey, Remembered, Slots, SourceRange},
};
use lb_ebpf::{Datagram, Entry, Fib, FibQuery, Flows, InsertError, Tables, take_allowance};

use crate::{
    dry_run,
    fib::{AF_INET, AF_INET6, PARAMS_SIZE, fib_answer, fib_params},
    maps, words,
};

/// Both families' flow tables; see [`KernelTables`] on `DRY`.
pub(crate) struct FlowTables<const DRY: bool>;

/// Everything else, for one packet. `DRY` for programs that may be loaded for [dry runs](dry_run):
/// the others do not even ask. `SOCKET` for programs at sockets: see [`config`](Self::config).
pub(crate) struct KernelTables<const DRY: bool, const SOCKET: bool = false> {
    ctx: *mut c_void,
    /// Interface the packet was seen on.
    pub(crate) ifindex: u32,
}

impl KernelTables<false, true> {
    /// For a process's call, of which there is no interface yet: the FIB is not to be asked.
    #[inline(always)]
    pub(crate) const fn of_socket(ctx: *mut bpf_sock_addr) -> Self {
        Self::new(ctx.cast(), 0)
    }
}

impl<const DRY: bool> KernelTables<DRY> {
    #[inline(always)]
    pub(crate) fn of_xdp(ctx: *mut xdp_md) -> Self {
        // SAFETY: the kernel hands a valid context to the program.
        Self::new(ctx.cast(), unsafe { (*ctx).ingress_ifindex })
    }

    #[inline(always)]
    pub(crate) fn of_tc(skb: *mut __sk_buff) -> Self {
        // SAFETY: the kernel hands a valid context to the program.
        Self::new(skb.cast(), unsafe { (*skb).ifindex })
    }
}

impl<const DRY: bool, const SOCKET: bool> KernelTables<DRY, SOCKET> {
    #[inline(always)]
    const fn new(ctx: *mut c_void, ifindex: u32) -> Self {
        Self { ctx, ifindex }
    }

    /// The configuration. Only in programs at sockets would the compiler compute addresses within it ahead of the check
    /// that it is there: every packet needs it, and pays for no guard against that.
    #[inline(always)]
    fn config() -> Option<&'static Config> {
        let config = maps::CONFIG.get(0);
        if SOCKET { words::found(config) } else { config }
    }

    /// Asks the FIB; the answer is in `params`.
    #[inline(always)]
    fn lookup(&self, params: &mut FibParams) -> i64 {
        let flags = if maps::KERNEL_LACKS.load() & kernel::FIB_SOURCE == 0 {
            BPF_FIB_LOOKUP_SRC
        } else {
            0
        };
        // SAFETY: `params` is a whole `bpf_fib_lookup`, and the context is the program's own.
        unsafe { bpf_fib_lookup(self.ctx, params, PARAMS_SIZE, flags) }
    }
}

macro_rules! family {
    ($addr:ty, $flows:ident, $staged:ident, $parsed:ident, $frontends:ident, $absent:ident, $slots:ident, $backends:ident,
     $affinity:ident, $ranges:ident, $fragments:ident, $config:ident, $af:ident, $src:ident, $dst:ident, $to:expr, $from:expr) => {
        impl<const DRY: bool> Flows<$addr> for FlowTables<DRY> {
            #[inline(always)]
            fn get(&mut self, key: &FlowKey<$addr>) -> Option<&mut Flow<$addr>> {
                let row = maps::$flows.get_ptr_mut(key)?;
                if DRY && dry_run::is_on() {
                    let staged = maps::$staged.get_ptr_mut(0)?;
                    // SAFETY: `staged` is this CPU's own; both are whole rows. What is written in
                    // place goes to the copy.
                    return Some(unsafe {
                        let copy = &raw mut (*staged).reply;
                        words::copy(row, copy);
                        &mut *copy
                    });
                }
                // SAFETY: rows live until the next grace period, which outlasts this program. Other
                // CPUs may write the same row: only whole words that are valid in any
                // combination (a stamp, a hop) are ever written in place.
                Some(unsafe { &mut *row })
            }

            #[inline(always)]
            fn staged(&mut self) -> Option<&mut Staged<$addr>> {
                let staged = maps::$staged.get_ptr_mut(0)?;
                // SAFETY: a per-CPU value; programs of one CPU do not run at the same time.
                Some(unsafe { &mut *staged })
            }

            #[inline(always)]
            fn emptied(&mut self, half: Half) -> Option<&mut Flow<$addr>> {
                let staged = Flows::<$addr>::staged(self)?;
                let flow = match half {
                    Half::Request => &mut staged.request,
                    Half::Reply => &mut staged.reply,
                };
                // SAFETY: entries are words without padding, and zero is a value of each of their fields.
                unsafe { words::zero(flow) };
                Some(flow)
            }

            #[inline(always)]
            fn stage(&mut self, key: &FlowKey<$addr>) -> Option<()> {
                let staged = maps::$staged.get_ptr_mut(0)?;
                let row = maps::$flows.get_ptr_mut(key)?;
                // SAFETY: `staged` is this CPU's own; the row is whole words, as in `get`.
                unsafe { words::copy(row, &raw mut (*staged).request) };
                Some(())
            }

            #[inline(always)]
            fn insert_staged(
                &mut self,
                half: Half,
                key: &FlowKey<$addr>,
                entry: Entry,
            ) -> Result<(), InsertError> {
                const EEXIST: i32 = -17;
                if DRY && dry_run::is_on() {
                    let taken = entry == Entry::New && maps::$flows.get_ptr(key).is_some();
                    return if taken {
                        Err(InsertError::Exists)
                    } else {
                        Ok(())
                    };
                }
                let staged = self.staged().ok_or(InsertError::Busy)?;
                let flow = match half {
                    Half::Request => &staged.request,
                    Half::Reply => &staged.reply,
                };
                let flags = match entry {
                    Entry::New => BPF_NOEXIST,
                    Entry::Any => BPF_ANY,
                };
                match maps::$flows.insert(key, flow, u64::from(flags)) {
                    Ok(()) => Ok(()),
                    Err(EEXIST) => Err(InsertError::Exists),
                    Err(_) => Err(InsertError::Busy),
                }
            }

            #[inline(always)]
            fn remove(&mut self, key: &FlowKey<$addr>) {
                if DRY && dry_run::is_on() {
                    return;
                }
                // An absent row is as good as a removed one.
                let _ = maps::$flows.remove(key);
            }

            #[inline(always)]
            fn blurred(number: u32, salt: u32) -> u32 {
                words::blurred(number, salt)
            }
        }

        impl<const DRY: bool, const SOCKET: bool> Tables<$addr> for KernelTables<DRY, SOCKET> {
            type Parsed<'t> = &'t mut Datagram<$addr>;

            #[inline(always)]
            fn store_parsed(&self, datagram: &Datagram<$addr>) {
                if let Some(place) = maps::$parsed.get_ptr_mut(0) {
                    // SAFETY: a per-CPU value; programs of one CPU do not run at the same time. Volatile: the compiler
                    // may not keep the packet in registers instead.
                    unsafe { place.write_volatile(*datagram) };
                }
            }

            #[inline(always)]
            fn parsed(&self) -> Option<&mut Datagram<$addr>> {
                let place = maps::$parsed.get_ptr_mut(0)?;
                // SAFETY: as for `store_parsed`; the pipeline asks for it once.
                Some(unsafe { &mut *place })
            }

            #[inline(always)]
            fn may_have(&self, key: &FrontendKey<$addr>) -> bool {
                let bit = key.absent_bit();
                let absent = maps::$absent.get(bit / 64);
                absent.is_none_or(|absent| absent >> (bit % 64) & 1 == 0)
            }

            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<&Frontend> {
                if !Tables::<$addr>::may_have(self, key) {
                    return None;
                }
                // SAFETY: the row lives until the next grace period, which outlasts this program,
                // and values are replaced by the agent as a whole.
                words::found(unsafe { maps::$frontends.get(key) })
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<u32> {
                if DRY && dry_run::is_on() {
                    dry_run::drawn(self.ctx);
                }
                maps::$slots.get(index).copied()
            }

            #[inline(always)]
            fn backend(&self, index: u32) -> Option<&Backend<$addr>> {
                words::found(maps::$backends.get(index))
            }

            #[inline(always)]
            fn allowed(&self, service: u32, client: &$addr) -> bool {
                let key = SourceRange::new(service, *client);
                let bits = size_of::<SourceRange<$addr>>() as u32 * 8;
                maps::$ranges.get(&Key::new(bits, key)).is_some()
            }

            #[inline(always)]
            fn remembered(&self, key: &ClientKey<$addr>) -> Option<Remembered> {
                // SAFETY: the row lives until the next grace period, which outlasts this program,
                // and rows are replaced as a whole.
                unsafe { maps::$affinity.get(key) }.copied()
            }

            #[inline(always)]
            fn remember(&self, key: &ClientKey<$addr>, memory: &Remembered) {
                if DRY && dry_run::is_on() {
                    return;
                }
                // What cannot be remembered is chosen anew.
                let _ = maps::$affinity.insert(key, memory, u64::from(BPF_ANY));
            }

            #[inline(always)]
            fn first_fragment(&self, key: &FragmentKey<$addr>) -> Option<FirstFragment> {
                // SAFETY: the row lives until the next grace period, which outlasts this program,
                // and rows are replaced as a whole.
                unsafe { maps::$fragments.get(key) }.copied()
            }

            #[inline(always)]
            fn remember_fragment(&self, key: &FragmentKey<$addr>, first: &FirstFragment) {
                if DRY && dry_run::is_on() {
                    return;
                }
                // What cannot be remembered is lost, as a packet may be.
                let _ = maps::$fragments.insert(key, first, u64::from(BPF_ANY));
            }

            #[inline(always)]
            fn forget_fragment(&self, key: &FragmentKey<$addr>) {
                if DRY && dry_run::is_on() {
                    return;
                }
                // An absent row is as good as a removed one.
                let _ = maps::$fragments.remove(key);
            }

            #[inline(always)]
            fn config(&self) -> Option<&Config> {
                Self::config()
            }

            #[inline(always)]
            fn family_config(&self) -> Option<&FamilyConfig<$addr>> {
                Self::config().map(|config| &config.$config)
            }

            #[inline(always)]
            fn link(&self, ifindex: u32) -> u32 {
                // SAFETY: as for `frontend`.
                unsafe { maps::LINKS.get(&ifindex) }.copied().unwrap_or(0)
            }

            #[inline(always)]
            fn ifindex(&self) -> u32 {
                self.ifindex
            }

            #[inline(always)]
            fn fib(&self, query: &FibQuery<$addr>) -> Fib<$addr> {
                let mut place = MaybeUninit::uninit();
                let params = fib_params(&mut place, $af, query.proto, self.ifindex);
                params.__bindgen_anon_3.$src = $to(query.src);
                params.__bindgen_anon_4.$dst = $to(query.dst);
                let code = self.lookup(params);
                // SAFETY: both union members are plain words.
                let src = $from(unsafe { params.__bindgen_anon_3.$src });
                fib_answer(code, params, src)
            }

            #[inline(always)]
            fn now(&self) -> Tick {
                // SAFETY: the helper takes nothing.
                maps::JIFFY.load().tick(unsafe { bpf_jiffies64() })
            }

            #[inline(always)]
            fn random(&self) -> u32 {
                if DRY && dry_run::is_on() {
                    return dry_run::random(self.ctx);
                }
                // SAFETY: the helper takes nothing.
                unsafe { bpf_get_prandom_u32() }
            }

            #[inline(always)]
            fn may_reject(&self) -> bool {
                if DRY && dry_run::is_on() {
                    return true;
                }
                let now = Tables::<$addr>::now(self);
                maps::ALLOWANCE.get_ptr_mut(0).is_some_and(|allowance| {
                    // SAFETY: a per-CPU value; programs of one CPU do not run at the same time.
                    take_allowance(unsafe { &mut *allowance }, now)
                })
            }

            #[inline(always)]
            fn consider(&self, frontend: &Frontend, slots: Slots) {
                if DRY && dry_run::is_on() {
                    dry_run::considered(self.ctx, frontend, slots);
                }
            }

            #[inline(always)]
            fn hashed(&self) {
                if DRY && dry_run::is_on() {
                    dry_run::hashed(self.ctx);
                }
            }

            #[inline(always)]
            fn follow(&self, flow: &Flow<$addr>) {
                if DRY && dry_run::is_on() {
                    dry_run::followed(self.ctx, flow);
                }
            }

            #[inline(always)]
            fn count(&self, reason: Reason) {
                if DRY && dry_run::is_on() {
                    return dry_run::reason(self.ctx, reason);
                }
                if let Some(counter) = maps::REASONS.get_ptr_mut(reason as u32) {
                    // SAFETY: a per-CPU value; programs of one CPU do not run at the same time.
                    unsafe { *counter += 1 };
                }
            }

            #[inline(always)]
            fn count_packet(&self, service: u32, length: usize) {
                if let Some(counters) = counters::<DRY>(service) {
                    counters.packets += 1;
                    counters.bytes += length as u64;
                }
            }

            #[inline(always)]
            fn count_flow(&self, service: u32) {
                if let Some(counters) = counters::<DRY>(service) {
                    counters.flows += 1;
                }
            }

            #[inline(always)]
            fn count_reject(&self, service: u32) {
                if let Some(counters) = counters::<DRY>(service) {
                    counters.rejects += 1;
                }
            }
        }
    };
}

#[inline(always)]
fn counters<const DRY: bool>(service: u32) -> Option<&'static mut ServiceCounters> {
    if DRY && dry_run::is_on() {
        return None;
    }
    let counters = maps::SERVICE_COUNTERS.get_ptr_mut(service)?;
    // SAFETY: a per-CPU value; programs of one CPU do not run at the same time, and the reference
    // is used within one statement.
    Some(unsafe { &mut *counters })
}

family!(
    V4,
    FLOWS4,
    STAGED4,
    PARSED4,
    FRONTENDS4,
    ABSENT4,
    SLOTS4,
    BACKENDS4,
    AFFINITY4,
    SOURCE_RANGES4,
    FRAGMENTS4,
    v4,
    AF_INET,
    ipv4_src,
    ipv4_dst,
    |addr: V4| addr[0],
    |word| [word]
);
family!(
    V6,
    FLOWS6,
    STAGED6,
    PARSED6,
    FRONTENDS6,
    ABSENT6,
    SLOTS6,
    BACKENDS6,
    AFFINITY6,
    SOURCE_RANGES6,
    FRAGMENTS6,
    v6,
    AF_INET6,
    ipv6_src,
    ipv6_dst,
    |addr: V6| addr,
    |words| words
);

//! The maps. Names and meanings are those of [`lb_common::maps`]; the agent may load them larger.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray},
    macros::btf_map,
};
use lb_common::{
    Jiffy, V4, V6,
    config::Config,
    counters::{Allowance, ServiceCounters},
    flow::{FirstFragment, Flow, FlowKey, FragmentKey, Staged},
    maps::{
        AFFINITY_MAX, BACKENDS_MAX, FLOWS_MAX, FRAGMENTS_MAX, FRONTENDS_MAX, LINKS_MAX, NETNS_MAX,
        REASONS_MAX, SERVICES_MAX, SLOTS_MAX, SOCKETS_MAX, SOURCE_RANGES_MAX, STATUS_SIZE,
        programs,
    },
    service::{
        ABSENT_BITS, Backend, ClientKey, Frontend, FrontendKey, Remembered, ServiceName,
        SourceRange,
    },
    socket::{Cookie, PodAddresses, SocketKey, SocketPeer},
};
use lb_ebpf::Datagram;

/// How this kernel's jiffies run, set when the object is loaded; until then, at 250 Hz.
#[unsafe(no_mangle)]
pub(crate) static JIFFY: Global<Jiffy> = Global::new(Jiffy::with_nanos(4_000_000));

/// Whether this is for dry runs, set when the object is loaded: see [`lb_common::dry_run`].
#[unsafe(no_mangle)]
pub(crate) static DRY_RUN: Global<u32> = Global::new(0);

/// What the kernel lacks, set when the object is loaded: see [`lb_common::kernel`].
#[unsafe(no_mangle)]
pub(crate) static KERNEL_LACKS: Global<u32> = Global::new(0);

/// The agent programs these by storing to memory.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
/// Memory is taken when a row is, not for the capacity at once.
const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

type Frontends<A> = HashMap<FrontendKey<A>, Frontend, { FRONTENDS_MAX as usize }, NO_PREALLOC>;
type Flows<A> = LruHashMap<FlowKey<A>, Flow<A>, { FLOWS_MAX as usize }>;
type Fragments<A> = LruHashMap<FragmentKey<A>, FirstFragment, { FRAGMENTS_MAX as usize }>;
type Sockets<A> = LruHashMap<SocketKey<A>, SocketPeer<A>, { SOCKETS_MAX as usize }>;
type Absent = Array<u64, { ABSENT_BITS as usize / 64 }, MMAPABLE>;
type Slots = Array<u32, { SLOTS_MAX as usize }, MMAPABLE>;
type Affinities<A> = LruHashMap<ClientKey<A>, Remembered, { AFFINITY_MAX as usize }>;
type SourceRanges<A> = LpmTrie<SourceRange<A>, u32, { SOURCE_RANGES_MAX as usize }>;
type Backends<A> = Array<Backend<A>, { BACKENDS_MAX as usize }, MMAPABLE>;

#[btf_map]
pub(crate) static FRONTENDS4: Frontends<V4> = Frontends::new();
#[btf_map]
pub(crate) static FRONTENDS6: Frontends<V6> = Frontends::new();
#[btf_map]
pub(crate) static ABSENT4: Absent = Absent::new();
#[btf_map]
pub(crate) static ABSENT6: Absent = Absent::new();
#[btf_map]
pub(crate) static SLOTS4: Slots = Slots::new();
#[btf_map]
pub(crate) static SLOTS6: Slots = Slots::new();
#[btf_map]
pub(crate) static BACKENDS4: Backends<V4> = Backends::new();
#[btf_map]
pub(crate) static BACKENDS6: Backends<V6> = Backends::new();
#[btf_map]
pub(crate) static FLOWS4: Flows<V4> = Flows::new();
#[btf_map]
pub(crate) static FLOWS6: Flows<V6> = Flows::new();
#[btf_map]
pub(crate) static FRAGMENTS4: Fragments<V4> = Fragments::new();
#[btf_map]
pub(crate) static FRAGMENTS6: Fragments<V6> = Fragments::new();
#[btf_map]
pub(crate) static STAGED4: PerCpuArray<Staged<V4>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static STAGED6: PerCpuArray<Staged<V6>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static PARSED4: PerCpuArray<Datagram<V4>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static PARSED6: PerCpuArray<Datagram<V6>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SOCKETS4: Sockets<V4> = Sockets::new();
#[btf_map]
pub(crate) static SOCKETS6: Sockets<V6> = Sockets::new();
#[btf_map]
pub(crate) static NETNS: HashMap<Cookie, PodAddresses, { NETNS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static AFFINITY4: Affinities<V4> = Affinities::new();
#[btf_map]
pub(crate) static AFFINITY6: Affinities<V6> = Affinities::new();
#[btf_map]
pub(crate) static SOURCE_RANGES4: SourceRanges<V4> = SourceRanges::new();
#[btf_map]
pub(crate) static SOURCE_RANGES6: SourceRanges<V6> = SourceRanges::new();
#[btf_map]
pub(crate) static ALLOWANCE: PerCpuArray<Allowance, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static CONFIG: Array<Config, 1, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static LINKS: HashMap<u32, u32, { LINKS_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<ServiceCounters, { SERVICES_MAX as usize }> =
    PerCpuArray::new();
#[btf_map]
pub(crate) static REASONS: PerCpuArray<u64, { REASONS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static XDP_FULL: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub(crate) static TC_FULL: ProgramArray<{ programs::TC_FULL.len() }> = ProgramArray::new();

/// For people only; the programs never read it.
#[btf_map]
static SERVICE_NAMES: HashMap<u32, ServiceName, { SERVICES_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
/// For people only; the programs never read it.
#[btf_map]
static STATUS: Array<[u8; STATUS_SIZE as usize], 1> = Array::new();

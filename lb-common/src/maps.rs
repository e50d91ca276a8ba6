//! Names, default capacities and version of the maps.

/// Version of all layouts in this crate; part of the pin directory's name, so programs and maps
/// of another version are never mixed.
pub const ABI_VERSION: u32 = 2;

/// `FrontendKey<V4>` → `Frontend`, hash.
pub const FRONTENDS4: &str = "FRONTENDS4";
/// `FrontendKey<V6>` → `Frontend`, hash.
pub const FRONTENDS6: &str = "FRONTENDS6";
/// bit / 64 → 64 bits, array: see `FrontendKey::absent_bit`. Spares packets for no service the
/// lookup of a frontend. All clear, as a fresh map is, it spares nothing and does no harm.
pub const ABSENT4: &str = "ABSENT4";
/// The same for IPv6.
pub const ABSENT6: &str = "ABSENT6";
/// index → index into `BACKENDS4`, array.
pub const SLOTS4: &str = "SLOTS4";
/// index → index into `BACKENDS6`, array.
pub const SLOTS6: &str = "SLOTS6";
/// index → `Backend<V4>`, array.
pub const BACKENDS4: &str = "BACKENDS4";
/// index → `Backend<V6>`, array.
pub const BACKENDS6: &str = "BACKENDS6";
/// `FlowKey<V4>` → `Flow<V4>`, LRU hash.
pub const FLOWS4: &str = "FLOWS4";
/// `FlowKey<V6>` → `Flow<V6>`, LRU hash.
pub const FLOWS6: &str = "FLOWS6";
/// 0 → `Staged<V4>`, per-CPU array of one: scratch of the programs.
pub const STAGED4: &str = "STAGED4";
/// 0 → `Staged<V6>`, per-CPU array of one: scratch of the programs.
pub const STAGED6: &str = "STAGED6";
/// `ClientKey<V4>` → `Remembered`, LRU hash: session affinity.
pub const AFFINITY4: &str = "AFFINITY4";
/// `ClientKey<V6>` → `Remembered`, LRU hash: session affinity.
pub const AFFINITY6: &str = "AFFINITY6";
/// prefix length, `SourceRange<V4>` → u32 (1), LPM trie: who may use load balancer addresses.
pub const SOURCE_RANGES4: &str = "SOURCE_RANGES4";
/// prefix length, `SourceRange<V6>` → u32 (1), LPM trie: who may use load balancer addresses.
pub const SOURCE_RANGES6: &str = "SOURCE_RANGES6";
/// 0 → `Config`, array of one.
pub const CONFIG: &str = "CONFIG";
/// interface index → `config::link` flags, hash.
pub const LINKS: &str = "LINKS";
/// service id → `ServiceCounters`, per-CPU array.
pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
/// `Reason` → packets, per-CPU array of u64.
pub const REASONS: &str = "REASONS";
/// service id → `ServiceName`, hash.
pub const SERVICE_NAMES: &str = "SERVICE_NAMES";
/// 0 → length (u32, machine order) and JSON text of the agent's status, array of one.
pub const STATUS: &str = "STATUS";

/// Every map that is pinned, in the order `lbctl maps dump` shows them.
pub const ALL: [&str; 20] = [
    CONFIG,
    LINKS,
    FRONTENDS4,
    FRONTENDS6,
    ABSENT4,
    ABSENT6,
    SLOTS4,
    SLOTS6,
    BACKENDS4,
    BACKENDS6,
    SOURCE_RANGES4,
    SOURCE_RANGES6,
    SERVICE_NAMES,
    AFFINITY4,
    AFFINITY6,
    FLOWS4,
    FLOWS6,
    SERVICE_COUNTERS,
    REASONS,
    STATUS,
];

/// Default number of frontends per family.
pub const FRONTENDS_MAX: u32 = 1 << 17;
/// Default number of slots per family.
pub const SLOTS_MAX: u32 = 1 << 20;
/// Default number of backends per family.
pub const BACKENDS_MAX: u32 = 1 << 18;
/// Default number of flow rows per family, two to a connection.
pub const FLOWS_MAX: u32 = 1 << 19;
/// Default number of services (Service ports and families).
pub const SERVICES_MAX: u32 = 1 << 16;
/// Default number of remembered clients per family.
pub const AFFINITY_MAX: u32 = 1 << 17;
/// Default number of source ranges per family.
pub const SOURCE_RANGES_MAX: u32 = 1 << 16;
/// Most interfaces that can be known.
pub const LINKS_MAX: u32 = 1 << 12;
/// Bytes of `STATUS`.
pub const STATUS_SIZE: u32 = 1 << 17;

/// Names of the programs.
pub mod programs {
    /// XDP on external interfaces.
    pub const XDP_EXTERNAL: &str = "xdp_external";
    /// tc ingress on external interfaces.
    pub const TC_EXTERNAL_INGRESS: &str = "tc_ext_in";
    /// tc egress on external interfaces.
    pub const TC_EXTERNAL_EGRESS: &str = "tc_ext_out";
    /// tc ingress on pod interfaces.
    pub const TC_POD_INGRESS: &str = "tc_pod_in";
    /// tc egress on pod interfaces.
    pub const TC_POD_EGRESS: &str = "tc_pod_out";
    /// Every program.
    pub const ALL: [&str; 5] = [
        XDP_EXTERNAL,
        TC_EXTERNAL_INGRESS,
        TC_EXTERNAL_EGRESS,
        TC_POD_INGRESS,
        TC_POD_EGRESS,
    ];
}

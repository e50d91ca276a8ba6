//! Names, default capacities and version of the maps.

/// Version of all layouts in this crate; part of the pin directory's name, so programs and maps
/// of another version are never mixed.
pub const ABI_VERSION: u32 = 5;

/// `FrontendKey<V4>` → `Frontend`, hash.
pub const FRONTENDS4: &str = "FRONTENDS4";
/// `FrontendKey<V6>` → `Frontend`, hash.
pub const FRONTENDS6: &str = "FRONTENDS6";
/// bit / 64 → 64 bits, array: see `FrontendKey::absent_bit`. Spares packets for no service the
/// lookup of a frontend. All clear, as a fresh map is, it spares nothing and does no harm.
pub const ABSENT4: &str = "ABSENT4";
/// The same for IPv6.
pub const ABSENT6: &str = "ABSENT6";
/// index → index into `BACKENDS4`, array; see `service::list` for what else.
pub const SLOTS4: &str = "SLOTS4";
/// index → index into `BACKENDS6`, array; see `service::list` for what else.
pub const SLOTS6: &str = "SLOTS6";
/// index → `Backend<V4>`, array.
pub const BACKENDS4: &str = "BACKENDS4";
/// index → `Backend<V6>`, array.
pub const BACKENDS6: &str = "BACKENDS6";
/// `FlowKey<V4>` → `Flow<V4>`, LRU hash.
pub const FLOWS4: &str = "FLOWS4";
/// `FlowKey<V6>` → `Flow<V6>`, LRU hash.
pub const FLOWS6: &str = "FLOWS6";
/// `FragmentKey<V4>` → `FirstFragment`, LRU hash: ports of packets whose first fragment was translated.
pub const FRAGMENTS4: &str = "FRAGMENTS4";
/// `FragmentKey<V6>` → `FirstFragment`, LRU hash: ports of packets whose first fragment was translated.
pub const FRAGMENTS6: &str = "FRAGMENTS6";
/// 0 → `Staged<V4>`, per-CPU array of one: scratch of the programs.
pub const STAGED4: &str = "STAGED4";
/// 0 → `Staged<V6>`, per-CPU array of one: scratch of the programs.
pub const STAGED6: &str = "STAGED6";
/// `SocketKey<V4>` → `SocketPeer<V4>`, LRU hash: sockets led straight to a backend.
pub const SOCKETS4: &str = "SOCKETS4";
/// `SocketKey<V6>` → `SocketPeer<V6>`, LRU hash: sockets led straight to a backend.
pub const SOCKETS6: &str = "SOCKETS6";
/// `Cookie` → `PodAddresses`, hash: network namespaces of the pods whose sockets are led.
pub const NETNS: &str = "NETNS";
/// `ClientKey<V4>` → `Remembered`, LRU hash: session affinity.
pub const AFFINITY4: &str = "AFFINITY4";
/// `ClientKey<V6>` → `Remembered`, LRU hash: session affinity.
pub const AFFINITY6: &str = "AFFINITY6";
/// prefix length, `SourceRange<V4>` → u32 (1), LPM trie: who may use load balancer addresses.
pub const SOURCE_RANGES4: &str = "SOURCE_RANGES4";
/// prefix length, `SourceRange<V6>` → u32 (1), LPM trie: who may use load balancer addresses.
pub const SOURCE_RANGES6: &str = "SOURCE_RANGES6";
/// 0 → `Allowance`, per-CPU array of one: how many rejects are still answered.
pub const ALLOWANCE: &str = "ALLOWANCE";
/// 0 → the program of [`programs::XDP_FULL`], for packets that take more than the fast path.
pub const XDP_FULL: &str = "XDP_FULL";
/// index in [`programs::TC_FULL`] → that program, for packets that take more than the fast path.
pub const TC_FULL: &str = "TC_FULL";
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

/// Every map of data that is pinned, in the order `lbctl maps dump` shows them.
pub const ALL: [&str; 25] = [
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
    FRAGMENTS4,
    FRAGMENTS6,
    SOCKETS4,
    SOCKETS6,
    NETNS,
    SERVICE_COUNTERS,
    REASONS,
    STATUS,
];

/// The maps of programs, pinned as well: the kernel empties one that nobody holds.
pub const PROGRAM_ARRAYS: [&str; 2] = [XDP_FULL, TC_FULL];

/// Default number of frontends per family.
pub const FRONTENDS_MAX: u32 = 1 << 17;
/// Default number of slots per family.
pub const SLOTS_MAX: u32 = 1 << 20;
/// Default number of backends per family.
pub const BACKENDS_MAX: u32 = 1 << 18;
/// Default number of flow rows per family, two to a connection.
pub const FLOWS_MAX: u32 = 1 << 19;
/// Default number of fragmented packets per family whose ports are remembered.
pub const FRAGMENTS_MAX: u32 = 1 << 14;
/// Default number of rows of led sockets per family, one to a connection and two to a UDP socket
/// that is not connected.
pub const SOCKETS_MAX: u32 = 1 << 17;
/// Default number of services (Service ports and families).
pub const SERVICES_MAX: u32 = 1 << 16;
/// Default number of remembered clients per family.
pub const AFFINITY_MAX: u32 = 1 << 17;
/// Default number of source ranges per family.
pub const SOURCE_RANGES_MAX: u32 = 1 << 16;
/// Most interfaces that can be known.
pub const LINKS_MAX: u32 = 1 << 12;
/// Reasons there is room for: more of them than there are, so that another one needs no new layout.
pub const REASONS_MAX: u32 = 1 << 6;
/// Most network namespaces of pods whose sockets are led.
pub const NETNS_MAX: u32 = LINKS_MAX;
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
    /// What `XDP_EXTERNAL` goes on to with packets that take more than the fast path.
    pub const XDP_FULL: &str = "xdp_external_full";
    /// What each program of tc goes on to likewise, in the order of the hooks: external interfaces
    /// in and out, pod interfaces in and out.
    pub const TC_FULL: [&str; 4] = [
        "tc_ext_in_full",
        "tc_ext_out_full",
        "tc_pod_in_full",
        "tc_pod_out_full",
    ];
    /// cgroup hooks on `connect`, IPv4 and IPv6.
    pub const SOCKET_CONNECT: [&str; 2] = ["sock_connect4", "sock_connect6"];
    /// cgroup hooks on sending by a UDP socket that is not connected.
    pub const SOCKET_SEND: [&str; 2] = ["sock_sendmsg4", "sock_sendmsg6"];
    /// cgroup hooks on the sender's address told with a received datagram.
    pub const SOCKET_RECEIVE: [&str; 2] = ["sock_recvmsg4", "sock_recvmsg6"];
    /// cgroup hooks on `getpeername`.
    pub const SOCKET_PEER: [&str; 2] = ["sock_getpeername4", "sock_getpeername6"];
    /// The programs of sockets, in the order to remove them in: none leads to a backend when
    /// those that give its service's address back are gone.
    pub const SOCKETS: [&str; 8] = [
        SOCKET_CONNECT[0],
        SOCKET_CONNECT[1],
        SOCKET_SEND[0],
        SOCKET_SEND[1],
        SOCKET_RECEIVE[0],
        SOCKET_RECEIVE[1],
        SOCKET_PEER[0],
        SOCKET_PEER[1],
    ];
    /// The programs of packets that are attached, in the order to remove them in.
    pub const PACKETS: [&str; 5] = [
        XDP_EXTERNAL,
        TC_EXTERNAL_INGRESS,
        TC_EXTERNAL_EGRESS,
        TC_POD_INGRESS,
        TC_POD_EGRESS,
    ];
    /// tc, attached nowhere: what the hooks of sockets would do, for dry runs.
    pub const TC_HOST: &str = "tc_host";
    /// The programs of the full path, which are attached nowhere.
    pub const FULL: [&str; 5] = [XDP_FULL, TC_FULL[0], TC_FULL[1], TC_FULL[2], TC_FULL[3]];
    /// Of `TC_FULL`, what sees a flow begin on an external interface.
    pub const TC_EXTERNAL_INGRESS_FULL: &str = TC_FULL[0];
    /// Of `TC_FULL`, what sees a flow begin on a pod interface.
    pub const TC_POD_INGRESS_FULL: &str = TC_FULL[2];
    /// The programs of dry runs, which are loaded apart: those that see a flow begin.
    pub const DRY: [&str; 3] = [TC_EXTERNAL_INGRESS_FULL, TC_POD_INGRESS_FULL, TC_HOST];
}

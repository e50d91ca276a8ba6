//! What the programs count.

use crate::{Tick, assert_layout, maps::REASONS_MAX};

/// Per service, on each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceCounters {
    /// Packets translated, either direction.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Flows begun.
    pub flows: u64,
    /// Packets answered with a reject for want of a backend.
    pub rejects: u64,
}

assert_layout!(ServiceCounters = 32);

/// How many rejects a CPU may still answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Allowance {
    /// As of `granted`.
    pub left: u32,
    /// When it last grew.
    pub granted: Tick,
}

assert_layout!(Allowance = 8);

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was passed untouched, dropped or rejected, or translated in another way than usual:
        /// index into `REASONS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[$doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name people see.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// Passed: neither IPv4 nor IPv6.
    NotIp = "pass-not-ip",
    /// Passed: neither TCP nor UDP nor SCTP, nor an ICMP error that quotes any of them, and not for a
    /// cluster IP.
    OtherProtocol = "pass-other-protocol",
    /// Passed: headers cut short, or lengths that contradict each other.
    Malformed = "pass-malformed",
    /// Passed: a fragment whose first was not translated, or of a protocol without ports.
    Fragment = "pass-fragment",
    /// Passed: tagged with a VLAN that is another interface's affair.
    Vlan = "pass-vlan",
    /// Passed: an IPv6 header chain that hides the transport or changes the destination.
    HeaderChain = "pass-header-chain",
    /// Passed: no service and no flow of ours.
    NotService = "pass-not-service",
    /// Passed from XDP to tc: the next hop is not one XDP can send to.
    NeedsStack = "pass-needs-tc",
    /// Passed: it takes more than the fast path, and the program of the full one is not there.
    NoFullPath = "pass-no-full-path",
    /// Rejected: the service has no backend anywhere.
    NoBackend = "reject-no-backend",
    /// Rejected: the backend of a TCP connection or SCTP association is gone for good.
    BackendGone = "reject-backend-gone",
    /// Rejected: a cluster IP in use, but not with this port and protocol.
    NoSuchPort = "reject-no-such-port",
    /// Dropped: a cluster IP no Service has.
    Unallocated = "drop-unallocated-cluster-ip",
    /// Dropped: the traffic policy keeps to this node, which has no backend.
    NoLocalBackend = "drop-no-local-backend",
    /// Dropped: the client is in none of the service's source ranges.
    SourceRange = "drop-source-range",
    /// Dropped: a TCP segment or SCTP packet in mid-stream of no known flow.
    NoFlow = "drop-without-flow",
    /// Translated though the flow table took no row for the request: the next one finds the same backend
    /// by its hash.
    Stateless = "translate-without-row",
    /// Dropped: a fragment to a cluster IP of which the first has not come, or one of an SCTP packet whose
    /// ports change: its checksum is over all of them.
    LostFragment = "drop-fragment",
    /// Dropped: every probed port was taken.
    PortsExhausted = "drop-snat-ports-exhausted",
    /// Dropped: the flow table took no row.
    TableBusy = "drop-flow-table-busy",
    /// Dropped: no route to the new destination.
    NoRoute = "drop-no-route",
    /// Dropped: the node has no address to translate the source to.
    NoSource = "drop-no-source-address",
    /// Rejected: time to live ran out on the way to a backend elsewhere, or back.
    TimeToLive = "reject-ttl-exceeded",
    /// Dropped: more is rejected than this node answers.
    TooManyRejects = "drop-too-many-rejects",
    /// Dropped: a reply could not be built in the packet's buffer.
    NoRoom = "drop-no-room-for-reply",
    /// Dropped: a slot or backend index outside its map.
    Inconsistent = "drop-inconsistent-maps",
    /// Rejected: longer than the next hop takes on the way to a backend elsewhere, or back.
    TooLong = "reject-too-long",
}

const _: () = assert!(Reason::ALL.len() <= REASONS_MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_as_listed_and_named_once() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert_eq!(
                Reason::ALL
                    .iter()
                    .filter(|other| other.name() == reason.name())
                    .count(),
                1
            );
        }
    }
}

//! Who may use a Service's load balancer addresses (SEMANTICS E8 to E12).

use ipnet::IpNet;

use super::{desired::of_family, node::NodeView};
use crate::{
    maps::{Family, Network},
    model::Service,
};

/// Who may use the load balancer addresses of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission<A> {
    /// Everybody.
    All,
    /// Everybody, though those of the other family are restricted (E9).
    Unranged,
    /// Clients in these networks, in order.
    From(Vec<Network<A>>),
}

impl<A> Admission<A> {
    /// Whether somebody is kept out.
    pub(super) const fn restricts(&self) -> bool {
        match self {
            Self::All | Self::Unranged => false,
            Self::From(_) => true,
        }
    }

    /// The networks whose clients are let in, if not all are.
    pub(super) fn networks(&self) -> &[Network<A>] {
        match self {
            Self::All | Self::Unranged => &[],
            Self::From(networks) => networks,
        }
    }
}

/// Who may use the load balancer addresses a Service has in family `A`; everybody if it has none
/// (E12).
pub(super) fn admission<A: Family>(service: &Service, node: &NodeView) -> Admission<A> {
    let vips: Vec<A> = of_family(&service.ingress_ips).collect();
    let (own, other): (Vec<IpNet>, Vec<IpNet>) = service
        .source_ranges
        .iter()
        .partition(|net| net.addr().is_ipv6() == A::IS_V6);
    let lifts = |networks: &[IpNet]| networks.iter().any(|net| net.prefix_len() == 0);
    if vips.is_empty() || lifts(&own) {
        return Admission::All;
    }
    if own.is_empty() {
        let restricted = !other.is_empty() && !lifts(&other);
        return match (restricted, node.strict_source_ranges) {
            (false, _) => Admission::All,
            (true, false) => Admission::Unranged,
            (true, true) => Admission::From(Vec::new()),
        };
    }
    let mut networks: Vec<_> = own.iter().filter_map(Network::from_net).collect();
    // A packet from the node to a load balancer address that the node has itself comes from that
    // very address (E11).
    let holds_node = |net: &IpNet| node.primary_addresses.iter().any(|ip| net.contains(ip));
    if own.iter().any(holds_node) {
        networks.extend(vips.into_iter().map(Network::host));
    }
    networks.sort_unstable();
    networks.dedup();
    Admission::From(networks)
}

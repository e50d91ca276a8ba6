//! What of our node, and of the settings, Services are planned by.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Settings, TableSize};
use crate::model::{Algorithm, EndpointSlice, Node, Service};

/// What Services are planned by, beside their own objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The node's name.
    pub name: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Its primary address of each family.
    pub primary_addresses: BTreeSet<IpAddr>,
    /// Addresses node ports are served on.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Whether source ranges of one family close the other.
    pub strict_source_ranges: bool,
    /// How new flows of Services that do not say are spread.
    pub algorithm: Algorithm,
    /// How many slots a Maglev table has.
    pub table_size: TableSize,
}

impl NodeView {
    /// The view of the node with this Node object and these addresses on its interfaces, the
    /// primary one of each family first.
    pub(super) fn new(settings: &Settings, node: &Node, own: &[IpAddr]) -> Self {
        let Settings {
            node_name,
            bind_address,
            node_port_addresses,
            strict_source_ranges,
            algorithm,
            maglev_table_size,
            grace: _,
        } = settings;
        let stated: Vec<_> = bind_address
            .iter()
            .chain(&node.addresses)
            .copied()
            .collect();
        Self {
            name: node_name.clone(),
            zone: node.zone.clone(),
            primary_addresses: super::node_ports::primary(&stated, own).collect(),
            node_port_addresses: node_port_addresses.choose(&stated, own),
            strict_source_ranges: *strict_source_ranges,
            algorithm: *algorithm,
            table_size: *maglev_table_size,
        }
    }

    /// Whether a Service may have to be planned again when the view becomes `new`.
    pub(super) fn concerns<'a>(
        &self,
        new: &Self,
        service: &Service,
        mut slices: impl Iterator<Item = &'a EndpointSlice>,
    ) -> bool {
        let Self {
            name,
            zone,
            primary_addresses,
            node_port_addresses,
            strict_source_ranges,
            algorithm,
            table_size,
        } = self;
        let node_ports = || service.ports.iter().any(|port| port.node_port != 0);
        let ranges = || !service.source_ranges.is_empty();
        let mut hints = || {
            let mut endpoints = slices.by_ref().flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| !endpoint.for_zones.is_empty())
        };
        *name != new.name
            || (*algorithm, *table_size) != (new.algorithm, new.table_size)
            || *node_port_addresses != new.node_port_addresses && node_ports()
            || *primary_addresses != new.primary_addresses && ranges()
            || *strict_source_ranges != new.strict_source_ranges && ranges()
            || *zone != new.zone && hints()
    }
}

//! The objects as they stand.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::model::{Change, EndpointSlice, Node, ObjectName, Service};

/// Services with their slices, and our Node. Knows nothing of maps.
#[derive(Clone, Debug, Default)]
pub struct Index {
    services: BTreeMap<ObjectName, Service>,
    /// By the Service they belong to, in the order of their own names: few, mostly one.
    slices: BTreeMap<ObjectName, Vec<EndpointSlice>>,
    /// The Service each slice belongs to, by the slice's name.
    owners: BTreeMap<ObjectName, ObjectName>,
    node: Node,
    service_networks: BTreeSet<IpNet>,
}

/// What a batch of changes concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose own object or slices changed.
    pub services: BTreeSet<ObjectName>,
    /// How many changes of Services there are among them.
    pub service_changes: usize,
    /// How many changes of slices there are among them.
    pub slice_changes: usize,
    /// Whether our Node changed.
    pub node: bool,
    /// Whether the networks of cluster IPs changed.
    pub service_networks: bool,
}

impl Index {
    /// Records a change and what it concerns. Costs nothing that grows with the cluster.
    pub fn apply(&mut self, change: Change, touched: &mut Touched) {
        match change {
            Change::Service(name, service) => {
                if self.services.get(&name) != service.as_ref() {
                    touched.service_changes += 1;
                    touched.services.insert(name.clone());
                }
                match service {
                    Some(service) => drop(self.services.insert(name, service)),
                    None => drop(self.services.remove(&name)),
                }
            }
            Change::Slice(name, slice) => self.apply_slice(name, slice, touched),
            Change::Node(node) => {
                let node = node.unwrap_or_default();
                touched.node |= node != self.node;
                self.node = node;
            }
            Change::ServiceNetworks(networks) => {
                touched.service_networks |= networks != self.service_networks;
                self.service_networks = networks;
            }
            // The sockets' business, not a service's.
            Change::Pod(..) => {}
        }
    }

    fn apply_slice(
        &mut self,
        name: ObjectName,
        slice: Option<EndpointSlice>,
        touched: &mut Touched,
    ) {
        let old = self.take_slice(&name);
        if old.as_ref().map(|(_, slice)| slice) != slice.as_ref() {
            touched.slice_changes += 1;
            touched.services.extend(old.map(|(owner, _)| owner));
            touched.services.extend(slice.as_ref().map(owner));
        }
        if let Some(slice) = slice {
            self.owners.insert(name, owner(&slice));
            let siblings = self.slices.entry(owner(&slice));
            let siblings = siblings.or_insert_with(|| Vec::with_capacity(1));
            let at = siblings.partition_point(|sibling| sibling.name < slice.name);
            siblings.insert(at, slice);
        }
    }

    fn take_slice(&mut self, name: &ObjectName) -> Option<(ObjectName, EndpointSlice)> {
        let owner = self.owners.remove(name)?;
        let siblings = self.slices.get_mut(&owner)?;
        let at = siblings.iter().position(|sibling| sibling.name == *name)?;
        let slice = siblings.remove(at);
        if siblings.is_empty() {
            self.slices.remove(&owner);
        }
        Some((owner, slice))
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// Every Service.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The slices of a Service, in the order of their names.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices.get(service).into_iter().flatten()
    }

    /// Networks that cluster IPs are given from, as the API tells.
    pub const fn service_networks(&self) -> &BTreeSet<IpNet> {
        &self.service_networks
    }

    /// Our Node; without addresses while there is none.
    pub const fn node(&self) -> &Node {
        &self.node
    }
}

fn owner(slice: &EndpointSlice) -> ObjectName {
    ObjectName::new(&slice.name.namespace, &slice.service)
}

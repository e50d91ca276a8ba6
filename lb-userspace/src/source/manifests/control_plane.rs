//! The pure core: changed files in, changed objects out.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cluster,
    check::Invalid,
    direct::Direct,
    files::{FileChange, Files, Update},
    object::{Key, Kind, Object},
    ranges::{ClusterRanges, Ranges},
    select::Selection,
    services::{Admitted, Allocations, Services},
};
use crate::model::{self, Batch, Change, EndpointSlice, ObjectName};

/// What the API server and its controllers would make of a directory's files.
pub struct ControlPlane {
    node_name: String,
    ranges: Ranges,
    files: Files,
    services: Services,
    selection: Selection,
    direct: Direct,
    /// Problems of the directory as a whole.
    directory: Vec<String>,
    /// What was remembered, until the first look at the directory.
    unsettled: Changed,
    sent: Sent,
}

/// What a control plane needs to go on where an earlier one stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The cluster IPs and node ports that were in force.
    pub allocations: Allocations,
    /// Every file as it last was when all of it was good.
    pub last_good: BTreeMap<String, Vec<u8>>,
}

/// What was sent last, to send only what differs.
#[derive(Default)]
struct Sent {
    node: Option<model::Node>,
    services: BTreeMap<ObjectName, model::Service>,
    pods: BTreeMap<ObjectName, model::Pod>,
    /// By what they come from.
    slices: BTreeMap<Key, BTreeMap<ObjectName, EndpointSlice>>,
}

/// Objects to look at, by kind.
#[derive(Default)]
struct Changed {
    services: BTreeSet<ObjectName>,
    pods: BTreeSet<ObjectName>,
    node: bool,
    direct: BTreeSet<Key>,
}

impl ControlPlane {
    /// A cluster as it is remembered. The first look at its directory must tell of every file that
    /// differs from its last good state, or is gone.
    pub fn new(cluster: Cluster, memory: Memory) -> Self {
        let Memory {
            allocations,
            last_good,
        } = memory;
        let Cluster {
            node_name,
            cluster_ranges,
            node_ports,
        } = cluster;
        let ranges = Ranges {
            cluster: ClusterRanges::new(cluster_ranges),
            node_ports,
        };
        let mut control_plane = Self {
            node_name,
            services: Services::new(ranges.clone(), allocations),
            ranges,
            files: Files::default(),
            selection: Selection::default(),
            direct: Direct::default(),
            directory: Vec::new(),
            unsettled: Changed::default(),
            sent: Sent::default(),
        };
        let files = last_good.into_iter();
        let files = files.map(|(name, bytes)| (name, FileChange::Content(bytes)));
        control_plane.read(files.collect());
        control_plane
    }

    /// Takes changed files; returns what changes by them.
    pub fn apply(&mut self, update: Update) -> Batch {
        let Update { files, problems } = update;
        self.directory = problems;
        self.read(files);
        let Changed {
            services,
            pods,
            direct,
            node,
        } = std::mem::take(&mut self.unsettled);
        let services = self.settle_services(services);
        let mut changes = Vec::new();
        for name in &pods {
            self.send_pod(name, &mut changes);
        }
        let mut selected = self.settle_pods(pods);
        selected.extend(services.iter().cloned());
        let direct = self.settle_direct(direct, &services);

        if node {
            self.send_node(&mut changes);
        }
        for name in services {
            self.send_service(name, &mut changes);
        }
        for name in selected {
            let slices = self.selected_slices(&name);
            self.sent
                .slices(key(Kind::Service, name), slices, &mut changes);
        }
        for key in direct {
            let slices = self.direct_slices(&key);
            self.sent.slices(key, slices, &mut changes);
        }
        Batch {
            changes,
            problems: self.problems(),
            unseen: false,
            triggers: Vec::new(),
        }
    }

    /// The cluster IPs and node ports in force.
    pub fn allocations(&self) -> Allocations {
        self.services.allocations()
    }

    /// Whether all of a file is good.
    pub fn is_good(&self, file: &str) -> bool {
        self.files.is_good(file)
    }

    fn read(&mut self, files: BTreeMap<String, FileChange>) {
        let changed = &mut self.unsettled;
        for (name, change) in files {
            for key in self.files.apply(&name, change, &self.ranges) {
                match key.kind {
                    Kind::Service => drop(changed.services.insert(key.name)),
                    Kind::Pod => drop(changed.pods.insert(key.name)),
                    Kind::Node => changed.node |= key.name.name == self.node_name,
                    Kind::Endpoints | Kind::EndpointSlice => drop(changed.direct.insert(key)),
                }
            }
        }
    }

    /// Returns the Services whose state in force may differ.
    fn settle_services(&mut self, changed: BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        if self.directory.is_empty() {
            let files = &self.files;
            self.services.forget(|name| {
                let given = files.get(&key(Kind::Service, name.clone())).is_some();
                !given && !files.may_hold(name)
            });
        }
        if changed.is_empty() {
            return changed;
        }
        let services = changed.into_iter().map(|name| {
            let object = self.object(Kind::Service, &name);
            (name, object.and_then(Object::into_service))
        });
        let touched = self.services.apply(services.collect());
        for name in &touched {
            let admitted = self.services.get(name);
            let selector = admitted.map(|admitted| admitted.service.selector.clone());
            let selector = selector.unwrap_or_default();
            self.selection.set_selector(name, selector);
        }
        touched
    }

    /// Returns the Services that select or selected them.
    fn settle_pods(&mut self, changed: BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        let mut services = BTreeSet::new();
        for name in changed {
            let pod = self.object(Kind::Pod, &name).and_then(Object::into_pod);
            services.append(&mut self.selection.set_pod(&name, pod));
        }
        services
    }

    /// Returns the Endpoints and slices whose state in force may differ.
    fn settle_direct(
        &mut self,
        changed: BTreeSet<Key>,
        services: &BTreeSet<ObjectName>,
    ) -> BTreeSet<Key> {
        let cluster_ips_may_differ = !services.is_empty();
        let mut touched =
            self.direct
                .apply(changed, cluster_ips_may_differ, &self.files, &self.services);
        // Whether an Endpoints object is mirrored depends on its Service.
        let endpoints = services.iter().cloned();
        touched.extend(endpoints.map(|name| key(Kind::Endpoints, name)));
        touched
    }

    fn object(&self, kind: Kind, name: &ObjectName) -> Option<Object> {
        let entry = self.files.get(&key(kind, name.clone()))?;
        Some(entry.object.clone())
    }

    fn send_node(&mut self, changes: &mut Vec<Change>) {
        let name = ObjectName::new("", &self.node_name);
        let node = self.object(Kind::Node, &name).and_then(Object::into_node);
        let node = node.map(|node| node.facts.clone());
        if node != self.sent.node {
            self.sent.node.clone_from(&node);
            changes.push(Change::Node(node));
        }
    }

    /// Tells of a Pod of our node that asks to be left to tc.
    fn send_pod(&mut self, name: &ObjectName, changes: &mut Vec<Change>) {
        let pod = self.object(Kind::Pod, name).and_then(Object::into_pod);
        let pod = pod.filter(|pod| pod.left_to_tc && pod.node.as_ref() == Some(&self.node_name));
        let pod = pod.map(|pod| model::Pod {
            addresses: pod.ips.clone(),
        });
        if pod.as_ref() == self.sent.pods.get(name) {
            return;
        }
        match &pod {
            Some(pod) => drop(self.sent.pods.insert(name.clone(), pod.clone())),
            None => drop(self.sent.pods.remove(name)),
        }
        changes.push(Change::Pod(name.clone(), pod));
    }

    fn send_service(&mut self, name: ObjectName, changes: &mut Vec<Change>) {
        let service = self.services.get(&name).and_then(Admitted::programmed);
        if service.as_ref() == self.sent.services.get(&name) {
            return;
        }
        match &service {
            Some(service) => drop(self.sent.services.insert(name.clone(), service.clone())),
            None => drop(self.sent.services.remove(&name)),
        }
        changes.push(Change::Service(name, service));
    }

    fn selected_slices(&self, name: &ObjectName) -> Vec<EndpointSlice> {
        let service = self.services.get(name).map(|admitted| &admitted.service);
        let programmed = service.and_then(|service| Some((service, service.programmed()?)));
        programmed.map_or_else(Vec::new, |(service, virtual_ip)| {
            self.selection.slices(service, virtual_ip)
        })
    }

    fn direct_slices(&self, key: &Key) -> Vec<EndpointSlice> {
        match self.direct.get(key) {
            Some(Object::EndpointSlice(slice)) => slice.slice.iter().cloned().collect(),
            // Those of a Service with a selector are the endpoints controller's to write.
            Some(Object::Endpoints(endpoints)) if endpoints.mirrored => {
                let service = self.services.get(&endpoints.name);
                let mirrored = service.filter(|admitted| admitted.service.selector.is_empty());
                mirrored.map_or_else(Vec::new, |_| endpoints.slices.clone())
            }
            Some(Object::Endpoints(_) | Object::Service(_) | Object::Pod(_) | Object::Node(_))
            | None => Vec::new(),
        }
    }

    fn problems(&self) -> BTreeSet<String> {
        let services = self.services.refused();
        let services =
            services.map(|(name, why)| self.refused(&key(Kind::Service, name.clone()), why));
        let direct = self
            .direct
            .refused()
            .map(|(key, why)| self.refused(key, why));
        let directory = self.directory.iter().cloned();
        let files = directory.chain(self.files.problems());
        files.chain(services).chain(direct).collect()
    }

    fn refused(&self, key: &Key, why: &Invalid) -> String {
        match self.files.get(key) {
            Some(entry) => format!("{}: {key}: {why}", entry.origin),
            None => format!("{key}: {why}"),
        }
    }
}

impl Sent {
    /// Sends what differs of the slices that come from one object.
    fn slices(&mut self, from: Key, slices: Vec<EndpointSlice>, changes: &mut Vec<Change>) {
        let mut before = self.slices.remove(&from).unwrap_or_default();
        let mut after = BTreeMap::new();
        for slice in slices {
            if before.remove(&slice.name).as_ref() != Some(&slice) {
                changes.push(Change::Slice(slice.name.clone(), Some(slice.clone())));
            }
            after.insert(slice.name.clone(), slice);
        }
        changes.extend(before.into_keys().map(|name| Change::Slice(name, None)));
        if !after.is_empty() {
            self.slices.insert(from, after);
        }
    }
}

fn key(kind: Kind, name: ObjectName) -> Key {
    Key { kind, name }
}

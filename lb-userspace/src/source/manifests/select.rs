//! Which Pods a Service selects, and the slices that makes: the EndpointSlice controller's part.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::object::{Family, Pod, Service, ServicePort, Target, VirtualIp};
use crate::model::{Endpoint, EndpointPort, EndpointSlice, ObjectName};

/// Pods and the Services that select them, each found by labels.
#[derive(Default)]
pub(super) struct Selection {
    pods: BTreeMap<ObjectName, Arc<Pod>>,
    pods_by_label: Index,
    /// The selectors, each found by one of its labels.
    services_by_label: Index,
    selectors: BTreeMap<ObjectName, BTreeMap<String, String>>,
}

impl Selection {
    /// Takes a Pod that changed (none: gone); returns the Services that select or selected it.
    pub(super) fn set_pod(
        &mut self,
        name: &ObjectName,
        pod: Option<Arc<Pod>>,
    ) -> BTreeSet<ObjectName> {
        let mut services = BTreeSet::new();
        if let Some(before) = self.pods.remove(name) {
            services.append(&mut self.selecting(&before));
            for label in &before.labels {
                self.pods_by_label.remove(label, name);
            }
        }
        if let Some(pod) = pod {
            services.append(&mut self.selecting(&pod));
            for label in &pod.labels {
                self.pods_by_label.insert(label, name);
            }
            self.pods.insert(name.clone(), pod);
        }
        services
    }

    fn selecting(&self, pod: &Pod) -> BTreeSet<ObjectName> {
        let namespace = &pod.name.namespace;
        let labels = pod.labels.iter();
        labels
            .flat_map(|label| self.services_by_label.get(namespace, label))
            .filter(|name| self.selectors.get(name).is_some_and(|s| matches(s, pod)))
            .collect()
    }

    /// Takes the selector of a Service; an empty one selects nothing.
    pub(super) fn set_selector(&mut self, name: &ObjectName, selector: BTreeMap<String, String>) {
        if let Some(before) = self.selectors.remove(name)
            && let Some(label) = before.first_key_value()
        {
            self.services_by_label.remove(label, name);
        }
        if let Some(label) = selector.first_key_value() {
            self.services_by_label.insert(label, name);
            self.selectors.insert(name.clone(), selector);
        }
    }

    /// The slices of a Service: one per family and per set of ports its Pods serve.
    pub(super) fn slices(&self, service: &Service, virtual_ip: &VirtualIp) -> Vec<EndpointSlice> {
        let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
        for pod in self.selected(service) {
            let ports = endpoint_ports(&service.ports, pod);
            if ports.is_empty() {
                continue;
            }
            for addr in &pod.ips {
                let family = Family::of(*addr);
                if !virtual_ip.families.contains(&family) {
                    continue;
                }
                let name = slice_name(&service.name.name, family, &ports);
                let slice = slices.entry(name).or_insert_with_key(|name| EndpointSlice {
                    name: ObjectName::new(&service.name.namespace, name),
                    service: service.name.name.clone(),
                    ports: ports.clone(),
                    endpoints: Vec::new(),
                });
                slice.endpoints.push(Endpoint {
                    node: pod.node.clone(),
                    ready: service.publish_not_ready || (pod.ready && !pod.terminating),
                    serving: pod.ready,
                    terminating: pod.terminating,
                    ..Endpoint::at(*addr)
                });
            }
        }
        slices.into_values().collect()
    }

    /// The Pods of a Service, by name; sought through the rarest label of its selector.
    fn selected<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Arc<Pod>> {
        let namespace = &service.name.namespace;
        let labels = service.selector.iter();
        let rarest = labels.min_by_key(|label| self.pods_by_label.count(namespace, *label));
        rarest
            .into_iter()
            .flat_map(|label| self.pods_by_label.get(namespace, label))
            .filter_map(|name| self.pods.get(&name))
            .filter(|pod| matches(&service.selector, pod))
    }
}

fn matches(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let mut labels = selector.iter();
    labels.all(|(key, value)| pod.labels.get(key) == Some(value))
}

/// The ports of a Service that a Pod serves, by the Pod's own numbers (row A8).
fn endpoint_ports(ports: &[ServicePort], pod: &Pod) -> Vec<EndpointPort> {
    let number = |port: &ServicePort| match &port.target {
        Target::Number(number) => Some(*number),
        Target::Name(name) => {
            let mut named = pod.ports.iter();
            let named = named.find(|p| p.name == *name && p.protocol == port.protocol);
            named.map(|named| named.port)
        }
    };
    let served = ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: number(port)?,
        })
    });
    served.collect()
}

/// A name that lasts as long as what it names; '~' is in no name of a hand-made slice.
fn slice_name(service: &str, family: Family, ports: &[EndpointPort]) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|port| match port.name.as_str() {
            "" => format!("{}/{}", port.port, port.protocol),
            name => format!("{name}={}/{}", port.port, port.protocol),
        })
        .collect();
    format!("{service}~{family}~{}", ports.join(","))
}

/// Objects of a namespace by label.
#[derive(Default)]
struct Index(HashMap<String, BTreeSet<String>>);

impl Index {
    fn insert(&mut self, label: (&String, &String), object: &ObjectName) {
        let names = self
            .0
            .entry(Self::key(&object.namespace, label))
            .or_default();
        names.insert(object.name.clone());
    }

    fn remove(&mut self, label: (&String, &String), object: &ObjectName) {
        let key = Self::key(&object.namespace, label);
        if let Some(names) = self.0.get_mut(&key) {
            names.remove(&object.name);
            if names.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    fn get<'a>(
        &'a self,
        namespace: &'a str,
        label: (&String, &String),
    ) -> impl Iterator<Item = ObjectName> + use<'a> {
        let names = self.0.get(&Self::key(namespace, label));
        let names = names.into_iter().flatten();
        names.map(move |name| ObjectName::new(namespace, name))
    }

    fn count(&self, namespace: &str, label: (&String, &String)) -> usize {
        self.0
            .get(&Self::key(namespace, label))
            .map_or(0, BTreeSet::len)
    }

    /// Neither namespaces nor labels hold a '\n'.
    fn key(namespace: &str, (key, value): (&String, &String)) -> String {
        format!("{namespace}\n{key}\n{value}")
    }
}

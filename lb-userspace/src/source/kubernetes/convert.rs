//! Objects of the API server → the model.
//!
//! The API server has validated what it sends, most of it under the rules of its own release and
//! some of it under those of an old one. So a value that cannot be used is left out and named,
//! and the rest of the object stays.

mod node;
mod pod;
mod service;
mod slice;

use std::{collections::BTreeSet, fmt::Display, net::IpAddr, time::SystemTime};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::{
    kind::Kind,
    objects::{EndpointSlice, Metadata, Node, Pod, Service, ServiceCidr},
};
use crate::{
    model::{self, ObjectName},
    source::check::{self, Invalid},
};

/// Problems that are named of one object; the rest is counted.
const MOST_REMARKS: usize = 8;

/// What conversion depends on beside the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Whether `spec.externalIPs` are served (row B2).
    pub(super) external_ips: bool,
}

/// An object, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Converted {
    /// Its name.
    pub(super) name: ObjectName,
    /// Its state; none if it is nothing to us.
    pub(super) value: Option<Value>,
    /// When what led to this state happened.
    pub(super) trigger: Option<SystemTime>,
    /// What could not be used of it, and why.
    pub(super) remarks: Vec<String>,
}

/// The state of an object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// A Service.
    Service(Box<model::Service>),
    /// An EndpointSlice.
    Slice(model::EndpointSlice),
    /// Our Node.
    Node(model::Node),
    /// What one `ServiceCIDR` holds.
    Networks(BTreeSet<IpNet>),
    /// A Pod.
    Pod(model::Pod),
}

/// An object as the API server sends it.
pub(super) trait Object: Clone + DeserializeOwned + Send + 'static {
    /// Its kind.
    const KIND: Kind;

    /// Its metadata.
    fn metadata(&self) -> &Metadata;

    /// Its state; none if it is nothing to us.
    fn value(&self, name: &ObjectName, rules: Rules, remarks: &mut Remarks) -> Option<Value>;

    /// Its name.
    fn name(&self) -> ObjectName {
        let Metadata {
            namespace, name, ..
        } = self.metadata();
        ObjectName::new(namespace, name)
    }

    /// When what led to its state happened (row J10).
    fn trigger(&self) -> Option<SystemTime> {
        let text = self.metadata().annotations.as_ref()?.trigger.as_deref()?;
        text.parse::<Timestamp>().ok().map(SystemTime::from)
    }

    /// The object, as far as it is used.
    fn convert(&self, rules: Rules) -> Converted {
        let name = self.name();
        let mut remarks = Remarks::default();
        let value = self.value(&name, rules, &mut remarks);
        Converted {
            remarks: remarks.of(Self::KIND, &name),
            trigger: value.as_ref().and_then(|_| self.trigger()),
            value,
            name,
        }
    }
}

impl Object for Service {
    const KIND: Kind = Kind::Service;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn value(&self, name: &ObjectName, rules: Rules, remarks: &mut Remarks) -> Option<Value> {
        let service = service::service(self, name, rules, remarks)?;
        Some(Value::Service(Box::new(service)))
    }
}

impl Object for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn value(&self, name: &ObjectName, _: Rules, remarks: &mut Remarks) -> Option<Value> {
        slice::slice(self, name, remarks).map(Value::Slice)
    }
}

impl Object for Node {
    const KIND: Kind = Kind::Node;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn value(&self, _: &ObjectName, _: Rules, remarks: &mut Remarks) -> Option<Value> {
        Some(Value::Node(node::node(self, remarks)))
    }
}

impl Object for ServiceCidr {
    const KIND: Kind = Kind::ServiceCidr;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn value(&self, _: &ObjectName, _: Rules, remarks: &mut Remarks) -> Option<Value> {
        let given = self.spec.cidrs.iter().flatten();
        let networks = given
            .enumerate()
            .filter_map(|(index, text)| remarks.take(network(text), || at("spec.cidrs", index)));
        Some(Value::Networks(networks.collect()))
    }
}

impl Object for Pod {
    const KIND: Kind = Kind::Pod;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn value(&self, _: &ObjectName, _: Rules, remarks: &mut Remarks) -> Option<Value> {
        pod::pod(self, remarks).map(Value::Pod)
    }
}

/// What could not be used of an object.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    named: Vec<Invalid>,
    more: usize,
}

impl Remarks {
    /// The value, or none and a remark on its field.
    pub(super) fn take<T>(
        &mut self,
        value: Result<T, String>,
        field: impl FnOnce() -> String,
    ) -> Option<T> {
        value.map_err(|reason| self.note(field(), &reason)).ok()
    }

    /// A remark on a field.
    pub(super) fn note(&mut self, field: impl Display, reason: &str) {
        if self.named.len() < MOST_REMARKS {
            self.named.push(Invalid::new(field, reason));
        } else {
            self.more += 1;
        }
    }

    fn of(self, kind: Kind, name: &ObjectName) -> Vec<String> {
        let object = if name.namespace.is_empty() {
            format!("{kind} {}", name.name)
        } else {
            format!("{kind} {name}")
        };
        let named = self.named.iter();
        let mut lines: Vec<String> = named
            .map(|invalid| format!("{object}: {invalid}; it is left out"))
            .collect();
        if self.more > 0 {
            lines.push(format!("{object}: {} more values are left out", self.more));
        }
        lines
    }
}

/// The path of an entry of a list.
fn at(list: &str, index: usize) -> String {
    format!("{list}[{index}]")
}

/// An address prefix without host bits.
fn network(text: &str) -> Result<IpNet, String> {
    check::cidr(text.trim()).map(|network| network.trunc())
}

/// The addresses of a list; empty ones count as not there (row A19).
fn addresses(list: Option<&[String]>, field: &str, remarks: &mut Remarks) -> Vec<IpAddr> {
    let given = list.unwrap_or_default().iter().enumerate();
    let mut found = Vec::new();
    for (index, text) in given.filter(|(_, text)| !text.is_empty()) {
        let addr = remarks.take(check::ip(text), || at(field, index));
        found.extend(addr.filter(|addr| !found.contains(addr)));
    }
    found
}

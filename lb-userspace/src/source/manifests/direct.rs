//! Endpoints and EndpointSlices that manifests give: checked against the cluster IPs in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    check::Invalid,
    files::Files,
    object::{Key, Kind, Object},
    services::Services,
};

/// The admitted ones.
#[derive(Default)]
pub(super) struct Direct {
    admitted: BTreeMap<Key, Object>,
    refused: BTreeMap<Key, Invalid>,
}

impl Direct {
    pub(super) fn get(&self, key: &Key) -> Option<&Object> {
        self.admitted.get(key)
    }

    /// Why objects are not in force as their manifests have them.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&Key, &Invalid)> {
        self.refused.iter()
    }

    /// Takes objects that changed, all if the cluster IPs did; returns those whose state in force
    /// differs.
    pub(super) fn apply(
        &mut self,
        mut changed: BTreeSet<Key>,
        cluster_ips_changed: bool,
        files: &Files,
        services: &Services,
    ) -> BTreeSet<Key> {
        if cluster_ips_changed {
            changed.extend(files.keys(Kind::Endpoints).cloned());
            changed.extend(files.keys(Kind::EndpointSlice).cloned());
        }
        changed.retain(|key| self.settle(key, files, services));
        changed
    }

    /// Whether the object's state in force differs.
    fn settle(&mut self, key: &Key, files: &Files, services: &Services) -> bool {
        self.refused.remove(key);
        let Some(entry) = files.get(key) else {
            return self.admitted.remove(key).is_some();
        };
        let Some(invalid) = clash(&entry.object, services) else {
            let before = self.admitted.insert(key.clone(), entry.object.clone());
            return before.as_ref() != Some(&entry.object);
        };
        self.refused.insert(key.clone(), invalid);
        let before = self.admitted.get(key);
        let clashes = before.is_some_and(|before| clash(before, services).is_some());
        clashes && self.admitted.remove(key).is_some()
    }
}

/// An endpoint that is a cluster IP would have the packet translated in a circle.
fn clash(object: &Object, services: &Services) -> Option<Invalid> {
    addresses(object).into_iter().find_map(|addr| {
        let service = services.with_cluster_ip(addr)?;
        let reason = format_args!("{addr} is the cluster IP of Service {service}");
        Some(Invalid::new(address_field(object), reason))
    })
}

fn addresses(object: &Object) -> Vec<IpAddr> {
    let slices = match object {
        Object::Endpoints(endpoints) => endpoints.slices.as_slice(),
        Object::EndpointSlice(slice) => slice.slice.as_slice(),
        Object::Service(_) | Object::Pod(_) | Object::Node(_) => &[],
    };
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    endpoints.map(|endpoint| endpoint.addr).collect()
}

fn address_field(object: &Object) -> &'static str {
    match object {
        Object::Endpoints(_) => "subsets[].addresses[].ip",
        Object::EndpointSlice(_) => "endpoints[].addresses[]",
        Object::Service(_) | Object::Pod(_) | Object::Node(_) => "",
    }
}

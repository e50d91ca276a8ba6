//! Endpoints and slices that manifests give themselves: checked against the cluster IPs in force.

use std::collections::{BTreeMap, BTreeSet};

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
    let slices = match object {
        Object::Endpoints(endpoints) => endpoints.slices.as_slice(),
        Object::EndpointSlice(slice) => slice.slice.as_slice(),
        Object::Service(_) | Object::Pod(_) | Object::Node(_) => &[],
    };
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().enumerate());
    let mut clashes = endpoints.filter_map(|(index, endpoint)| {
        let service = services.with_cluster_ip(endpoint.addr)?;
        let reason = format_args!("{} is the cluster IP of Service {service}", endpoint.addr);
        Some(match object {
            Object::EndpointSlice(_) => {
                Invalid::new(format_args!("endpoints[{index}].addresses[0]"), reason)
            }
            Object::Endpoints(_) | Object::Service(_) | Object::Pod(_) | Object::Node(_) => {
                Invalid::new("subsets", reason)
            }
        })
    });
    clashes.next()
}

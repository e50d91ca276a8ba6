//! `metadata`, alike in every kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::check::{At, Invalid, dns_label, dns_subdomain};
use crate::model::ObjectName;

/// The namespace of an object that names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// Namespace and name of a namespaced object. Names of most kinds are subdomains.
pub(super) fn namespaced(meta: &ObjectMeta) -> Result<ObjectName, Invalid> {
    let namespace = match meta.namespace.as_deref() {
        None | Some("") => DEFAULT_NAMESPACE,
        Some(namespace) => namespace,
    };
    dns_label(namespace).at("metadata.namespace")?;
    let name = meta.name.as_deref().unwrap_or_default();
    dns_subdomain(name).at("metadata.name")?;
    Ok(ObjectName::new(namespace, name))
}

/// Whether the object carries a label, whatever its value.
pub(super) fn has_label(meta: &ObjectMeta, label: &str) -> bool {
    meta.labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(label))
}

/// The value of an annotation.
pub(super) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The value of a label, unless empty.
pub(super) fn label<'a>(meta: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    let value = meta.labels.as_ref()?.get(label)?;
    (!value.is_empty()).then_some(value)
}

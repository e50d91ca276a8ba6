//! Changes of objects, into the API.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::{
    Metadata, NamespaceResourceScope, Resource,
    api::{core::v1, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use lb_userspace::model::{EndpointSlice, ObjectName};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::unit::{self, Kind, NAMESPACE, Unit, slice_object};

/// What an object is to be; none if it is to go.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Service(ObjectName, Option<Unit>),
    Slice(ObjectName, Option<EndpointSlice>),
}

impl Change {
    /// The Service that is concerned.
    pub(crate) fn service(&self) -> ObjectName {
        match self {
            Self::Service(name, _) => name.clone(),
            // Slices are named for their Services.
            Self::Slice(name, _) => unit::service_of(name),
        }
    }
}

/// A change and what there was before.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Service(ObjectName, Box<Step<Unit>>),
    Slice(ObjectName, Box<Step<EndpointSlice>>),
}

/// What an object was and is to be; none where there is none.
#[derive(Clone, Debug)]
pub(crate) struct Step<T> {
    pub(crate) was: Option<T>,
    pub(crate) is: Option<T>,
}

/// Writes in their order; when the Services that are new were created.
pub(crate) async fn all(client: Client, writes: &[Write]) -> Result<BTreeMap<ObjectName, i64>> {
    let services = Api::namespaced(client.clone(), NAMESPACE);
    let slices = Api::<discovery::EndpointSlice>::namespaced(client, NAMESPACE);
    let mut created = BTreeMap::new();
    for write in writes {
        match write {
            Write::Service(name, step) => {
                let written = service(&services, name, step).await;
                let meta = written.with_context(|| format!("{step:?}"))?;
                let time = meta.and_then(|meta| meta.creation_timestamp);
                if let Some(time) = time.filter(|_| step.was.is_none()) {
                    created.insert(name.clone(), time.0.as_second());
                }
            }
            Write::Slice(name, step) => {
                let object = step.is.as_ref().map(slice_object);
                put(&slices, name, step.was.is_some(), object).await?;
            }
        }
    }
    Ok(created)
}

async fn service(
    api: &Api<v1::Service>,
    name: &ObjectName,
    Step { was, is }: &Step<Unit>,
) -> Result<Option<ObjectMeta>> {
    let object = is.as_ref().map(Unit::object);
    let mut meta = None;
    if was.as_ref().map(Unit::object) != object {
        meta = put(api, name, was.is_some(), object).await?;
    }
    // Who is no load balancer any more loses its status by that.
    let told = |unit: &&Unit| unit.kind == Kind::LoadBalancer;
    if let Some(is) = is.as_ref().filter(told) {
        let nothing = Unit::new("", Kind::LoadBalancer, &[], &[]).status();
        let was = was.as_ref().filter(told);
        let (was, is) = (was.map_or(nothing, Unit::status), is.status());
        if was != is {
            let patch = Patch::Merge(is);
            api.patch_status(&name.name, &PatchParams::default(), &patch)
                .await?;
        }
    }
    Ok(meta)
}

/// Makes, replaces or deletes an object; what the API then says of it.
async fn put<K>(
    api: &Api<K>,
    name: &ObjectName,
    exists: bool,
    object: Option<Value>,
) -> Result<Option<ObjectMeta>>
where
    K: Resource<Scope = NamespaceResourceScope>
        + Metadata<Ty = ObjectMeta>
        + serde::Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let params = PostParams::default();
    let done = match object.map(serde_json::from_value).transpose()? {
        Some(object) if exists => api.replace(&name.name, &params, &object).await,
        Some(object) => api.create(&params, &object).await,
        None => {
            let deleted = api.delete(&name.name, &DeleteParams::default()).await;
            deleted.with_context(|| format!("cannot delete {} {name}", K::KIND))?;
            return Ok(None);
        }
    };
    let done = done.with_context(|| format!("cannot write {} {name}", K::KIND))?;
    Ok(Some(done.metadata().clone()))
}

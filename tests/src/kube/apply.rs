//! Objects as text, into the API server.

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{self, Scope},
};
use serde_json::{Value, json};

/// Who is said to have written what tests write.
const MANAGER: &str = "fairlead-tests";

/// Applies objects in their order, each with its status.
pub(super) async fn all(client: &Client, objects: &[Value]) -> Result<()> {
    for object in objects {
        let what = || {
            format!(
                "cannot apply {} {}",
                object["kind"], object["metadata"]["name"]
            )
        };
        one(client, object).await.with_context(what)?;
    }
    Ok(())
}

async fn one(client: &Client, object: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = match object["apiVersion"].as_str() {
        Some(both) => both.split_once('/').unwrap_or(("", both)),
        None => ("", ""),
    };
    let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object["metadata"]["namespace"].as_str();
            Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), &resource)
        }
    };
    let name = text(&object["metadata"]["name"]);
    let (spec, status) = without_status(object);
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(spec)).await?;
    if let Some(status) = status {
        // Not applied: a Node of two families has two addresses of one type, which that refuses.
        let status = Patch::Merge(json!({ "status": status }));
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch_status(&name, &params, &status).await?;
    }
    Ok(())
}

/// The API takes an object and its status apart.
fn without_status(object: &Value) -> (Value, Option<Value>) {
    let mut rest = object.clone();
    let status = rest
        .as_object_mut()
        .and_then(|fields| fields.remove("status"));
    (rest, status)
}

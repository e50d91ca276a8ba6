//! Objects as text, into the API server.

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
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

/// Deletes objects at once; there being none is fine.
pub(super) async fn none(client: &Client, objects: &[Value]) -> Result<()> {
    for object in objects {
        let (api, name) = place(client, object).await?;
        match api
            .delete(&name, &DeleteParams::default().grace_period(0))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot delete {}", object["kind"]));
            }
        }
    }
    Ok(())
}

/// Where an object belongs, and its name there.
async fn place(client: &Client, object: &Value) -> Result<(Api<DynamicObject>, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = match object["apiVersion"].as_str() {
        Some(both) => both.split_once('/').unwrap_or(("", both)),
        None => ("", ""),
    };
    let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
    let api = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object["metadata"]["namespace"].as_str();
            Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), &resource)
        }
    };
    Ok((api, text(&object["metadata"]["name"])))
}

async fn one(client: &Client, object: &Value) -> Result<()> {
    let (api, name) = place(client, object).await?;
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

//! `etcd`, where the objects are.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use http::Request;
use k8s_openapi::ByteString;
use kube::{Client, Config};
use serde_json::{Value, json};

use super::assets::program;

const ADDRESS: &str = "http://127.0.0.1:2379";
const PEERS: &str = "http://127.0.0.1:2380";
/// Objects that are put at a time; `etcd` takes up to 128.
const AT_A_TIME: usize = 100;

/// How it is started.
pub(super) fn command(dir: &Path) -> Result<Command> {
    let mut command = program("etcd")?;
    command.arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--listen-client-urls", ADDRESS]);
    command.args(["--advertise-client-urls", ADDRESS]);
    command.args(["--listen-peer-urls", PEERS]);
    command.args(["--initial-advertise-peer-urls", PEERS]);
    command.args(["--initial-cluster", &format!("default={PEERS}")]);
    command.args(["--log-level", "error"]);
    // Nothing here has to outlive a power cut.
    command.arg("--unsafe-no-fsync");
    command.args(["--quota-backend-bytes", "4294967296"]);
    Ok(command)
}

/// The flag that tells an API server where it is.
pub(super) fn api_server_flag() -> String {
    format!("--etcd-servers={ADDRESS}")
}

/// Forgets all revisions but the latest; which one that is.
pub(super) async fn compact() -> Result<u64> {
    let client = Client::try_from(Config::new(ADDRESS.parse()?))?;
    let status: Value = post(&client, "/v3/maintenance/status", &json!({})).await?;
    let revision = status["header"]["revision"]
        .as_str()
        .with_context(|| format!("etcd tells no revision: {status}"))?;
    let compaction = json!({ "revision": revision, "physical": true });
    post(&client, "/v3/kv/compaction", &compaction).await?;
    Ok(revision.parse()?)
}

/// Puts objects in their places, whatever was there.
pub(super) async fn put(objects: &[(String, Value)]) -> Result<()> {
    let client = Client::try_from(Config::new(ADDRESS.parse()?))?;
    for objects in objects.chunks(AT_A_TIME) {
        let puts = objects.iter().map(|(place, object)| {
            let value = ByteString(serde_json::to_vec(object)?);
            let place = ByteString(place.as_bytes().to_vec());
            Ok(json!({ "requestPut": { "key": place, "value": value } }))
        });
        let puts = puts.collect::<Result<Vec<_>>>()?;
        post(&client, "/v3/kv/txn", &json!({ "success": puts })).await?;
    }
    Ok(())
}

async fn post(client: &Client, path: &str, body: &Value) -> Result<Value> {
    let request = Request::post(path).body(serde_json::to_vec(body)?)?;
    client
        .request(request)
        .await
        .with_context(|| format!("etcd does not do {path}"))
}

//! What the kernel is asked for when nothing has changed: when the API server tells everything again,
//! and when the maps are audited.

use std::{
    mem, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use serde::Serialize;
use serde_json::json;

use super::{
    megabytes,
    stage::Stage,
    trace::{Calls, Trace},
};
use crate::kube::ControlPlane;

/// How long all may take to be told again.
const PATIENCE: Duration = Duration::from_secs(60);
/// All has been told when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(1);
/// By when an audit of the maps has begun, which is done every minute.
const AUDIT: Duration = Duration::from_secs(65);
/// Maps, of each family where there are two, with entries of Services.
const SERVICE_MAPS: [&str; 6] = [
    "ABSENT",
    "BACKENDS",
    "FRONTENDS",
    "SERVICE_NAMES",
    "SLOTS",
    "SOURCE_RANGES",
];

/// What a resync takes.
#[derive(Clone, Debug, Serialize)]
pub struct Resync {
    /// The API server, started anew without history, tells all objects again.
    pub list: Calls,
    /// Megabytes it sent.
    pub received_mb: f64,
    /// All maps are compared with what they should hold.
    pub audit: Calls,
}

/// Has the API server tell the agent everything again, which is at least `all` bytes; then waits for
/// an audit.
pub(super) fn measure(control: &mut ControlPlane, stage: &mut Stage, all: u64) -> Result<Resync> {
    let before = stage.received()?;
    let trace = trace(stage)?;
    forget_history(control)?;
    let received = told_again(stage, before, all)?;
    Ok(Resync {
        list: trace.end()?,
        received_mb: megabytes(received - before),
        audit: audit(stage)?,
    })
}

/// Starts the API server again in such a way that no watch can go on from where it was.
fn forget_history(control: &mut ControlPlane) -> Result<()> {
    // History goes on with something that nobody watches.
    control.run(|client| async move {
        let mark: ConfigMap =
            serde_json::from_value(json!({ "metadata": { "generateName": "mark-" } }))?;
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        maps.create(&PostParams::default(), &mark).await?;
        Ok::<_, anyhow::Error>(())
    })?;
    control.kill_api_server();
    control.compact_etcd()?;
    control.start_api_server()
}

/// Waits until about as much has come as the first time, and nothing more.
fn told_again(stage: &mut Stage, before: u64, all: u64) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    let mut received = before;
    loop {
        thread::sleep(QUIET);
        stage.process().check_alive()?;
        let last = mem::replace(&mut received, stage.received()?);
        if received == last && received - before >= all * 9 / 10 {
            return Ok(received);
        }
        ensure!(
            Instant::now() < deadline,
            "of {all} bytes the API server has told {} again after {PATIENCE:?}",
            received - before
        );
    }
}

/// Waits for an audit; what it takes, beside whatever else an idle agent does meanwhile.
fn audit(stage: &mut Stage) -> Result<Calls> {
    let trace = trace(stage)?;
    let deadline = Instant::now() + AUDIT;
    let mut read = 0;
    loop {
        thread::sleep(QUIET);
        stage.process().check_alive()?;
        let last = mem::replace(&mut read, trace.calls()?.reads());
        if read > 0 && read == last {
            return trace.end();
        }
        ensure!(Instant::now() < deadline, "no audit within {AUDIT:?}");
    }
}

fn trace(stage: &mut Stage) -> Result<Trace> {
    let pid = stage.process().pid().context("the agent has ended")?;
    Trace::start(pid, stage.node()?)
}

impl Resync {
    /// Calls that concern entries of Services: while all is told again, and in an audit.
    pub(super) fn of_services(&self) -> [u64; 2] {
        [&self.list, &self.audit].map(|calls| {
            let writes: u64 = SERVICE_MAPS.iter().map(|map| calls.writes_to(map)).sum();
            writes + calls.reads()
        })
    }
}

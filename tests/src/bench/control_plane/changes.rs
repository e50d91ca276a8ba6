//! From the write of a slice to traffic at the new backend.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::StreamExt as _;
use http::Request;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use serde::Serialize;

use super::{
    objects,
    stage::{Stage, backends},
};
use crate::kube::ControlPlane;

/// Between one change in force and the next: more than kube-proxy's `minSyncPeriod` of 1 s, so that
/// nobody merely waits until he may.
pub(super) const PAUSE: Duration = Duration::from_millis(1250);
/// The same where there is no proxy.
const PAUSE_ALONE: Duration = Duration::from_millis(100);
/// How long a change is awaited.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many changes to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) count: usize,
    /// When to make no more.
    pub(super) limit: Duration,
}

/// What changes took.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// From just before the write is sent to the first answer of the new backend.
    pub(super) taken: Vec<Duration>,
    /// From there to the API server's answer.
    pub(super) writes: Vec<Duration>,
    /// Whether the last one was not in force in time: it takes longer than it says.
    pub(super) given_up: bool,
}

/// A distribution, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half are not above.
    pub p50: f64,
    /// 99 of 100 are not above.
    pub p99: f64,
    /// None is above.
    pub max: f64,
}

/// Has the probed Service lead to one backend and to the other, in turn.
pub(super) fn measure(control: &ControlPlane, stage: &mut Stage, plan: Plan) -> Result<Changes> {
    let began = Instant::now();
    let mut changes = Changes::default();
    // It leads to the first.
    for backend in backends().iter().cycle().skip(1).take(plan.count) {
        thread::sleep(PAUSE);
        if changes.given_up || began.elapsed() > plan.limit {
            break;
        }
        let sent = Instant::now();
        let write = write(control.client(), backend.address);
        let writing = control.inside().spawn(write)?;
        let answered =
            stage.probe(|prober| prober.until(sent + PATIENCE, |server| server == backend.name))?;
        stage.process().check_alive()?;
        let written = control.inside().run(writing)???;
        changes
            .taken
            .push(answered.map_or(PATIENCE, |at| at - sent));
        changes.writes.push(written - sent);
        changes.given_up = answered.is_none();
    }
    Ok(changes)
}

/// The same without a proxy: until the API server has told a bare watch.
pub(super) fn alone(control: &ControlPlane, count: usize) -> Result<Changes> {
    control.run(|client| async move {
        let request = Request::get(objects::PROBED_WATCH).body(Vec::new())?;
        let events = client.request_events::<EndpointSlice>(request).await?;
        let mut events = Box::pin(events);
        let ended = "the watch has ended";
        // First it tells how the slice is.
        events.next().await.context(ended)??;
        let mut changes = Changes::default();
        for backend in backends().iter().cycle().skip(1).take(count) {
            tokio::time::sleep(PAUSE_ALONE).await;
            let sent = Instant::now();
            let writing = tokio::spawn(write(client.clone(), backend.address));
            events.next().await.context(ended)??;
            changes.taken.push(sent.elapsed());
            changes.writes.push(writing.await?? - sent);
        }
        Ok::<_, anyhow::Error>(changes)
    })
}

/// When the API server has answered.
async fn write(client: Client, backend: IpAddr) -> Result<Instant> {
    objects::lead_to(client, backend).await?;
    Ok(Instant::now())
}

impl Spread {
    /// The distribution of these; none of none.
    pub(super) fn of(taken: &[Duration]) -> Option<Self> {
        let mut sorted = taken.to_vec();
        sorted.sort();
        // The least that so many of a hundred are not above.
        let percentile = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            Some(sorted.get(rank - 1)?.as_secs_f64() * 1e3)
        };
        Some(Self {
            p50: percentile(50)?,
            p99: percentile(99)?,
            max: percentile(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let taken: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let expected = Spread {
            p50: 100.0,
            p99: 198.0,
            max: 200.0,
        };
        assert_eq!(Spread::of(&taken), Some(expected));
        let one = Spread::of(&taken[..1]);
        assert_eq!(one.map(|one| (one.p50, one.p99)), Some((200.0, 200.0)));
        assert_eq!(Spread::of(&[]), None);
    }
}

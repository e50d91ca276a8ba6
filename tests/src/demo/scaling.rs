//! A backend goes while traffic runs.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use super::{
    requests::WEB,
    say::{Say, line},
};
use crate::{
    cluster::Cluster,
    echo::Protocol,
    netns::Netns,
    talk::{self, Conversation},
    topology::Family,
};

/// The backend that goes: remote from node-a.
const GONE: &str = "pod-3";
/// UDP flows that are kept up throughout, per family.
const FLOWS: usize = 12;
/// How long the change may take to reach the maps before the pod's servers stop.
const GRACE: Duration = Duration::from_millis(500);
/// How long traffic runs before the change, and after the pod is gone.
const STRETCH: Duration = Duration::from_secs(1);

/// What the traffic of a scaling saw.
#[derive(Debug, Default)]
struct Traffic {
    requests: usize,
    failed: Vec<String>,
    moved: usize,
    stuck: usize,
}

/// Scales a backend away under continuous TCP connections and long-lived UDP flows, shows that
/// none failed, and brings it back.
pub(super) fn show(say: &mut Say, cluster: &mut Cluster) -> Result<()> {
    say.heading("Scaling a backend away while traffic runs");
    let manifest = cluster.source.read("pod-3.yaml")?;
    let traffic = say.during("pod-3.yaml removed, then its servers stopped", || {
        scale(cluster).context("cannot scale pod-3 away")
    })?;
    let Traffic {
        requests,
        failed,
        moved,
        stuck,
    } = traffic;
    line(&format!(
        "{requests} requests ran meanwhile, over TCP and UDP, IPv4 and IPv6"
    ));
    let first = failed
        .first()
        .map(|failure| format!(" (the first: {failure})"));
    say.verdict(
        failed.is_empty(),
        &format!(
            "{} requests failed{}",
            failed.len(),
            first.unwrap_or_default()
        ),
    );
    say.verdict(
        moved > 0 && stuck == 0,
        &format!("{moved} UDP flows moved from {GONE} to another pod, {stuck} did not"),
    );
    cluster.serve(GONE)?;
    cluster.source.write("pod-3.yaml", &manifest)
}

fn scale(cluster: &mut Cluster) -> Result<Traffic> {
    let done = AtomicBool::new(false);
    let client = cluster.topology.client.netns.try_clone()?;
    thread::scope(|scope| {
        let asking = scope.spawn(|| run_traffic(&client, &done));
        let changed = change(cluster);
        done.store(true, Ordering::Relaxed);
        let traffic = asking.join().map_err(|_| anyhow!("the client panicked"))?;
        changed.and(traffic)
    })
}

fn change(cluster: &mut Cluster) -> Result<()> {
    thread::sleep(STRETCH);
    cluster.source.remove("pod-3.yaml")?;
    thread::sleep(GRACE);
    cluster.silence(GONE);
    thread::sleep(STRETCH);
    Ok(())
}

fn run_traffic(client: &Netns, done: &AtomicBool) -> Result<Traffic> {
    let mut traffic = Traffic::default();
    let mut flows = begin_flows(client)?;
    while !done.load(Ordering::Relaxed) {
        for family in Family::BOTH {
            let to = WEB.of(family)?;
            let outcome = talk::ask(client, Protocol::Tcp, to).map(drop);
            traffic.note(to, outcome.map_err(Into::into));
        }
        for flow in &mut flows {
            let outcome = flow.talk.ask();
            let outcome = outcome
                .map(|answer| flow.last = answer.server)
                .map_err(Into::into);
            traffic.note(flow.to, outcome);
        }
    }
    for Flow { first, last, .. } in flows.iter().filter(|flow| flow.first == GONE) {
        if first == last {
            traffic.stuck += 1;
        } else {
            traffic.moved += 1;
        }
    }
    Ok(traffic)
}

struct Flow {
    talk: Conversation,
    to: SocketAddr,
    first: String,
    last: String,
}

fn begin_flows(client: &Netns) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for to in [WEB.of(Family::V4)?, WEB.of(Family::V6)?] {
        for _ in 0..FLOWS {
            let mut talk = Conversation::open(client, Protocol::Udp, to, 0)?;
            let first = talk.ask()?.server;
            let last = first.clone();
            flows.push(Flow {
                talk,
                to,
                first,
                last,
            });
        }
    }
    Ok(flows)
}

impl Traffic {
    fn note(&mut self, to: SocketAddr, outcome: Result<()>) {
        self.requests += 1;
        if let Err(error) = outcome {
            self.failed.push(format!("{to}: {error}"));
        }
    }
}

//! The shell around the pure parts: follows all kinds, sends batches.

use tokio::{select, sync::mpsc, task::JoinSet};

use super::{
    Options,
    assembly::{Assembly, Report},
    follow::follow,
    kind::Kind,
    link::Link,
    objects::{EndpointSlice, Node, Pod, Service, ServiceCidr},
};
use crate::model::Batch;

/// Reports that may wait to be put into a batch.
const REPORTS: usize = 64;

/// Sends what the API server holds, then what changes, until the receiver is dropped.
///
/// The first batch that is not [`Batch::unseen`] is complete: it is sent when Services and
/// `EndpointSlices` are all known, and the others as well unless the server will not give them. A change is sent at once; what comes while the receiver is busy is sent as one.
pub async fn watch(options: Options, out: mpsc::Sender<Batch>) {
    let (reports, mut incoming) = mpsc::channel(REPORTS);
    let mut followers = start(&options, &reports);
    drop(reports);
    let pods = options.pods.then_some(Kind::Pod);
    let mut assembly = Assembly::new(Kind::ALWAYS.into_iter().chain(pods));
    loop {
        select! {
            () = out.closed() => return,
            // None of them ends while we listen.
            _ = followers.join_next() => return,
            Some(report) = incoming.recv() => take_ready(report, &mut incoming, &mut assembly),
            room = out.reserve(), if assembly.is_news() => match room {
                Ok(room) => room.send(assembly.take()),
                Err(_) => return,
            },
        }
    }
}

fn start(options: &Options, reports: &mpsc::Sender<Report>) -> JoinSet<()> {
    let link = Link::new(options.access.clone(), options.requests.clone());
    let mut all = JoinSet::new();
    all.spawn(follow::<Service>(
        link.clone(),
        options.clone(),
        reports.clone(),
    ));
    all.spawn(follow::<EndpointSlice>(
        link.clone(),
        options.clone(),
        reports.clone(),
    ));
    all.spawn(follow::<Node>(
        link.clone(),
        options.clone(),
        reports.clone(),
    ));
    if options.pods {
        all.spawn(follow::<Pod>(
            link.clone(),
            options.clone(),
            reports.clone(),
        ));
    }
    all.spawn(follow::<ServiceCidr>(
        link,
        options.clone(),
        reports.clone(),
    ));
    all
}

fn take_ready(first: Report, incoming: &mut mpsc::Receiver<Report>, assembly: &mut Assembly) {
    assembly.take_in(first);
    while let Ok(report) = incoming.try_recv() {
        assembly.take_in(report);
    }
}

//! Following one kind of object: a list, then a watch, again and again.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use kube::{
    Client,
    core::{Request, WatchEvent},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tracing::debug;

use crate::timestamp::now_text;

use super::{
    Options,
    assembly::Report,
    convert::{Object, Rules},
    failure::{Failure, Failures, Trouble},
    kind::Kind,
    ledger::Ledger,
    link::{Link, chance},
    objects::Page,
};

/// Objects on a page of a list.
const PAGE: u32 = 500;

/// Longest silence in the middle of a list.
const LIST_PATIENCE: Duration = Duration::from_secs(30);

/// When the server is to end a watch: that it does shows that it lives.
const WATCH: Duration = Duration::from_mins(4);

/// By how much that differs, as nodes are not to ask again all at once.
const WATCH_SPREAD: Duration = Duration::from_secs(50);

/// What it may be late.
const WATCH_LATE: Duration = Duration::from_secs(15);

/// A watch that lasted this long shows that all is well.
const SETTLED: Duration = Duration::from_secs(5);

/// Failures in a row after which nothing waits for what is not vital.
const HOPELESS: u32 = 10;

/// Marks the bookmark at the end of a list that comes as a stream.
const LIST_END: &str = "k8s.io/initial-events-end";

type Events<T> = Pin<Box<dyn Stream<Item = Result<WatchEvent<T>, kube::Error>> + Send>>;

/// How a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As events at the beginning of a watch. The server need not hold the list whole either.
    Stream,
    /// Page by page, for servers that do not know better.
    Pages,
}

/// Follows the objects of kind `T`.
pub(super) struct Follower {
    link: Arc<Link>,
    reports: mpsc::Sender<Report>,
    node_name: String,
    rules: Rules,
    ledger: Ledger,
    /// Where to go on; none before a list and when history does not reach back.
    version: Option<String>,
    way: Way,
    listing: bool,
    failures: Failures,
    /// Since when there is trouble.
    since: Option<String>,
}

/// Follows the objects of kind `T`, until nobody listens any more.
pub(super) async fn follow<T: Object>(
    link: Arc<Link>,
    options: Options,
    reports: mpsc::Sender<Report>,
) {
    let mut follower = Follower {
        link,
        reports,
        node_name: options.node_name,
        rules: Rules {
            external_ips: options.external_ips,
        },
        ledger: Ledger::new(T::KIND, SystemTime::now()),
        version: None,
        way: Way::Stream,
        listing: false,
        failures: Failures::default(),
        since: None,
    };
    while !follower.reports.is_closed() {
        let began = Instant::now();
        let result = follower.session::<T>().await;
        if began.elapsed() > SETTLED {
            follower.failures.clear();
        }
        match result {
            Ok(()) if began.elapsed() > SETTLED => {}
            Ok(()) => {
                let failure = Failure::Lost("the watch was ended at once".to_owned());
                follower.failed::<T>(failure).await;
            }
            Err(failure) => follower.failed::<T>(failure).await,
        }
    }
}

impl Follower {
    /// Lists if need be, then watches as long as it lasts.
    async fn session<T: Object>(&mut self) -> Result<(), Failure> {
        self.listing = self.version.is_none();
        if self.listing {
            self.ledger.begin();
            if self.way == Way::Pages {
                self.pages::<T>().await?;
                self.tell::<T>().await;
            }
        }
        let length = WATCH + WATCH_SPREAD.mul_f64(chance().0);
        let end = Instant::now() + length + WATCH_LATE;
        let mut events = self.open::<T>(length).await?;
        if !self.listing {
            self.recovered::<T>().await;
        }
        loop {
            let patience = if self.listing {
                LIST_PATIENCE
            } else {
                end.saturating_duration_since(Instant::now())
            };
            let next = timeout(patience, events.next()).await;
            let next = next.map_err(|_| silent(patience))?;
            let more = self.take_ready(next, &mut events);
            self.tell::<T>().await;
            if !more? {
                return if self.listing {
                    Err(Failure::Lost("the list broke off".to_owned()))
                } else {
                    Ok(())
                };
            }
        }
    }

    /// Lists page by page.
    async fn pages<T: Object>(&mut self) -> Result<(), Failure> {
        let request = Request::new(T::KIND.path());
        let mut params = T::KIND.list(&self.node_name).limit(PAGE);
        loop {
            let request = request.list(&params).map_err(kube::Error::BuildRequest)?;
            let ask = async |client: Client| client.request::<Page<T>>(request).await;
            let page = self.link.ask(ask).await?;
            for object in page.items.iter().flatten() {
                self.ledger.put(object.convert(self.rules));
            }
            let Some(next) = page.metadata.next.filter(|next| !next.is_empty()) else {
                self.ended(page.metadata.resource_version);
                return Ok(());
            };
            params = params.continue_token(&next);
        }
    }

    /// Asks for events: those since the list, or the list itself before them.
    async fn open<T: Object>(&self, length: Duration) -> Result<Events<T>, Failure> {
        let params = T::KIND
            .watch(&self.node_name)
            .timeout(length.as_secs() as u32);
        let params = if self.listing {
            params.initial_events()
        } else {
            params
        };
        // Without a version the list is as new as can be.
        let version = self.version.as_deref().filter(|_| !self.listing);
        let request = Request::new(T::KIND.path())
            .watch(&params, version.unwrap_or_default())
            .map_err(kube::Error::BuildRequest)?;
        let ask = |client: Client| async move { client.request_events::<T>(request).await };
        let events = self.link.ask(ask).await?;
        Ok(Box::pin(events))
    }

    /// Takes in an event and all that wait behind it. Returns whether there may be more later.
    fn take_ready<T: Object>(
        &mut self,
        first: Option<Result<WatchEvent<T>, kube::Error>>,
        events: &mut Events<T>,
    ) -> Result<bool, Failure> {
        let mut next = first;
        while let Some(event) = next {
            self.take_in(event?)?;
            match events.next().now_or_never() {
                Some(ready) => next = ready,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    fn take_in<T: Object>(&mut self, event: WatchEvent<T>) -> Result<(), Failure> {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.ledger.put(object.convert(self.rules));
                object.metadata().resource_version.clone()
            }
            WatchEvent::Deleted(object) => {
                self.ledger.remove(&object.name());
                object.metadata().resource_version.clone()
            }
            WatchEvent::Bookmark(bookmark) => {
                let marks = &bookmark.metadata.annotations;
                if self.listing && marks.get(LIST_END).is_some_and(|mark| mark == "true") {
                    self.ended(bookmark.metadata.resource_version);
                    return Ok(());
                }
                bookmark.metadata.resource_version
            }
            WatchEvent::Error(status) => return Err((*status).into()),
        };
        if !self.listing {
            self.version = Some(version);
            self.failures.clear();
        }
        Ok(())
    }

    /// The list has ended at this version.
    fn ended(&mut self, version: String) {
        self.ledger.finish();
        self.listing = false;
        self.version = Some(version);
    }

    /// Tells what there is to tell.
    async fn tell<T: Object>(&mut self) {
        let Some(delta) = self.ledger.take() else {
            return;
        };
        if T::KIND == Kind::EndpointSlice {
            self.link.set_slices(self.ledger.len());
        }
        if delta.listed {
            self.recovered::<T>().await;
        }
        self.report(Report::Delta(T::KIND, delta)).await;
    }

    async fn recovered<T: Object>(&mut self) {
        if self.since.take().is_some() {
            self.report(Report::Trouble(T::KIND, None)).await;
        }
    }

    /// Says so, prepares another attempt, and pauses before it where the link does not.
    async fn failed<T: Object>(&mut self, failure: Failure) {
        let down = self.link.is_down();
        self.failures.note(&failure, down);
        debug!("watch of {}: {failure}", T::KIND.resource());
        if self.listing && failure.is_answer() {
            self.way = self.way.other();
            if self.failures.count() == 1 {
                // Most likely the server knows only the other one.
                return;
            }
        }
        let absent = matches!(failure, Failure::Refused { code: 404, .. });
        if !T::KIND.is_vital() && (absent || self.failures.count() >= HOPELESS) {
            self.report(Report::Hopeless(T::KIND)).await;
        }
        let since = self.since.get_or_insert_with(now_text).clone();
        // That a stream broke is no trouble yet; that it cannot be opened again is.
        let refused = matches!(failure, Failure::Refused { .. } | Failure::Unreadable(_));
        if refused || self.failures.count() > 1 || down {
            let trouble = Trouble {
                since,
                server: self.link.server(),
                unreachable: matches!(failure, Failure::Lost(_)),
                cause: failure.to_string(),
            };
            self.report(Report::Trouble(T::KIND, Some(trouble))).await;
        }
        match failure {
            Failure::Expired => self.version = None,
            Failure::Refused { code: 401, .. } => self.link.renew(),
            Failure::Lost(_) | Failure::Refused { .. } | Failure::Unreadable(_) => {}
        }
        if let Some(failures) = self.failures.to_rest_for(&failure) {
            self.link.rest(failures).await;
        }
    }

    async fn report(&self, report: Report) {
        // Nobody listens any more when the source has ended.
        let _ = self.reports.send(report).await;
    }
}

impl Way {
    const fn other(self) -> Self {
        match self {
            Self::Stream => Self::Pages,
            Self::Pages => Self::Stream,
        }
    }
}

fn silent(patience: Duration) -> Failure {
    Failure::Lost(format!("nothing came for {} s", patience.as_secs()))
}

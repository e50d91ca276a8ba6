//! Events: what the agent tells the cluster about itself and about Services.
//!
//! Nothing depends on them. Publishing neither waits nor fails; what cannot be told soon, or was
//! told a while ago, is not told.

mod sieve;

use std::time::Duration;

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Client,
    core::{Request, params::PostParams},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::debug;

use self::sieve::Sieve;
use super::{Access, failure::Failure, link::Link, requests::Requests};
use crate::model::ObjectName;

/// Events that may wait to be told.
const WAITING: usize = 64;

/// Attempts at an event while the server cannot be reached, and the time between them.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(10);

/// Where Events on objects without a namespace are kept.
const DEFAULT_NAMESPACE: &str = "default";

/// Who we are in Events.
const CONTROLLER: &str = "fairlead.dev/lb-agent";

/// The API's limits, in bytes.
const NOTE_MAX: usize = 1024;
const INSTANCE_MAX: usize = 128;

/// What is left for an object's name in that of its Event.
const SUBJECT_MAX: usize = 220;

/// How an Event is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As things should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// The object an Event is on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Regarding {
    /// The Node of this name.
    Node(String),
    /// This Service.
    Service(ObjectName),
}

/// Something to tell. `reason` and `action` are words in `UpperCamelCase` that programs know it
/// by; `note` is for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// The object it is on.
    pub regarding: Regarding,
    /// How it is to be taken.
    pub kind: EventType,
    /// Why.
    pub reason: &'static str,
    /// What was being done.
    pub action: &'static str,
    /// The same, for people.
    pub note: String,
}

impl Event {
    /// The agent has started on a node (K15).
    pub fn starting(node: &str) -> Self {
        Self {
            regarding: Regarding::Node(node.to_owned()),
            kind: EventType::Normal,
            reason: "Starting",
            action: "StartKubeProxy",
            note: format!("Fairlead {} serves this node", env!("CARGO_PKG_VERSION")),
        }
    }

    /// A health check port cannot be listened on (H9).
    pub fn health_check_failed(service: &ObjectName, note: String) -> Self {
        Self::on_service(service, "FailedToStartServiceHealthcheck", "Listen", note)
    }

    /// Another Service has an address and port that this one claims as well (B16).
    pub fn conflict(service: &ObjectName, note: String) -> Self {
        Self::on_service(service, "FrontendConflict", "Program", note)
    }

    /// Node ports are served on more addresses than the option may seem to say (B7).
    pub fn node_port_addresses(node_name: &str, note: String) -> Self {
        Self::on_node(node_name, "NodePortAddresses", "Configure", note)
    }

    /// A map is nearly full.
    pub fn nearly_full(node_name: &str, note: String) -> Self {
        Self::on_node(node_name, "MapNearlyFull", "Program", note)
    }

    fn on_service(
        service: &ObjectName,
        reason: &'static str,
        action: &'static str,
        note: String,
    ) -> Self {
        Self {
            regarding: Regarding::Service(service.clone()),
            kind: EventType::Warning,
            reason,
            action,
            note,
        }
    }

    fn on_node(node_name: &str, reason: &'static str, action: &'static str, note: String) -> Self {
        Self {
            regarding: Regarding::Node(node_name.to_owned()),
            kind: EventType::Warning,
            reason,
            action,
            note,
        }
    }
}

/// Tells Events, as far as that is possible. Clones tell on the same account.
#[derive(Clone, Debug)]
pub struct Recorder(Option<mpsc::Sender<Event>>);

impl Recorder {
    /// Tells an API server, in the name of the agent on this node. To be called in a runtime.
    pub fn new(access: Access, node: &str, requests: Requests) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let instance = shortened(&format!("lb-agent-{node}"), INSTANCE_MAX);
        let link = Link::new(access, requests);
        tokio::spawn(async move { tell(&link, instance, events).await });
        Self(Some(sender))
    }

    /// Where there is nobody to tell.
    pub const fn silent() -> Self {
        Self(None)
    }

    /// Tells, if it can be told.
    pub fn publish(&self, event: Event) {
        let queue = self.0.as_ref();
        if let Some(Err(error)) = queue.map(|queue| queue.try_send(event)) {
            debug!("an Event is not told: {error}");
        }
    }
}

async fn tell(link: &Link, instance: String, mut events: mpsc::Receiver<Event>) {
    let mut sieve = Sieve::default();
    while let Some(event) = events.recv().await {
        if sieve.admits(&event, Instant::now()) {
            let object = object(&event, &instance, Timestamp::now());
            if let Err(failure) = post(link, &object).await {
                debug!("Event {} is not told: {failure}", event.reason);
            }
        }
    }
}

async fn post(link: &Link, object: &v1::Event) -> Result<(), Failure> {
    let namespace = object.metadata.namespace.as_deref();
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let mut attempts = 0;
    loop {
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = Request::new(&path)
            .create(&PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        let ask = async |client: Client| client.request_text(request).await.map(drop);
        attempts += 1;
        match link.ask(ask).await {
            Err(Failure::Lost(_)) if attempts < ATTEMPTS => sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// The API's object. References have the UIDs that those of kube-proxy have: what is known of the
/// object at the node.
fn object(event: &Event, instance: &str, now: Timestamp) -> v1::Event {
    let Event {
        regarding,
        kind,
        reason,
        action,
        note,
    } = event;
    let regarding = match regarding {
        Regarding::Node(name) => ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.clone()),
            uid: Some(name.clone()),
            ..ObjectReference::default()
        },
        Regarding::Service(name) => ObjectReference {
            kind: Some("Service".to_owned()),
            namespace: Some(name.namespace.clone()),
            name: Some(name.name.clone()),
            uid: Some(name.to_string()),
            ..ObjectReference::default()
        },
    };
    let namespace = regarding.namespace.as_deref();
    let subject = regarding.name.as_deref().unwrap_or_default();
    // As others name theirs: nothing else happens to an object in the same nanosecond.
    let name = format!(
        "{}.{:x}",
        shortened(subject, SUBJECT_MAX),
        now.as_nanosecond()
    );
    v1::Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned()),
            ..ObjectMeta::default()
        },
        action: Some((*action).to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(shortened(note, NOTE_MAX)),
        reason: Some((*reason).to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(format!("{kind:?}")),
        ..v1::Event::default()
    }
}

/// The text, or as much of its beginning as fits.
fn shortened(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_what_the_api_takes() {
        let service = ObjectName::new("default", "web");
        let note = "é".repeat(NOTE_MAX);
        for event in [
            Event::starting("node-a"),
            Event::health_check_failed(&service, note),
        ] {
            let object = object(&event, "lb-agent-node-a", Timestamp::UNIX_EPOCH);
            assert!(
                object
                    .note
                    .as_ref()
                    .is_some_and(|note| note.len() <= NOTE_MAX)
            );
            let short = v1::Event {
                note: object.note.map(|note| shortened(&note, 30)),
                ..object
            };
            let text = serde_json::to_string_pretty(&short).unwrap();
            insta::assert_snapshot!(event.reason, text);
        }
    }
}

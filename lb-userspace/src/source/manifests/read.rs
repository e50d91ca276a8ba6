//! From a file to typed objects, each with where it stands.

use std::{fmt, sync::Arc};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    check::Invalid,
    endpoints, metadata,
    object::{Key, Kind, Object},
    ranges::Ranges,
    service, split,
};
use crate::model::ObjectName;

/// Where an object stands: `web.yaml: document 2: items[0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: Arc<str>,
    pub(super) document: usize,
    pub(super) item: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            document,
            item,
        } = self;
        write!(f, "{file}: document {document}")?;
        match item {
            Some(item) => write!(f, ": items[{item}]"),
            None => Ok(()),
        }
    }
}

/// One object of a file, good or bad.
pub(super) struct Reading {
    pub(super) origin: Origin,
    pub(super) outcome: Outcome,
}

/// What became of an object.
pub(super) enum Outcome {
    /// It can be used, perhaps with a remark on it.
    Good(Object, Option<String>),
    /// It cannot.
    Bad { subject: Subject, reason: String },
}

/// What a bad object would have been, so that its last good state can stay.
pub(super) enum Subject {
    /// This object.
    Object(Key),
    /// One of this name; its kind is unclear.
    Name(ObjectName),
    /// Any: it cannot be told.
    Unknown,
    /// Nothing of ours.
    Foreign,
}

/// Reads every object of a file.
pub(super) fn objects(file: &Arc<str>, text: &str, ranges: &Ranges) -> Vec<Reading> {
    let mut readings = Vec::new();
    for document in split::documents(file, text) {
        let origin = Origin {
            file: Arc::clone(file),
            document: document.number,
            item: None,
        };
        match document.value {
            Ok(value) => read_document(origin, value, ranges, &mut readings),
            Err(reason) => readings.push(Reading {
                origin,
                outcome: unknown(reason),
            }),
        }
    }
    readings
}

/// Reads a document, or each item of a `List`.
fn read_document(origin: Origin, mut value: Value, ranges: &Ranges, readings: &mut Vec<Reading>) {
    let header = Header::of(&value);
    let Some(items) = header.list() else {
        let outcome = read_object(&header, value, ranges);
        readings.push(Reading { origin, outcome });
        return;
    };
    let Some(Value::Array(values)) = value.get_mut("items").map(Value::take) else {
        let outcome = unknown("items: required, a list of objects".to_owned());
        readings.push(Reading { origin, outcome });
        return;
    };
    for (index, item) in values.into_iter().enumerate() {
        let header = Header::of(&item).or(&items);
        let outcome = read_object(&header, item, ranges);
        readings.push(Reading {
            origin: Origin {
                item: Some(index),
                ..origin.clone()
            },
            outcome,
        });
    }
}

/// `apiVersion`, `kind`, and the name as far as it can be read without the rest.
#[derive(Clone, Default)]
struct Header {
    api_version: String,
    kind: String,
    name: Option<ObjectName>,
}

impl Header {
    fn of(value: &Value) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let metadata = value.get("metadata");
        let field = |name| text(metadata.and_then(|metadata| metadata.get(name)));
        let namespace = field("namespace").filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or_else(|| metadata::DEFAULT_NAMESPACE.to_owned());
        Self {
            api_version: text(value.get("apiVersion")).unwrap_or_default(),
            kind: text(value.get("kind")).unwrap_or_default(),
            name: field("name").map(|name| ObjectName::new(namespace, name)),
        }
    }

    /// What the items of a list are when they do not say so themselves; none if this is no list.
    fn list(&self) -> Option<Self> {
        let kind = self.kind.strip_suffix("List")?;
        Some(Self {
            api_version: self.api_version.clone(),
            kind: kind.to_owned(),
            name: None,
        })
    }

    /// Fills in from the list what an item lacks.
    fn or(self, list: &Self) -> Self {
        let pick = |own: String, default: &str| {
            if own.is_empty() {
                default.to_owned()
            } else {
                own
            }
        };
        if list.kind.is_empty() {
            return self;
        }
        Self {
            api_version: pick(self.api_version, &list.api_version),
            kind: pick(self.kind, &list.kind),
            name: self.name,
        }
    }

    fn key(&self, kind: Kind) -> Option<Key> {
        let name = self.name.clone()?;
        let name = match kind {
            Kind::Node => ObjectName::new("", name.name),
            Kind::Service | Kind::Pod | Kind::Endpoints | Kind::EndpointSlice => name,
        };
        Some(Key { kind, name })
    }
}

fn read_object(header: &Header, value: Value, ranges: &Ranges) -> Outcome {
    if !value.is_object() {
        return unknown("not an object with apiVersion, kind and metadata".to_owned());
    }
    let Some(kind) = Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == header.kind)
    else {
        return wrong_kind(header);
    };
    let Some(key) = header.key(kind) else {
        return unknown(format!("{}: metadata.name: required", kind.name()));
    };
    let result = if header.api_version == kind.api_version() {
        typed(kind, with_header(value, kind), ranges)
    } else {
        let (found, expected) = (&header.api_version, kind.api_version());
        Err(format!("apiVersion: must be {expected}, not {found:?}"))
    };
    match result {
        Ok((object, remark)) => {
            Outcome::Good(object, remark.map(|remark| format!("{key}: {remark}")))
        }
        Err(reason) => Outcome::Bad {
            reason: format!("{key}: {reason}"),
            subject: Subject::Object(key),
        },
    }
}

/// Items of a typed list need not repeat these; the types insist on them.
fn with_header(mut value: Value, kind: Kind) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".to_owned(), kind.api_version().into());
        fields.insert("kind".to_owned(), kind.name().into());
    }
    value
}

fn typed(kind: Kind, value: Value, ranges: &Ranges) -> Result<(Object, Option<Invalid>), String> {
    let read = match kind {
        Kind::Service => {
            let service = service::service(&strict::<core::Service>(value)?, ranges);
            service.map(|(service, remark)| (Object::Service(Arc::new(service)), remark))
        }
        Kind::Pod => {
            let pod = endpoints::pod(strict::<core::Pod>(value)?);
            pod.map(|(pod, remark)| (Object::Pod(Arc::new(pod)), remark))
        }
        Kind::Node => {
            let node = endpoints::node(&strict::<core::Node>(value)?);
            node.map(|node| (Object::Node(Arc::new(node)), None))
        }
        Kind::Endpoints => {
            let endpoints = endpoints::endpoints(&strict::<core::Endpoints>(value)?);
            endpoints.map(|(endpoints, remark)| (Object::Endpoints(Arc::new(endpoints)), remark))
        }
        Kind::EndpointSlice => {
            let slice = endpoints::slice(&strict::<discovery::EndpointSlice>(value)?);
            slice.map(|(slice, remark)| (Object::EndpointSlice(Arc::new(slice)), remark))
        }
    };
    read.map_err(|invalid| invalid.to_string())
}

/// Deserialises with the path of what is wrong; an unknown field is wrong, as for `kubectl apply`.
pub(crate) fn strict<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let (object, unknown) = lenient(value)?;
    match unknown.first() {
        Some(path) => Err(format!("{path}: unknown field")),
        None => Ok(object),
    }
}

/// Deserialises with the path of what is wrong; and the paths of the fields that are unknown.
pub(crate) fn lenient<T: DeserializeOwned>(value: Value) -> Result<(T, Vec<String>), String> {
    let mut track = serde_path_to_error::Track::new();
    let mut unknown = Vec::new();
    let result = serde_ignored::deserialize(
        serde_path_to_error::Deserializer::new(value, &mut track),
        |path| unknown.push(field_path(&path)),
    );
    let object = result.map_err(|error| format!("{}: {error}", track.path()))?;
    Ok((object, unknown))
}

fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => match field_path(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

/// Kinds of `v1` that are no misspelling of one of ours.
const CORE_KINDS: [&str; 13] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Event",
    "LimitRange",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
];

fn wrong_kind(header: &Header) -> Outcome {
    let Header {
        api_version,
        kind,
        name,
    } = header;
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let names = names.join(", ");
    let reason = if kind.is_empty() {
        format!("kind: required, one of {names}")
    } else {
        format!("kind: {kind} ({api_version}) is not one of {names}")
    };
    let ours = api_version.is_empty() || Kind::ALL.iter().any(|k| k.api_version() == api_version);
    let subject = match name {
        _ if !ours || CORE_KINDS.contains(&kind.as_str()) => Subject::Foreign,
        Some(name) => Subject::Name(name.clone()),
        None => Subject::Unknown,
    };
    Outcome::Bad { subject, reason }
}

fn unknown(reason: String) -> Outcome {
    Outcome::Bad {
        subject: Subject::Unknown,
        reason,
    }
}

//! The files of the directory, each with the last good state of its objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    object::{Key, Kind, Object},
    ranges::Ranges,
    read::{self, Origin, Outcome, Reading, Subject},
};
use crate::model::ObjectName;

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// It is new or has other content.
    Content(Vec<u8>),
    /// It is there but cannot be read, and why.
    Unreadable(String),
    /// It was removed.
    Gone,
}

/// What a look at the directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Files that changed since the look before.
    pub files: BTreeMap<String, FileChange>,
    /// Problems of the directory as a whole; while there are any, what is missing may only be out
    /// of sight.
    pub problems: Vec<String>,
}

/// All files.
#[derive(Default)]
pub(super) struct Files {
    by_name: BTreeMap<Arc<str>, File>,
    /// The files that give an object. The first one counts.
    givers: BTreeMap<Key, BTreeSet<Arc<str>>>,
    /// Objects that several files give.
    contested: BTreeSet<Key>,
}

/// An object and where it stands.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) object: Object,
}

#[derive(Default)]
struct File {
    objects: BTreeMap<Key, Entry>,
    problems: Vec<String>,
    /// Names of bad objects; without a name, anything may be missing.
    bad: BTreeSet<ObjectName>,
    unclear: bool,
}

impl Files {
    /// Takes a change; returns the objects that changed by it.
    pub(super) fn apply(&mut self, name: &str, change: FileChange, ranges: &Ranges) -> Vec<Key> {
        let name: Arc<str> = name.into();
        let file = self.by_name.get(&name);
        let mut before: BTreeMap<Key, Option<Object>> = BTreeMap::new();
        for key in file.iter().flat_map(|file| file.objects.keys()) {
            before.insert(key.clone(), self.object(key));
        }
        let file = self.by_name.remove(&name).unwrap_or_default();
        let after = match change {
            FileChange::Gone => None,
            FileChange::Unreadable(reason) => Some(file.unreadable(&name, &reason)),
            FileChange::Content(bytes) => Some(match String::from_utf8(bytes) {
                Ok(text) => File::merge(read::objects(&name, &text, ranges), file.objects),
                Err(_) => file.unreadable(&name, "not UTF-8 text"),
            }),
        };
        for key in after.iter().flat_map(|file| file.objects.keys()) {
            if !before.contains_key(key) {
                before.insert(key.clone(), self.object(key));
            }
        }
        for key in before.keys() {
            let given = after
                .as_ref()
                .is_some_and(|file| file.objects.contains_key(key));
            self.give(&name, key, given);
        }
        self.by_name.extend(after.map(|file| (name, file)));
        before.retain(|key, before| self.object(key) != *before);
        before.into_keys().collect()
    }

    fn object(&self, key: &Key) -> Option<Object> {
        self.get(key).map(|entry| entry.object.clone())
    }

    fn give(&mut self, name: &Arc<str>, key: &Key, given: bool) {
        let givers = self.givers.entry(key.clone()).or_default();
        if given {
            givers.insert(Arc::clone(name));
        } else {
            givers.remove(name);
        }
        let count = givers.len();
        if count == 0 {
            self.givers.remove(key);
        }
        if count > 1 {
            self.contested.insert(key.clone());
        } else {
            self.contested.remove(key);
        }
    }

    /// An object as the first file that gives it has it.
    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        let name = self.givers.get(key)?.first()?;
        self.by_name.get(name)?.objects.get(key)
    }

    /// Every object of a kind.
    pub(super) fn keys(&self, kind: Kind) -> impl Iterator<Item = &Key> {
        let first = Key {
            kind,
            name: ObjectName::new("", ""),
        };
        self.givers
            .range(first..)
            .map(|(key, _)| key)
            .take_while(move |key| key.kind == kind)
    }

    /// Whether all of a file is good.
    pub(super) fn is_good(&self, name: &str) -> bool {
        let file = self.by_name.get(name);
        file.is_some_and(|file| file.bad.is_empty() && !file.unclear)
    }

    /// Whether an object that no file gives may yet be in one that cannot be read.
    pub(super) fn may_hold(&self, name: &ObjectName) -> bool {
        self.by_name
            .values()
            .any(|file| file.unclear || file.bad.contains(name))
    }

    /// What is wrong with files and the objects in them, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let own = self
            .by_name
            .values()
            .flat_map(|file| file.problems.iter().cloned());
        own.chain(self.contested.iter().flat_map(|key| self.duplicates(key)))
    }

    fn duplicates(&self, key: &Key) -> Vec<String> {
        let givers = self.givers.get(key).into_iter().flatten();
        let mut entries = givers.filter_map(|name| self.by_name.get(name)?.objects.get(key));
        let Some(first) = entries.next() else {
            return Vec::new();
        };
        entries
            .map(|entry| duplicate(&entry.origin, key, &first.origin))
            .collect()
    }
}

fn duplicate(origin: &Origin, key: &Key, first: &Origin) -> String {
    format!("{origin}: {key}: is already given by {first}")
}

impl File {
    fn unreadable(self, name: &str, reason: &str) -> Self {
        Self {
            problems: vec![format!("{name}: {reason}")],
            unclear: true,
            ..self
        }
    }

    /// What was read, and the last good state of what is bad.
    fn merge(readings: Vec<Reading>, mut last_good: BTreeMap<Key, Entry>) -> Self {
        let mut file = Self::default();
        let mut bad = Vec::new();
        for Reading { origin, outcome } in readings {
            match outcome {
                Outcome::Good(object, remark) => {
                    file.problems
                        .extend(remark.map(|remark| format!("{origin}: {remark}")));
                    file.add(origin, object);
                }
                Outcome::Bad { subject, reason } => {
                    file.problems.push(format!("{origin}: {reason}"));
                    bad.push(subject);
                }
            }
        }
        for subject in bad {
            let kept: Vec<Key> = match &subject {
                Subject::Object(key) => vec![key.clone()],
                Subject::Name(name) => Kind::ALL.map(|kind| key(kind, name)).into(),
                Subject::Unknown => last_good.keys().cloned().collect(),
                Subject::Foreign => Vec::new(),
            };
            for key in kept {
                if let Some(entry) = last_good.remove(&key) {
                    file.objects.entry(key).or_insert(entry);
                }
            }
            match subject {
                Subject::Object(Key { name, .. }) | Subject::Name(name) => {
                    file.bad.insert(name);
                }
                Subject::Unknown => file.unclear = true,
                Subject::Foreign => {}
            }
        }
        file
    }

    fn add(&mut self, origin: Origin, object: Object) {
        let key = object.key();
        if let Some(first) = self.objects.get(&key) {
            self.problems.push(duplicate(&origin, &key, &first.origin));
        } else {
            self.objects.insert(key, Entry { origin, object });
        }
    }
}

fn key(kind: Kind, name: &ObjectName) -> Key {
    let name = match kind {
        Kind::Node => ObjectName::new("", &name.name),
        Kind::Service | Kind::Pod | Kind::Endpoints | Kind::EndpointSlice => name.clone(),
    };
    Key { kind, name }
}

//! What has been told of the objects of one kind, and what a relist makes of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    mem,
    time::SystemTime,
};

use ipnet::IpNet;

use super::{
    convert::{Converted, Value},
    kind::Kind,
};
use crate::model::{Change, ObjectName};

/// Remembers names and fingerprints, not objects: those are kept where they are used.
///
/// A list is a transaction. While it lasts, changes gather here; when it ends, what it did not
/// name is gone, and all of it is told together. If it breaks off, nothing is told, and the next
/// one goes on from there.
#[derive(Debug)]
pub(super) struct Ledger {
    kind: Kind,
    /// Triggers of before do not count (row J10).
    started: SystemTime,
    hasher: RandomState,
    told: HashMap<ObjectName, Told>,
    /// What each `ServiceCIDR` holds; few, and told as one set.
    networks: BTreeMap<ObjectName, BTreeSet<IpNet>>,
    told_networks: Option<BTreeSet<IpNet>>,
    remarks: BTreeMap<ObjectName, Vec<String>>,
    round: u32,
    stage: Stage,
    pending: Delta,
    /// Whether the remarks changed since they were told.
    remarked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    fingerprint: u64,
    /// The list that named it last.
    round: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No list has ended yet.
    Blank,
    /// A list is being taken in.
    Listing {
        /// Whether none has ended before.
        first: bool,
    },
    /// All is known.
    Complete,
}

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    /// Changes, in order.
    pub(super) changes: Vec<Change>,
    /// See [`Batch::triggers`](crate::model::Batch::triggers).
    pub(super) triggers: Vec<(ObjectName, SystemTime)>,
    /// All remarks there are, if they changed.
    pub(super) remarks: Option<Vec<String>>,
    /// Whether this completes a list.
    pub(super) listed: bool,
}

impl Ledger {
    /// Of a kind of which nothing has been told.
    pub(super) fn new(kind: Kind, started: SystemTime) -> Self {
        Self {
            kind,
            started,
            hasher: RandomState::new(),
            told: HashMap::new(),
            networks: BTreeMap::new(),
            told_networks: None,
            remarks: BTreeMap::new(),
            round: 0,
            stage: Stage::Blank,
            pending: Delta::default(),
            remarked: false,
        }
    }

    /// How many objects are known.
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.stage = Stage::Listing {
            first: match self.stage {
                Stage::Blank => true,
                Stage::Listing { first } => first,
                Stage::Complete => false,
            },
        };
    }

    /// This is how an object is.
    pub(super) fn put(&mut self, object: Converted) {
        let Converted {
            name,
            value,
            trigger,
            remarks,
        } = object;
        self.remark(&name, remarks);
        let Some(value) = value else {
            self.forget(&name);
            return;
        };
        let told = Told {
            fingerprint: self.hasher.hash_one(&value),
            round: self.round,
        };
        let before = self.told.insert(name.clone(), told);
        if before.is_some_and(|before| before.fingerprint == told.fingerprint) {
            return;
        }
        if let (Value::Slice(slice), Some(at)) = (&value, trigger.filter(|at| *at > self.started)) {
            let service = ObjectName::new(&name.namespace, &slice.service);
            self.pending.triggers.push((service, at));
        }
        self.tell(name, Some(value));
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, name: &ObjectName) {
        self.remark(name, Vec::new());
        self.forget(name);
    }

    /// The list has ended: what it did not name is gone.
    pub(super) fn finish(&mut self) {
        let Stage::Listing { first } = self.stage else {
            return;
        };
        self.stage = Stage::Complete;
        self.pending.listed = true;
        let round = self.round;
        let absent = self.told.iter().filter(|(_, told)| told.round != round);
        let mut absent: Vec<ObjectName> = absent.map(|(name, _)| name.clone()).collect();
        absent.sort();
        for name in absent {
            self.remove(&name);
        }
        if first && self.kind == Kind::Node && self.told.is_empty() {
            // Of a Node it matters that there is none.
            self.pending.changes.push(Change::Node(None));
        }
    }

    /// What is to be told, unless a list is being taken in.
    pub(super) fn take(&mut self) -> Option<Delta> {
        if self.stage != Stage::Complete {
            return None;
        }
        if self.kind == Kind::ServiceCidr {
            self.tell_networks();
        }
        if mem::take(&mut self.remarked) {
            let lines = self.remarks.values().flatten().cloned();
            self.pending.remarks = Some(lines.collect());
        }
        let delta = mem::take(&mut self.pending);
        (delta != Delta::default()).then_some(delta)
    }

    fn forget(&mut self, name: &ObjectName) {
        if self.told.remove(name).is_some() {
            self.tell(name.clone(), None);
        }
    }

    fn tell(&mut self, name: ObjectName, value: Option<Value>) {
        let change = match (self.kind, value) {
            (_, Some(Value::Service(service))) => Change::Service(name, Some(*service)),
            (_, Some(Value::Slice(slice))) => Change::Slice(name, Some(slice)),
            (_, Some(Value::Node(node))) => Change::Node(Some(node)),
            (_, Some(Value::Pod(pod))) => Change::Pod(name, Some(pod)),
            (_, Some(Value::Networks(networks))) => {
                self.networks.insert(name, networks);
                return;
            }
            (Kind::Service, None) => Change::Service(name, None),
            (Kind::EndpointSlice, None) => Change::Slice(name, None),
            (Kind::Node, None) => Change::Node(None),
            (Kind::Pod, None) => Change::Pod(name, None),
            (Kind::ServiceCidr, None) => {
                self.networks.remove(&name);
                return;
            }
        };
        self.pending.changes.push(change);
    }

    fn tell_networks(&mut self) {
        let all: BTreeSet<IpNet> = self.networks.values().flatten().copied().collect();
        if self.told_networks.as_ref() != Some(&all) {
            let change = Change::ServiceNetworks(all.clone());
            self.pending.changes.push(change);
            self.told_networks = Some(all);
        }
    }

    fn remark(&mut self, name: &ObjectName, remarks: Vec<String>) {
        let before = if remarks.is_empty() {
            self.remarks.remove(name)
        } else {
            self.remarks.insert(name.clone(), remarks)
        };
        self.remarked |= before.as_ref() != self.remarks.get(name);
    }
}

//! Typed reading of the pinned maps. Nothing here writes.

use std::{
    collections::{HashMap as Unique, HashSet},
    hash::Hash,
    io,
    panic::resume_unwind,
    path::Path,
    thread,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::SchedClassifier,
};
use lb_common::{
    Addr, V4, V6,
    maps::{self, STATUS_SIZE},
};

use super::{Error, snapshot::Family};
use crate::{
    pins::Pins,
    status::{Loading, Status},
};

/// The names of one family's maps.
pub(super) trait MapFamily: Addr {
    const FAMILY: Family;
    const FRONTENDS: &'static str;
    const SLOTS: &'static str;
    const BACKENDS: &'static str;
    const FLOWS: &'static str;
    const SOCKETS: &'static str;
}

impl MapFamily for V4 {
    const FAMILY: Family = Family::V4;
    const FRONTENDS: &'static str = maps::FRONTENDS4;
    const SLOTS: &'static str = maps::SLOTS4;
    const BACKENDS: &'static str = maps::BACKENDS4;
    const FLOWS: &'static str = maps::FLOWS4;
    const SOCKETS: &'static str = maps::SOCKETS4;
}

impl MapFamily for V6 {
    const FAMILY: Family = Family::V6;
    const FRONTENDS: &'static str = maps::FRONTENDS6;
    const SLOTS: &'static str = maps::SLOTS6;
    const BACKENDS: &'static str = maps::BACKENDS6;
    const FLOWS: &'static str = maps::FLOWS6;
    const SOCKETS: &'static str = maps::SOCKETS6;
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) used: u32,
    pub(super) capacity: u32,
}

/// The maps of one node.
pub(super) struct PinnedMaps {
    pins: Pins,
}

impl PinnedMaps {
    /// The maps pinned below this bpffs mount.
    pub(super) fn open(bpffs: &Path) -> Result<Self, Error> {
        let pins = Pins::new(bpffs);
        match std::fs::read_dir(pins.maps()) {
            Ok(_) => Ok(Self { pins }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound => Error::NoMaps(pins.root().to_owned()),
                io::ErrorKind::PermissionDenied => Error::Permission(pins.root().to_owned()),
                _ => Error::Directory(pins.maps(), error),
            }),
        }
    }

    /// The directory of the pins.
    pub(super) fn root(&self) -> &Path {
        self.pins.root()
    }

    /// A program of dry runs.
    pub(super) fn program(&self, name: &'static str) -> Result<SchedClassifier, Error> {
        let path = self.pins.program(name);
        SchedClassifier::from_pin(&path).map_err(|source| match io_kind(&source) {
            Some(io::ErrorKind::PermissionDenied) => Error::Permission(self.root().to_owned()),
            Some(io::ErrorKind::NotFound) if self.is_loading() => Error::Loading,
            Some(io::ErrorKind::NotFound) => Error::NoProgram(path),
            _ => Error::Program { path, source },
        })
    }

    /// Whether the agent says that it is loading programs.
    fn is_loading(&self) -> bool {
        match self.status() {
            Ok(Some(status)) => match status.loading {
                Loading::DataPath | Loading::DryRuns => true,
                Loading::Nothing => false,
            },
            Ok(None) | Err(_) => false,
        }
    }

    /// Every row of a hash map.
    pub(super) fn rows<K: Pod + Eq + Hash, V: Pod>(
        &self,
        map: &'static str,
    ) -> Result<Unique<K, V>, Error> {
        let (hash, capacity) = self.hash::<K, V>(map)?;
        hash.iter()
            .take(longest_walk(capacity))
            .collect::<Result<_, _>>()
            .map_err(|source| Error::Read { map, source })
    }

    /// How many rows a hash map has of how many it can have.
    pub(super) fn hash_use<K: Pod + Eq + Hash, V: Pod>(
        &self,
        map: &'static str,
    ) -> Result<Use, Error> {
        let (hash, capacity) = self.hash::<K, V>(map)?;
        let keys: HashSet<K> = hash
            .keys()
            .take(longest_walk(capacity))
            .collect::<Result<_, _>>()
            .map_err(|source| Error::Read { map, source })?;
        Ok(Use {
            used: keys.len() as u32,
            capacity,
        })
    }

    /// A hash map and how many rows it can have.
    fn hash<K: Pod, V: Pod>(
        &self,
        map: &'static str,
    ) -> Result<(HashMap<MapData, K, V>, u32), Error> {
        let read = |source| Error::Read { map, source };
        let data = self.data(map)?;
        let capacity = data.info().map_err(read)?.max_entries();
        let hash = Map::from_map_data(data)
            .and_then(HashMap::try_from)
            .map_err(read)?;
        Ok((hash, capacity))
    }

    /// An array.
    pub(super) fn array<V: Pod>(&self, map: &'static str) -> Result<Entries<V>, Error> {
        Map::from_map_data(self.data(map)?)
            .and_then(Array::try_from)
            .map(|array| Entries { map, array })
            .map_err(|source| Error::Read { map, source })
    }

    /// An array of counters.
    pub(super) fn counters<V: Pod>(&self, map: &'static str) -> Result<Counters<V>, Error> {
        Map::from_map_data(self.data(map)?)
            .and_then(PerCpuArray::try_from)
            .map(|array| Counters { map, array })
            .map_err(|source| Error::Read { map, source })
    }

    /// The agent's account of itself; none before it has written one.
    pub(super) fn status(&self) -> Result<Option<Status>, Error> {
        /// A map value is handed up by value, some twenty times over without optimisation.
        const STACK: usize = 64 * STATUS_SIZE as usize;
        thread::scope(|scope| {
            let reader = thread::Builder::new().stack_size(STACK);
            reader
                .spawn_scoped(scope, || self.read_status())
                .map_err(Error::Thread)?
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn read_status(&self) -> Result<Option<Status>, Error> {
        /// The kernel copies the value while the agent may be writing it; a torn one is read again.
        const ATTEMPTS: u32 = 3;
        let entries = self.array::<[u8; STATUS_SIZE as usize]>(maps::STATUS)?;
        let mut attempt = 1;
        loop {
            let value = entries.get(0)?;
            match Status::decode(value.as_ref().map_or(&[], <[u8; _]>::as_slice)) {
                Ok(status) => return Ok(status),
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(Error::Status(error)),
            }
        }
    }

    fn data(&self, map: &str) -> Result<MapData, Error> {
        self.pins.open(map).map_err(|error| {
            if io_kind(&error) == Some(io::ErrorKind::PermissionDenied) {
                Error::Permission(self.root().to_owned())
            } else {
                Error::Open(error)
            }
        })
    }
}

/// How many steps a walk over a hash map may take: when a row goes under it the kernel starts again
/// at the first, so on a busy map rows come twice and the end might never.
fn longest_walk(capacity: u32) -> usize {
    capacity as usize * 2
}

/// The kind of the I/O error that is at the bottom of `error`.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}

/// An array map.
pub(super) struct Entries<V: Pod> {
    map: &'static str,
    array: Array<MapData, V>,
}

impl<V: Pod> Entries<V> {
    /// How many entries there are.
    pub(super) fn capacity(&self) -> u32 {
        self.array.len()
    }

    /// One entry; none beyond the end.
    pub(super) fn get(&self, index: u32) -> Result<Option<V>, Error> {
        within(self.map, self.array.get(&index, 0))
    }
}

/// A per-CPU array map.
pub(super) struct Counters<V: Pod> {
    map: &'static str,
    array: PerCpuArray<MapData, V>,
}

impl<V: Pod> Counters<V> {
    /// The value of each CPU; none beyond the end.
    pub(super) fn get(&self, index: u32) -> Result<Vec<V>, Error> {
        let values = within(self.map, self.array.get(&index, 0))?;
        Ok(values.map_or_else(Vec::new, |values| values.to_vec()))
    }
}

fn within<T>(map: &'static str, result: Result<T, MapError>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::OutOfBounds { .. }) => Ok(None),
        Err(source) => Err(Error::Read { map, source }),
    }
}

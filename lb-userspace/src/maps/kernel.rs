//! The pinned BPF maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use lb_common::{
    Addr, Port, V4, V6, maps,
    service::{Backend, Frontend, FrontendKey, ServiceName, SourceRange},
};
use rustix::io::Errno;

use super::{
    Capacities, Dump, Family, FamilyCapacities, FamilyDump, FamilyOp, LbMaps, Network, Op,
    ReadError, WriteError, absent::Absent, batch, mmap::MappedArray,
};
use crate::pins::{OpenError, Pins};

/// The maps the BPF programs read.
#[derive(Debug)]
pub struct Kernel {
    v4: KernelFamily<V4>,
    v6: KernelFamily<V6>,
    names: HashMap<MapData, u32, ServiceName>,
    services: u32,
}

/// Pinned maps are not there or not of the expected shape.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The pin cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is another kind of map.
    #[error("pinned map {map} cannot be used")]
    Shape {
        /// The map.
        map: &'static str,
        /// What is wrong with it.
        source: io::Error,
    },
}

impl Kernel {
    /// Opens the maps pinned there.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        let (names, services) = open_hash(pins, maps::SERVICE_NAMES)?;
        Ok(Self {
            v4: KernelFamily::open(pins)?,
            v6: KernelFamily::open(pins)?,
            names,
            services,
        })
    }
}

impl LbMaps for Kernel {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        match op {
            Op::V4(family) => self.v4.apply(family),
            Op::V6(family) => self.v6.apply(family),
            Op::PutName(id, name) => self.names.insert(id, name, 0).map_err(io_error),
            Op::DeleteName(id) => absent_is_gone(self.names.remove(id)),
        }
        .map_err(|error| op.failed(error))
    }

    fn dump(&self) -> Result<Dump, ReadError> {
        Ok(Dump {
            v4: self.v4.dump()?,
            v6: self.v6.dump()?,
            names: dump_hash(&self.names, maps::SERVICE_NAMES)?,
        })
    }

    fn capacities(&self) -> Capacities {
        Capacities {
            v4: self.v4.capacities(),
            v6: self.v6.capacities(),
            services: self.services,
        }
    }
}

#[derive(Debug)]
struct KernelFamily<A> {
    frontends: HashMap<MapData, FrontendKey<A>, Frontend>,
    absent: Absent<A>,
    capacity: u32,
    slots: MappedArray,
    backends: MappedArray,
    source_ranges: LpmTrie<MapData, SourceRange<A>, u32>,
    source_ranges_capacity: u32,
}

impl<A: Family> KernelFamily<A>
where
    FrontendKey<A>: Pod,
    SourceRange<A>: Pod,
{
    fn open(pins: &Pins) -> Result<Self, KernelError> {
        let (frontends, capacity) = open_hash(pins, A::FRONTENDS)?;
        let (source_ranges, source_ranges_capacity) = open_trie(pins, A::SOURCE_RANGES)?;
        let absent = open_absent::<A>(pins, &frontends)?;
        Ok(Self {
            frontends,
            absent,
            capacity,
            slots: open_array(pins, A::SLOTS, 1)?,
            backends: open_array(pins, A::BACKENDS, size_of::<Backend<A>>() / 4)?,
            source_ranges,
            source_ranges_capacity,
        })
    }

    fn apply(&mut self, op: &FamilyOp<A>) -> io::Result<()> {
        match op {
            FamilyOp::PutFrontend(key, value) => {
                self.absent.before_put(key)?;
                self.frontends.insert(key, value, 0).map_err(io_error)
            }
            FamilyOp::DeleteFrontend(key) => {
                absent_is_gone(self.frontends.remove(key))?;
                self.absent.after_delete(key)
            }
            FamilyOp::WriteSlots(offset, backends) => (*offset..)
                .zip(backends)
                .try_for_each(|(index, backend)| self.slots.store(index, 0, *backend)),
            FamilyOp::PutBackend(index, backend) => store_backend(&self.backends, *index, backend),
            FamilyOp::PutSourceRange(service, network) => self
                .source_ranges
                .insert(&range_key(*service, network), &1, 0)
                .map_err(io_error),
            FamilyOp::DeleteSourceRange(service, network) => {
                absent_is_gone(self.source_ranges.remove(&range_key(*service, network)))
            }
        }
    }

    fn dump(&self) -> Result<FamilyDump<A>, ReadError> {
        let backends = (0..self.backends.len())
            .map(|index| (index, load_backend(&self.backends, index)))
            .filter(|(_, backend)| *backend != Backend::default());
        Ok(FamilyDump {
            frontends: dump_hash(&self.frontends, A::FRONTENDS)?,
            slots: (0..self.slots.len())
                .map(|index| self.slots.load(index, 0))
                .collect(),
            backends: backends.collect(),
            source_ranges: dump_ranges(&self.source_ranges)?,
        })
    }

    const fn capacities(&self) -> FamilyCapacities {
        FamilyCapacities {
            frontends: self.capacity,
            slots: self.slots.len(),
            backends: self.backends.len(),
            source_ranges: self.source_ranges_capacity,
        }
    }
}

/// The trie compares the service id first, then the network.
fn range_key<A: Addr>(service: u32, network: &Network<A>) -> Key<SourceRange<A>>
where
    SourceRange<A>: Pod,
{
    let bits = SourceRange::<A>::SERVICE_BITS + u32::from(network.prefix);
    Key::new(bits, SourceRange::new(service, network.addr))
}

fn dump_ranges<A: Family>(
    trie: &LpmTrie<MapData, SourceRange<A>, u32>,
) -> Result<BTreeSet<(u32, Network<A>)>, ReadError>
where
    SourceRange<A>: Pod,
{
    let range = |key: Key<SourceRange<A>>| {
        let SourceRange { service, addr } = key.data();
        // Less than a whole service id would let clients into several services: no key of ours.
        let prefix = key
            .prefix_len()
            .checked_sub(SourceRange::<A>::SERVICE_BITS)?;
        let prefix = u8::try_from(prefix).ok()?;
        Some((u32::from_be_bytes(service), Network { addr, prefix }))
    };
    let entries = batch::entries::<_, u32>(trie.map()).map_err(|source| ReadError {
        map: A::SOURCE_RANGES,
        source,
    })?;
    let keys = entries.into_iter().map(|(key, _)| key);
    Ok(keys.filter_map(range).collect())
}

/// Stores the flags last: whoever sees a backend alive sees the rest of it too.
fn store_backend<A: Addr>(map: &MappedArray, index: u32, backend: &Backend<A>) -> io::Result<()> {
    let Backend {
        addr,
        port,
        flags,
        generation,
        service,
    } = backend;
    let ([p0, p1], [f0, f1]) = (port.to_wire(), flags.to_ne_bytes());
    let words = addr.words();
    for (at, word) in words.iter().enumerate() {
        map.store(index, at, *word)?;
    }
    map.store(index, words.len() + 1, *generation)?;
    map.store(index, words.len() + 2, *service)?;
    map.store(index, words.len(), u32::from_ne_bytes([p0, p1, f0, f1]))
}

fn load_backend<A: Addr>(map: &MappedArray, index: u32) -> Backend<A> {
    let count = A::default().words().len();
    let [p0, p1, f0, f1] = map.load(index, count).to_ne_bytes();
    Backend {
        addr: load_addr(map, index),
        port: Port::from_word(u16::from_ne_bytes([p0, p1])),
        flags: u16::from_ne_bytes([f0, f1]),
        generation: map.load(index, count + 1),
        service: map.load(index, count + 2),
    }
}

fn load_addr<A: Addr>(map: &MappedArray, index: u32) -> A {
    let word = |at| map.load(index, at);
    let ip = if A::IS_V6 {
        let mut octets = [0; 16];
        for (at, bytes) in octets.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *bytes = word(at).to_ne_bytes();
        }
        IpAddr::from(octets)
    } else {
        IpAddr::from(word(0).to_ne_bytes())
    };
    A::from_ip(ip).unwrap_or_default()
}

/// A pinned map is of another kind.
pub(super) fn shape(map: &'static str, source: MapError) -> KernelError {
    let source = io_error(source);
    KernelError::Shape { map, source }
}

fn open_hash<K: Pod, V: Pod>(
    pins: &Pins,
    map: &'static str,
) -> Result<(HashMap<MapData, K, V>, u32), KernelError> {
    let shape = |source| shape(map, source);
    let data = pins.open(map)?;
    let entries = data.info().map_err(shape)?.max_entries();
    let hash = HashMap::try_from(Map::HashMap(data)).map_err(shape)?;
    Ok((hash, entries))
}

fn open_trie<K: Pod, V: Pod>(
    pins: &Pins,
    map: &'static str,
) -> Result<(LpmTrie<MapData, K, V>, u32), KernelError> {
    let shape = |source| shape(map, source);
    let data = pins.open(map)?;
    let entries = data.info().map_err(shape)?.max_entries();
    let trie = LpmTrie::try_from(Map::LpmTrie(data)).map_err(shape)?;
    Ok((trie, entries))
}

fn open_array(pins: &Pins, map: &'static str, words: usize) -> Result<MappedArray, KernelError> {
    let data = pins.open(map)?;
    MappedArray::new(data, words).map_err(|source| KernelError::Shape { map, source })
}

fn open_absent<A: Family>(
    pins: &Pins,
    frontends: &HashMap<MapData, FrontendKey<A>, Frontend>,
) -> Result<Absent<A>, KernelError>
where
    FrontendKey<A>: Pod,
{
    let shape = |source: io::Error| KernelError::Shape {
        map: A::ABSENT,
        source,
    };
    let map = open_array(pins, A::ABSENT, 2)?;
    let entries = batch::entries::<_, Frontend>(frontends.map()).map_err(shape)?;
    Absent::new(map, entries.into_iter().map(|(key, _)| key)).map_err(shape)
}

fn dump_hash<K: Pod + Ord, V: Pod>(
    hash: &HashMap<MapData, K, V>,
    map: &'static str,
) -> Result<BTreeMap<K, V>, ReadError> {
    let entries = batch::entries(hash.map()).map_err(|source| ReadError { map, source })?;
    Ok(entries.into_iter().collect())
}

pub(super) fn absent_is_gone(result: Result<(), MapError>) -> io::Result<()> {
    match result.map_err(io_error) {
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
        result => result,
    }
}

pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::KeyNotFound | MapError::ElementNotFound => Errno::NOENT.into(),
        error => io::Error::other(error),
    }
}

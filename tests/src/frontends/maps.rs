//! The pinned maps of a node, read row by row.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError},
};
use ipnet::IpNet;
use lb_common::{
    Port, V4, V6, maps,
    service::{
        Backend, ClientKey, Frontend, FrontendKey, Remembered, ServiceName, SourceRange, backend,
    },
};
use lb_userspace::{maps::Family, pins::Pins};

use super::{
    Frontends, Key, Leads,
    programmed::{Rows, follow, key},
};

type Names = HashMap<MapData, u32, ServiceName>;

/// A node's service maps, of which what is asked for is read, as it is then. A frontend that is
/// being changed meanwhile may be an error.
pub struct Maps {
    v4: OfFamily<V4>,
    v6: OfFamily<V6>,
    names: Names,
}

impl Maps {
    /// Opens them.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            v4: OfFamily::open(pins, maps::AFFINITY4)?,
            v6: OfFamily::open(pins, maps::AFFINITY6)?,
            names: Map::from_map_data(pins.open(maps::SERVICE_NAMES)?)?.try_into()?,
        })
    }

    /// Where a frontend leads; nowhere if there is none.
    pub fn leads(&self, key: &Key) -> Result<Option<Leads>> {
        if key.0.is_ipv4() {
            self.v4.leads(key, &self.names)
        } else {
            self.v6.leads(key, &self.names)
        }
    }

    /// Where each frontend leads.
    pub fn all(&self) -> Result<Frontends> {
        let keys = self.v4.keys()?.into_iter().chain(self.v6.keys()?);
        let mut frontends = Frontends::new();
        for key in keys {
            // One that has gone meanwhile is gone.
            if let Some(leads) = self.leads(&key)? {
                frontends.insert(key, leads);
            }
        }
        Ok(frontends)
    }

    /// How many clients are remembered as those of a backend that is there.
    pub fn remembered(&self) -> Result<usize> {
        Ok(self.v4.remembered()? + self.v6.remembered()?)
    }
}

struct OfFamily<A>
where
    Backend<A>: Pod,
{
    frontends: HashMap<MapData, FrontendKey<A>, Frontend>,
    slots: Array<MapData, u32>,
    backends: Array<MapData, Backend<A>>,
    ranges: LpmTrie<MapData, SourceRange<A>, u32>,
    clients: HashMap<MapData, ClientKey<A>, Remembered>,
}

impl<A: Family> OfFamily<A>
where
    FrontendKey<A>: Pod,
    Backend<A>: Pod,
    SourceRange<A>: Pod,
    ClientKey<A>: Pod,
{
    fn open(pins: &Pins, clients: &str) -> Result<Self> {
        let map = |name: &str| anyhow::Ok(Map::from_map_data(pins.open(name)?)?);
        Ok(Self {
            frontends: map(A::FRONTENDS)?.try_into()?,
            slots: map(A::SLOTS)?.try_into()?,
            backends: map(A::BACKENDS)?.try_into()?,
            ranges: map(A::SOURCE_RANGES)?.try_into()?,
            clients: map(clients)?.try_into()?,
        })
    }

    fn leads(&self, key: &Key, names: &Names) -> Result<Option<Leads>> {
        let (address, port, protocol) = *key;
        let address = A::from_ip(address).context("an address of the other family")?;
        let key = FrontendKey::new(address, Port::new(port), protocol);
        let Some(frontend) = unless_gone(self.frontends.get(&key, 0))? else {
            return Ok(None);
        };
        let name = names.get(&frontend.service, 0)?;
        follow(self, &frontend, &name).map(Some)
    }

    fn keys(&self) -> Result<Vec<Key>> {
        let keys = self.frontends.keys();
        keys.map(|found| Ok(key(&found?))).collect()
    }

    fn remembered(&self) -> Result<usize> {
        let mut count = 0;
        for row in &self.clients {
            let (_, memory) = row?;
            let backend = self.backend(memory.backend)?;
            let there = backend.flags & backend::ALIVE != 0;
            count += usize::from(there && backend.generation == memory.generation);
        }
        Ok(count)
    }
}

impl<A: Family> Rows<A> for OfFamily<A>
where
    Backend<A>: Pod,
    SourceRange<A>: Pod,
{
    fn slot(&self, index: u32) -> Result<u32> {
        Ok(self.slots.get(&index, 0)?)
    }

    fn backend(&self, index: u32) -> Result<Backend<A>> {
        Ok(self.backends.get(&index, 0)?)
    }

    fn ranges(&self, service: u32) -> Result<BTreeSet<IpNet>> {
        let mut ranges = BTreeSet::new();
        for key in self.ranges.keys() {
            let key = key?;
            let SourceRange { service: id, addr } = key.data();
            if u32::from_be_bytes(id) == service {
                let prefix = key.prefix_len() - SourceRange::<A>::SERVICE_BITS;
                ranges.insert(IpNet::new(addr.to_ip(), u8::try_from(prefix)?)?);
            }
        }
        Ok(ranges)
    }
}

fn unless_gone<T>(found: Result<T, MapError>) -> Result<Option<T>> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

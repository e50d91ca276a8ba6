//! The maps of one family, with the family taken out of the types.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{
        Array, HashMap, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use lb_common::{
    Addr, Port, Tick, V4, V6,
    flow::{FirstFragment, Flow, FlowKey, FragmentKey, Half, end},
    service::{Backend, ClientKey, Frontend, FrontendKey, Remembered, SourceRange},
};

use super::Kernel;

/// An address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
}

/// What can be done with the maps of a family. Addresses must be of that family.
pub trait Rows {
    /// Gives a service address to a frontend, or takes it away. Port and protocol 0 stand for the
    /// whole address.
    fn frontend(&mut self, at: Endpoint, proto: u8, value: Option<&Frontend>) -> Result<()>;
    /// Fills a slot.
    fn slot(&mut self, slot: u32, backend: u32) -> Result<()>;
    /// Fills a backend index.
    fn backend(&mut self, index: u32, at: Endpoint, flags: u16, generation: u32) -> Result<()>;
    /// Lets one address in to a service.
    fn let_in(&mut self, service: u32, client: IpAddr) -> Result<()>;
    /// How many flow rows there are.
    fn flows(&self) -> Result<usize>;
    /// Has all flow rows last seen, and their hops resolved, at `moment`.
    fn age(&mut self, moment: Tick) -> Result<()>;
    /// Removes the rows of one half of each flow, as the table does with rows long unused.
    fn evict(&mut self, half: Half) -> Result<()>;
    /// Has the clients of all flows be told that their backend is gone, as the agent does when a pod is
    /// deleted.
    fn abandon(&mut self) -> Result<()>;
    /// Removes all flows, fragments and remembered clients.
    fn forget(&mut self) -> Result<()>;
    /// Says in `ABSENT` which frontends there are, as an agent does.
    fn mark_absent(&mut self) -> Result<()>;
    /// Removes all frontends, source ranges, remembered clients, flows and fragments.
    fn clear(&mut self) -> Result<()>;
}

/// The rows of a family's tables as the programs have them.
pub trait Typed: Addr {
    /// The row of a flow.
    fn row(kernel: &Kernel, key: &FlowKey<Self>) -> Result<Option<Flow<Self>>>;
    /// All rows of flows.
    fn rows(kernel: &Kernel) -> Result<Vec<(FlowKey<Self>, Flow<Self>)>>;
    /// Writes the row of a flow.
    fn put_row(kernel: &mut Kernel, key: &FlowKey<Self>, flow: &Flow<Self>) -> Result<()>;
    /// Removes the row of a flow.
    fn remove_row(kernel: &mut Kernel, key: &FlowKey<Self>) -> Result<()>;
    /// All remembered clients.
    fn remembered(kernel: &Kernel) -> Result<Vec<(ClientKey<Self>, Remembered)>>;
}

macro_rules! typed {
    ($addr:ty, $maps:ident) => {
        impl Typed for $addr {
            fn row(kernel: &Kernel, key: &FlowKey<Self>) -> Result<Option<Flow<Self>>> {
                match kernel.$maps.flows.get(key, 0) {
                    Ok(flow) => Ok(Some(flow)),
                    Err(MapError::KeyNotFound) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }

            fn rows(kernel: &Kernel) -> Result<Vec<(FlowKey<Self>, Flow<Self>)>> {
                Ok(kernel.$maps.flows.iter().collect::<Result<_, _>>()?)
            }

            fn put_row(kernel: &mut Kernel, key: &FlowKey<Self>, flow: &Flow<Self>) -> Result<()> {
                Ok(kernel.$maps.flows.insert(key, flow, 0)?)
            }

            fn remove_row(kernel: &mut Kernel, key: &FlowKey<Self>) -> Result<()> {
                Ok(kernel.$maps.flows.remove(key)?)
            }

            fn remembered(kernel: &Kernel) -> Result<Vec<(ClientKey<Self>, Remembered)>> {
                Ok(kernel.$maps.affinity.iter().collect::<Result<_, _>>()?)
            }
        }
    };
}

typed!(V4, v4);
typed!(V6, v6);

pub(super) struct FamilyMaps<A: Addr>
where
    Backend<A>: Pod,
{
    pub(super) frontends: HashMap<MapData, FrontendKey<A>, Frontend>,
    pub(super) absent: Array<MapData, u64>,
    pub(super) slots: Array<MapData, u32>,
    pub(super) backends: Array<MapData, Backend<A>>,
    pub(super) flows: HashMap<MapData, FlowKey<A>, Flow<A>>,
    pub(super) fragments: HashMap<MapData, FragmentKey<A>, FirstFragment>,
    pub(super) affinity: HashMap<MapData, ClientKey<A>, Remembered>,
    pub(super) source_ranges: LpmTrie<MapData, SourceRange<A>, u32>,
}

impl<A: Addr> Rows for FamilyMaps<A>
where
    FrontendKey<A>: Pod,
    Backend<A>: Pod,
    FlowKey<A>: Pod,
    Flow<A>: Pod,
    FragmentKey<A>: Pod,
    ClientKey<A>: Pod,
    SourceRange<A>: Pod,
{
    fn frontend(&mut self, at: Endpoint, proto: u8, value: Option<&Frontend>) -> Result<()> {
        let key = FrontendKey::new(addr::<A>(at.addr)?, Port::new(at.port), proto);
        match value {
            Some(frontend) => self.frontends.insert(&key, frontend, 0)?,
            None => self.frontends.remove(&key)?,
        }
        Ok(())
    }

    fn slot(&mut self, slot: u32, backend: u32) -> Result<()> {
        Ok(self.slots.set(slot, &backend, 0)?)
    }

    fn backend(&mut self, index: u32, at: Endpoint, flags: u16, generation: u32) -> Result<()> {
        let backend = Backend {
            addr: addr::<A>(at.addr)?,
            port: Port::new(at.port),
            flags,
            generation,
            ..Backend::default()
        };
        Ok(self.backends.set(index, &backend, 0)?)
    }

    fn let_in(&mut self, service: u32, client: IpAddr) -> Result<()> {
        let range = SourceRange::new(service, addr::<A>(client)?);
        let bits = size_of::<SourceRange<A>>() as u32 * 8;
        Ok(self.source_ranges.insert(&Key::new(bits, range), &1, 0)?)
    }

    fn flows(&self) -> Result<usize> {
        Ok(keys(&self.flows)?.len())
    }

    fn age(&mut self, moment: Tick) -> Result<()> {
        for key in keys(&self.flows)? {
            let mut flow = self.flows.get(&key, 0)?;
            flow.seen = moment;
            flow.hop.resolved = moment;
            self.flows.insert(&key, &flow, 0)?;
        }
        Ok(())
    }

    fn evict(&mut self, half: Half) -> Result<()> {
        for key in keys(&self.flows)? {
            if self.flows.get(&key, 0)?.half() == half {
                self.flows.remove(&key)?;
            }
        }
        Ok(())
    }

    fn abandon(&mut self) -> Result<()> {
        for key in keys(&self.flows)? {
            let mut flow = self.flows.get(&key, 0)?;
            if flow.half() == Half::Request {
                flow.set_end(Half::Request, flow.end(Half::Request) | end::ABANDONED);
                self.flows.insert(&key, &flow, 0)?;
            }
        }
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        for key in keys(&self.flows)? {
            self.flows.remove(&key)?;
        }
        for key in keys(&self.fragments)? {
            self.fragments.remove(&key)?;
        }
        for key in keys(&self.affinity)? {
            self.affinity.remove(&key)?;
        }
        Ok(())
    }

    fn mark_absent(&mut self) -> Result<()> {
        let mut words = vec![u64::MAX; self.absent.len() as usize];
        for key in keys(&self.frontends)? {
            let bit = key.absent_bit();
            words[bit as usize / 64] &= !(1 << (bit % 64));
        }
        for (index, word) in (0..).zip(words) {
            self.absent.set(index, &word, 0)?;
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        for key in keys(&self.frontends)? {
            self.frontends.remove(&key)?;
        }
        self.forget()?;
        let ranges: Vec<_> = self.source_ranges.keys().collect::<Result<_, _>>()?;
        for key in ranges {
            self.source_ranges.remove(&key)?;
        }
        Ok(())
    }
}

fn addr<A: Addr>(ip: IpAddr) -> Result<A> {
    A::from_ip(ip).with_context(|| format!("{ip} is of the other family"))
}

fn keys<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<Vec<K>, MapError> {
    map.keys().collect()
}

//! All that is in the maps, to be compared.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Context, Result, bail};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, PerCpuArray, ProgramArray},
};
use lb_common::{
    V4, V6,
    config::Config,
    counters::ServiceCounters,
    flow::{FirstFragment, Flow, FlowKey, FragmentKey},
    maps::{self, STATUS_SIZE},
    service::{Backend, ClientKey, Frontend, FrontendKey, Remembered, ServiceName, SourceRange},
    socket::{Cookie, PodAddresses, SocketKey, SocketPeer},
};
use lb_userspace::pins::Pins;

type Rows = Vec<String>;

/// The rows of every pinned map, by its name.
pub(crate) fn every_map(pins: &Pins) -> Result<BTreeMap<&'static str, Rows>> {
    let rows = |name| rows(pins, name).with_context(|| format!("cannot read {name}"));
    maps::ALL
        .into_iter()
        .chain(maps::PROGRAM_ARRAYS)
        .map(|name| Ok((name, rows(name)?)))
        .collect()
}

fn rows(pins: &Pins, name: &str) -> Result<Rows> {
    let map = Map::from_map_data(pins.open(name)?)?;
    match name {
        maps::XDP_FULL | maps::TC_FULL => programs(map),
        maps::CONFIG => array::<Config>(map),
        maps::LINKS => hash::<u32, u32>(map),
        maps::FRONTENDS4 => hash::<FrontendKey<V4>, Frontend>(map),
        maps::FRONTENDS6 => hash::<FrontendKey<V6>, Frontend>(map),
        maps::ABSENT4 | maps::ABSENT6 => array::<u64>(map),
        maps::SLOTS4 | maps::SLOTS6 => array::<u32>(map),
        maps::BACKENDS4 => array::<Backend<V4>>(map),
        maps::BACKENDS6 => array::<Backend<V6>>(map),
        maps::SOURCE_RANGES4 => trie::<SourceRange<V4>>(map),
        maps::SOURCE_RANGES6 => trie::<SourceRange<V6>>(map),
        maps::SERVICE_NAMES => hash::<u32, ServiceName>(map),
        maps::AFFINITY4 => hash::<ClientKey<V4>, Remembered>(map),
        maps::AFFINITY6 => hash::<ClientKey<V6>, Remembered>(map),
        maps::FLOWS4 => hash::<FlowKey<V4>, Flow<V4>>(map),
        maps::FLOWS6 => hash::<FlowKey<V6>, Flow<V6>>(map),
        maps::FRAGMENTS4 => hash::<FragmentKey<V4>, FirstFragment>(map),
        maps::FRAGMENTS6 => hash::<FragmentKey<V6>, FirstFragment>(map),
        maps::SOCKETS4 => hash::<SocketKey<V4>, SocketPeer<V4>>(map),
        maps::SOCKETS6 => hash::<SocketKey<V6>, SocketPeer<V6>>(map),
        maps::NETNS => hash::<Cookie, PodAddresses>(map),
        maps::SERVICE_COUNTERS => per_cpu::<ServiceCounters>(map),
        maps::REASONS => per_cpu::<u64>(map),
        maps::STATUS => array::<[u8; STATUS_SIZE as usize]>(map),
        _ => bail!("it is not known what {name} holds"),
    }
}

/// The places that have a program.
fn programs(map: Map) -> Result<Rows> {
    let map = ProgramArray::try_from(map)?;
    map.indices().map(|row| Ok(format!("{:?}", row?))).collect()
}

fn hash<K: Pod + Debug, V: Pod + Debug>(map: Map) -> Result<Rows> {
    let map = HashMap::<_, K, V>::try_from(map)?;
    let mut rows = map
        .iter()
        .map(|row| Ok(format!("{:?}", row?)))
        .collect::<Result<Rows>>()?;
    rows.sort();
    Ok(rows)
}

fn trie<K: Pod + Debug>(map: Map) -> Result<Rows> {
    let map = LpmTrie::<_, K, u32>::try_from(map)?;
    let mut rows = map
        .iter()
        .map(|row| {
            let (key, value) = row?;
            Ok(format!("{} {:?} {value}", key.prefix_len(), key.data()))
        })
        .collect::<Result<Rows>>()?;
    rows.sort();
    Ok(rows)
}

fn array<V: Pod + Debug>(map: Map) -> Result<Rows> {
    let map = Array::<_, V>::try_from(map)?;
    map.iter().map(|row| Ok(format!("{:?}", row?))).collect()
}

fn per_cpu<V: Pod + Debug>(map: Map) -> Result<Rows> {
    let map = PerCpuArray::<_, V>::try_from(map)?;
    map.iter()
        .map(|row| Ok(format!("{:?}", row?.iter().collect::<Vec<_>>())))
        .collect()
}

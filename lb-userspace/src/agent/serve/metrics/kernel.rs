//! What the programs have counted, read from their pinned maps.

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use lb_common::{
    counters::{Reason, ServiceCounters},
    maps,
    service::ServiceName,
};

use super::{
    definitions as d,
    family::{Family, family, number, single},
};
use crate::pins::{OpenError, Pins};

/// Why the counters cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountersError {
    /// A map is not there, or not to be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A map is of another shape, or could not be read.
    #[error("cannot read map {map}")]
    Read { map: &'static str, source: MapError },
}

/// What the programs have counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    reasons: Vec<(Reason, u64)>,
    services: ServiceCounters,
}

/// The maps with counters, open.
pub(super) struct Counters {
    reasons: PerCpuArray<MapData, u64>,
    services: PerCpuArray<MapData, ServiceCounters>,
    names: HashMap<MapData, u32, ServiceName>,
    /// The highest service id ever seen: what a Service that has gone was sent still counts.
    highest: u32,
}

impl Counters {
    /// Opens them.
    pub(super) fn open(pins: &Pins) -> Result<Self, CountersError> {
        Ok(Self {
            reasons: open(pins, maps::REASONS)?,
            services: open(pins, maps::SERVICE_COUNTERS)?,
            names: open(pins, maps::SERVICE_NAMES)?,
            highest: 0,
        })
    }

    /// Reads all of them. It takes a system call for each Service port.
    pub(super) fn read(&mut self) -> Result<Counted, CountersError> {
        let mut counted = Counted::default();
        for reason in Reason::ALL {
            let values = self.reasons.get(&(*reason as u32), 0);
            let values = values.map_err(failed(maps::REASONS))?;
            counted.reasons.push((*reason, values.iter().sum()));
        }
        for id in self.names.keys() {
            let id = id.map_err(failed(maps::SERVICE_NAMES))?;
            self.highest = self.highest.max(id);
        }
        for id in 0..=self.highest {
            let values = self.services.get(&id, 0);
            let values = values.map_err(failed(maps::SERVICE_COUNTERS))?;
            values.iter().for_each(|it| counted.add(it));
        }
        Ok(counted)
    }
}

fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    map: &'static str,
) -> Result<T, CountersError> {
    let data = pins.open(map)?;
    let map_of_type = Map::from_map_data(data).and_then(T::try_from);
    map_of_type.map_err(failed(map))
}

fn failed(map: &'static str) -> impl Fn(MapError) -> CountersError {
    move |source| CountersError::Read { map, source }
}

impl Counted {
    fn add(&mut self, more: &ServiceCounters) {
        let ServiceCounters {
            packets,
            bytes,
            flows,
            rejects: _, // Also counted as a reason.
        } = more;
        self.services.packets += packets;
        self.services.bytes += bytes;
        self.services.flows += flows;
    }

    /// As metrics.
    pub(super) fn families(&self) -> Vec<Family> {
        let reasons = self.reasons.iter().map(|(reason, packets)| {
            // Every name begins with the verdict.
            let (verdict, reason) = reason.name().split_once('-').unwrap_or_default();
            let labels = vec![verdict.to_owned(), reason.to_owned()];
            (labels, number(*packets))
        });
        vec![
            family(&d::PACKETS, reasons),
            single(&d::TRANSLATED, number(self.services.packets)),
            single(&d::TRANSLATED_BYTES, number(self.services.bytes)),
            single(&d::FLOWS, number(self.services.flows)),
        ]
    }
}

#[cfg(test)]
impl Counted {
    /// Each reason and counter with another number.
    pub(super) fn example() -> Self {
        let reasons = Reason::ALL.iter().map(|reason| (*reason, *reason as u64));
        Self {
            reasons: reasons.collect(),
            services: ServiceCounters {
                packets: 101,
                bytes: 10_100,
                flows: 11,
                rejects: 0,
            },
        }
    }
}

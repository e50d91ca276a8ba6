//! The services that packets meet, programmed alike in the kernel and in the model.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use anyhow::{Context, Result};
use lb_common::{
    Addr, Port, proto,
    service::{Affinity, Backend, Frontend, FrontendKey, Slots, backend, frontend, list},
};
use lb_model::{
    family::words,
    lists::listed,
    node::Node,
    tables::{HasServices, Services},
};
use tests::{
    fixture::names,
    kernel::{Endpoint, Kernel, Rows},
    topology::Family,
};

use crate::route;

/// As many slots and backends as the kernel's maps have here: all of them can be read.
const ROOM: usize = 1 << 10;
/// Outside of every map.
const OUTSIDE: u32 = 1 << 20;
/// A slot that leads outside of every map, and one that leads to a backend that never was; a list of
/// one backend with a table beyond the slots, another with a position beyond the list, and a third
/// whose table has no slot: whatever stands behind it, it is no backend of the list.
const BROKEN: [(u32, u32); 11] = [
    (1000, OUTSIDE),
    (1001, 1001),
    (1002, OUTSIDE),
    (1003, 1),
    (1004, 0),
    (1005, 1000),
    (1006, 1),
    (1007, 0),
    (1008, 1000),
    (1009, 0),
    (1010, 0),
];
/// Where those lists are.
const BROKEN_LISTS: [(&str, u32); 3] = [
    ("beyond the tables", 1002),
    ("beyond the list", 1005),
    ("an empty table", 1008),
];
/// Protocols of every service.
pub(crate) const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

/// Where services lead to: names of backends, or a range of slots that is none.
type Backends = &'static [&'static str];

/// One Service port, for TCP, UDP and SCTP in both families.
struct Service {
    at: &'static [(&'static str, u16)],
    inside: Backends,
    outside: Backends,
    flags: u32,
    affinity: u32,
    /// Who is let in, if not all.
    ranges: &'static [&'static str],
}

const NOTHING: Service = Service {
    at: &[],
    inside: &[],
    outside: &[],
    flags: 0,
    affinity: 0,
    ranges: &[],
};

/// Backends of every kind there is: here, and by each way to somewhere else.
const ALL: Backends = &[
    "pod:8080",
    "pod2:8080",
    "remote:8080",
    "remote2:8081",
    "across:8080",
    "narrow:8080",
    "no-xdp:8080",
    "overlay:8080",
    "silent:8080",
];

const fn single(at: &'static [(&'static str, u16)], backends: Backends) -> Service {
    Service {
        at,
        inside: backends,
        outside: backends,
        ..NOTHING
    }
}

const fn hashed(at: &'static [(&'static str, u16)], backends: Backends) -> Service {
    Service {
        flags: frontend::HASHED,
        ..single(at, backends)
    }
}

/// Chance draws from one backend only: then a random number decides nothing but a port.
const SERVICES: [Service; 29] = [
    single(&[("web", 80), ("external", 80)], &["pod:8080"]),
    single(&[("web", 81), ("node", 30081)], &["remote:8080"]),
    hashed(&[("web", 82), ("node", 30082), ("balancer", 82)], ALL),
    single(&[("web", 83)], &["across:8080"]),
    single(&[("web", 84)], &["no-xdp:8080"]),
    single(&[("web", 93), ("node", 30093)], &["narrow:8080"]),
    single(&[("web", 85)], &["overlay:8080"]),
    single(&[("web", 86)], &["silent:8080"]),
    single(&[("web", 87)], &["prohibited:8080"]),
    // An endpoint that does not name its node.
    single(&[("web", 88)], &["node:8080"]),
    // Neither addresses nor ports change a checksum.
    single(&[("web", 89)], &["pod-like-web:89"]),
    single(&[("web", 90)], &[]),
    Service {
        flags: frontend::DROP_INSIDE | frontend::DROP_OUTSIDE,
        ..single(&[("web", 91)], &[])
    },
    Service {
        flags: frontend::HASHED,
        affinity: 10_800,
        ..single(&[("web", 92), ("node", 30092)], ALL)
    },
    // The port stays.
    single(&[("web", 8080), ("node", 8080)], &["pod2:8080"]),
    single(&[("external", 8080)], &["remote:8080"]),
    Service {
        flags: frontend::HASHED | frontend::SOURCE_RANGES,
        ranges: &["client", "pod"],
        ..single(&[("balancer", 443)], ALL)
    },
    Service {
        at: &[("external", 443)],
        inside: &["remote:443"],
        flags: frontend::LOCAL_OUTSIDE | frontend::DROP_OUTSIDE,
        ..NOTHING
    },
    Service {
        at: &[("external", 444)],
        inside: ALL,
        outside: &["pod:444", "pod2:444"],
        flags: frontend::HASHED | frontend::LOCAL_OUTSIDE,
        affinity: 60,
        ..NOTHING
    },
    hashed(
        &[("web", 53), ("balancer", 53)],
        &["pod:53", "pod2:53", "remote:53"],
    ),
    single(&[("external", 53)], &["remote2:53"]),
    single(&[("node", 53)], &["across:53"]),
    single(&[("external", 7001)], &["beyond the slots"]),
    single(&[("external", 7002)], &["beyond the backends"]),
    single(&[("external", 7003)], &["never a backend"]),
    hashed(&[("external", 7004)], &["beyond the tables"]),
    hashed(&[("external", 7005)], &["beyond the list"]),
    hashed(&[("external", 7006)], &["an empty table"]),
    // Slots that are no list, for want of a backend.
    hashed(&[("external", 7007)], &["never a backend"]),
];

/// What was programmed.
pub(crate) struct World {
    /// Addresses of services.
    pub(crate) frontends: Vec<(&'static str, u16)>,
    /// Backends by index, those of both families alike.
    pub(crate) backends: Vec<(&'static str, u16)>,
    /// Addresses the model's FIB has the kernel's answers for: those with names.
    pub(crate) routed: HashSet<IpAddr>,
}

impl World {
    /// Programs everything.
    pub(crate) fn program(
        kernel: &mut Kernel,
        model: &mut Node,
        interfaces: &BTreeMap<&'static str, u32>,
    ) -> Result<Self> {
        let mut world = Self {
            frontends: Vec::new(),
            backends: Vec::new(),
            routed: HashSet::new(),
        };
        for service in &SERVICES {
            world.frontends.extend(service.at);
            for name in [service.inside, service.outside].concat() {
                if let Some(backend) = named(name)?
                    && !world.backends.contains(&backend)
                {
                    world.backends.push(backend);
                }
            }
        }
        model.tables.way = route::out(interfaces)?;
        model.tables.links = links(interfaces);
        for family in Family::BOTH {
            for (address, way) in route::ways(family, interfaces)? {
                model.tables.ways.insert(address, way);
                world.routed.insert(address);
            }
            for name in route::BY_DEFAULT {
                world.routed.insert(names::address(name, family)?);
            }
            let rows = kernel.family(family);
            match family {
                Family::V4 => world.family(family, rows, &mut model.tables.v4)?,
                Family::V6 => world.family(family, rows, &mut model.tables.v6)?,
            }
            rows.mark_absent()?;
        }
        Ok(world)
    }

    /// How many services there are.
    pub(crate) const fn services() -> u32 {
        SERVICES.len() as u32
    }

    fn family<A: Addr>(
        &self,
        family: Family,
        rows: &mut dyn Rows,
        model: &mut Services<A>,
    ) -> Result<()> {
        let mut table = Table {
            family,
            rows,
            model,
            next_slot: 0,
        };
        table.model.slots = vec![0; ROOM];
        table.model.backends = vec![Backend::default(); ROOM];
        for index in 0..self.backends.len() {
            table.backend(
                index as u32,
                self.backends[index],
                1,
                alive(self.backends[index].0),
            )?;
        }
        for (slot, backend) in BROKEN {
            table.slot(slot, backend)?;
        }
        for (id, service) in (0..).zip(&SERVICES) {
            table.service(self, id, service)?;
        }
        Ok(())
    }
}

/// One family's tables on both sides.
struct Table<'a, A> {
    family: Family,
    rows: &'a mut dyn Rows,
    model: &'a mut Services<A>,
    next_slot: u32,
}

impl<A: Addr> Table<'_, A> {
    fn service(&mut self, world: &World, id: u32, service: &Service) -> Result<()> {
        let hashed = service.flags & frontend::HASHED != 0;
        let inside = self.slots(world, service.inside, hashed)?;
        let outside = self.slots(world, service.outside, hashed)?;
        for name in service.ranges {
            let client = names::address(name, self.family)?;
            self.rows.let_in(id, client)?;
            let all = A::from_words(|_| u32::MAX);
            self.model.ranges.push((id, words(client), all));
        }
        for (name, port) in service.at {
            let mut row = Frontend {
                service: id,
                flags: service.flags,
                inside,
                outside,
                affinity: Affinity::new(service.affinity, 1),
            };
            match *name {
                "node" => row.flags |= frontend::NODE_PORT,
                name if names::is_cluster_ip(name) => row.flags |= frontend::CLUSTER_IP,
                _ => {}
            }
            let addr = names::address(name, self.family)?;
            for proto in PROTOCOLS {
                self.frontend(addr, *port, proto, &row)?;
            }
            if names::is_cluster_ip(name) {
                self.frontend(addr, 0, 0, &row)?;
            }
        }
        Ok(())
    }

    fn frontend(&mut self, addr: IpAddr, port: u16, proto: u8, row: &Frontend) -> Result<()> {
        self.rows
            .frontend(Endpoint { addr, port }, proto, Some(row))?;
        let key = FrontendKey::new(words(addr), Port::new(port), proto);
        self.model.frontends.insert(key, *row);
        Ok(())
    }

    fn slots(&mut self, world: &World, backends: Backends, hashed: bool) -> Result<Slots> {
        let [(no_backend, _), (never, _), ..] = BROKEN;
        if let Some((_, offset)) = BROKEN_LISTS.iter().find(|(name, _)| [*name] == *backends) {
            let count = list::HEADER + 1;
            return Ok(Slots {
                offset: *offset,
                count,
            });
        }
        match backends {
            ["beyond the slots"] => return Ok(one(OUTSIDE)),
            ["beyond the backends"] => return Ok(one(no_backend)),
            ["never a backend"] => return Ok(one(never)),
            _ => {}
        }
        let mut indices = Vec::new();
        for name in backends {
            let wanted = named(name)?;
            let mut known = world.backends.iter();
            let index = known.position(|known| Some(*known) == wanted);
            indices.push(index.context("a backend is missing")? as u32);
        }
        let drawn = Slots {
            offset: self.next_slot,
            count: indices.len() as u32,
        };
        let (words, slots) = if hashed {
            listed(self.next_slot, &indices)
        } else {
            (indices, drawn)
        };
        for word in words {
            self.slot(self.next_slot, word)?;
            self.next_slot += 1;
        }
        Ok(slots)
    }

    fn slot(&mut self, slot: u32, backend: u32) -> Result<()> {
        self.model.slots[slot as usize] = backend;
        self.rows.slot(slot, backend)
    }

    fn backend(
        &mut self,
        index: u32,
        (name, port): (&str, u16),
        generation: u32,
        flags: u16,
    ) -> Result<()> {
        let addr = names::address(name, self.family)?;
        self.model.backends[index as usize] = Backend {
            addr: words(addr),
            port: Port::new(port),
            flags,
            generation,
            ..Backend::default()
        };
        let at = Endpoint { addr, port };
        self.rows.backend(index, at, flags, generation)
    }
}

/// Gives a backend another generation and flags, on both sides.
pub(crate) fn change_backend<A: HasServices>(
    rows: &mut dyn Rows,
    model: &mut Node,
    index: u32,
    flags: u16,
) -> Result<()> {
    let backend = &mut A::services_mut(&mut model.tables).backends[index as usize];
    backend.flags = flags;
    backend.generation += 1;
    let at = Endpoint {
        addr: backend.addr.to_ip(),
        port: backend.port.number(),
    };
    rows.backend(index, at, flags, backend.generation)
}

/// The flags of a backend that is there.
pub(crate) fn alive(name: &str) -> u16 {
    let flags = backend::ALIVE | backend::IN_CLUSTER;
    if names::is_local(name) {
        flags | backend::LOCAL | backend::IN_LOCAL
    } else {
        flags
    }
}

const fn one(offset: u32) -> Slots {
    Slots { offset, count: 1 }
}

/// Name and port of a backend; none if the name is of slots that lead nowhere.
fn named(backend: &'static str) -> Result<Option<(&'static str, u16)>> {
    match backend.split_once(':') {
        Some((name, port)) => Ok(Some((name, port.parse()?))),
        None => Ok(None),
    }
}

fn links(interfaces: &BTreeMap<&'static str, u32>) -> HashMap<u32, u32> {
    let flags = names::LINKS.into_iter();
    flags
        .map(|(name, flags)| (interfaces[name], flags))
        .collect()
}

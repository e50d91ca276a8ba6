//! What the maps say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use lb_common::{
    V4, V6,
    service::{Backend, Frontend, FrontendKey, ServiceName, Slots, backend, frontend, list, text},
};
use lb_userspace::maps::{Dump, Family, FamilyDump};

use super::{Backends, Frontends, Key, Leads, PortName, common_divisor};

/// The rows that frontends lead to.
pub(super) trait Rows<A> {
    fn slot(&self, index: u32) -> Result<u32>;
    fn backend(&self, index: u32) -> Result<Backend<A>>;
    fn ranges(&self, service: u32) -> Result<BTreeSet<IpNet>>;
}

impl<A: Family> Rows<A> for FamilyDump<A> {
    fn slot(&self, index: u32) -> Result<u32> {
        let slot = self.slots.get(index as usize);
        slot.copied().with_context(|| format!("no slot {index}"))
    }

    fn backend(&self, index: u32) -> Result<Backend<A>> {
        let backend = self.backends.get(&index);
        backend
            .copied()
            .with_context(|| format!("no backend {index}"))
    }

    fn ranges(&self, service: u32) -> Result<BTreeSet<IpNet>> {
        let ranges = self.source_ranges.iter().filter(|(id, _)| *id == service);
        ranges
            .map(|(_, network)| Ok(IpNet::new(network.addr.to_ip(), network.prefix)?))
            .collect()
    }
}

/// A key as it is compared.
pub(super) fn key<A: Family>(key: &FrontendKey<A>) -> Key {
    (key.addr.to_ip(), key.port.number(), key.proto)
}

/// Where a frontend leads; `name` is that of its service id.
pub(super) fn follow<A: Family>(
    rows: &impl Rows<A>,
    frontend: &Frontend,
    name: &ServiceName,
) -> Result<Leads> {
    ensure!(name.family == A::NUMBER, "of the other family: {name:?}");
    let Frontend {
        service,
        flags,
        inside,
        outside,
        affinity,
    } = *frontend;
    let has = |flag| flags & flag != 0;
    let open_to = has(frontend::SOURCE_RANGES).then(|| rows.ranges(service));
    Ok(Leads {
        port: told(name),
        cluster_ip: has(frontend::CLUSTER_IP),
        drop_inside: has(frontend::DROP_INSIDE),
        drop_outside: has(frontend::DROP_OUTSIDE),
        local_inside: has(frontend::LOCAL_INSIDE),
        local_outside: has(frontend::LOCAL_OUTSIDE),
        open_to: open_to.transpose()?,
        hashed: has(frontend::HASHED),
        affinity: affinity.timeout(),
        inside: backends(rows, frontend, inside)?,
        outside: backends(rows, frontend, outside)?,
    })
}

/// A service id's name, as it is compared.
pub(super) fn told(name: &ServiceName) -> PortName {
    let ServiceName {
        namespace,
        name,
        port,
        proto,
        ..
    } = name;
    let [namespace, name, port] = [namespace, name, port].map(|part| text(part).to_owned());
    (namespace, name, port, *proto)
}

fn backends<A: Family>(rows: &impl Rows<A>, frontend: &Frontend, slots: Slots) -> Result<Backends> {
    let hashed = frontend.flags & frontend::HASHED != 0;
    let indices = if hashed { list::backends(slots) } else { slots };
    if hashed && slots.count > 0 {
        check_table(rows, slots)?;
    }
    let mut counts = BTreeMap::<_, u32>::new();
    for slot in indices.offset..indices.offset + indices.count {
        let found = resolve(frontend.service, &rows.backend(rows.slot(slot)?)?)?;
        *counts.entry(found).or_default() += 1;
    }
    ensure!(
        !hashed || counts.len() == indices.count as usize,
        "a backend of the list {slots:?} stands there twice: {counts:?}"
    );
    let unit = common_divisor(counts.values().copied());
    ensure!(
        hashed || unit == 1,
        "each backend of {slots:?} stands in {unit} slots without need: {counts:?}"
    );
    let share = |count| if hashed { 0 } else { count };
    let counts = counts.into_iter();
    Ok(counts
        .map(|((socket, local, terminating), count)| (socket, local, terminating, share(count)))
        .collect())
}

/// Every slot of a list's table leads to a backend of the list.
fn check_table<A: Family>(rows: &impl Rows<A>, list: Slots) -> Result<()> {
    let [offset, count] = [rows.slot(list.offset)?, rows.slot(list.offset + 1)?];
    let backends = list::backends(list).count;
    ensure!(count > 0, "{list:?} has a table without slots");
    for slot in offset..offset + count {
        let position = rows.slot(slot)?;
        ensure!(
            position < backends,
            "{position} of {backends} backends in slot {slot} of the table of {list:?}"
        );
    }
    Ok(())
}

fn resolve<A: Family>(service: u32, found: &Backend<A>) -> Result<(SocketAddr, bool, bool)> {
    ensure!(found.flags & backend::ALIVE != 0, "dead: {found:?}");
    ensure!(found.service == service, "not of {service}: {found:?}");
    let has = |flag| found.flags & flag != 0;
    Ok((
        socket(found),
        has(backend::LOCAL),
        has(backend::TERMINATING),
    ))
}

pub(super) fn socket<A: Family>(found: &Backend<A>) -> SocketAddr {
    SocketAddr::new(found.addr.to_ip(), found.port.number())
}

/// All that a dump says of frontends. Everything in it must be of use to some of them, or to flows.
pub fn actual(dump: &Dump) -> Result<Frontends> {
    let mut frontends = Frontends::new();
    let mut names = BTreeSet::new();
    take_in::<V4>(dump, &mut frontends, &mut names)?;
    take_in::<V6>(dump, &mut frontends, &mut names)?;
    ensure!(
        names.iter().eq(dump.names.keys()),
        "names that no frontend has: {:?} beside {names:?}",
        dump.names.keys()
    );
    Ok(frontends)
}

fn take_in<A: Family>(
    dump: &Dump,
    frontends: &mut Frontends,
    names: &mut BTreeSet<u32>,
) -> Result<()> {
    let maps = A::of(dump);
    for (frontend, value) in &maps.frontends {
        let name = dump.names.get(&value.service);
        let name = name.with_context(|| format!("service {} has no name", value.service))?;
        names.insert(value.service);
        frontends.insert(key(frontend), follow(maps, value, name)?);
    }
    let restricted = maps.frontends.values();
    let restricted = restricted.filter(|value| value.flags & frontend::SOURCE_RANGES != 0);
    let restricted: BTreeSet<u32> = restricted.map(|value| value.service).collect();
    let ranged: BTreeSet<u32> = maps.source_ranges.iter().map(|(id, _)| *id).collect();
    ensure!(
        ranged == restricted,
        "ranges stand at {ranged:?} and are asked for at {restricted:?}"
    );
    Ok(())
}

/// The session affinity of each service id, the same in all its frontends: timeout and term.
pub fn affinities<A: Family>(dump: &Dump) -> Result<BTreeMap<u32, (u32, u32)>> {
    let mut affinities = BTreeMap::new();
    for value in A::of(dump).frontends.values() {
        let told = (value.affinity.timeout(), value.affinity.term());
        let known = affinities.entry(value.service).or_insert(told);
        ensure!(
            *known == told,
            "service {} has two affinities",
            value.service
        );
    }
    Ok(affinities)
}

//! Pinned maps → [`snapshot`](super::snapshot): joins rows, resolves names, sorts.

mod slots;

use std::{collections::HashMap, time::Duration};

use aya::Pod;
use lb_common::{
    Addr, Tick, V4, V6, config,
    counters::{self, ServiceCounters},
    flow::{self, FlowKey, Half, Route},
    maps,
    service::{self, FrontendKey, ServiceName, frontend},
    socket::{Cookie, PodAddresses, SocketKey, SocketPeer},
};
use rustix::time::{ClockId, clock_gettime};

use super::{
    Error,
    convert::{
        algorithm, choice, counted, family_config, host_port, mac, named, protocol, seconds,
    },
    endpoints::{Endpoints, Lists, Reference},
    interfaces::Interfaces,
    pinned::{MapFamily, PinnedMaps},
    snapshot::{
        Config, Family, Flow, Frontend, HostPort, Link, Netns, NextHop, PortRange, Reason, Service,
        Socket,
    },
};

/// Reads tables whose rows refer to services and interfaces by number.
pub(super) struct Collector<'a> {
    maps: &'a PinnedMaps,
    services: HashMap<u32, Service>,
    interfaces: Interfaces,
}

impl<'a> Collector<'a> {
    /// Reads the names that everything else refers to.
    pub(super) fn new(maps: &'a PinnedMaps) -> Result<Self, Error> {
        let services = maps
            .rows::<u32, ServiceName>(maps::SERVICE_NAMES)?
            .into_iter()
            .map(|(id, name)| (id, named(id, &name)))
            .collect();
        // Without a readable status interfaces may go without a name; that must not hide the maps.
        let status = maps.status().ok().flatten();
        Ok(Self {
            maps,
            services,
            interfaces: Interfaces::new(status.as_ref()),
        })
    }

    /// The service with this id, nothing counted; none if the id has no name.
    pub(super) fn service(&self, id: u32) -> Option<&Service> {
        self.services.get(&id)
    }

    pub(super) fn config(&self) -> Result<Config, Error> {
        let config: config::Config = self.maps.array(maps::CONFIG)?.get(0)?.unwrap_or_default();
        Ok(Config {
            epoch: config.epoch,
            snat_ports: PortRange {
                first: config.snat_first,
                last: config.snat_last,
            },
            ipv4: family_config(&config.v4),
            ipv6: family_config(&config.v6),
        })
    }

    pub(super) fn links(&self) -> Result<Vec<Link>, Error> {
        let rows = self.maps.rows::<u32, u32>(maps::LINKS)?;
        let mut links: Vec<Link> = rows
            .into_iter()
            .map(|(index, flags)| Link {
                index,
                interface: self.interfaces.name(index),
                direct: flags & config::link::DIRECT != 0,
                xdp_target: flags & config::link::XDP_TARGET != 0,
            })
            .collect();
        links.sort_unstable_by_key(|link| link.index);
        Ok(links)
    }

    pub(super) fn services(&self, family: Option<Family>) -> Result<Vec<Service>, Error> {
        let counters = self
            .maps
            .counters::<ServiceCounters>(maps::SERVICE_COUNTERS)?;
        let mut services = self
            .services
            .values()
            .filter(|service| family.is_none_or(|family| service.family == family))
            .map(|service| Ok(counted(service, &counters.get(service.id)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        services.sort_unstable();
        Ok(services)
    }

    pub(super) fn reasons(&self) -> Result<Vec<Reason>, Error> {
        let counters = self.maps.counters::<u64>(maps::REASONS)?;
        counters::Reason::ALL
            .iter()
            .map(|reason| {
                Ok(Reason {
                    reason: reason.name(),
                    packets: counters.get(*reason as u32)?.iter().sum(),
                })
            })
            .collect()
    }

    pub(super) fn frontends(&self, family: Option<Family>) -> Result<Vec<Frontend>, Error> {
        both(
            family,
            || self.family_frontends::<V4>(),
            || self.family_frontends::<V6>(),
        )
    }

    fn family_frontends<A: MapFamily>(&self) -> Result<Vec<Frontend>, Error>
    where
        FrontendKey<A>: Pod,
        service::Backend<A>: Pod,
    {
        let rows = self.frontend_rows::<A>()?;
        let ranges = rows.values().flat_map(Reference::of);
        let lists = Endpoints::<A>::open(self.maps)?.lists(ranges)?;
        let mut frontends: Vec<_> = rows
            .iter()
            .map(|(key, value)| self.frontend(key, value, &lists))
            .collect();
        frontends.sort_unstable_by(|a, b| (a.at, &a.protocol).cmp(&(b.at, &b.protocol)));
        Ok(frontends)
    }

    fn frontend<A: MapFamily>(
        &self,
        key: &FrontendKey<A>,
        value: &service::Frontend,
        lists: &Lists,
    ) -> Frontend {
        let whole_address = *key == FrontendKey::whole_address(key.addr);
        let choice = |range, drop| choice(range, value.flags & drop != 0, lists);
        let [inside, outside] = Reference::of(value);
        Frontend {
            at: host_port(key.addr, key.port),
            protocol: protocol(key.proto),
            whole_address,
            service_id: value.service,
            service: (!whole_address)
                .then(|| self.service_name(value.service))
                .flatten(),
            algorithm: algorithm(value.flags),
            inside: choice(inside, frontend::DROP_INSIDE),
            outside: choice(outside, frontend::DROP_OUTSIDE),
        }
    }

    pub(super) fn flows(&self, family: Option<Family>) -> Result<Vec<Flow>, Error> {
        both(
            family,
            || self.family_flows::<V4>(),
            || self.family_flows::<V6>(),
        )
    }

    fn family_flows<A: MapFamily>(&self) -> Result<Vec<Flow>, Error>
    where
        FlowKey<A>: Pod,
        flow::Flow<A>: Pod,
    {
        let rows = self.maps.rows::<FlowKey<A>, flow::Flow<A>>(A::FLOWS)?;
        let now = now();
        let mut flows: Vec<Flow> = rows
            .iter()
            .map(|(key, value)| self.flow(now, key, value))
            .collect();
        flows.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
        Ok(flows)
    }

    fn flow<A: Addr>(&self, now: Tick, key: &FlowKey<A>, value: &flow::Flow<A>) -> Flow {
        Flow {
            direction: match key.direction() {
                flow::Direction::Ingress => "ingress",
                flow::Direction::Egress => "egress",
            },
            protocol: protocol(key.proto),
            source: host_port(key.src, key.sport),
            destination: host_port(key.dst, key.dport),
            new_source: host_port(value.src, value.sport),
            new_destination: host_port(value.dst, value.dport),
            service_id: value.service,
            service: self.service_name(value.service),
            half: match value.half() {
                Half::Request => "request",
                Half::Reply => "reply",
            },
            route: match value.route() {
                Route::Stack => "stack",
                Route::Forward => "forward",
                Route::Hairpin => "hairpin",
                Route::Own => "own",
            },
            stage: value.stage().name(),
            backend: value.backend,
            generation: value.generation,
            next_hop: (value.hop.ifindex != 0).then(|| self.next_hop(now, value)),
            idle_seconds: seconds(now, value.seen),
        }
    }

    fn next_hop<A>(&self, now: Tick, row: &flow::Flow<A>) -> NextHop {
        let flow::Flow { hop, link, mtu, .. } = row;
        let (destination, source) = hop.macs.split_at(3);
        let mac = |words: &[u16]| (*link != 0).then(|| mac(words));
        NextHop {
            interface_index: hop.ifindex,
            interface: self.interfaces.name(hop.ifindex),
            destination_mac: mac(destination),
            source_mac: mac(source),
            mtu: (*mtu != 0).then_some(*mtu),
            epoch: hop.epoch,
            age_seconds: seconds(now, hop.resolved),
        }
    }

    pub(super) fn sockets(&self, family: Option<Family>) -> Result<Vec<Socket>, Error> {
        both(
            family,
            || self.family_sockets::<V4>(),
            || self.family_sockets::<V6>(),
        )
    }

    pub(super) fn netns(&self) -> Result<Vec<Netns>, Error> {
        let rows = self.maps.rows::<Cookie, PodAddresses>(maps::NETNS)?;
        let rows = rows.iter().map(|(netns, pod)| Netns {
            cookie: netns.number(),
            addresses: [pod.v4.to_ip(), pod.v6.to_ip()]
                .into_iter()
                .filter(|ip| !ip.is_unspecified())
                .collect(),
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by_key(|row| row.cookie);
        Ok(rows)
    }

    fn family_sockets<A: MapFamily>(&self) -> Result<Vec<Socket>, Error>
    where
        SocketKey<A>: Pod,
        SocketPeer<A>: Pod,
    {
        let rows = self.maps.rows::<SocketKey<A>, SocketPeer<A>>(A::SOCKETS)?;
        let mut sockets: Vec<Socket> = rows
            .iter()
            .map(|(key, value)| self.socket(key, value))
            .collect();
        sockets.sort_unstable_by(|a, b| socket_order(a).cmp(&socket_order(b)));
        Ok(sockets)
    }

    fn socket<A: Addr>(&self, key: &SocketKey<A>, value: &SocketPeer<A>) -> Socket {
        let (named, stands_for) = (
            host_port(key.addr, key.port),
            host_port(value.addr, value.port),
        );
        let (half, service_address, backend_address) = match key.half() {
            Half::Request => ("request", named, stands_for),
            Half::Reply => ("reply", stands_for, named),
        };
        Socket {
            cookie: key.socket.number(),
            protocol: protocol(key.proto),
            service_address,
            backend_address,
            service_id: value.service,
            service: self.service_name(value.service),
            half,
            backend: value.backend,
            generation: value.generation,
        }
    }

    fn service_name(&self, id: u32) -> Option<String> {
        self.services.get(&id).map(Service::full_name)
    }

    fn frontend_rows<A: MapFamily>(
        &self,
    ) -> Result<HashMap<FrontendKey<A>, service::Frontend>, Error>
    where
        FrontendKey<A>: Pod,
    {
        self.maps.rows(A::FRONTENDS)
    }
}

/// What the families asked for have, IPv4 first.
fn both<T>(
    family: Option<Family>,
    v4: impl FnOnce() -> Result<Vec<T>, Error>,
    v6: impl FnOnce() -> Result<Vec<T>, Error>,
) -> Result<Vec<T>, Error> {
    match family {
        Some(Family::V4) => v4(),
        Some(Family::V6) => v6(),
        None => {
            let mut rows = v4()?;
            rows.extend(v6()?);
            Ok(rows)
        }
    }
}

/// What flows are sorted by: their whole key.
fn order(flow: &Flow) -> (&str, HostPort, HostPort, &str) {
    (
        &flow.protocol,
        flow.source,
        flow.destination,
        flow.direction,
    )
}

/// What led sockets are sorted by: their whole key.
fn socket_order(socket: &Socket) -> (u64, &str, HostPort, HostPort, &str) {
    (
        socket.cookie,
        &socket.protocol,
        socket.service_address,
        socket.backend_address,
        // Requests come first.
        if socket.half == "request" {
            ""
        } else {
            socket.half
        },
    )
}

fn now() -> Tick {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    Tick::from_nanos(now.as_nanos() as u64)
}

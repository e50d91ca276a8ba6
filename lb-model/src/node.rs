//! A node: tables, flows and the pipeline between them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    Addr, V4, V6,
    counters::{Reason, ServiceCounters},
    flow::{Half, end},
    service::{Affinity, Backend, Frontend, FrontendKey, Slots, backend, frontend},
};
use lb_ebpf::{Hook, Notice, Verdict, fast, process, reject, unfinished};

use crate::{
    family::{Family, endpoint, words},
    flows::{HostFlows, Table},
    lists::listed,
    packet::HostPacket,
    sockets::HostSockets,
    tables::{HasServices, HostTables, Way},
    wire,
};

/// A node.
#[derive(Clone)]
pub struct Node {
    /// The flow tables.
    pub flows: HostFlows,
    /// All other tables.
    pub tables: HostTables,
    /// The tables of led sockets.
    pub sockets: HostSockets,
    /// Whether the program is there that takes what the fast path leaves.
    pub has_full_path: bool,
    services: u32,
}

impl Node {
    /// A node without services.
    pub fn new() -> Self {
        Self {
            flows: HostFlows::new(),
            tables: HostTables::new(),
            sockets: HostSockets::default(),
            has_full_path: true,
            services: 0,
        }
    }

    /// Has the pipeline process a packet: by the fast path, or else by the full one.
    pub fn process(&mut self, hook: Hook, packet: &mut HostPacket) -> Verdict {
        let short = fast(hook, packet, &mut self.flows, &self.tables);
        match short {
            Some(verdict) => verdict,
            None if self.has_full_path => self.process_fully(hook, packet),
            None => unfinished(&self.tables),
        }
    }

    /// The same by the full path alone.
    pub fn process_fully(&mut self, hook: Hook, packet: &mut HostPacket) -> Verdict {
        process(hook, packet, &mut self.flows, &self.tables)
    }

    /// The same for what begins as the given bytes; yields what they became.
    pub fn see(&mut self, hook: Hook, packet: impl Into<HostPacket>) -> (Verdict, Vec<u8>) {
        let mut packet = packet.into();
        let verdict = self.process(hook, &mut packet);
        (verdict, packet.on_wire())
    }

    /// Where a packet is sent on to; none if it is not.
    pub fn reached(&mut self, hook: Hook, packet: impl Into<HostPacket>) -> Option<SocketAddr> {
        match self.see(hook, packet) {
            (Verdict::Deliver | Verdict::Transmit { .. }, bytes) => Some(wire::addresses(&bytes).1),
            _ => None,
        }
    }

    /// Has a rejected packet answered.
    pub fn reject(&self, notice: Notice, packet: &mut HostPacket) -> Verdict {
        reject(packet, notice, &self.tables)
    }

    /// Adds an endpoint on this node.
    pub fn local(&mut self, addr: SocketAddr) -> u32 {
        let lists = backend::IN_CLUSTER | backend::IN_LOCAL;
        self.backend(addr, backend::ALIVE | backend::LOCAL | lists)
    }

    /// Adds an endpoint on another node.
    pub fn remote(&mut self, addr: SocketAddr) -> u32 {
        self.backend(addr, backend::ALIVE | backend::IN_CLUSTER)
    }

    fn backend(&mut self, addr: SocketAddr, flags: u16) -> u32 {
        match Family::of(addr.ip()) {
            Family::V4 => self.add_backend::<V4>(addr, flags),
            Family::V6 => self.add_backend::<V6>(addr, flags),
        }
    }

    fn add_backend<A: HasServices>(&mut self, addr: SocketAddr, flags: u16) -> u32 {
        let (addr, port) = endpoint(addr);
        let backends = &mut A::services_mut(&mut self.tables).backends;
        backends.push(Backend::<A> {
            addr,
            port,
            flags,
            generation: 1,
            ..Backend::default()
        });
        backends.len() as u32 - 1
    }

    /// Has an endpoint go: flows that remember it learn of it.
    pub fn retire(&mut self, family: Family, index: u32) {
        match family {
            Family::V4 => retire(&mut self.tables.v4.backends[index as usize]),
            Family::V6 => retire(&mut self.tables.v6.backends[index as usize]),
        }
    }

    /// Has every flow's client know that its backend is gone for good, as the agent does.
    pub fn abandon_flows(&mut self) {
        abandon(&mut self.flows.v4);
        abandon(&mut self.flows.v6);
    }

    /// Adds or replaces a frontend with these backends for clients inside and outside; yields the
    /// service's id.
    pub fn serve(
        &mut self,
        addr: SocketAddr,
        protocol: u8,
        inside: &[u32],
        outside: &[u32],
    ) -> u32 {
        self.services += 1;
        match Family::of(addr.ip()) {
            Family::V4 => self.add_frontend::<V4>(addr, protocol, inside, outside),
            Family::V6 => self.add_frontend::<V6>(addr, protocol, inside, outside),
        }
        self.services
    }

    fn add_frontend<A: HasServices>(
        &mut self,
        addr: SocketAddr,
        protocol: u8,
        inside: &[u32],
        outside: &[u32],
    ) {
        let service = self.services;
        let services = A::services_mut(&mut self.tables);
        let [inside, outside] = [inside, outside].map(|indices| {
            let offset = services.slots.len() as u32;
            services.slots.extend(indices);
            Slots {
                offset,
                count: indices.len() as u32,
            }
        });
        let frontend = Frontend {
            service,
            flags: 0,
            inside,
            outside,
            affinity: Affinity::NONE,
        };
        services
            .frontends
            .insert(key::<A>(addr, protocol), frontend);
    }

    /// Takes a frontend away.
    pub fn withdraw(&mut self, addr: SocketAddr, protocol: u8) {
        let gone = match Family::of(addr.ip()) {
            Family::V4 => self.tables.v4.frontends.remove(&key(addr, protocol)),
            Family::V6 => self.tables.v6.frontends.remove(&key(addr, protocol)),
        };
        gone.unwrap();
    }

    /// Sets a frontend's flags. With [`frontend::HASHED`] its slots become the table of a list.
    pub fn flag(&mut self, addr: SocketAddr, protocol: u8, flags: u32) {
        let row = self.frontend(addr, protocol);
        let was_hashed = row.flags & frontend::HASHED != 0;
        row.flags = flags;
        let is_hashed = flags & frontend::HASHED != 0;
        assert!(is_hashed || !was_hashed, "to be served anew");
        if is_hashed && !was_hashed {
            match Family::of(addr.ip()) {
                Family::V4 => self.make_lists::<V4>(addr, protocol),
                Family::V6 => self.make_lists::<V6>(addr, protocol),
            }
        }
    }

    fn make_lists<A: HasServices>(&mut self, addr: SocketAddr, protocol: u8) {
        let services = A::services_mut(&mut self.tables);
        let row = services.frontends.get_mut(&key(addr, protocol)).unwrap();
        for slots in [&mut row.inside, &mut row.outside] {
            let end = slots.offset + slots.count;
            let drawn = &services.slots[slots.offset as usize..end as usize];
            let (words, list) = listed(services.slots.len() as u32, drawn);
            services.slots.extend(words);
            *slots = list;
        }
    }

    /// Sets a frontend's affinity.
    pub fn affine(&mut self, addr: SocketAddr, protocol: u8, affinity: Affinity) {
        self.frontend(addr, protocol).affinity = affinity;
    }

    /// A frontend that was added, to be changed.
    pub fn frontend(&mut self, addr: SocketAddr, protocol: u8) -> &mut Frontend {
        let frontend = match Family::of(addr.ip()) {
            Family::V4 => self.tables.v4.frontends.get_mut(&key(addr, protocol)),
            Family::V6 => self.tables.v6.frontends.get_mut(&key(addr, protocol)),
        };
        frontend.unwrap()
    }

    /// Sets the flags of a backend.
    pub fn flag_backend(&mut self, family: Family, index: u32, flags: u16) {
        match family {
            Family::V4 => self.tables.v4.backends[index as usize].flags = flags,
            Family::V6 => self.tables.v6.backends[index as usize].flags = flags,
        }
    }

    /// Lets a network's clients in to a service.
    pub fn let_in(&mut self, service: u32, net: IpAddr, mask: IpAddr) {
        match Family::of(net) {
            Family::V4 => {
                let range = (service, words(net), words(mask));
                self.tables.v4.ranges.push(range);
            }
            Family::V6 => {
                let range = (service, words(net), words(mask));
                self.tables.v6.ranges.push(range);
            }
        }
    }

    /// Says that a cluster IP is in use.
    pub fn allocate(&mut self, ip: IpAddr) {
        let row = Frontend::default();
        match Family::of(ip) {
            Family::V4 => {
                let key = FrontendKey::whole_address(words(ip));
                self.tables.v4.frontends.insert(key, row);
            }
            Family::V6 => {
                let key = FrontendKey::whole_address(words(ip));
                self.tables.v6.frontends.insert(key, row);
            }
        }
    }

    /// Tells the FIB a way other than the default one.
    pub fn route(&mut self, to: IpAddr, way: Way) {
        self.tables.ways.insert(to, way);
    }

    /// Sets what is known of an interface.
    pub fn link(&mut self, ifindex: u32, flags: u32) {
        self.tables.links.insert(ifindex, flags);
    }

    /// Lets time pass.
    pub fn wait(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap();
        self.tables.clock.update(|clock| clock + nanos);
    }

    /// Moves the routing epoch.
    pub fn move_epoch(&mut self) {
        self.tables.config.as_mut().unwrap().epoch += 1;
    }

    /// How often a reason was counted.
    pub fn count(&self, reason: Reason) -> u64 {
        let reasons = self.tables.reasons.borrow();
        reasons.get(&reason).copied().unwrap_or(0)
    }

    /// Packets counted, translated or with any reason.
    pub fn counted(&self) -> u64 {
        let reasons: u64 = self.tables.reasons.borrow().values().sum();
        let services = self.tables.services.borrow();
        reasons
            + services
                .values()
                .map(|service| service.packets)
                .sum::<u64>()
    }

    /// Whether two nodes have the same flows and have counted the same.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.flows.same_rows(&other.flows)
            && self.tables.reasons == other.tables.reasons
            && self.tables.services == other.tables.services
    }

    /// A service's counters.
    pub fn counters(&self, service: u32) -> ServiceCounters {
        let services = self.tables.services.borrow();
        services.get(&service).copied().unwrap_or_default()
    }

    /// How often the FIB was asked.
    pub fn fib_lookups(&self) -> usize {
        self.tables.fib_asked.borrow().len()
    }
}

fn key<A: HasServices>(addr: SocketAddr, protocol: u8) -> FrontendKey<A> {
    let (addr, port) = endpoint(addr);
    FrontendKey::new(addr, port, protocol)
}

fn abandon<A: Addr>(table: &mut Table<A>) {
    let requests = table.rows.values_mut();
    for row in requests.filter(|row| row.half() == Half::Request) {
        row.set_end(Half::Request, row.end(Half::Request) | end::ABANDONED);
    }
}

fn retire<A>(backend: &mut Backend<A>) {
    backend.flags &= !backend::ALIVE;
    backend.generation += 1;
}

//! Every other map, the FIB, the clock and the dice.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
};

use lb_common::{
    Addr, Tick, V4, V6,
    config::{CLUSTER_NETS_MAX, Config, FamilyConfig, Network, link},
    counters::{Allowance, Reason, ServiceCounters},
    flow::{FirstFragment, FragmentKey, Macs},
    service::{Backend, ClientKey, Frontend, FrontendKey, Remembered},
    socket::Cookie,
};
use lb_ebpf::{Datagram, Fib, FibQuery, Reach, Tables, take_allowance};

use crate::family::{Family, words};

/// The interface that leads out.
pub const EXTERNAL: u32 = 2;
/// Source ports the node may take.
pub const SNAT_PORTS: std::ops::RangeInclusive<u16> = 20_000..=24_095;

/// A way to somewhere, as the FIB tells it.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Whether and how it is known.
    pub reach: Reach,
    /// Interface to leave by.
    pub ifindex: u32,
    /// The MACs to write; those of [`macs_toward`] the address if not said.
    pub macs: Option<[u8; 12]>,
    /// The source address the route prefers.
    pub source: Option<IpAddr>,
    /// The longest IP packet it takes.
    pub mtu: u16,
}

impl Way {
    /// Through the external interface, to a neighbour that is known.
    pub const OUT: Self = Self {
        reach: Reach::Neighbour,
        ifindex: EXTERNAL,
        macs: None,
        source: None,
        mtu: 1500,
    };

    /// Out, or not, as this says.
    pub fn reaching(reach: Reach) -> Self {
        Self { reach, ..Self::OUT }
    }

    /// Out, where IP packets of so many bytes are taken.
    pub fn taking(mtu: u16) -> Self {
        Self { mtu, ..Self::OUT }
    }
}

/// The MACs of the way to an address: recognisable, and different for each.
pub fn macs_toward(ip: IpAddr) -> [u8; 12] {
    let last = match ip {
        IpAddr::V4(ip) => ip.octets()[1..].to_vec(),
        IpAddr::V6(ip) => ip.octets()[13..].to_vec(),
    };
    [
        0x02, 0xaa, 0, last[0], last[1], last[2], 0x02, 0xbb, 0, 0, 0, 1,
    ]
}

/// One family's services.
#[derive(Clone)]
pub struct Services<A> {
    /// By address, port and protocol.
    pub frontends: HashMap<FrontendKey<A>, Frontend>,
    /// Indices of backends, and lists of them with their tables.
    pub slots: Vec<u32>,
    /// By index.
    pub backends: Vec<Backend<A>>,
    /// Source ranges of a service: address and mask.
    pub ranges: Vec<(u32, A, A)>,
    /// What is remembered of clients.
    pub affinity: RefCell<HashMap<ClientKey<A>, Remembered>>,
    /// What first fragments have told.
    pub fragments: RefCell<HashMap<FragmentKey<A>, FirstFragment>>,
    /// The packet scratch.
    parsed: RefCell<Option<Datagram<A>>>,
}

impl<A> Default for Services<A> {
    fn default() -> Self {
        Self {
            frontends: HashMap::new(),
            slots: Vec::new(),
            backends: Vec::new(),
            ranges: Vec::new(),
            affinity: RefCell::default(),
            fragments: RefCell::default(),
            parsed: RefCell::default(),
        }
    }
}

/// All that is not a flow.
#[derive(Clone)]
pub struct HostTables {
    /// IPv4's services.
    pub v4: Services<V4>,
    /// IPv6's services.
    pub v6: Services<V6>,
    /// Facts about the node; none if the maps are broken.
    pub config: Option<Config>,
    /// Flags of interfaces.
    pub links: HashMap<u32, u32>,
    /// The interface packets are seen on.
    pub ifindex: u32,
    /// The way to most addresses.
    pub way: Way,
    /// Other ways.
    pub ways: HashMap<IpAddr, Way>,
    /// Nanoseconds since boot.
    pub clock: Cell<u64>,
    /// What is drawn first.
    pub dice: RefCell<VecDeque<u32>>,
    /// State of the generator of all further numbers.
    pub seed: Cell<u64>,
    /// How often frontends were looked up.
    pub frontend_lookups: Cell<u32>,
    /// How often a client was remembered.
    pub memories: Cell<u32>,
    /// Addresses the FIB was asked for, in order.
    pub fib_asked: RefCell<Vec<IpAddr>>,
    /// Rejects that may still be answered.
    pub allowance: Cell<Allowance>,
    /// How often each reason was counted.
    pub reasons: RefCell<BTreeMap<Reason, u64>>,
    /// Counters by service.
    pub services: RefCell<BTreeMap<u32, ServiceCounters>>,
}

impl HostTables {
    /// Those of a node with one external interface and no services.
    pub fn new() -> Self {
        Self {
            v4: Services::default(),
            v6: Services::default(),
            config: Some(config()),
            links: HashMap::from([(EXTERNAL, link::DIRECT | link::XDP_TARGET)]),
            ifindex: EXTERNAL,
            way: Way::OUT,
            ways: HashMap::new(),
            clock: Cell::new(1_000_000_000_000),
            dice: RefCell::default(),
            seed: Cell::new(1),
            frontend_lookups: Cell::new(0),
            memories: Cell::new(0),
            fib_asked: RefCell::default(),
            allowance: Cell::default(),
            reasons: RefCell::default(),
            services: RefCell::default(),
        }
    }

    fn with_counters(&self, service: u32, change: impl FnOnce(&mut ServiceCounters)) {
        change(self.services.borrow_mut().entry(service).or_default());
    }
}

fn config() -> Config {
    Config {
        epoch: 7,
        snat_first: *SNAT_PORTS.start(),
        snat_last: *SNAT_PORTS.end(),
        flags: 0,
        netns: Cookie::NONE,
        v4: family_config(Family::V4),
        v6: family_config(Family::V6),
    }
}

fn family_config<A: Addr>(family: Family) -> FamilyConfig<A> {
    let (net, mask) = family.cluster_net();
    let cluster = Network {
        net: words(net),
        mask: words(mask),
    };
    let mut cluster_nets = [Network::default(); CLUSTER_NETS_MAX];
    cluster_nets[0] = cluster;
    FamilyConfig {
        node: words(family.node()),
        cluster_cover: cluster,
        cluster_nets,
        pods: Network::default(),
    }
}

/// A family whose part of the tables can be picked.
pub trait HasServices: Addr {
    /// The family's services.
    fn services(tables: &HostTables) -> &Services<Self>;
    /// The same, to be changed.
    fn services_mut(tables: &mut HostTables) -> &mut Services<Self>;
    /// The family's part of the configuration.
    fn config(config: &Config) -> &FamilyConfig<Self>;
}

impl HasServices for V4 {
    fn services(tables: &HostTables) -> &Services<Self> {
        &tables.v4
    }
    fn services_mut(tables: &mut HostTables) -> &mut Services<Self> {
        &mut tables.v4
    }
    fn config(config: &Config) -> &FamilyConfig<Self> {
        &config.v4
    }
}

impl HasServices for V6 {
    fn services(tables: &HostTables) -> &Services<Self> {
        &tables.v6
    }
    fn services_mut(tables: &mut HostTables) -> &mut Services<Self> {
        &mut tables.v6
    }
    fn config(config: &Config) -> &FamilyConfig<Self> {
        &config.v6
    }
}

impl<A: HasServices> Tables<A> for HostTables {
    type Parsed<'t> = RefMut<'t, Datagram<A>>;

    fn store_parsed(&self, datagram: &Datagram<A>) {
        *A::services(self).parsed.borrow_mut() = Some(*datagram);
    }

    fn parsed(&self) -> Option<RefMut<'_, Datagram<A>>> {
        RefMut::filter_map(A::services(self).parsed.borrow_mut(), Option::as_mut).ok()
    }

    /// Says no where there is none, as a bitmap does nearly always.
    fn may_have(&self, key: &FrontendKey<A>) -> bool {
        A::services(self).frontends.contains_key(key)
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend> {
        self.frontend_lookups.update(|lookups| lookups + 1);
        A::services(self).frontends.get(key)
    }

    fn slot(&self, index: u32) -> Option<u32> {
        A::services(self).slots.get(index as usize).copied()
    }

    fn backend(&self, index: u32) -> Option<&Backend<A>> {
        A::services(self).backends.get(index as usize)
    }

    fn allowed(&self, service: u32, client: &A) -> bool {
        let ranges = &A::services(self).ranges;
        let mut own = ranges.iter().filter(|(of, ..)| *of == service);
        own.any(|(_, net, mask)| is_in(client, net, mask))
    }

    fn remembered(&self, key: &ClientKey<A>) -> Option<Remembered> {
        A::services(self).affinity.borrow().get(key).copied()
    }

    fn remember(&self, key: &ClientKey<A>, memory: &Remembered) {
        self.memories.update(|memories| memories + 1);
        let mut affinity = A::services(self).affinity.borrow_mut();
        affinity.insert(*key, *memory);
    }

    fn first_fragment(&self, key: &FragmentKey<A>) -> Option<FirstFragment> {
        A::services(self).fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey<A>, first: &FirstFragment) {
        let mut fragments = A::services(self).fragments.borrow_mut();
        fragments.insert(*key, *first);
    }

    fn forget_fragment(&self, key: &FragmentKey<A>) {
        A::services(self).fragments.borrow_mut().remove(key);
    }

    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn family_config(&self) -> Option<&FamilyConfig<A>> {
        self.config.as_ref().map(A::config)
    }

    fn link(&self, ifindex: u32) -> u32 {
        self.links.get(&ifindex).copied().unwrap_or(0)
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn fib(&self, query: &FibQuery<A>) -> Fib<A> {
        let dst = query.dst.to_ip();
        self.fib_asked.borrow_mut().push(dst);
        let way = self.ways.get(&dst).copied().unwrap_or(self.way);
        Fib {
            reach: way.reach,
            ifindex: way.ifindex,
            macs: macs(way.macs.unwrap_or_else(|| macs_toward(dst))),
            src: way.source.map_or(A::default(), words),
            mtu: way.mtu,
        }
    }

    fn now(&self) -> Tick {
        Tick::from_nanos(self.clock.get())
    }

    /// `SplitMix64`, whose upper half is uniform.
    fn random(&self) -> u32 {
        if let Some(number) = self.dice.borrow_mut().pop_front() {
            return number;
        }
        self.seed
            .update(|seed| seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = self.seed.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }

    fn may_reject(&self) -> bool {
        let mut allowance = self.allowance.get();
        let may = take_allowance(&mut allowance, Tables::<A>::now(self));
        self.allowance.set(allowance);
        may
    }

    fn count(&self, reason: Reason) {
        *self.reasons.borrow_mut().entry(reason).or_default() += 1;
    }

    fn count_packet(&self, service: u32, length: usize) {
        self.with_counters(service, |counters| {
            counters.packets += 1;
            counters.bytes += length as u64;
        });
    }

    fn count_flow(&self, service: u32) {
        self.with_counters(service, |counters| counters.flows += 1);
    }

    fn count_reject(&self, service: u32) {
        self.with_counters(service, |counters| counters.rejects += 1);
    }
}

fn macs(bytes: [u8; 12]) -> Macs {
    std::array::from_fn(|i| u16::from_ne_bytes([bytes[i * 2], bytes[i * 2 + 1]]))
}

fn is_in<A: Addr>(addr: &A, net: &A, mask: &A) -> bool {
    let masks = mask.words().iter();
    let mut words = addr.words().iter().zip(net.words()).zip(masks);
    words.all(|((word, net), mask)| word & mask == *net)
}

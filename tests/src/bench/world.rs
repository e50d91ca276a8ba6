//! What is measured in: a node's network namespace, the programs, services, backends, routes.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{Program, ProgramFd, XdpMode},
};
use lb_common::{
    Addr, Port, V4, V6, bench,
    config::{Config, link},
    counters::ServiceCounters,
    flow::{Direction, Flow, FlowKey, Half, Route},
    maps::{self, programs},
    proto,
    service::{Affinity, Backend, Frontend, FrontendKey, Slots, backend},
};
use lb_ebpf::Sum;
use lb_userspace::{full_path, maps::Kernel, pins::Pins};

use super::{
    Family,
    measure::Bench,
    packet::{Shape, nth},
};
use crate::{
    netns::{Netns, interface_index},
    site::Site,
    topology::mount_bpffs,
};

/// Backends one service chooses from.
pub(super) const PER_SERVICE: u32 = 64;
/// Backends there are; services share them in turn.
pub(super) const POOL: u32 = 1 << 14;
/// Port of all services.
const SERVICE_PORT: u16 = 80;
/// Port of all backends.
const BACKEND_PORT: u16 = 8080;
/// Port of all clients: one that source translation has to change.
const CLIENT_PORT: u16 = 40000;
/// Port the replies of translated flows come to.
const SNAT_PORT: u16 = 2000;

/// Addresses of one family; blocks are counted up from these.
struct Plan {
    node: IpAddr,
    services: IpAddr,
    /// Nobody's: no service, no flow.
    strangers: IpAddr,
    clients: IpAddr,
    local: IpAddr,
    remote: IpAddr,
}

const fn plan(family: Family) -> Plan {
    const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    }
    const fn v6(net: u16, host: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host))
    }
    match family {
        Family::V4 => Plan {
            node: v4(10, 10, 0, 1),
            services: v4(10, 96, 0, 1),
            strangers: v4(10, 50, 0, 0),
            clients: v4(100, 0, 0, 0),
            local: v4(10, 1, 0, 0),
            remote: v4(10, 20, 0, 0),
        },
        Family::V6 => Plan {
            node: v6(0x10, 1),
            services: v6(0x96, 1),
            strangers: v6(0x50, 0),
            clients: v6(0x100, 0),
            local: v6(0x1, 0),
            remote: v6(0x20, 0),
        },
    }
}

/// Where the backends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backends {
    Local,
    Remote,
}

/// The measured object in its namespace. Everything in it must happen on a thread inside that.
pub(super) struct World {
    object: Ebpf,
    /// What it is held against, on the same maps.
    other: Option<Ebpf>,
    pub(super) pins: Pins,
    pub(super) bench: Bench,
}

impl World {
    /// Loads both objects inside the namespace made by [`namespace`], tables empty; and the programs of `against`.
    pub(super) fn load(bpffs: &Path, objects: &Path, against: Option<&Path>) -> Result<Self> {
        let pins = Pins::new(bpffs);
        if pins.root().exists() {
            fs::remove_dir_all(pins.root()).context("cannot remove the last pins")?;
        }
        fs::create_dir_all(pins.maps()).context("cannot make the pin directory")?;
        let mut object = programs_of(&pins, objects)?;
        if let Some(Program::Xdp(program)) = object.program_mut(programs::XDP_EXTERNAL) {
            // Attached, it gives the veth the receive queues that test runs name.
            program.attach(interface()?, XdpMode::Driver)?;
        }
        let other = against.map(|objects| programs_of(&pins, objects));
        let shared = [
            maps::FLOWS4,
            maps::FLOWS6,
            maps::FRONTENDS4,
            maps::FRONTENDS6,
            maps::SLOTS4,
        ];
        let bench = Bench::new(
            load(&pins, &objects.join("fairlead-bench"), &shared)?,
            interface()?,
        )?;
        let mut links: HashMap<_, u32, u32> = open(&pins, maps::LINKS)?;
        links.insert(&interface()?, &(link::DIRECT | link::XDP_TARGET), 0)?;
        let mut config: Array<_, Config> = open(&pins, maps::CONFIG)?;
        let snat = Config {
            epoch: 1,
            snat_first: 1024,
            snat_last: 29999,
            ..Config::default()
        };
        config.set(0, &snat, 0)?;
        Ok(Self {
            object,
            other: other.transpose()?,
            pins,
            bench,
        })
    }

    /// A measured program.
    pub(super) fn program(&self, name: &str) -> Result<ProgramFd> {
        let program = self.object.program(name);
        let program = program.with_context(|| format!("no program {name}"))?;
        Ok(program.fd()?.try_clone()?)
    }

    /// The program of this name in the object that ours is held against.
    pub(super) fn other(&self, name: &str) -> Result<Option<ProgramFd>> {
        let fd = |object: &Ebpf| {
            let program = object.program(name);
            let program = program.with_context(|| format!("the others have no program {name}"))?;
            Ok(program.fd()?.try_clone()?)
        };
        self.other.as_ref().map(fd).transpose()
    }

    /// Instructions the verifier walked through, by measured program.
    pub(super) fn verified_instructions(&self) -> Result<Vec<(String, u32)>> {
        self.object
            .programs()
            .filter(|(_, program)| program.fd().is_ok())
            .map(|(name, program)| {
                let count = program.info()?.verified_instruction_count();
                Ok((name.to_owned(), count.unwrap_or_default()))
            })
            .collect()
    }

    /// Empties the tables.
    pub(super) fn clear(&self) -> Result<()> {
        empty::<FlowKey<V4>, Flow<V4>>(&self.pins, maps::FLOWS4)?;
        empty::<FlowKey<V6>, Flow<V6>>(&self.pins, maps::FLOWS6)?;
        empty::<FrontendKey<V4>, Frontend>(&self.pins, maps::FRONTENDS4)?;
        empty::<FrontendKey<V6>, Frontend>(&self.pins, maps::FRONTENDS6)
    }

    /// Programs services of one family, each with [`PER_SERVICE`] of the backends.
    pub(super) fn serve(&self, family: Family, services: u32, place: Backends) -> Result<()> {
        match family {
            Family::V4 => self.fill::<V4>(family, services, place)?,
            Family::V6 => self.fill::<V6>(family, services, place)?,
        }
        // Opened as the agent does, which notes the frontends that are absent.
        Kernel::open(&self.pins)?;
        Ok(())
    }

    fn fill<A: Addr>(&self, family: Family, services: u32, place: Backends) -> Result<()>
    where
        FrontendKey<A>: Pod,
        Backend<A>: Pod,
    {
        let plan = plan(family);
        let (base, flags) = match place {
            Backends::Local => (plan.local, backend::ALIVE | backend::LOCAL),
            Backends::Remote => (plan.remote, backend::ALIVE),
        };
        let names = match family {
            Family::V4 => [maps::BACKENDS4, maps::SLOTS4, maps::FRONTENDS4],
            Family::V6 => [maps::BACKENDS6, maps::SLOTS6, maps::FRONTENDS6],
        };
        let mut backends: Array<_, Backend<A>> = open(&self.pins, names[0])?;
        let mut slots: Array<_, u32> = open(&self.pins, names[1])?;
        let mut frontends: HashMap<_, FrontendKey<A>, Frontend> = open(&self.pins, names[2])?;
        for index in 0..POOL {
            let addr = address(nth(base, index))?;
            let port = Port::new(BACKEND_PORT);
            backends.set(
                index,
                &Backend {
                    addr,
                    port,
                    flags,
                    generation: 1,
                    ..Backend::default()
                },
                0,
            )?;
            slots.set(index, &index, 0)?;
        }
        for service in 0..services {
            let addr = address(nth(plan.services, service))?;
            let key = FrontendKey::new(addr, Port::new(SERVICE_PORT), proto::TCP);
            let offset = (service * PER_SERVICE) % POOL;
            let slots = Slots {
                offset,
                count: PER_SERVICE,
            };
            frontends.insert(
                &key,
                &Frontend {
                    service,
                    flags: 0,
                    inside: slots,
                    outside: slots,
                    affinity: Affinity::NONE,
                },
                0,
            )?;
        }
        Ok(())
    }

    /// Inserts the reply rows of flows to remote backends: as if a client had asked each of
    /// `flows` backends.
    pub(super) fn reply_rows(&self, family: Family, flows: u32) -> Result<()> {
        match family {
            Family::V4 => self.insert_replies::<V4>(family, maps::FLOWS4, flows),
            Family::V6 => self.insert_replies::<V6>(family, maps::FLOWS6, flows),
        }
    }

    fn insert_replies<A: Addr>(&self, family: Family, map: &str, flows: u32) -> Result<()>
    where
        FlowKey<A>: Pod,
        Flow<A>: Pod,
    {
        let mut rows: HashMap<_, FlowKey<A>, Flow<A>> = open(&self.pins, map)?;
        let plan = plan(family);
        let service = (address(plan.services)?, Port::new(SERVICE_PORT));
        for number in 0..flows {
            let client = (address(nth(plan.clients, number))?, Port::new(CLIENT_PORT));
            let remote = (address(nth(plan.remote, number))?, Port::new(BACKEND_PORT));
            let node = (address(plan.node)?, Port::new(SNAT_PORT));
            let key = FlowKey::new(Direction::Ingress, proto::TCP, remote, node);
            let mut flow = Flow::<A>::new(Half::Reply, Route::Forward, service, client);
            let added = Sum::new().addr(&service.0).addr(&client.0);
            flow.addr_delta = added.without_addr(&remote.0).without_addr(&node.0).fold();
            let added = Sum::new().port(service.1).port(client.1);
            flow.port_delta = added.without_port(remote.1).without_port(node.1).fold();
            rows.insert(&key, &flow, 0)?;
        }
        Ok(())
    }

    /// Packets translated and flows begun, over all of the first services.
    pub(super) fn counted(&self, services: u32) -> Result<(u64, u64)> {
        let counters: PerCpuArray<_, ServiceCounters> = open(&self.pins, maps::SERVICE_COUNTERS)?;
        let mut sum = (0, 0);
        for service in 0..services.max(1) {
            for cpu in counters.get(&service, 0)?.iter() {
                sum = (sum.0 + cpu.packets, sum.1 + cpu.flows);
            }
        }
        Ok(sum)
    }
}

/// The shape of a request to a service.
pub(super) fn request(family: Family, services: u32, syn: bool) -> Shape {
    let plan = plan(family);
    Shape {
        source: (plan.clients, CLIENT_PORT),
        destination: (plan.services, SERVICE_PORT),
        syn,
        services,
    }
}

/// The shape of a backend's reply to a translated source.
pub(super) fn reply(family: Family) -> Shape {
    let plan = plan(family);
    Shape {
        source: (plan.remote, BACKEND_PORT),
        destination: (plan.node, SNAT_PORT),
        syn: false,
        services: 0,
    }
}

/// The shape of a packet that is for no service.
pub(super) fn stranger(family: Family) -> Shape {
    let plan = plan(family);
    Shape {
        source: (plan.clients, CLIENT_PORT),
        destination: (plan.strangers, SERVICE_PORT),
        syn: false,
        services: 0,
    }
}

/// The shape of a packet straight to a backend: for the FIB's price.
pub(super) fn straight(family: Family) -> Shape {
    let plan = plan(family);
    Shape {
        source: (plan.clients, CLIENT_PORT),
        destination: (plan.remote, BACKEND_PORT),
        syn: false,
        services: 0,
    }
}

/// Where a translated request goes: whether this is a backend's address and port.
pub(super) fn is_backend(family: Family, place: Backends, to: (IpAddr, u16)) -> bool {
    let plan = plan(family);
    let base = match place {
        Backends::Local => plan.local,
        Backends::Remote => plan.remote,
    };
    to.1 == BACKEND_PORT && base <= to.0 && to.0 < nth(base, POOL)
}

/// The node's own address.
pub(super) fn node(family: Family) -> IpAddr {
    plan(family).node
}

/// The address and port of the service a flow was drawn for.
pub(super) fn service(family: Family, flow: u32, services: u32) -> (IpAddr, u16) {
    let (_, number) = bench::draw(flow, services);
    (nth(plan(family).services, number), SERVICE_PORT)
}

const INTERFACE: &str = "ext0";

/// Makes a namespace with an external interface, a gateway and routes; and a bpffs.
pub(super) fn namespace(site: &Site, bpffs: &Path) -> Result<Netns> {
    let netns = Netns::create(site.name("bench"))?;
    netns.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ])?;
    netns.ip(&format!(
        "link set lo up\n\
         link add {INTERFACE} type veth peer name peer0\n\
         link set {INTERFACE} address 02:00:00:00:00:01\n\
         link set {INTERFACE} up\n\
         link set peer0 up\n\
         addr add 10.10.0.1/24 dev {INTERFACE}\n\
         addr add fd00:10::1/64 dev {INTERFACE} nodad\n\
         neigh add 10.10.0.2 lladdr 02:00:00:00:00:02 dev {INTERFACE} nud permanent\n\
         neigh add fd00:10::2 lladdr 02:00:00:00:00:02 dev {INTERFACE} nud permanent\n\
         route add default via 10.10.0.2\n\
         route add default via fd00:10::2"
    ))?;
    mount_bpffs(bpffs)?;
    Ok(netns)
}

fn interface() -> Result<u32> {
    interface_index(INTERFACE)
}

/// Loads the programs of a folder's object. Tables that are pinned already are theirs too.
fn programs_of(pins: &Pins, objects: &Path) -> Result<Ebpf> {
    let mut object = load(pins, &objects.join("fairlead"), &maps::ALL)?;
    for (_, program) in object.programs_mut() {
        match program {
            Program::Xdp(program) => program.load()?,
            Program::SchedClassifier(program) => program.load()?,
            // Sockets have no packets to measure.
            Program::CgroupSockAddr(_) => {}
            other => bail!("unexpected program type {:?}", other.prog_type()),
        }
    }
    full_path::connect(&mut object)?;
    Ok(object)
}

fn load(pins: &Pins, path: &Path, pinned: &[&'static str]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for map in pinned {
        loader.map_pin_path(map, pins.map(map));
    }
    loader
        .load_file(path)
        .with_context(|| format!("cannot load {}", path.display()))
}

fn empty<K: Pod, V: Pod>(pins: &Pins, name: &str) -> Result<()> {
    let mut map: HashMap<_, K, V> = open(pins, name)?;
    let keys = map.keys().collect::<Result<Vec<K>, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}

pub(super) fn open<M: TryFrom<aya::maps::Map>>(pins: &Pins, name: &str) -> Result<M> {
    let data: MapData = pins.open(name)?;
    let map = aya::maps::Map::from_map_data(data)?;
    M::try_from(map).map_err(|_| anyhow::anyhow!("map {name} is of another type"))
}

fn address<A: Addr>(ip: IpAddr) -> Result<A> {
    A::from_ip(ip).with_context(|| format!("{ip} is of the other family"))
}

//! `lbctl` on real maps, in a BPF filesystem that no one else sees.

use std::fs;

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use clap::Parser;
use lb_common::{
    Addr, Port, Tick, V4, V6,
    config::{Config, FamilyConfig, Network, link},
    counters::{Reason, ServiceCounters},
    flow::{Direction, Flow, FlowKey, Half, Hop, Route},
    maps::{self, STATUS_SIZE},
    proto,
    service::{Affinity, Backend, Frontend, FrontendKey, ServiceName, Slots, backend, frontend},
    socket::{Cookie, PodAddresses, SocketKey, SocketPeer},
};
use lb_userspace::{
    cli::{Cli, Paint},
    status::{Interface, Loading, Mode, Role, SocketMode, Sockets, Status, TcWay},
};
use tests::bpffs::Bpffs;

/// Rows of the maps here.
const ENTRIES: u32 = 4;

#[test]
fn every_map_is_shown_as_it_stands_in_the_kernel() -> Result<()> {
    let node = Node::new()?;
    node.create_maps()?;
    for format in ["wide", "json"] {
        insta::assert_snapshot!(
            format!("maps_dump.{format}"),
            node.lbctl(&["maps", "dump", "-o", format])?
        );
    }
    insta::assert_snapshot!(
        "maps_dump_frontends6",
        node.lbctl(&["maps", "dump", "FRONTENDS6"])?
    );
    insta::assert_snapshot!("service_list", node.lbctl(&["service", "list", "-A"])?);
    insta::assert_snapshot!("status", node.lbctl(&["status"])?);
    Ok(())
}

#[test]
fn an_unreadable_status_hides_nothing_else() -> Result<()> {
    let node = Node::new()?;
    node.create_maps()?;
    node.write_status(b"{\"node\": 7}")?;
    let status = node.lbctl(&["status"])?;
    assert!(
        status.contains("the agent's status is unreadable: invalid type: integer `7`"),
        "{status}"
    );
    insta::assert_snapshot!(node.lbctl(&["maps", "dump", "links"])?, @r"
    INDEX   INTERFACE   DIRECT   XDP-TARGET
    77      -           yes      yes
    ");
    Ok(())
}

#[test]
fn a_missing_map_is_named() -> Result<()> {
    let node = Node::new()?;
    node.create_maps()?;
    fs::remove_file(node.bpffs.pins().map(maps::FLOWS6))?;
    let error = node.lbctl(&["maps", "dump", "flows"]).unwrap_err();
    let path = node.bpffs.pins().map(maps::FLOWS6);
    assert_eq!(
        error.to_string(),
        format!("cannot open pinned map {}", path.display())
    );
    Ok(())
}

/// The pins of a node.
struct Node {
    bpffs: Bpffs,
}

impl Node {
    fn new() -> Result<Self> {
        let bpffs = Bpffs::new()?;
        Ok(Self { bpffs })
    }

    /// What `lbctl` prints, with the name of the mount hidden.
    fn lbctl(&self, args: &[&str]) -> Result<String> {
        let bpffs = self.bpffs.path().display().to_string();
        let mut out = Vec::new();
        Cli::try_parse_from(["lbctl", "--bpffs", &bpffs].iter().chain(args))?
            .run(&mut out, Paint::OFF)?;
        Ok(String::from_utf8(out)?.replace(&bpffs, "<bpffs>"))
    }

    fn create_maps(&self) -> Result<()> {
        let [name4, name6] = ["web", "w\x1b[2Jeb"];
        self.create_family::<V4>(
            [
                maps::FRONTENDS4,
                maps::SLOTS4,
                maps::BACKENDS4,
                maps::FLOWS4,
                maps::SOCKETS4,
            ],
            1,
            [
                "10.96.0.10",
                "10.0.1.2",
                "10.0.2.3",
                "198.51.100.7",
                "192.0.2.1",
            ],
        )?;
        self.create_family::<V6>(
            [
                maps::FRONTENDS6,
                maps::SLOTS6,
                maps::BACKENDS6,
                maps::FLOWS6,
                maps::SOCKETS6,
            ],
            2,
            [
                "fd00:96::10",
                "fd00:1::2",
                "fd00:2::3",
                "2001:db8:9::7",
                "2001:db8::1",
            ],
        )?;
        let pod = PodAddresses {
            v4: Addr::from_ip("10.1.1.1".parse()?).context("no IPv4 address")?,
            ..PodAddresses::default()
        };
        self.hash(maps::NETNS, &[(Cookie::new(4097), pod)])?;
        self.hash(maps::LINKS, &[(77, link::DIRECT | link::XDP_TARGET)])?;
        self.hash(
            maps::SERVICE_NAMES,
            &[
                (1, ServiceName::new("shop", name4, "http", proto::TCP, 4)),
                (2, ServiceName::new("shop", name6, "", proto::TCP, 6)),
            ],
        )?;
        self.array(maps::CONFIG, 1, &[config()?])?;
        self.counters(maps::SERVICE_COUNTERS, ENTRIES, &service_counts()?)?;
        self.counters(maps::REASONS, Reason::ALL.len() as u32, &reason_counts()?)?;
        self.array::<[u8; STATUS_SIZE as usize]>(maps::STATUS, 1, &[])?;
        self.write_status(&serde_json::to_vec(&status()?)?)
    }

    /// A Service with a local and a remote backend, a connection to the remote one, and a socket
    /// that was led to the local one.
    fn create_family<A: Addr>(
        &self,
        [frontends, slots, backends, flows, sockets]: [&str; 5],
        service: u32,
        addresses: [&str; 5],
    ) -> Result<()>
    where
        FrontendKey<A>: Pod,
        Backend<A>: Pod,
        FlowKey<A>: Pod,
        Flow<A>: Pod,
        SocketKey<A>: Pod,
        SocketPeer<A>: Pod,
    {
        let [cluster, local, remote, client, node] = addresses.map(address);
        let (cluster, local, remote, client, node) = (cluster?, local?, remote?, client?, node?);
        let reached_by = |inside, outside, flags| Frontend {
            service,
            flags,
            inside,
            outside,
            affinity: Affinity::NONE,
        };
        let slot_range = |offset, count| Slots { offset, count };
        let no_slots = slot_range(0, 0);
        self.hash(
            frontends,
            &[
                (
                    FrontendKey::whole_address(cluster),
                    reached_by(no_slots, no_slots, 0),
                ),
                (
                    FrontendKey::new(cluster, Port::new(80), proto::TCP),
                    reached_by(slot_range(1, 2), no_slots, frontend::DROP_OUTSIDE),
                ),
                (
                    FrontendKey::new(node, Port::new(30080), proto::TCP),
                    reached_by(slot_range(7, 4), slot_range(11, 3), frontend::HASHED),
                ),
                (
                    FrontendKey::new(node, Port::new(30053), proto::UDP),
                    reached_by(slot_range(14, 2), no_slots, 0),
                ),
            ],
        )?;
        // Backends, two tables and their lists, and a backend that is none.
        let held = [0, 1, 2, 0, 0, 1, 0, 4, 3, 1, 2, 3, 1, 2, 90];
        self.array(slots, held.len() as u32, &held)?;
        let endpoint = |addr, flags| Backend {
            addr,
            port: Port::new(8080),
            flags,
            generation: 5,
            service,
        };
        let here = endpoint(local, backend::ALIVE | backend::LOCAL);
        let there = endpoint(remote, backend::ALIVE | backend::TERMINATING);
        self.array(backends, ENTRIES, &[Backend::default(), here, there])?;
        self.hash(flows, &connection(service, client, node, remote))?;
        self.hash(sockets, &led_socket(service, cluster, local))
    }

    fn hash<K: Pod, V: Pod>(&self, name: &str, rows: &[(K, V)]) -> Result<()> {
        let mut map = HashMap::<MapData, K, V>::create(ENTRIES, 0)?;
        for (key, value) in rows {
            map.insert(key, value, 0)?;
        }
        Ok(map.pin(self.bpffs.pins().map(name))?)
    }

    fn array<V: Pod>(&self, name: &str, entries: u32, values: &[V]) -> Result<()> {
        let mut map = Array::<MapData, V>::create(entries, 0)?;
        for (index, value) in (0..).zip(values) {
            map.set(index, value, 0)?;
        }
        Ok(map.pin(self.bpffs.pins().map(name))?)
    }

    fn counters<V: Pod>(&self, name: &str, entries: u32, values: &[(u32, Vec<V>)]) -> Result<()> {
        let mut map = PerCpuArray::<MapData, V>::create(entries, 0)?;
        for (index, cpus) in values {
            map.set(*index, PerCpuValues::try_from(cpus.clone())?, 0)?;
        }
        Ok(map.pin(self.bpffs.pins().map(name))?)
    }

    fn write_status(&self, json: &[u8]) -> Result<()> {
        let mut value = vec![0; STATUS_SIZE as usize];
        value[..4].copy_from_slice(&(json.len() as u32).to_ne_bytes());
        value[4..4 + json.len()].copy_from_slice(json);
        let map = Map::from_map_data(self.bpffs.pins().open(maps::STATUS)?)?;
        let value = value.as_array().context("the status has another size")?;
        Ok(Array::<_, [u8; STATUS_SIZE as usize]>::try_from(map)?.set(0, value, 0)?)
    }
}

/// Both rows of a client's connection to a remote backend.
fn connection<A: Addr>(service: u32, client: A, node: A, backend: A) -> [(FlowKey<A>, Flow<A>); 2] {
    let (client, node_port) = ((client, Port::new(40_000)), (node, Port::new(30_080)));
    let (snat, backend) = ((node, Port::new(61_001)), (backend, Port::new(8080)));
    let row = |half, (key_src, key_dst), (src, dst), hop| {
        let mut flow = Flow::new(half, Route::Forward, src, dst);
        flow.service = service;
        flow.backend = 2;
        flow.generation = 5;
        // A moment that cannot be past by the time it is read: idle for no time at all.
        flow.seen = Tick::from_nanos(1 << 57);
        flow.hop = hop;
        if hop != Hop::NONE {
            (flow.link, flow.mtu) = (link::DIRECT as u16, 1450);
        }
        let key = FlowKey::new(Direction::Ingress, proto::TCP, key_src, key_dst);
        (key, flow)
    };
    let hop = Hop {
        ifindex: 77,
        epoch: 7,
        resolved: Tick::from_nanos(1 << 57),
        macs: [[2, 0], [0, 0], [0, 0x0a], [2, 0], [0, 0], [0, 1]].map(u16::from_ne_bytes),
    };
    [
        row(Half::Request, (client, node_port), (snat, backend), hop),
        row(Half::Reply, (backend, snat), (node_port, client), Hop::NONE),
    ]
}

fn address<A: Addr>(text: &str) -> Result<A> {
    A::from_ip(text.parse()?).with_context(|| format!("{text} is of the other family"))
}

fn config() -> Result<Config> {
    Ok(Config {
        epoch: 7,
        snat_first: 61_000,
        snat_last: 65_535,
        flags: 0,
        netns: Cookie::NONE,
        v4: family_config("192.0.2.1", Some(("10.96.0.0", "255.255.0.0")))?,
        v6: family_config("2001:db8::1", None)?,
    })
}

fn family_config<A: Addr>(node: &str, cluster: Option<(&str, &str)>) -> Result<FamilyConfig<A>> {
    let mut config = FamilyConfig {
        node: address(node)?,
        ..FamilyConfig::default()
    };
    if let Some((net, mask)) = cluster {
        config.cluster_cover = Network {
            net: address(net)?,
            mask: address(mask)?,
        };
        config.cluster_nets[0] = config.cluster_cover;
    }
    Ok(config)
}

/// Counted on the first and on the last CPU, which may be the same.
fn on_two_cpus<V: Copy + Default>(add: impl Fn(&mut V, u64)) -> Result<Vec<V>> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?.get() as usize;
    let mut values = vec![V::default(); cpus];
    add(&mut values[0], 5);
    add(&mut values[cpus - 1], 7);
    Ok(values)
}

/// Both rows of a socket that sent to the Service's cluster IP.
fn led_socket<A: Addr>(service: u32, cluster: A, backend: A) -> [(SocketKey<A>, SocketPeer<A>); 2] {
    let (cluster, backend) = ((cluster, Port::new(80)), (backend, Port::new(8080)));
    [
        (Half::Request, cluster, backend),
        (Half::Reply, backend, cluster),
    ]
    .map(|(half, named, (addr, port))| {
        let key = SocketKey::new(half, Cookie::new(4711), proto::UDP, named);
        let peer = SocketPeer {
            addr,
            port,
            zero: 0,
            service,
            backend: 1,
            generation: 5,
        };
        (key, peer)
    })
}

fn service_counts() -> Result<Vec<(u32, Vec<ServiceCounters>)>> {
    let counts = on_two_cpus(|cpu: &mut ServiceCounters, count| {
        cpu.packets += 100 * count;
        cpu.bytes += 6400 * count;
        cpu.flows += count;
        cpu.rejects += count % 5;
    })?;
    Ok(vec![(1, counts)])
}

fn reason_counts() -> Result<Vec<(u32, Vec<u64>)>> {
    let counts = on_two_cpus(|cpu, count| *cpu += count)?;
    Ok(vec![(Reason::NotService as u32, counts)])
}

fn status() -> Result<Status> {
    Ok(Status {
        node: "node-1".to_owned(),
        version: "0.1.0".to_owned(),
        // Beyond the largest the kernel gives.
        pid: u32::MAX,
        started: "2026-07-01T08:00:00Z".to_owned(),
        source: "manifests /etc/fairlead".to_owned(),
        last_sync: Some("2026-07-01T08:00:01Z".to_owned()),
        node_addresses: vec!["192.0.2.1".parse()?, "2001:db8::1".parse()?],
        without_ipv6: None,
        node_port_addresses: vec!["192.0.2.1".parse()?],
        snat_ports: (61_000, 65_535),
        tc_attach: TcWay::Tcx,
        loading: Loading::default(),
        kernel: Vec::new(),
        interfaces: vec![Interface {
            name: "eth9".to_owned(),
            index: 77,
            role: Role::External,
            mode: Mode::Xdp,
            reason: String::new(),
        }],
        sockets: Sockets {
            mode: SocketMode::Host,
            cgroup: Some("/sys/fs/cgroup".into()),
            ..Sockets::default()
        },
        problems: vec!["web.yaml: document 1: spec.ports: must not be empty".to_owned()],
    })
}

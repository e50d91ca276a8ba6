//! A node with two Services in both families.

use std::net::IpAddr;

use lb_common::counters;

use super::super::{
    pinned::Use,
    snapshot::{
        Backend, BackendRef, Choice, Config, Family, FamilyConfig, Flow, Frontend, Held, HostPort,
        Link, Netns, NextHop, PortRange, Reason, Section, Service, Slot, Snapshot, Socket,
        WithoutBackends,
    },
    status::{self, MaglevTables, MapUse, Report},
};
use crate::{
    model::Algorithm,
    status::{
        FeatureState, Interface, KernelFeature, Loading, Mode, Role, SocketMode, Sockets, Status,
        TcWay,
    },
};

pub(super) fn dump() -> Snapshot {
    Snapshot {
        sections: vec![
            Section::Config(config()),
            Section::Links(links()),
            Section::Frontends(frontends()),
            Section::Slots(slots()),
            Section::Backends(backends()),
            Section::Services(services()),
            Section::Flows(flows()),
            Section::Sockets(sockets()),
            Section::Netns(netns()),
            Section::Reasons(reasons()),
            Section::Status(Some(Box::new(agent()))),
        ],
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn at(address: &str, port: u16) -> HostPort {
    HostPort {
        address: ip(address),
        port,
    }
}

pub(super) fn config() -> Config {
    Config {
        epoch: 7,
        snat_ports: PortRange {
            first: 61_000,
            last: 65_535,
        },
        ipv4: FamilyConfig {
            node_address: Some(ip("192.0.2.1")),
            cluster_network: Some("10.96.0.0/16".to_owned()),
        },
        ipv6: FamilyConfig {
            node_address: Some(ip("2001:db8::1")),
            cluster_network: None,
        },
    }
}

pub(super) fn links() -> Vec<Link> {
    let link = |index, interface: Option<&str>, xdp_target| Link {
        index,
        interface: interface.map(str::to_owned),
        direct: true,
        xdp_target,
    };
    vec![link(2, Some("eth0"), true), link(9, None, false)]
}

pub(super) fn backend(index: u32, address: &str, port: u16) -> BackendRef {
    BackendRef {
        index,
        at: Some(at(address, port)),
        alive: true,
        local: false,
        terminating: false,
    }
}

pub(super) fn web4() -> Vec<BackendRef> {
    let local = BackendRef {
        local: true,
        ..backend(1, "10.0.1.2", 8080)
    };
    let leaving = BackendRef {
        terminating: true,
        ..backend(4, "10.0.2.5", 8080)
    };
    vec![
        local,
        backend(2, "10.0.2.3", 8080),
        backend(3, "10.0.2.4", 8080),
        leaving,
    ]
}

pub(super) fn web6() -> Vec<BackendRef> {
    vec![backend(0, "fd00:1::2", 8080)]
}

pub(super) fn frontend(
    address: &str,
    port: u16,
    service_id: u32,
    backends: &[BackendRef],
) -> Frontend {
    let choice = Choice {
        first_slot: 16,
        slot_count: backends.len() as u32,
        without_backends: WithoutBackends::Reject,
        backends: backends.to_vec(),
    };
    Frontend {
        at: at(address, port),
        protocol: "TCP".to_owned(),
        whole_address: false,
        service_id,
        service: services()
            .iter()
            .find(|service| service.id == service_id)
            .map(Service::full_name),
        algorithm: Algorithm::Random,
        inside: choice.clone(),
        outside: choice,
    }
}

pub(super) fn frontends() -> Vec<Frontend> {
    let mut local_only = frontend("192.0.2.1", 30080, 1, &web4());
    local_only.outside = Choice {
        first_slot: 0,
        slot_count: 0,
        without_backends: WithoutBackends::Drop,
        backends: vec![],
    };
    let mut whole = frontend("10.96.0.10", 0, 0, &[]);
    whole.protocol = "ANY".to_owned();
    whole.whole_address = true;
    whole.service = None;
    let mut dns = frontend("10.96.0.53", 53, 3, &[]);
    dns.protocol = "UDP".to_owned();
    vec![
        whole,
        frontend("10.96.0.10", 80, 1, &web4()),
        dns,
        local_only,
        frontend("fd00:96::10", 80, 2, &web6()),
    ]
}

pub(super) fn slots() -> Vec<Slot> {
    let slot = |family, index, holds| Slot {
        family,
        index,
        holds,
    };
    vec![
        slot(Family::V4, 16, Held::Backend(web4().swap_remove(0))),
        slot(Family::V6, 0, Held::Position(0)),
        slot(Family::V6, 1, Held::TableOffset(0)),
        slot(Family::V6, 2, Held::TableSize(1)),
        slot(Family::V6, 3, Held::Backend(web6().swap_remove(0))),
    ]
}

pub(super) fn backends() -> Vec<Backend> {
    let four = web4().into_iter().map(|backend| (Family::V4, backend));
    let six = web6().into_iter().map(|backend| (Family::V6, backend));
    four.chain(six)
        .map(|(family, backend)| Backend {
            family,
            generation: backend.index + 40,
            entry: backend,
        })
        .collect()
}

pub(super) fn services() -> Vec<Service> {
    let service = |namespace: &str, name: &str, port: &str, protocol: &str, family, id| Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port: port.to_owned(),
        protocol: protocol.to_owned(),
        family,
        id,
        packets: 1000 * u64::from(id),
        bytes: 64_000 * u64::from(id),
        flows: 10 * u64::from(id),
        rejects: u64::from(id) - 1,
    };
    vec![
        service("ops", "dns", "", "UDP", Family::V4, 3),
        service("shop", "web", "http", "TCP", Family::V4, 1),
        service("shop", "web", "http", "TCP", Family::V6, 2),
    ]
}

pub(super) fn flows() -> Vec<Flow> {
    let request = Flow {
        direction: "ingress",
        protocol: "TCP".to_owned(),
        source: at("198.51.100.7", 40_000),
        destination: at("192.0.2.1", 30_080),
        new_source: at("192.0.2.1", 61_001),
        new_destination: at("10.0.2.3", 8080),
        service_id: 1,
        service: Some("shop/web:http".to_owned()),
        half: "request",
        route: "forward",
        stage: "established",
        backend: 2,
        generation: 42,
        next_hop: Some(NextHop {
            interface_index: 2,
            interface: Some("eth0".to_owned()),
            destination_mac: Some("02:00:00:00:00:0a".to_owned()),
            source_mac: Some("02:00:00:00:00:01".to_owned()),
            mtu: Some(1500),
            epoch: 7,
            age_seconds: 1,
        }),
        idle_seconds: 3,
    };
    let reply = Flow {
        direction: "egress",
        source: at("fd00:1::2", 8080),
        destination: at("2001:db8:9::7", 40_000),
        new_source: at("2001:db8::1", 30_080),
        new_destination: at("2001:db8:9::7", 40_000),
        service_id: 2,
        half: "reply",
        route: "stack",
        stage: "closing",
        backend: 0,
        generation: 40,
        next_hop: None,
        ..request.clone()
    };
    vec![request, reply]
}

pub(super) fn netns() -> Vec<Netns> {
    vec![
        Netns {
            cookie: 4097,
            addresses: vec![ip("10.1.1.1"), ip("fd00:1:1::1")],
        },
        Netns {
            cookie: 4102,
            addresses: vec![ip("10.1.1.2")],
        },
    ]
}

pub(super) fn sockets() -> Vec<Socket> {
    let request = Socket {
        cookie: 4711,
        protocol: "UDP".to_owned(),
        service_address: at("10.96.0.10", 53),
        backend_address: at("10.0.1.5", 5353),
        service_id: 3,
        service: Some("default/dns".to_owned()),
        half: "request",
        backend: 7,
        generation: 2,
    };
    let reply = Socket {
        half: "reply",
        ..request.clone()
    };
    vec![request, reply]
}

pub(super) fn reasons() -> Vec<Reason> {
    counters::Reason::ALL
        .iter()
        .map(|reason| Reason {
            reason: reason.name(),
            packets: if *reason == counters::Reason::NotService {
                12_345
            } else {
                0
            },
        })
        .collect()
}

/// Some features of the kernel, of which it lacks these.
pub(super) fn features(lacked: &[&str]) -> Vec<KernelFeature> {
    let features = [
        (
            "tcx links",
            "programs are attached by filters of the clsact qdisc",
        ),
        ("SO_NETNS_COOKIE", "a BPF program finds out the cookie"),
    ];
    let features = features.map(|(feature, without)| {
        let lacks = lacked.contains(&feature);
        KernelFeature {
            feature: feature.to_owned(),
            state: if lacks {
                FeatureState::Lacks
            } else {
                FeatureState::Has
            },
            error: None,
            without: lacks.then(|| without.to_owned()),
        }
    });
    features.to_vec()
}

pub(super) fn agent() -> Status {
    let interface = |name: &str, index, role, mode, reason: &str| Interface {
        name: name.to_owned(),
        index,
        role,
        mode,
        reason: reason.to_owned(),
    };
    Status {
        node: "node-1".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4242,
        started: "2026-07-01T08:00:00Z".to_owned(),
        source: "manifests /etc/fairlead".to_owned(),
        last_sync: Some("2026-07-01T08:00:01Z".to_owned()),
        node_addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        without_ipv6: None,
        node_port_addresses: vec![ip("192.0.2.1")],
        snat_ports: (61_000, 65_535),
        interfaces: vec![
            interface("eth0", 2, Role::External, Mode::Xdp, ""),
            interface(
                "eth1",
                3,
                Role::External,
                Mode::Tc,
                "the driver has no native XDP",
            ),
            interface("veth7", 9, Role::Pod, Mode::Tc, ""),
        ],
        sockets: Sockets {
            mode: SocketMode::Host,
            cgroup: Some("/sys/fs/cgroup".into()),
            ..Sockets::default()
        },
        tc_attach: TcWay::Tcx,
        kernel: features(&[]),
        loading: Loading::Nothing,
        problems: vec![],
    }
}

pub(super) fn frontends_use(used: u32) -> Use {
    Use {
        used,
        capacity: 131_072,
    }
}

pub(super) fn healthy() -> Report {
    let agent = agent();
    let rows = |used, capacity| Use { used, capacity };
    let mut report = Report {
        pins: "/sys/fs/bpf/fairlead/v1".into(),
        agent_running: true,
        agent: Some(agent),
        snat_ports: config().snat_ports,
        capacities: vec![
            MapUse::new("FRONTENDS4", frontends_use(4)),
            MapUse::new("SLOTS4", rows(4, 1_048_576)),
            MapUse::new("FLOWS4", rows(6000, 524_288)),
        ],
        table_bytes: 0,
        maglev_tables: MaglevTables { count: 1, bytes: 4 },
        reasons: reasons(),
        warnings: vec![],
    };
    report.table_bytes = status::table_bytes(&report.capacities);
    report.warnings = status::warnings(&report);
    report
}

//! What a Maglev table costs the agent: once, whoever shares it.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::{Result, ensure};
use lb_userspace::{
    control::{Controller, Settings, TableSize},
    maps::{Capacities, FamilyCapacities, Memory},
    model::{
        Algorithm, Batch, Change, Endpoint, EndpointPort, EndpointSlice, ObjectName, Protocol,
        Service, ServicePort, ServiceType, TrafficPolicy,
    },
};
use serde::Serialize;

use super::{measure::median, rows::ROUNDS};

/// Slots of a table, and endpoints it is made of.
const KINDS: [(u32, u16); 6] = [
    (16_381, 10),
    (16_381, 100),
    (16_381, 1000),
    (131_071, 10),
    (131_071, 100),
    (131_071, 1000),
];

/// What it takes to have a Service spread by Maglev that was spread by chance, on maps in memory.
#[derive(Clone, Debug, Serialize)]
pub struct Turned {
    /// Slots of its table.
    pub slots: u32,
    /// Its endpoints.
    pub endpoints: u16,
    /// Microseconds, if its table has to be made.
    pub first_us: f64,
    /// If another Service of the same endpoints has it.
    pub shared_us: f64,
}

/// Times each kind.
pub(super) fn turned() -> Result<Vec<Turned>> {
    KINDS.into_iter().map(of_kind).collect()
}

fn of_kind((slots, endpoints): (u32, u16)) -> Result<Turned> {
    let (mut first, mut shared) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut controller = controller(slots)?;
        let all = ["first", "second"].into_iter();
        let all = all.flat_map(|name| [service(name, Algorithm::Random), slice(name, endpoints)]);
        apply(&mut controller, all.collect())?;
        let mut turn = |name| apply(&mut controller, vec![service(name, Algorithm::Maglev)]);
        first.push(turn("first")?);
        shared.push(turn("second")?);
    }
    Ok(Turned {
        slots,
        endpoints,
        first_us: median(first),
        shared_us: median(shared),
    })
}

fn controller(slots: u32) -> Result<Controller<Memory>> {
    let none = FamilyCapacities {
        frontends: 0,
        slots: 0,
        backends: 0,
        source_ranges: 0,
    };
    let v4 = FamilyCapacities {
        frontends: 1 << 4,
        slots: 1 << 18,
        backends: 1 << 12,
        source_ranges: 0,
    };
    let capacities = Capacities {
        v4,
        v6: none,
        services: 1 << 4,
    };
    let settings = Settings {
        maglev_table_size: TableSize::try_from(slots).map_err(anyhow::Error::msg)?,
        ..Settings::new("here")
    };
    Ok(Controller::new(Memory::new(capacities), settings))
}

/// Microseconds that these changes take.
fn apply(controller: &mut Controller<Memory>, changes: Vec<Change>) -> Result<f64> {
    let batch = Batch {
        changes,
        ..Batch::default()
    };
    let start = Instant::now();
    let outcome = controller.apply(batch, start);
    let took = start.elapsed();
    ensure!(outcome.problems.is_empty(), "{:?}", outcome.problems);
    Ok(took.as_secs_f64() * 1e6)
}

fn service(name: &str, algorithm: Algorithm) -> Change {
    let name = ObjectName::new("default", name);
    let last = if name.name == "first" { 1 } else { 2 };
    let object = Service {
        name: name.clone(),
        created: 0,
        kind: ServiceType::ClusterIP,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, last).into()],
        external_ips: Vec::new(),
        ingress_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        algorithm: Some(algorithm),
        source_ranges: Vec::new(),
        health_check_node_port: 0,
    };
    Change::Service(name, Some(object))
}

fn slice(service: &str, endpoints: u16) -> Change {
    let name = ObjectName::new("default", service);
    let endpoint = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Endpoint::at(Ipv4Addr::new(10, 0, high, low).into())
    };
    let object = EndpointSlice {
        name: name.clone(),
        service: service.to_owned(),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: (1..=endpoints).map(endpoint).collect(),
    };
    Change::Slice(name, Some(object))
}

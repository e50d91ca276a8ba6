//! The API server away in all ways there are, while clients talk: nothing that is programmed is lost,
//! no flow is cut, and what changed meanwhile is in force as soon as it is back.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_userspace::model::{Endpoint, EndpointPort, EndpointSlice, Protocol};
use tests::{
    agent::lbctl,
    checks::Check,
    kube::{ADDRESS, Signer},
    random::{self, Random},
    topology::Family,
};

use crate::{
    setup::pod_port,
    traffic::{Manner, Traffic},
    unit::{self, Kind, Unit, named},
    world::{SOON, World},
    writes::Change,
};

/// How soon all has to be in line again when a server has come back.
const BACK: Duration = Duration::from_secs(2);
/// What a slow server takes for a reply.
const SLOW: Duration = Duration::from_secs(5);
/// How long clients talk on when all is in line: each has a word on each of its flows by then.
const CALM: Duration = Duration::from_secs(3);
/// How often people are told how it goes.
const TOLD: Duration = Duration::from_secs(30);
/// How often the nodes are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Services that there are all the while.
const SERVICES: u16 = 24;
/// Where the pods of a Service are, by its number.
const PLACES: [&[&str]; 4] = [
    &["pod-1"],
    &["pod-3"],
    &["pod-2", "pod-4"],
    &["pod-1", "pod-2", "pod-3", "pod-4"],
];

pub(crate) fn checks(length: Duration) -> Vec<Check<World>> {
    let check = |name: &str, run: fn(&mut World, Duration) -> Result<()>| {
        Check::new(format!("endurance::{name}"), move |world: &mut World| {
            let outcome = run(world, length);
            let recovered = if outcome.is_err() {
                world.recover()
            } else {
                Ok(())
            };
            let cleared = recovered.and_then(|()| world.clear());
            outcome.and(cleared)
        })
    };
    vec![
        check("api_server_killed", |world, length| {
            killed(world, length, false)
        }),
        check("api_server_killed_and_compacted", |world, length| {
            killed(world, length, true)
        }),
        check("api_server_slow", slow),
        check("api_server_certificate_replaced", certificate),
    ]
}

/// The server is away; what changes meanwhile does so by another one.
fn killed(world: &mut World, length: Duration, compacted: bool) -> Result<()> {
    let ordeal = Ordeal::begin(world)?;
    let replica = world.cluster.source.control.replica()?;
    let gone = Instant::now();
    world.cluster.source.control.kill_api_server();
    ordeal.lasts(world, length / 2)?;
    let writes = world.announce(changes(world, 0)?);
    world.write(replica.client(), &writes)?;
    drop(replica);
    if compacted {
        world.cluster.source.control.compact_etcd()?;
    }
    ordeal.lasts(world, length / 2)?;
    world.cluster.source.control.start_api_server()?;
    ordeal.ends(world, gone)
}

/// The server answers late, and has all who are connected connect again.
fn slow(world: &mut World, length: Duration) -> Result<()> {
    let detour = world.cluster.source.control.detour()?;
    world.reach_by(detour.address())?;
    let mut ordeal = Ordeal::begin(world)?;
    let gone = Instant::now();
    detour.delay(SLOW);
    detour.cut();
    ordeal.lasts(world, length / 2)?;
    // Slow is not dead.
    let took = world.step(changes(world, 0)?)?;
    println!("  in force after {took:.1?}, by a server that takes {SLOW:?} for a reply");
    ordeal.look(world)?;
    ordeal.lasts(world, length / 2)?;
    announced(world, 1)?;
    detour.delay(Duration::ZERO);
    ordeal.ends(world, gone)?;
    world.reach_by(ADDRESS)
}

/// The server has a certificate by an authority that the agents have not been told of.
fn certificate(world: &mut World, length: Duration) -> Result<()> {
    let ordeal = Ordeal::begin(world)?;
    let gone = Instant::now();
    let control = &mut world.cluster.source.control;
    control.replace_certificate(Signer::New)?;
    control.kill_api_server();
    control.start_api_server()?;
    ordeal.lasts(world, length / 2)?;
    announced(world, 0)?;
    ordeal.lasts(world, length / 2)?;
    world.renew_account()?;
    ordeal.ends(world, gone)
}

/// Clients that talk, and what the nodes said before.
struct Ordeal {
    traffic: Traffic,
    frontends: [String; 2],
}

impl Ordeal {
    /// Services for all who may be led anywhere, and a flow to each of their frontends from everywhere.
    fn begin(world: &mut World) -> Result<Self> {
        let services = (0..SERVICES).map(|number| service(world, number, PLACES[place(number)]));
        let services: Result<Vec<_>> = services.collect();
        world.step(services?.concat())?;
        let clients = world.clients(&mut Random::new(random::seed()))?;
        let traffic = Traffic::start(&world.shared, clients, Manner::Steady)?;
        let flows = traffic.established()?;
        println!("  {SERVICES} Services, {flows} flows that go on");
        Ok(Self {
            traffic,
            frontends: frontends(world)?,
        })
    }

    /// What the nodes say now is what they are to say from here on.
    fn look(&mut self, world: &World) -> Result<()> {
        self.frontends = frontends(world)?;
        Ok(())
    }

    /// For this long all goes on, and the nodes say what they said.
    fn lasts(&self, world: &World, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        let mut told = Instant::now();
        while Instant::now() < end {
            if told.elapsed() > TOLD {
                println!("  {}", world.shared);
                told = Instant::now();
            }
            thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
            world.shared.check()?;
            ensure!(
                frontends(world)? == self.frontends,
                "what the nodes have is not what they had"
            );
        }
        Ok(())
    }

    /// The server is back: what was announced is in force soon, and all has gone on.
    fn ends(self, world: &mut World, gone: Instant) -> Result<()> {
        let back = Instant::now();
        world.in_force(SOON)?;
        let took = back.elapsed();
        world.compare()?;
        thread::sleep(CALM);
        let kept = self.traffic.finish()?;
        println!(
            "  away for {:.1?}, in sync {took:.2?} after its return; {kept} flows kept; {}",
            back.duration_since(gone),
            world.shared
        );
        ensure!(took <= BACK, "in sync only {took:?} after its return");
        world.no_problems()
    }
}

/// The frontends of each node, with where they lead, as they are shown.
fn frontends(world: &World) -> Result<[String; 2]> {
    let topology = &world.cluster.topology;
    let args = ["maps", "dump", "frontends", "-o", "json"];
    let [a, b] = [&topology.node_a, &topology.node_b].map(|node| lbctl(node, &args));
    Ok([a?, b?])
}

fn place(number: u16) -> usize {
    usize::from(number) % PLACES.len()
}

/// Writes changes that nobody waits for yet.
fn announced(world: &mut World, round: u16) -> Result<()> {
    let writes = world.announce(changes(world, round)?);
    let client = world.cluster.source.control.client();
    world.write(client, &writes)
}

/// One Service goes, one comes and one moves.
fn changes(world: &World, round: u16) -> Result<Vec<Change>> {
    let (goes, moves, comes) = (round * 2, round * 2 + 1, SERVICES + round);
    let mut changes = vec![Change::Service(named(name(goes)), None)];
    changes.extend(slices(world, moves, &["pod-2"])?);
    changes.extend(service(world, comes, &["pod-4"])?);
    Ok(changes)
}

fn name(number: u16) -> String {
    format!("s-{number}")
}

/// A Service of both families, its type by its number, with TCP and UDP.
fn service(world: &World, number: u16, pods: &[&str]) -> Result<Vec<Change>> {
    let low = number as u8 + 1;
    let kinds = [Kind::ClusterIp, Kind::NodePort, Kind::LoadBalancer];
    let kind = kinds[usize::from(number) % kinds.len()];
    let v6 = |net: u16| IpAddr::from([0x2001, 0xdb8, net, 0, 0, 0, 0, low.into()]);
    let cluster_ips = [
        IpAddr::from([10, 96, 8, low]),
        IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x800 + u16::from(low)]),
    ];
    let mut ports = [
        unit::port("web", Protocol::Tcp, 80),
        unit::port("dns", Protocol::Udp, 53),
    ];
    if kind != Kind::ClusterIp {
        for (port, number) in ports.iter_mut().zip(30_000 + 2 * number..) {
            port.node_port = number;
        }
    }
    let mut unit = Unit::new(&name(number), kind, &cluster_ips, &ports);
    if kind == Kind::LoadBalancer {
        unit.service.external_ips = vec![[192, 0, 2, low].into(), v6(1)];
        unit.service.ingress_ips = vec![[198, 51, 100, low].into(), v6(2)];
    }
    let mut changes = slices(world, number, pods)?;
    changes.push(Change::Service(named(name(number)), Some(unit)));
    Ok(changes)
}

/// The slices of a Service with endpoints in these pods.
fn slices(world: &World, number: u16, pods: &[&str]) -> Result<Vec<Change>> {
    let families = Family::BOTH.into_iter();
    families
        .map(|family| {
            let endpoints = pods.iter().map(|pod| endpoint(world, pod, family));
            let kind = match family {
                Family::V4 => "4a",
                Family::V6 => "6a",
            };
            let slice = EndpointSlice {
                name: named(format!("{}.{kind}", name(number))),
                service: name(number),
                ports: vec![
                    slice_port("web", Protocol::Tcp, pod_port(number, 0)),
                    slice_port("dns", Protocol::Udp, pod_port(number, 1)),
                ],
                endpoints: endpoints.collect::<Result<_>>()?,
            };
            Ok(Change::Slice(slice.name.clone(), Some(slice)))
        })
        .collect()
}

fn slice_port(name: &str, protocol: Protocol, port: u16) -> EndpointPort {
    EndpointPort {
        name: name.to_owned(),
        protocol,
        port,
    }
}

fn endpoint(world: &World, pod: &str, family: Family) -> Result<Endpoint> {
    let pod = world.cluster.topology.pod(pod)?;
    Ok(unit::endpoint(pod.addresses.of(family), Some(pod.node)))
}

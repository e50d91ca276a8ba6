//! F: session affinity.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Addr, Port, V4,
    maps::{AFFINITY4, FRONTENDS4},
    proto,
    service::{ClientKey, Frontend, FrontendKey, Remembered},
};
use tests::{
    checks::Check,
    cluster::eventually,
    echo::Protocol::{Tcp, Udp},
    talk::Conversation,
    topology::Family,
};

use crate::{
    objects::POD_PORT,
    world::{SOON, World, address, row},
};

const BOTH: [&str; 2] = ["pod-1", "pod-3"];
const CLUSTER_IP: &str = "10.96.1.1:80";
const AT_A: &str = "10.10.0.1:30080";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("f1_shared_by_all_addresses", f1_shared_by_all_addresses),
        row("f2_timeout", f2_timeout),
        row("f2_default_and_limits", f2_default_and_limits),
        row("f3_another_list_another_endpoint", f3_another_list),
        row("f4_client_before_translation", f4_before_translation),
        row("f5_off_forgets", f5_off_forgets),
        row("f6_endpoint_goes", f6_endpoint_goes),
        row("f7_one_endpoint", f7_one_endpoint),
        row("f8_udp", f8_udp),
    ]
}

fn given(world: &mut World, affinity: &str, external: &str) -> Result<()> {
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
          spec: {{type: NodePort, clusterIP: 10.96.1.1, sessionAffinity: {affinity},
                  externalTrafficPolicy: {external}, ports: [{{port: 80, nodePort: 30080}}]}}}}"
    ))
}

fn f1_shared_by_all_addresses(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Cluster")?;
    world.endpoints("web", &BOTH)?;
    for from in ["pod-2", "client"] {
        let one = world.served_by_one(from, Tcp, CLUSTER_IP, &BOTH)?;
        world.served(from, Tcp, AT_A, &[&one])?;
    }
    Ok(())
}

/// The time counts from the last new connection, on either side of it.
fn f2_timeout(world: &mut World) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    given_many(world, "timeoutSeconds: 2")?;
    eventually(SOON, || ask_many(world))?;
    let mut last = Instant::now();
    let mut kept = ask_many(world)?;
    let mut renewed = Duration::ZERO;
    while renewed <= TIMEOUT * 2 {
        thread::sleep(TIMEOUT / 4 * 3);
        let (begun, servers) = (Instant::now(), ask_many(world)?);
        let since = last.elapsed();
        // On a machine that is too slow to tell, it all begins again.
        if since < TIMEOUT {
            ensure!(servers == kept, "forgotten within {since:?}");
            renewed += begun - last;
        } else {
            renewed = Duration::ZERO;
        }
        (last, kept) = (begun, servers);
    }
    // The last one may be remembered a second longer.
    thread::sleep(TIMEOUT + Duration::from_millis(1500));
    let servers = ask_many(world)?;
    ensure!(servers != kept, "not forgotten");
    Ok(())
}

fn f2_default_and_limits(world: &mut World) -> Result<()> {
    for (config, seconds) in [
        ("", 10_800),
        ("timeoutSeconds: 1", 1),
        ("timeoutSeconds: 86400", 86_400),
    ] {
        given_many(world, config)?;
        eventually(SOON, || {
            let found = frontend(world, &many(0))?.affinity.timeout();
            ensure!(found == seconds, "{config:?} is {found} s");
            Ok(())
        })?;
    }
    for config in ["timeoutSeconds: 0", "timeoutSeconds: 86401"] {
        let taken = given_many(world, config);
        let refusal = taken.err().map(|error| format!("{error:#}"));
        let refusal = refusal.with_context(|| format!("the API server takes {config}"))?;
        ensure!(refusal.contains("timeoutSeconds"), "{refusal}");
    }
    Ok(())
}

/// How many ports [`given_many`] has: that a choice for all of them falls out the same twice happens
/// once in a million times.
const PORTS: u16 = 20;

/// A Service of many ports, each of which remembers for itself.
fn given_many(world: &mut World, config: &str) -> Result<()> {
    let list = |each: fn(u16) -> String| (1..=PORTS).map(each).collect::<Vec<_>>().join(", ");
    let ports = list(|n| format!("{{name: p{n}, port: {n}}}"));
    let numbers = list(|n| format!("{{name: p{n}, port: {POD_PORT}}}"));
    world.given(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: many}},
          spec: {{clusterIP: 10.96.1.2, sessionAffinity: ClientIP,
                  sessionAffinityConfig: {{clientIP: {{{config}}}}}, ports: [{ports}]}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
  metadata: {{name: many, labels: {{kubernetes.io/service-name: many}}}}, ports: [{numbers}],
  endpoints: [{{addresses: [10.1.1.1], nodeName: node-a}},
              {{addresses: [10.1.2.1], nodeName: node-b}}]}}"
    ))
}

fn many(n: u16) -> String {
    format!("10.96.1.2:{}", n + 1)
}

/// Who answers pod-2 at each of the many ports.
fn ask_many(world: &World) -> Result<Vec<String>> {
    (0..PORTS)
        .map(|n| Ok(world.ask("pod-2", Tcp, &many(n))?.server))
        .collect()
}

/// Outside clients of a policy `Local` are not kept on an endpoint elsewhere.
fn f3_another_list(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Local")?;
    world.endpoints("web", &["pod-3"])?;
    world.served("client", Tcp, CLUSTER_IP, &["pod-3"])?;
    world.endpoints("web", &BOTH)?;
    world.served("client", Tcp, AT_A, &["pod-1"])?;
    // And that is who is remembered.
    world.served("client", Tcp, CLUSTER_IP, &["pod-1"])
}

/// Clients outside appear to an endpoint elsewhere as node-a, and yet are remembered each by itself,
/// whichever of its ports it comes from.
fn f4_before_translation(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Cluster")?;
    world.endpoints("web", &BOTH)?;
    world.served_by_one("client", Tcp, AT_A, &BOTH)?;
    let addresses: Vec<_> = (100..120)
        .map(|host| Ipv4Addr::new(10, 10, 0, host))
        .collect();
    let lines = |verb: &str| -> String {
        let line = |address| format!("addr {verb} {address}/24 dev eth0\n");
        addresses.iter().map(line).collect()
    };
    let client = world.cluster.netns("client")?;
    client.ip(&lines("add"))?;
    let outcome = each_by_itself(world, &addresses);
    client.ip(&lines("del"))?;
    outcome
}

fn each_by_itself(world: &World, addresses: &[Ipv4Addr]) -> Result<()> {
    let client = world.cluster.netns("client")?;
    let node = world.cluster.address("node-a", Family::V4)?;
    let mut servers = BTreeMap::new();
    for address in addresses.iter().cycle().take(addresses.len() * 8) {
        let from = SocketAddr::from((*address, 0));
        let mut flow = Conversation::open_from(client, Tcp, AT_A.parse()?, from)?;
        let answer = flow.ask()?;
        let seen = answer.client.ip();
        match &*answer.server {
            "pod-3" => ensure!(seen == node, "pod-3 sees {seen}"),
            _ => ensure!(
                seen == *address,
                "{} sees {seen} for {address}",
                answer.server
            ),
        }
        let first = servers.entry(address).or_insert(answer.server.clone());
        ensure!(
            *first == answer.server,
            "{address} had {first}, and {}",
            answer.server
        );
    }
    let all: BTreeSet<_> = servers.values().map(String::as_str).collect();
    ensure!(all == BOTH.into(), "all of {} have {all:?}", servers.len());
    Ok(())
}

fn f5_off_forgets(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Cluster")?;
    world.endpoints("web", &BOTH)?;
    world.served_by_one("pod-2", Tcp, CLUSTER_IP, &BOTH)?;
    given(world, "None", "Cluster")?;
    world.served("pod-2", Tcp, CLUSTER_IP, &BOTH)
}

fn f6_endpoint_goes(world: &mut World) -> Result<()> {
    given(world, "ClientIP", "Cluster")?;
    world.endpoints("web", &BOTH)?;
    let one = world.served_by_one("pod-2", Tcp, CLUSTER_IP, &BOTH)?;
    let other = if one == "pod-1" { "pod-3" } else { "pod-1" };
    world.endpoints("web", &[other])?;
    world.served("pod-2", Tcp, CLUSTER_IP, &[other])?;
    // Back again, it is not who the client is kept on.
    world.endpoints("web", &BOTH)?;
    let kept = world.served_by_one("pod-2", Tcp, CLUSTER_IP, &BOTH)?;
    ensure!(kept == other, "{kept} has the client of {other}");
    Ok(())
}

/// However its lists change, a port remembers one endpoint of a client: who answers it.
fn f7_one_endpoint(world: &mut World) -> Result<()> {
    const LISTS: [&[&str]; 4] = [
        &["pod-1", "pod-3"],
        &["pod-1 terminating", "pod-3"],
        &["pod-1"],
        &["pod-1 zones=zone-b", "pod-3 zones=zone-a"],
    ];
    for external in ["Cluster", "Local"] {
        for endpoints in LISTS {
            given(world, "ClientIP", external)?;
            world.endpoints("web", endpoints)?;
            for to in [CLUSTER_IP, AT_A] {
                world.served_by_one("client", Tcp, to, &BOTH)?;
            }
            let answers = world.served_by_one("pod-2", Tcp, CLUSTER_IP, &BOTH)?;
            let answers = world.cluster.address(&answers, Family::V4)?.to_string();
            let known = remembered(world, "pod-2")?;
            ensure!(known == [answers], "pod-2 is remembered to have {known:?}");
            let known = remembered(world, "client")?;
            ensure!(
                known.len() == 1,
                "the client is remembered to have {known:?}"
            );
        }
    }
    Ok(())
}

/// The addresses of the endpoints that node-a remembers a client of [`CLUSTER_IP`] to have.
fn remembered(world: &World, client: &str) -> Result<Vec<String>> {
    let client: V4 = of(world.cluster.address(client, Family::V4)?)?;
    let service = frontend(world, CLUSTER_IP)?.service;
    let rows = world.map::<ClientKey<V4>, Remembered>("node-a", AFFINITY4)?;
    let shown = world.lbctl("node-a", &["maps", "dump", "backends"])?;
    let backends = shown["backends"].as_array().context("no backends")?;
    let mut addresses = Vec::new();
    for row in &rows {
        let (key, memory) = row?;
        if (key.client, key.service) == (client, service) {
            let backend = backends.iter().find(|it| it["index"] == memory.backend);
            let address = backend.and_then(|backend| backend["address"].as_str());
            addresses.push(address.unwrap_or("nobody").to_owned());
        }
    }
    Ok(addresses)
}

/// The frontend that node-a has at a TCP port.
fn frontend(world: &World, at: &str) -> Result<Frontend> {
    let at = address(at)?;
    let key = FrontendKey::new(of::<V4>(at.ip())?, Port::new(at.port()), proto::TCP);
    Ok(world.map("node-a", FRONTENDS4)?.get(&key, 0)?)
}

fn of<A: Addr>(ip: IpAddr) -> Result<A> {
    A::from_ip(ip).with_context(|| format!("{ip} is of the other family"))
}

fn f8_udp(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, sessionAffinity: ClientIP,
                 ports: [{name: udp, protocol: UDP, port: 80}]}}",
    )?;
    world.endpoints("web", &BOTH)?;
    world
        .served_by_one("pod-2", Udp, CLUSTER_IP, &BOTH)
        .map(drop)
}

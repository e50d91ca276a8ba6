//! J: how changes come into force.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData};
use lb_common::{
    Port, V4,
    maps::{FRONTENDS_MAX, FRONTENDS4},
    proto,
    service::{Frontend, FrontendKey},
};
use serde_json::{Value, json};
use tests::{
    checks::Check,
    cluster::{NODES, eventually},
    echo::Protocol::Tcp,
    talk::Conversation,
    topology::Family,
};

use crate::{
    objects,
    world::{SOON, World, row},
};

const WEB: &str = "10.96.1.1:80";
const WEB_FRONTEND: &str = "10.96.1.1:80/TCP";
/// From the last audit to what the next one has done.
const AUDITED: Duration = Duration::from_secs(75);
const OPERATIONS: &str = "fairlead_map_operations_total";

type Frontends = HashMap<MapData, FrontendKey<V4>, Frontend>;

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("j1_lone_change_at_once", j1_lone_change_at_once),
        row("j1_changes_that_wait_go_together", j1_together),
        row("j2_failures_are_tried_again", j2_failures_are_tried_again),
        row("j3_audit_repairs", j3_audit_repairs),
        row("j4_only_what_changed", j4_only_what_changed),
        row("j5_never_half_programmed", j5_never_half_programmed),
        row("j6_removed_rows_come_back", j6_removed_rows_come_back),
        row("j7_cost_of_a_change", j7_cost_of_a_change),
        row("j8_rest_before_reuse", j8_rest_before_reuse),
        row("j9_new_agent_takes_over", j9_new_agent_takes_over),
        row("j10_programming_latency", j10_programming_latency),
        row("j11_address_passes_on", j11_address_passes_on),
        row("j11_endpoint_passes_on", j11_endpoint_passes_on),
    ]
}

/// A Service at a cluster IP, on port 80.
fn service(name: &str, cluster_ip: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}},
          spec: {{clusterIP: {cluster_ip}, ports: [{{port: 80}}]}}}}"
    )
}

fn web(world: &mut World, endpoints: &[&str]) -> Result<()> {
    world.given(&service("web", "10.96.1.1"))?;
    world.endpoints("web", endpoints)?;
    NODES.iter().try_for_each(|node| {
        eventually(SOON, || {
            let backends = world.backends(node, WEB_FRONTEND)?;
            ensure!(backends.len() == endpoints.len(), "{node} has {backends:?}");
            Ok(())
        })
    })
}

fn j1_lone_change_at_once(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    let mut times = Vec::new();
    for pod in ["pod-3", "pod-1", "pod-3", "pod-1", "pod-3"] {
        world.endpoints("web", &[pod])?;
        let written = Instant::now();
        eventually(SOON, || {
            let server = world.ask("pod-2", Tcp, WEB)?.server;
            ensure!(server == pod, "{server} answers");
            Ok(())
        })?;
        times.push(written.elapsed());
    }
    times.sort();
    // kube-proxy waits a second between changes.
    ensure!(times[2] < Duration::from_millis(500), "{times:?}");
    Ok(())
}

fn j1_together(world: &mut World) -> Result<()> {
    const SYNCS: &str = "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    let before = world.metric("node-a", SYNCS)?;
    let names: Vec<String> = (1..=30).map(|number| format!("web-{number}")).collect();
    world.with_agent_stopped("node-a", |world| {
        names.iter().enumerate().try_for_each(|(number, name)| {
            world.given(&service(name, &format!("10.96.1.{}", number + 1)))
        })
    })?;
    world.programmed(&["10.96.1.1:80/TCP", "10.96.1.30:80/TCP"])?;
    let syncs = world.metric("node-a", SYNCS)? - before;
    ensure!(syncs <= 10, "{syncs} passes for 30 changes");
    Ok(())
}

/// Fills the frontends of a node to the last, as a broken neighbour might.
fn j2_failures_are_tried_again(world: &mut World) -> Result<()> {
    const FAILURES: &str = "fairlead_map_operation_failures_total";
    // The next audit, which would clear them away, is a minute off from here.
    world.restart("node-b", &[])?;
    let mut frontends: Frontends = world.map("node-b", FRONTENDS4)?;
    let strangers: Vec<_> = (0..=FRONTENDS_MAX)
        .map(|number| key((0xF000_0000 + number).to_be_bytes(), 9))
        .take_while(|key| frontends.insert(key, &Frontend::default(), 0).is_ok())
        .collect();
    let filled = (|| -> Result<()> {
        world.given(&service("web", "10.96.1.1"))?;
        let mut last = eventually(SOON, || {
            let failures = world.metric("node-b", FAILURES)?;
            ensure!(failures > 0, "nothing has failed");
            Ok((failures, Instant::now()))
        })?;
        world.problem("node-b", &["default/web"])?;
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let next = eventually(SOON, || {
                let failures = world.metric("node-b", FAILURES)?;
                ensure!(failures > last.0, "it is not tried again");
                Ok((failures, Instant::now()))
            })?;
            pauses.push(next.1 - last.1);
            last = next;
        }
        ensure!(pauses[3] > pauses[0], "tries at intervals of {pauses:?}");
        Ok(())
    })();
    strangers.iter().try_for_each(|key| frontends.remove(key))?;
    filled?;
    world.programmed_on("node-b", &[WEB_FRONTEND])
}

fn key(address: [u8; 4], port: u16) -> FrontendKey<V4> {
    FrontendKey::new([u32::from_ne_bytes(address)], Port::new(port), proto::TCP)
}

/// Removes a frontend and adds one nobody asked for.
fn damage(world: &World, node: &str) -> Result<()> {
    let mut frontends: Frontends = world.map(node, FRONTENDS4)?;
    frontends.remove(&key([10, 96, 1, 1], 80))?;
    frontends.insert(&key([10, 96, 77, 77], 80), &Frontend::default(), 0)?;
    world.absent_on(node, &[WEB_FRONTEND])
}

fn repaired(world: &World, node: &str, within: Duration) -> Result<()> {
    eventually(within, || {
        let present = world.frontends(node)?;
        let foreign = present.contains_key("10.96.77.77:80/TCP");
        ensure!(
            present.contains_key(WEB_FRONTEND),
            "{WEB_FRONTEND} is not back"
        );
        ensure!(!foreign, "a foreign frontend is still there");
        Ok(())
    })
}

fn j3_audit_repairs(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    damage(world, "node-a")?;
    repaired(world, "node-a", AUDITED)?;
    world.served("pod-2", Tcp, WEB, &["pod-1"])?;
    let repairs = world.metric("node-a", "fairlead_audit_repaired_entries_total")?;
    ensure!(repairs >= 2, "{repairs} repairs");
    Ok(())
}

fn j4_only_what_changed(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    world.given(&service("other", "10.96.1.2"))?;
    world.endpoints("other", &["pod-1", "pod-2", "pod-3"])?;
    world.settled()?;
    let row = |world: &World| -> Result<Value> {
        let frontends = world.frontends("node-a")?;
        let other = frontends.get("10.96.1.2:80/TCP").cloned();
        other.context("no frontend of the other Service")
    };
    let before = row(world)?;
    let alone = world.operations(|_| Ok(()))?;
    let change = world.operations(|world| world.endpoints("web", &["pod-3"]))?;
    ensure!(row(world)? == before, "the other Service was written anew");
    // What belongs to one frontend: a backend in and one out, slots, the frontend itself.
    let cost = change - alone;
    ensure!(
        (1..=16).contains(&cost),
        "{cost} operations for one endpoint"
    );
    Ok(())
}

fn j5_never_half_programmed(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    let lists: [&[&str]; 4] = [
        &["pod-3"],
        &["pod-1", "pod-3"],
        &["pod-1"],
        &["pod-2", "pod-3"],
    ];
    for list in lists.iter().cycle().take(24) {
        world.endpoints("web", list)?;
        for from in ["pod-2", "client", "node-a"] {
            for _ in 0..5 {
                world.ask(from, Tcp, WEB)?;
            }
        }
    }
    Ok(())
}

fn j6_removed_rows_come_back(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    damage(world, "node-b")?;
    // A new agent compares at its start; one that runs does within a minute (J3).
    world.restart("node-b", &[])?;
    repaired(world, "node-b", SOON)?;
    world.served("pod-3", Tcp, WEB, &["pod-1"])
}

fn j7_cost_of_a_change(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    let flip = |world: &mut World| -> Result<()> {
        world.endpoints("web", &["pod-3"])?;
        world.settled()?;
        world.endpoints("web", &["pod-1"])
    };
    let few = world.operations(flip)?;
    for number in 0..5_u8 {
        let name = format!("big-{number}");
        world.given(&service(&name, &format!("10.96.2.{number}")))?;
        let endpoints: Vec<Value> = (0..=250)
            .map(|host| json!({ "addresses": [format!("10.1.{}.{host}", 100 + number)] }))
            .collect();
        world.apply(vec![json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "ports": [{ "port": 8080 }],
            "endpoints": endpoints,
        })])?;
    }
    let many = world.operations(flip)?;
    ensure!(
        few == many,
        "{few} operations among few endpoints, {many} among many"
    );
    Ok(())
}

fn j8_rest_before_reuse(world: &mut World) -> Result<()> {
    /// A little less than the five seconds that things rest.
    const REST: Duration = Duration::from_secs(4);
    web(world, &["pod-1", "pod-3"])?;
    let mut used: Vec<(Instant, Value, Value)> = Vec::new();
    let mut compared = 0;
    for pod in ["pod-2", "pod-1", "pod-3", "pod-2"] {
        web(world, &[pod])?;
        let address = world.cluster.address(pod, Family::V4)?;
        let row = eventually(SOON, || {
            let row = world.frontends("node-a")?[WEB_FRONTEND]["inside"].clone();
            let backend = &row["backends"][0];
            ensure!(backend["address"] == address.to_string(), "{backend}");
            Ok((row["firstSlot"].clone(), backend["index"].clone()))
        })?;
        for (seen, slot, index) in &used {
            if seen.elapsed() < REST {
                ensure!(*slot != row.0, "slot {slot} again");
                ensure!(*index != row.1, "backend {index} again");
                compared += 1;
            }
        }
        used.push((Instant::now(), row.0, row.1));
    }
    ensure!(compared > 0, "too slow to see anything rest");
    Ok(())
}

fn j9_new_agent_takes_over(world: &mut World) -> Result<()> {
    web(world, &["pod-1", "pod-3"])?;
    let netns = world.cluster.netns("client")?;
    let mut open = (0..8)
        .map(|_| Ok(Conversation::open(netns, Tcp, WEB.parse()?, 0)?))
        .collect::<Result<Vec<_>>>()?;
    let mut servers = Vec::new();
    for connection in &mut open {
        servers.push(connection.ask()?.server);
    }
    let before = world.frontends("node-a")?;
    world.cluster.agent("node-a")?.kill();
    world.served("client", Tcp, WEB, &["pod-1", "pod-3"])?;
    world.restart("node-a", &[])?;
    ensure!(
        world.frontends("node-a")? == before,
        "services were written anew"
    );
    let written = world.metric("node-a", OPERATIONS)?;
    ensure!(written == 0, "the new agent wrote {written} times");
    for (connection, server) in open.iter_mut().zip(servers) {
        let now = connection.ask()?.server;
        ensure!(now == server, "a connection moved from {server} to {now}");
    }
    world.endpoints("web", &["pod-2"])?;
    world.served("client", Tcp, WEB, &["pod-2"])
}

fn j10_programming_latency(world: &mut World) -> Result<()> {
    const COUNT: &str = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    web(world, &["pod-1"])?;
    let before = world.metric("node-a", COUNT)?;
    let mut slice = objects::slice(&world.cluster.topology, "web", Family::V4, &["pod-3"])?;
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    slice["metadata"]["annotations"] =
        json!({ "endpoints.kubernetes.io/last-change-trigger-time": now });
    world.apply(vec![slice])?;
    world.served("pod-2", Tcp, WEB, &["pod-3"])?;
    eventually(SOON, || {
        let counted = world.metric("node-a", COUNT)? - before;
        ensure!(counted == 1, "{counted} are counted");
        Ok(())
    })
}

fn j11_address_passes_on(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    world.endpoints("heir", &["pod-3"])?;
    world.served("pod-2", Tcp, WEB, &["pod-1"])?;
    world.with_agent_stopped("node-a", |world| {
        world.delete("service", "web")?;
        eventually(SOON, || world.given(&service("heir", "10.96.1.1")))
    })?;
    passes(world, WEB, "pod-1", "pod-3")
}

fn j11_endpoint_passes_on(world: &mut World) -> Result<()> {
    web(world, &["pod-1"])?;
    world.given(&service("other", "10.96.1.2"))?;
    world.endpoints("other", &["pod-3"])?;
    world.served("pod-2", Tcp, "10.96.1.2:80", &["pod-3"])?;
    world.with_agent_stopped("node-a", |world| {
        world.endpoints("web", &["pod-3"])?;
        world.endpoints("other", &["pod-1"])
    })?;
    passes(world, WEB, "pod-1", "pod-3")?;
    passes(world, "10.96.1.2:80", "pod-3", "pod-1")
}

/// What one served, the other does soon, and nobody is refused in between.
fn passes(world: &World, to: &str, old: &str, new: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let server = world.ask("pod-2", Tcp, to)?.server;
        if server == new {
            return world.served("pod-2", Tcp, to, &[new]);
        }
        ensure!(server == old, "{server} answers at {to}");
        ensure!(started.elapsed() < SOON, "{old} still answers at {to}");
    }
}

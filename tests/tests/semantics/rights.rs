//! K6, K14: the rights an agent needs.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    checks::Check,
    cluster::eventually,
    echo::Protocol::Tcp,
    kube::{ADDRESS, documents},
};

use crate::{
    agents::text,
    world::{SOON, World, row},
};

const NODE: &str = "node-b";
const WEB: &str = "10.96.1.1:80";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("k6_init_only", k6_init_only),
        row("k14_rights_of_the_deployment", k14_rights),
    ]
}

fn given(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}",
    )?;
    world.endpoints("web", &["pod-3"])
}

/// Runs what follows as a container is run: kernel parameters are there to be read, and of root's
/// rights there is what `deploy/` grants.
const CONFINED: [&str; 14] = [
    "unshare",
    "--mount",
    "sh",
    "-euc",
    "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec \"$@\"",
    "sh",
    "setpriv",
    "--clear-groups",
    "--bounding-set",
    "-all,+bpf,+net_admin,+perfmon",
    "--inh-caps",
    "-all",
    "--no-new-privs",
    "--",
];

/// What a confined agent cannot do is done before it, by one that is not and needs nothing else.
fn k6_init_only(world: &mut World) -> Result<()> {
    const SYSCTL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
    given(world)?;
    let wanted = ["--conntrack-tcp-timeout-established", "23h"];
    let options = [&["--node-name", NODE], &wanted[..]].concat();
    let launch = |world: &World| world.cluster.launch_by(&CONFINED, NODE, &options);
    let said = world.refuses(&CONFINED, NODE, &options)?;
    ensure!(
        said.contains("cannot set") && said.contains(SYSCTL),
        "{said}"
    );

    let dir = world.cluster.topology.node(NODE)?.dir.join("init");
    let dir = text(dir.as_os_str())?;
    let init = ["run", "--init-only", "--bpffs", &dir];
    world.lb_agent(NODE, &[&init, &wanted[..]].concat())?;
    let netns = world.cluster.netns(NODE)?;
    let set = netns.run(|| fs::read_to_string(SYSCTL))??;
    ensure!(set.trim() == "82800", "{SYSCTL} is {set}");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = format!(" {dir} bpf ");
    ensure!(mounts.contains(&mount), "nothing is mounted at {dir}");

    world.with_agent(NODE, launch, |world| {
        world.served("pod-3", Tcp, WEB, &["pod-3"])?;
        let problems = world.status(NODE)?["problems"].clone();
        ensure!(problems == json!([]), "{problems}");
        Ok(())
    })
}

/// The role of `deploy/`, for a user of the same name.
fn role(without: Option<&str>) -> Result<Vec<Value>> {
    let text = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/base/rbac.yaml"
    ))?;
    let role = documents(&text)?;
    let role = role.into_iter().find(|it| it["kind"] == "ClusterRole");
    let mut role = role.context("deploy/ has no role")?;
    let rules = role["rules"].as_array_mut().context("no rules")?;
    for rule in rules {
        let resources = rule["resources"].as_array_mut().context("no resources")?;
        resources.retain(|resource| resource.as_str() != without);
    }
    let name = role["metadata"]["name"].clone();
    let of = json!("rbac.authorization.k8s.io");
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": of, "kind": "ClusterRole", "name": name },
        "subjects": [{ "apiGroup": of, "kind": "User", "name": name }],
    });
    Ok(vec![role, binding])
}

/// With them nothing is refused; `tests/tests/kube/deploy` takes each away in turn.
fn k14_rights(world: &mut World) -> Result<()> {
    given(world)?;
    world.apply(role(None)?)?;
    let node = world.cluster.topology.node(NODE)?;
    world.cluster.source.reach_as("fairlead", node, ADDRESS)?;
    let outcome = with_rights(world);
    let node = world.cluster.topology.node(NODE)?;
    world.cluster.source.reach_by(node, ADDRESS)?;
    let restored = world.restart(NODE, &[]);
    outcome.and(restored)
}

fn with_rights(world: &mut World) -> Result<()> {
    world.restart(NODE, &[])?;
    world.served("pod-3", Tcp, WEB, &["pod-3"])?;
    eventually(SOON, || {
        let events = world.requests(NODE, "201", "POST")?;
        ensure!(events == 1, "{events} Events are told");
        Ok(())
    })?;
    let refused = world.requests(NODE, "403", "GET")?;
    ensure!(refused == 0, "{refused} requests are refused");
    let problems = world.status(NODE)?["problems"].clone();
    ensure!(problems == json!([]), "{problems}");
    world.apply(role(Some("nodes"))?)?;
    world.restart(NODE, &[])?;
    world.problem(NODE, &["nodes", "is forbidden"])?;
    let refused = world.requests(NODE, "403", "GET")?;
    ensure!(refused > 0, "no request is refused");
    Ok(())
}

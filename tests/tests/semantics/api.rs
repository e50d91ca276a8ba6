//! A16 to A18: what the API server says when, and does not say.

use anyhow::{Result, ensure};
use tests::{
    checks::Check, cluster::eventually, echo::Protocol::Tcp, kube::ADDRESS, talk::Conversation,
};

use crate::world::{SOON, World, row};

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row(
            "a16_nothing_before_both_lists",
            a16_nothing_before_both_lists,
        ),
        row("a17_unused_changes_cost_nothing", a17_unused_changes),
        row("a18_api_server_away", a18_api_server_away),
    ]
}

const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web},
    spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}";

/// An agent that may read Services, and for the time being nothing else.
fn a16_nothing_before_both_lists(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    world.endpoints("web", &["pod-1"])?;
    world.served("pod-3", Tcp, "10.96.1.1:80", &["pod-1"])?;
    world.cluster.agent("node-b")?.stop()?;
    world.given(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: half},
          rules: [{apiGroups: [''], resources: [services], verbs: [list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: half},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: half},
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: half}]}",
    )?;
    world.given(
        &WEB.replace("10.96.1.1", "10.96.1.2")
            .replace("name: web", "name: late"),
    )?;
    world.endpoints("late", &["pod-3"])?;
    world.endpoints("web", &["pod-2"])?;
    let node = world.cluster.topology.node("node-b")?;
    world.cluster.source.reach_as("half", node, ADDRESS)?;
    let outcome = half_then_whole(world);
    let node = world.cluster.topology.node("node-b")?;
    world.cluster.source.reach_by(node, ADDRESS)?;
    let restored = world.restart("node-b", &[]);
    outcome.and(restored)
}

fn half_then_whole(world: &mut World) -> Result<()> {
    let agent = world.cluster.launch("node-b", &[])?;
    world.cluster.agents.insert("node-b", agent);
    // It has been refused the slices, and knows the Services by then.
    world.problem("node-b", &["endpointslices"])?;
    let before = world.metric("node-b", "fairlead_map_operations_total")?;
    ensure!(
        before == 0,
        "{before} operations before everything is known"
    );
    let late = ["10.96.1.2:80/TCP"];
    world.absent_on("node-b", &late)?;
    world.served("pod-3", Tcp, "10.96.1.1:80", &["pod-1"])?;
    world.given(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: half},
          rules: [{apiGroups: [''], resources: [services, nodes], verbs: [get, list, watch]},
                  {apiGroups: [discovery.k8s.io], resources: [endpointslices],
                   verbs: [list, watch]},
                  {apiGroups: [networking.k8s.io], resources: [servicecidrs],
                   verbs: [list, watch]}]}",
    )?;
    world.programmed_on("node-b", &late)?;
    world.served("pod-3", Tcp, "10.96.1.1:80", &["pod-2"])?;
    world.served("pod-3", Tcp, "10.96.1.2:80", &["pod-3"])
}

fn a17_unused_changes(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    world.endpoints("web", &["pod-1"])?;
    world.settled()?;
    let marker = world.operations(|_| Ok(()))?;
    let noise = world.operations(|world| {
        world.given(&WEB.replace(
            "name: web",
            "name: web, annotations: {note: b}, labels: {x: b}",
        ))?;
        world.given(&WEB.replace(
            "{port: 80}",
            "{port: 80, targetPort: 8080, appProtocol: http}",
        ))?;
        let control = &world.cluster.source.control;
        for (kind, name) in [("service", "web"), ("endpointslice", "web-4")] {
            control.kubectl(&["annotate", "--overwrite", kind, name, "note=c"], "")?;
        }
        Ok(())
    })?;
    ensure!(
        noise == marker,
        "{noise} operations, {marker} without the changes"
    );
    Ok(())
}

fn a18_api_server_away(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    world.endpoints("web", &["pod-1"])?;
    world.served("client", Tcp, "10.96.1.1:80", &["pod-1"])?;
    let netns = world.cluster.netns("client")?;
    let mut open = Conversation::open(netns, Tcp, "10.96.1.1:80".parse()?, 0)?;
    open.ask()?;
    world.cluster.source.control.kill_api_server();
    let away = (|| -> Result<()> {
        world.problem("node-a", &["API server"])?;
        world.served("client", Tcp, "10.96.1.1:80", &["pod-1"])?;
        world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
        open.ask()?;
        Ok(())
    })();
    world.cluster.source.control.start_api_server()?;
    away?;
    world.endpoints("web", &["pod-3"])?;
    world.served("client", Tcp, "10.96.1.1:80", &["pod-3"])?;
    let server = open.ask()?.server;
    ensure!(server == "pod-1", "the connection moved to {server}");
    eventually(SOON, || {
        let status = world.status("node-a")?;
        let problems = status["problems"].to_string();
        ensure!(!problems.contains("API server"), "still {problems}");
        Ok(())
    })
}

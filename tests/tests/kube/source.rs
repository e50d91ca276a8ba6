//! What the agent makes of the API server: what it is told of objects, and what of outages.

mod outage;
mod told;

use std::fs;

use anyhow::{Result, ensure};
use lb_userspace::{
    model::ObjectName,
    source::kubernetes::{Access, Event, Recorder, Requests},
};
use serde_json::json;
use tests::{
    checks::Check,
    cluster::eventually,
    kube::{ADDRESS, objects::Pod},
};

use self::told::{PROXY, SOON, Told, delete, port, service, slice};
use crate::World;

pub(crate) fn checks() -> Vec<Check<World>> {
    vec![
        Check::new("source::a16_first_batch_is_complete", first_batch),
        Check::new("source::a1_other_proxies_services", other_proxy),
        Check::new("source::a2_headless_slices", headless_slices),
        Check::new("source::a3_headless_services", headless_services),
        Check::new("source::a17_only_what_changed", only_what_changed),
        Check::new("source::e6_service_networks", service_networks),
        Check::new("source::c13_node", node),
        Check::new("source::pods_that_ask_to_be_left_to_tc", pods),
        Check::new("source::k14_without_rights", without_rights),
        Check::new("source::k14_token_rotated", token_rotated),
        Check::new("source::k15_events", events),
        Check::new("source::slow_server", outage::slow_server),
        Check::new("source::silent_server", outage::silent_server),
        Check::new("source::connection_cut", outage::connection_cut),
        Check::new(
            "source::a18_killed_and_compacted",
            outage::killed_and_compacted,
        ),
        Check::new(
            "source::a18_certificate_replaced",
            outage::certificate_replaced,
        ),
    ]
}

/// With a server that does not stream lists.
pub(crate) fn checks_of_pages() -> Vec<Check<World>> {
    vec![Check::new("source::a16_pages", pages)]
}

fn first_batch(world: &mut World) -> Result<()> {
    let control = &world.control;
    let names: Vec<String> = (0..20).map(|n| format!("first-{n}")).collect();
    let objects = names
        .iter()
        .map(|name| service(name, 80) + &slice(name, "10.1.1.1"));
    control.apply_yaml(&objects.collect::<String>())?;
    let mut told = Told::start(control, control.kubeconfig(PROXY, None, ADDRESS)?)?;
    let first = eventually(SOON, || Ok(told.batches.try_recv()?))?;
    ensure!(!first.unseen, "the first batch is {:?}", first.problems);
    told.take(first);
    for name in &names {
        told.has(&format!("Service default/{name}"), &port(80))?;
        told.has(&format!("Slice default/{name}-1"), "10.1.1.1")?;
    }
    told.has("Networks", "10.96.0.0/16")?;
    ensure!(told.gone == ["Node"], "gone: {:?}", told.gone);
    // The API server's own.
    told.has("Service default/kubernetes", &port(443))
}

/// More slices than fit on a page; then what changes.
fn pages(world: &mut World) -> Result<()> {
    const COUNT: usize = 1100;
    let control = &world.control;
    let slices = (0..COUNT).map(|n| slice(&format!("page-{n}"), "10.1.1.1"));
    control.kubectl(&["create", "-f", "-"], &slices.collect::<String>())?;
    let mut told = Told::proxy(control, ADDRESS)?;
    let is_ours = |key: &&String| key.starts_with("Slice default/page-");
    let found = told.objects.keys().filter(is_ours).count();
    ensure!(found == COUNT, "{found} slices");
    delete(control, "endpointslice", "page-0-1")?;
    told.until_gone("Slice default/page-0-1")?;
    told.until_well(SOON)
}

fn other_proxy(world: &mut World) -> Result<()> {
    let control = &world.control;
    let label = "service.kubernetes.io/service-proxy-name";
    control.apply_yaml(&service("other", 80))?;
    let mut told = Told::proxy(control, ADDRESS)?;
    told.until_has("Service default/other", &port(80))?;
    control.kubectl(&["label", "service", "other", &format!("{label}=")], "")?;
    told.until_gone("Service default/other")?;
    control.kubectl(&["label", "service", "other", &format!("{label}-")], "")?;
    told.until_has("Service default/other", &port(80))
}

fn headless_slices(world: &mut World) -> Result<()> {
    let control = &world.control;
    let label = "service.kubernetes.io/headless";
    control.apply_yaml(&(service("slices", 80) + &slice("slices", "10.1.1.2")))?;
    let mut told = Told::proxy(control, ADDRESS)?;
    let key = "Slice default/slices-1";
    told.until_has(key, "10.1.1.2")?;
    control.kubectl(
        &["label", "endpointslice", "slices-1", &format!("{label}=")],
        "",
    )?;
    told.until_gone(key)?;
    told.has("Service default/slices", &port(80))?;
    control.kubectl(
        &["label", "endpointslice", "slices-1", &format!("{label}-")],
        "",
    )?;
    told.until_has(key, "10.1.1.2")
}

fn headless_services(world: &mut World) -> Result<()> {
    let control = &world.control;
    let mut told = Told::proxy(control, ADDRESS)?;
    let headless = service("headless", 80).replace("spec: {", "spec: {clusterIP: None, ");
    control.apply_yaml(&(headless + &service("witness", 80)))?;
    told.until_has("Service default/witness", &port(80))?;
    let key = "Service default/headless";
    ensure!(!told.objects.contains_key(key), "{key} is there");
    Ok(())
}

fn only_what_changed(world: &mut World) -> Result<()> {
    let control = &world.control;
    control.apply_yaml(&service("changing", 80))?;
    let mut told = Told::proxy(control, ADDRESS)?;
    told.until_has("Service default/changing", &port(80))?;
    let before = told.count;
    control.kubectl(&["annotate", "service", "changing", "note=none"], "")?;
    control.apply_yaml(&service("changing", 81))?;
    told.until_has("Service default/changing", &port(81))?;
    // Server-side apply of another list of ports is one write.
    let batches = told.count - before;
    ensure!(batches == 1, "{batches} batches for one change");
    Ok(())
}

fn service_networks(world: &mut World) -> Result<()> {
    let control = &world.control;
    let mut told = Told::proxy(control, ADDRESS)?;
    told.until_has("Networks", "10.96.0.0/16")?;
    control.apply_yaml(
        "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more}, \
         spec: {cidrs: [10.98.0.0/24]}}",
    )?;
    told.until_has("Networks", "10.98.0.0/24")?;
    delete(control, "servicecidr", "more")?;
    told.until(SOON, |told| {
        ensure!(
            !told.objects["Networks"].contains("10.98"),
            "10.98.0.0/24 is there"
        );
        Ok(())
    })
}

/// Of the Pods of our node those that are annotated, and no others.
fn pods(world: &mut World) -> Result<()> {
    let control = &world.control;
    let pod = |name, node, address: [u8; 4]| Pod {
        name,
        node,
        addresses: vec![address.into()],
        ..Pod::default()
    };
    let asks = |pod: &Pod<'_>| {
        let mut object = pod.object();
        object["metadata"]["annotations"] = json!({ "fairlead.dev/socket-lb": "off" });
        object
    };
    let (ours, plain, other) = (
        pod("left", "source-node", [10, 1, 1, 7]),
        pod("plain", "source-node", [10, 1, 1, 8]),
        pod("elsewhere", "another-node", [10, 1, 2, 7]),
    );
    control.apply(&[asks(&ours), plain.object(), asks(&other)])?;
    let admin = control.kubeconfig("pods", Some("system:masters"), ADDRESS)?;
    let mut told = Told::start_with(control, admin, true)?;
    told.until_has("Pod default/left", "10.1.1.7")?;
    let keys = told.objects.keys();
    let keys: Vec<_> = keys.filter(|key| key.starts_with("Pod ")).collect();
    ensure!(keys == ["Pod default/left"], "told of {keys:?}");
    control.apply(&[asks(&plain)])?;
    told.until_has("Pod default/plain", "10.1.1.8")?;
    control.kubectl(&["annotate", "pod", "left", "fairlead.dev/socket-lb-"], "")?;
    told.until_gone("Pod default/left")?;
    control.delete(&[ours.object(), plain.object(), other.object()])?;
    told.until_gone("Pod default/plain")
}

fn node(world: &mut World) -> Result<()> {
    let control = &world.control;
    let mut told = Told::proxy(control, ADDRESS)?;
    let node = tests::kube::objects::Node {
        name: "source-node",
        zone: Some("zone-1"),
        addresses: vec![[192, 0, 2, 7].into()],
        pod_cidrs: &["10.244.1.0/24"],
    };
    control.apply(&[node.object()])?;
    told.until_has("Node", "zone-1")?;
    told.until_has("Node", "192.0.2.7")?;
    control.kubectl(
        &[
            "label",
            "--overwrite",
            "node",
            "source-node",
            "topology.kubernetes.io/zone=zone-2",
        ],
        "",
    )?;
    told.until_has("Node", "zone-2")?;
    control.kubectl(
        &[
            "taint",
            "node",
            "source-node",
            "ToBeDeletedByClusterAutoscaler=1:NoSchedule",
        ],
        "",
    )?;
    told.until_has("Node", "eligible: false")?;
    delete(control, "node", "source-node")?;
    told.until_gone("Node")
}

/// Without any rights nothing is told but that; with those to what is vital, everything else is
/// waited for only for a while.
fn without_rights(world: &mut World) -> Result<()> {
    let control = &world.control;
    let kubeconfig = control.kubeconfig("nobody", None, ADDRESS)?;
    let mut told = Told::start(control, kubeconfig)?;
    told.until_problem(SOON, "has not given services since")?;
    told.until_problem(SOON, "has not given servicecidrs since")?;
    ensure!(told.count == 0, "something was told");
    let rule = |verb: &str, args: &[&str]| {
        control.kubectl(&[&["create", verb, "nobody"][..], args].concat(), "")
    };
    rule(
        "clusterrole",
        &[
            "--verb=list,watch",
            "--resource=services,endpointslices.discovery.k8s.io",
        ],
    )?;
    rule(
        "clusterrolebinding",
        &["--clusterrole=nobody", "--user=nobody"],
    )?;
    told.until_has("Service default/kubernetes", &port(443))?;
    told.until_problem(SOON, "has not given servicecidrs since")?;
    told.until_problem(SOON, "has not given nodes since")
}

/// A token that is refused is read again from its file.
fn token_rotated(world: &mut World) -> Result<()> {
    let control = &world.control;
    control.kubectl(&["create", "serviceaccount", "source"], "")?;
    control.kubectl(
        &[
            "create",
            "clusterrolebinding",
            "source",
            "--clusterrole=system:node-proxier",
            "--serviceaccount=default:source",
        ],
        "",
    )?;
    let account = control.account("default", "source")?;
    fs::write(account.dir().join("token"), "expired")?;
    let mut told = Told::start(control, account.kubeconfig(ADDRESS)?)?;
    told.until_problem(SOON, "Unauthorized")?;
    control.rotate_token(&account)?;
    told.until_has("Service default/kubernetes", &port(443))?;
    told.until_well(SOON)
}

/// Events are there to be seen, each once; they need no rights but a proxy's.
fn events(world: &mut World) -> Result<()> {
    let control = &world.control;
    let access = Access {
        kubeconfig: Some(control.kubeconfig(PROXY, None, ADDRESS)?),
        server: None,
    };
    let service = ObjectName::new("default", "kubernetes");
    control.inside().run(async {
        let recorder = Recorder::new(access, "source-node", Requests::default());
        for _ in 0..2 {
            recorder.publish(Event::starting("source-node"));
            recorder.publish(Event::health_check_failed(&service, "in use".to_owned()));
        }
    })?;
    let columns = "--output=custom-columns=:regarding.name,:reason,:action,:type,:note";
    let wanted = [
        "kubernetes FailedToStartServiceHealthcheck Listen Warning in use",
        "source-node Starting StartKubeProxy Normal Fairlead",
    ];
    eventually(SOON, || {
        let seen = control.kubectl(&["get", "events.v1.events.k8s.io", columns], "")?;
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = seen.lines().map(words).collect();
        for wanted in wanted {
            let found = lines.iter().filter(|line| line.starts_with(wanted)).count();
            ensure!(found == 1, "{found} of {wanted:?} in {lines:?}");
        }
        Ok(())
    })
}

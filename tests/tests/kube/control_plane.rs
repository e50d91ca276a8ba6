//! The control plane itself: it does what a cluster's does, and what tests have it suffer.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Config,
    api::{ListParams, VersionMatch},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tests::{
    checks::Check,
    cluster::eventually,
    kube::{ADDRESS, ControlPlane, KubeProxy, Mode, Part, Signer, objects},
    manifests::examples,
    netns::Netns,
    site::Site,
};

use crate::World;

/// How soon others have to have done their part, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: site}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: site}
  ports: [{name: http, port: 80, targetPort: http}]
";

pub(crate) fn checks() -> Vec<Check<World>> {
    vec![
        Check::new("control_plane::slices_follow_pods", slices),
        Check::new("control_plane::takes_the_examples", takes_the_examples),
        Check::new("control_plane::service_account", service_account),
        Check::new("control_plane::detour", detour),
        Check::new("control_plane::kube_proxy", kube_proxy),
        Check::new("control_plane::restart", restart),
        Check::new("control_plane::compaction", compaction),
        Check::new("control_plane::certificate", certificate),
        Check::new("control_plane::usage", usage),
    ]
}

/// A Service by kubectl and Pods by hand have slices of both families; a Pod that is deleted
/// terminates.
fn slices(world: &mut World) -> Result<()> {
    let control = &world.control;
    control.kubectl(&["apply", "--server-side", "-f", "-"], SERVICE)?;
    let pods = [("site-1", 1), ("site-2", 2)].map(|(name, number)| objects::Pod {
        name,
        node: "node-a",
        labels: &[("app", "site")],
        addresses: vec![
            [10, 1, 1, number].into(),
            [0xfd00, 1, 1, 0, 0, 0, 0, number.into()].into(),
        ],
        ports: &[("http", 8080)],
        ..objects::Pod::default()
    });
    // A Pod on a Node that is not there has no place in a slice.
    control.apply(&[node("node-a", [10, 10, 0, 1].into())])?;
    control.apply(&pods.map(|pod| pod.object()))?;
    let site = control.run(|client| async move {
        Api::<Service>::namespaced(client, "default")
            .get("site")
            .await
    })?;
    let ips = site
        .spec
        .and_then(|spec| spec.cluster_ips)
        .unwrap_or_default();
    let [v4, v6] = &ips[..] else {
        bail!("site has the cluster IPs {ips:?}");
    };
    ensure!(
        v4.starts_with("10.96.") && v6.starts_with("fd00:96::"),
        "{ips:?}"
    );
    let expect = |wanted: &[&str]| {
        eventually(SOON, || {
            let found = endpoints(control, "site")?;
            ensure!(found == wanted, "site has {found:?}");
            Ok(())
        })
    };
    expect(&[
        "10.1.1.1 ready",
        "10.1.1.2 ready",
        "fd00:1:1::1 ready",
        "fd00:1:1::2 ready",
    ])?;
    control.kubectl(&["delete", "pod", "site-2", "--wait=false"], "")?;
    expect(&[
        "10.1.1.1 ready",
        "10.1.1.2 terminating",
        "fd00:1:1::1 ready",
        "fd00:1:1::2 terminating",
    ])?;
    control.kubectl(
        &["delete", "pod", "site-2", "--grace-period=0", "--force"],
        "",
    )?;
    expect(&["10.1.1.1 ready", "fd00:1:1::1 ready"])
}

fn node(name: &str, address: IpAddr) -> Value {
    let node = objects::Node {
        name,
        addresses: vec![address],
        ..objects::Node::default()
    };
    node.object()
}

/// The endpoints of a Service, sorted.
fn endpoints(control: &ControlPlane, service: &str) -> Result<Vec<String>> {
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = control.run(|client| async move {
        Api::<EndpointSlice>::namespaced(client, "default")
            .list(&of_service)
            .await
    })?;
    let mut found = Vec::new();
    for endpoint in slices
        .items
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
    {
        let conditions = endpoint.conditions.unwrap_or_default();
        let state = match (conditions.ready, conditions.terminating) {
            (_, Some(true)) => "terminating",
            (Some(true), _) => "ready",
            (_, _) => "unready",
        };
        found.extend(
            endpoint
                .addresses
                .iter()
                .map(|address| format!("{address} {state}")),
        );
    }
    found.sort();
    Ok(found)
}

/// What we show to people is what a cluster accepts.
fn takes_the_examples(world: &mut World) -> Result<()> {
    for entry in fs::read_dir(examples())? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "yaml") {
            let manifest = fs::read_to_string(&path)?;
            world
                .control
                .apply_yaml(&manifest)
                .with_context(|| format!("{} is not accepted", path.display()))?;
        }
    }
    Ok(())
}

/// A service account may do what it was given, with one token and with the next.
fn service_account(world: &mut World) -> Result<()> {
    let control = &world.control;
    control.kubectl(&["create", "serviceaccount", "watcher"], "")?;
    let account = control.account("default", "watcher")?;
    let kubeconfig = account.kubeconfig(ADDRESS)?;
    ensure!(
        list_nodes(control, &kubeconfig).is_err(),
        "an account without rights lists Nodes"
    );
    control.kubectl(
        &[
            "create",
            "clusterrole",
            "watcher",
            "--verb=list",
            "--resource=nodes",
        ],
        "",
    )?;
    control.kubectl(
        &[
            "create",
            "clusterrolebinding",
            "watcher",
            "--clusterrole=watcher",
            "--serviceaccount=default:watcher",
        ],
        "",
    )?;
    eventually(SOON, || list_nodes(control, &kubeconfig))?;
    let token = || fs::read_to_string(account.dir().join("token"));
    let old = token()?;
    control.rotate_token(&account)?;
    ensure!(token()? != old, "the token is the old one");
    list_nodes(control, &kubeconfig)
}

fn list_nodes(control: &ControlPlane, kubeconfig: &Path) -> Result<()> {
    control.run(|_| async move {
        let nodes: Api<Node> = Api::all(client_of(kubeconfig).await?);
        nodes.list(&ListParams::default()).await?;
        Ok::<_, anyhow::Error>(())
    })
}

async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let options = KubeConfigOptions::default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    Ok(Client::try_from(
        Config::from_custom_kubeconfig(kubeconfig, &options).await?,
    )?)
}

/// A detour is slow, silent or cut off as it is told, and good again afterwards.
fn detour(world: &mut World) -> Result<()> {
    const DELAY: Duration = Duration::from_millis(300);
    let control = &world.control;
    let detour = control.detour()?;
    let kubeconfig = control.kubeconfig("detour", Some("system:masters"), detour.address())?;
    control.run(|_| async move {
        let client = client_of(&kubeconfig).await?;
        client.apiserver_version().await?;
        let asked = Instant::now();
        detour.delay(DELAY);
        client.apiserver_version().await?;
        ensure!(
            asked.elapsed() >= DELAY,
            "answered after {:?}",
            asked.elapsed()
        );
        detour.delay(Duration::ZERO);
        detour.black_hole(true);
        let asking = tokio::time::timeout(DELAY, client.apiserver_version());
        ensure!(asking.await.is_err(), "a black hole answers");
        detour.black_hole(false);
        client.apiserver_version().await?;
        detour.cut();
        let again = async {
            // What was sent on a connection that is being cut is lost.
            while client.apiserver_version().await.is_err() {}
        };
        tokio::time::timeout(SOON, again)
            .await
            .context("cut for good")?;
        Ok::<_, anyhow::Error>(())
    })
}

/// kube-proxy programs the Services it finds.
fn kube_proxy(world: &mut World) -> Result<()> {
    let site = Site::new()?;
    let netns = Netns::create(site.name("node"))?;
    netns.ip("link set lo up")?;
    world.control.join(&netns)?;
    let control = &world.control;
    control.apply(&[node("node-p", [172, 30, 0, 2].into())])?;
    let mut proxy = KubeProxy::start(control, &netns, "node-p", Mode::Nftables)?;
    proxy.process.until(SOON, |_| {
        let mut list = std::process::Command::new("nft");
        let output = netns.output(list.args(["list", "table", "ip", "kube-proxy"]))?;
        let rules = String::from_utf8(output.stdout)?;
        ensure!(rules.contains("10.96.0.1 . tcp . 443"), "{rules}");
        Ok(())
    })
}

/// Objects outlive the API server.
fn restart(world: &mut World) -> Result<()> {
    world.control.kill_api_server();
    let version = |control: &ControlPlane| {
        control.run(|client| async move { client.apiserver_version().await })
    };
    ensure!(
        version(&world.control).is_err(),
        "a dead API server answers"
    );
    world.control.start_api_server()?;
    version(&world.control)?;
    let found = eventually(SOON, || endpoints(&world.control, "kubernetes"))?;
    ensure!(found == ["172.30.0.1 ready"], "{found:?}");
    Ok(())
}

/// Versions from before a compaction are gone once the API server has been started again.
fn compaction(world: &mut World) -> Result<()> {
    let control = &mut world.control;
    let list = |control: &ControlPlane, params: ListParams| {
        control.run(|client| async move { Api::<Service>::all(client).list(&params).await })
    };
    let services = list(control, ListParams::default())?;
    let version = services.metadata.resource_version.context("no version")?;
    control.kubectl(&["annotate", "service", "kubernetes", "changed=yes"], "")?;
    control.compact_etcd()?;
    control.start_api_server()?;
    let as_then = ListParams::default()
        .at(&version)
        .matching(VersionMatch::Exact);
    let Err(error) = list(control, as_then) else {
        bail!("version {version} is still there");
    };
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) if status.code == 410 => {}
        Some(_) | None => return Err(error).context("not what a lost version is answered with"),
    }
    // A watch is told on its stream.
    let path = format!("/api/v1/services?watch=1&timeoutSeconds=1&resourceVersion={version}");
    let events = control.run(|client| async move {
        let request = Request::get(path).body(Vec::new())?;
        Ok::<_, anyhow::Error>(client.request_text(request).await?)
    })?;
    let event: Value = serde_json::from_str(&events).with_context(|| events.clone())?;
    ensure!(
        event["type"] == "ERROR" && event["object"]["code"] == 410,
        "a watch begins with {event}"
    );
    Ok(())
}

/// A renewed certificate is trusted as before; one by a new authority by those who know it.
fn certificate(world: &mut World) -> Result<()> {
    let control = &mut world.control;
    let old = control.account("default", "default")?.kubeconfig(ADDRESS)?;
    let reaches = |control: &ControlPlane| {
        control.run(|_| async {
            client_of(&old)
                .await?
                .apiserver_version()
                .await
                .map_err(anyhow::Error::from)
        })
    };
    control.replace_certificate(Signer::Same)?;
    reaches(control)?;
    control.replace_certificate(Signer::New)?;
    let Err(error) = reaches(control) else {
        bail!("an unknown authority is trusted");
    };
    ensure!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
    control.kubectl(&["get", "nodes"], "").map(drop)
}

/// Each part can be measured.
fn usage(world: &mut World) -> Result<()> {
    for part in [Part::Etcd, Part::ApiServer, Part::Controllers] {
        let usage = world.control.usage(part)?;
        ensure!(usage.cpu > Duration::ZERO, "{part:?} took {usage:?}");
        ensure!(usage.resident > 1 << 20, "{part:?} took {usage:?}");
    }
    Ok(())
}

//! What the agent makes of the API server: what it is told of objects, and what of outages.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::{
    model::{Batch, Change, ObjectName},
    source::kubernetes::{Access, Event, Options, Recorder, watch},
};
use tests::{
    checks::Check,
    cluster::eventually,
    kube::{ADDRESS, ControlPlane, Signer},
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::World;

/// How soon a change has to be told, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// How soon all has to be in line again when a server has come back.
const BACK: Duration = Duration::from_secs(2);

/// The user with the rights that the built-in role of kube-proxies gives, and no others (K14).
const PROXY: &str = "system:kube-proxy";

pub(crate) fn checks() -> Vec<Check<World>> {
    vec![
        Check::new("source::a16_first_batch_is_complete", first_batch),
        Check::new("source::a1_other_proxies_services", other_proxy),
        Check::new("source::a2_headless_slices", headless_slices),
        Check::new("source::a3_headless_services", headless_services),
        Check::new("source::a17_only_what_changed", only_what_changed),
        Check::new("source::e6_service_networks", service_networks),
        Check::new("source::c13_node", node),
        Check::new("source::k14_without_rights", without_rights),
        Check::new("source::k14_token_rotated", token_rotated),
        Check::new("source::k15_events", events),
        Check::new("source::slow_server", slow_server),
        Check::new("source::silent_server", silent_server),
        Check::new("source::connection_cut", connection_cut),
        Check::new("source::a18_killed_and_compacted", killed_and_compacted),
        Check::new("source::a18_certificate_replaced", certificate_replaced),
    ]
}

/// With a server that does not stream lists.
pub(crate) fn checks_of_pages() -> Vec<Check<World>> {
    vec![Check::new("source::a16_pages", pages)]
}

/// What a source has told, put together.
struct Told {
    batches: mpsc::Receiver<Batch>,
    source: JoinHandle<()>,
    /// State of Services and slices, by kind and name.
    objects: BTreeMap<String, String>,
    problems: Vec<String>,
    /// Batches that came, except those before anything was known.
    count: usize,
    /// What went, as it went.
    gone: Vec<String>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.source.abort();
    }
}

impl Told {
    fn start(control: &ControlPlane, kubeconfig: PathBuf) -> Result<Self> {
        let (sender, batches) = mpsc::channel(16);
        let options = Options {
            access: Access {
                kubeconfig: Some(kubeconfig),
                server: None,
            },
            node_name: "source-node".to_owned(),
            external_ips: true,
        };
        Ok(Self {
            batches,
            source: control.inside().spawn(watch(options, sender))?,
            objects: BTreeMap::new(),
            problems: Vec::new(),
            count: 0,
            gone: Vec::new(),
        })
    }

    /// As one of the cluster's proxies, with everything known.
    fn proxy(control: &ControlPlane, server: SocketAddr) -> Result<Self> {
        let mut told = Self::start(control, control.kubeconfig(PROXY, None, server)?)?;
        told.until(SOON, |told| {
            ensure!(told.count > 0, "no batch; {:?}", told.problems);
            Ok(())
        })?;
        Ok(told)
    }

    fn look(&mut self) -> Result<()> {
        loop {
            match self.batches.try_recv() {
                Ok(batch) => self.take(batch),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => bail!("the source has ended"),
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        self.problems = batch.problems.into_iter().collect();
        if batch.unseen {
            assert_eq!(batch.changes, [], "changes of what was never seen");
            return;
        }
        self.count += 1;
        for change in batch.changes {
            let (key, state) = match change {
                Change::Service(name, service) => {
                    let state = service.map(|service| format!("{:?}", service.ports));
                    (format!("Service {name}"), state)
                }
                Change::Slice(name, slice) => {
                    let state = slice.map(|slice| format!("{:?}", slice.endpoints));
                    (format!("Slice {name}"), state)
                }
                Change::Node(node) => ("Node".to_owned(), node.map(|node| format!("{node:?}"))),
                Change::ServiceNetworks(networks) => {
                    ("Networks".to_owned(), Some(format!("{networks:?}")))
                }
            };
            match state {
                Some(state) => drop(self.objects.insert(key, state)),
                None => {
                    self.objects.remove(&key);
                    self.gone.push(key);
                }
            }
        }
    }

    fn until(&mut self, limit: Duration, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        eventually(limit, || {
            self.look()?;
            check(self)
        })
    }

    fn until_has(&mut self, key: &str, text: &str) -> Result<()> {
        self.until(SOON, |told| told.has(key, text))
    }

    fn has(&self, key: &str, text: &str) -> Result<()> {
        let state = self.objects.get(key);
        ensure!(
            state.is_some_and(|state| state.contains(text)),
            "{key} is {state:?}, not {text}"
        );
        Ok(())
    }

    fn until_gone(&mut self, key: &str) -> Result<()> {
        self.until(SOON, |told| {
            ensure!(!told.objects.contains_key(key), "{key} is there");
            Ok(())
        })
    }

    fn until_problem(&mut self, limit: Duration, text: &str) -> Result<()> {
        self.until(limit, |told| {
            let found = told.problems.iter().any(|line| line.contains(text));
            ensure!(found, "no problem {text:?} in {:?}", told.problems);
            Ok(())
        })
    }

    fn until_well(&mut self, limit: Duration) -> Result<()> {
        self.until(limit, |told| {
            ensure!(told.problems.is_empty(), "{:?}", told.problems);
            Ok(())
        })
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{ports: [{{port: {port}}}]}}\n---\n"
    )
}

fn slice(name: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: default, \
         labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: 8080}}]\n\
         endpoints: [{{addresses: [{address}]}}]\n---\n"
    )
}

fn delete(control: &ControlPlane, kind: &str, name: &str) -> Result<()> {
    control.kubectl(&["delete", kind, name], "").map(drop)
}

/// The port a Service has in what was told.
fn port(number: u16) -> String {
    format!("port: {number},")
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
        let recorder = Recorder::new(access, "source-node");
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

/// Slow is not dead.
fn slow_server(world: &mut World) -> Result<()> {
    const DELAY: Duration = Duration::from_secs(5);
    let control = &world.control;
    let detour = control.detour()?;
    control.apply_yaml(&service("slow", 80))?;
    let mut told = Told::proxy(control, detour.address())?;
    detour.delay(DELAY);
    control.apply_yaml(&service("slow", 81))?;
    told.until(DELAY + BACK, |told| {
        told.has("Service default/slow", &port(81))
    })?;
    ensure!(told.problems.is_empty(), "{:?}", told.problems);
    // From the beginning, too.
    let mut told = Told::start(control, control.kubeconfig(PROXY, None, detour.address())?)?;
    told.until(8 * DELAY, |told| {
        told.has("Service default/slow", &port(81))
    })?;
    detour.delay(Duration::ZERO);
    control.apply_yaml(&service("slow", 82))?;
    told.until(DELAY + BACK, |told| {
        told.has("Service default/slow", &port(82))
    })
}

/// A server that says nothing is noticed, and back in no time.
fn silent_server(world: &mut World) -> Result<()> {
    let control = &world.control;
    let detour = control.detour()?;
    control.apply_yaml(&service("silent", 80))?;
    let mut told = Told::proxy(control, detour.address())?;
    told.until_has("Service default/silent", &port(80))?;
    detour.black_hole(true);
    control.apply_yaml(&service("silent", 81))?;
    told.until_problem(Duration::from_secs(60), "has not answered since")?;
    ensure!(told.gone == ["Node"], "lost: {:?}", told.gone);
    detour.black_hole(false);
    told.until(BACK, |told| told.has("Service default/silent", &port(81)))?;
    told.until_well(BACK)
}

/// A connection that breaks is no trouble at all.
fn connection_cut(world: &mut World) -> Result<()> {
    let control = &world.control;
    let detour = control.detour()?;
    control.apply_yaml(&service("cut", 80))?;
    let mut told = Told::proxy(control, detour.address())?;
    told.until_has("Service default/cut", &port(80))?;
    detour.cut();
    control.apply_yaml(&service("cut", 81))?;
    told.until(BACK, |told| told.has("Service default/cut", &port(81)))?;
    ensure!(told.gone == ["Node"], "lost: {:?}", told.gone);
    told.until_well(BACK)
}

/// The server is away and comes back with another history; meanwhile one Service went and another
/// came.
fn killed_and_compacted(world: &mut World) -> Result<()> {
    let control = &mut world.control;
    let detour = control.detour()?;
    control.apply_yaml(&(service("stays", 80) + &service("goes", 80)))?;
    // One watches by a way that opens again only after the change.
    let mut told = Told::proxy(control, ADDRESS)?;
    let mut late = Told::proxy(control, detour.address())?;
    for told in [&mut told, &mut late] {
        told.until_has("Service default/stays", &port(80))?;
        told.until_has("Service default/goes", &port(80))?;
        told.gone.clear();
    }
    detour.black_hole(true);
    detour.cut();
    control.kill_api_server();
    told.until_problem(SOON, "has not answered since")?;
    ensure!(told.gone.is_empty(), "lost: {:?}", told.gone);
    control.start_api_server()?;
    delete(control, "service", "goes")?;
    control.apply_yaml(&service("comes", 80))?;
    told.until(BACK, |told| told.has("Service default/comes", &port(80)))?;
    control.compact_etcd()?;
    control.kill_api_server();
    control.start_api_server()?;
    detour.black_hole(false);
    for told in [&mut told, &mut late] {
        told.until(BACK, |told| told.has("Service default/comes", &port(80)))?;
        told.until_gone("Service default/goes")?;
        told.until_well(BACK)?;
        ensure!(told.gone == ["Service default/goes"], "{:?}", told.gone);
    }
    Ok(())
}

/// A new authority is trusted as soon as the files say so; until then what is known stays.
fn certificate_replaced(world: &mut World) -> Result<()> {
    let control = &mut world.control;
    control.apply_yaml(&service("trust", 80))?;
    let account = control.account("default", "source")?;
    let mut told = Told::start(control, account.kubeconfig(ADDRESS)?)?;
    told.until_has("Service default/trust", &port(80))?;
    told.gone.clear();
    control.replace_certificate(Signer::New)?;
    control.kill_api_server();
    control.start_api_server()?;
    told.until_problem(SOON, "UnknownIssuer")?;
    ensure!(told.gone.is_empty(), "lost: {:?}", told.gone);
    control.apply_yaml(&service("trust", 81))?;
    let renewed = control.account("default", "source")?;
    ensure!(renewed.dir() == account.dir(), "not the same files");
    let asked = Instant::now();
    told.until(BACK, |told| told.has("Service default/trust", &port(81)))
        .with_context(|| format!("{:?} after the files changed", asked.elapsed()))?;
    told.until_well(BACK)
}

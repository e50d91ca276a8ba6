//! The manifests of `deploy/`: an API server takes them, they put an agent on each node, and the
//! agent does its work with what they give it: its rights, capabilities, arguments and volumes.

mod container;
mod places;
mod rights;
mod runs;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    checks::Check,
    cluster::{Cluster, eventually},
    kube::{Account, Api, ControlPlane, Options},
    site::Site,
    topology::Links,
};

use rights::Audit;

/// How soon others have to have done their part, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Where the manifests put everything.
const NAMESPACE: &str = "kube-system";
/// What they call everything.
const NAME: &str = "fairlead";

/// A control plane that keeps account of what it was asked, with the base applied, and nodes.
pub(crate) struct World {
    cluster: Cluster<Api>,
    account: Account,
    audit: Audit,
    /// Last, so that it is dropped last.
    _files: Site,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let files = Site::new()?;
        let (audit, mut flags) = Audit::prepare(&files.dir(), NAMESPACE, NAME)?;
        // A server that cannot stream lists has the agent ask for them page by page as well, so that
        // it uses all its rights.
        flags.push("--feature-gates=WatchList=false".to_owned());
        let options = Options {
            controllers: true,
            more_controllers: vec!["daemonset-controller".to_owned()],
            api_server_flags: flags,
        };
        let cluster = Cluster::with_api(Links::STANDARD, options)?;
        let control = &cluster.source.control;
        apply(control, "base")?;
        let account = control.account(NAMESPACE, NAME)?;
        Ok(Self {
            cluster,
            account,
            audit,
            _files: files,
        })
    }

    pub(crate) fn logs(&self) -> String {
        self.control().logs()
    }

    fn control(&self) -> &ControlPlane {
        &self.cluster.source.control
    }
}

pub(crate) fn checks() -> Vec<Check<World>> {
    vec![
        Check::new("deploy::applied_again_changes_nothing", applied_again),
        Check::new("deploy::overlays_are_accepted", overlays),
        Check::new("deploy::image_tag_is_the_version", image_tag),
        Check::new("deploy::image_has_what_programs_need", runs::image),
        Check::new("deploy::a_pod_on_every_node", places::everywhere),
        Check::new("deploy::replaces_kube_proxy_by_node", places::by_node),
        Check::new("deploy::runs_as_the_daemonset_says", runs::as_told),
        Check::new(
            "deploy::each_capability_is_needed",
            runs::without_capability,
        ),
        Check::new("deploy::each_verb_is_needed", rights::without_verb),
    ]
}

/// Where the manifests are.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

fn apply(control: &ControlPlane, name: &str) -> Result<String> {
    kustomized(control, name, &["apply", "--server-side"])
}

/// What `kubectl` says when it does this with one of our kustomizations.
fn kustomized(control: &ControlPlane, name: &str, verb: &[&str]) -> Result<String> {
    let path = folder(name);
    let path = path.to_str().context("our path is not text")?;
    control.kubectl(&[verb, &["-k", path]].concat(), "")
}

/// An object as the API server has it.
fn object(control: &ControlPlane, kind: &str, name: &str) -> Result<Value> {
    let args = ["get", kind, name, "--namespace", NAMESPACE, "--output=json"];
    Ok(serde_json::from_str(&control.kubectl(&args, "")?)?)
}

/// Applied once more, no object gets a new version. The status is a part of it, which the
/// controllers may write first.
fn applied_again(world: &mut World) -> Result<()> {
    let control = world.control();
    eventually(SOON, || {
        let before = versions(control)?;
        ensure!(before.len() == 5, "{before:#?}");
        apply(control, "base")?;
        let after = versions(control)?;
        ensure!(before == after, "{before:#?}\nbecame\n{after:#?}");
        Ok(())
    })
}

fn versions(control: &ControlPlane) -> Result<Vec<String>> {
    let found = kustomized(control, "base", &["get", "--output=json"])?;
    let found: Value = serde_json::from_str(&found)?;
    let objects = found["items"].as_array().context("no objects")?;
    let version = |object: &Value| {
        let (name, version) = ("/metadata/name", "/metadata/resourceVersion");
        let [name, version] = [name, version].map(|path| object.pointer(path));
        format!("{} {name:?} {version:?}", object["kind"])
    };
    Ok(objects.iter().map(version).collect())
}

/// Every overlay is a folder here: nothing is forgotten.
fn overlays(world: &mut World) -> Result<()> {
    let mut count = 0;
    for entry in fs::read_dir(folder("overlays"))? {
        let name = entry?.file_name();
        let name = format!("overlays/{}", name.to_string_lossy());
        let dry = ["apply", "--server-side", "--dry-run=server"];
        kustomized(world.control(), &name, &dry).with_context(|| name)?;
        count += 1;
    }
    ensure!(count > 0, "there are no overlays");
    Ok(())
}

fn image_tag(world: &mut World) -> Result<()> {
    let daemon_set = object(world.control(), "daemonset", NAME)?;
    let image = &daemon_set["spec"]["template"]["spec"]["containers"][0]["image"];
    let wanted = format!("fairlead:{}", env!("CARGO_PKG_VERSION"));
    ensure!(*image == *wanted, "the image is {image}, not {wanted}");
    Ok(())
}

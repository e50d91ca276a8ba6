//! A container as a kubelet and its runtime would make it of the `DaemonSet`: mounts, environment,
//! capabilities. There being no image, it has this machine's programs, read-only.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{
    agent::program,
    kube::{Account, ControlPlane},
    process::Process,
    topology::Host,
};

use super::{NAME, NAMESPACE, object};

/// Where a Pod has its service account; elsewhere than it says, for `/var/run` is a link.
const ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// What makes the mounts, given by the script's arguments as `SOURCE:TARGET:OPTIONS`, up to `--`.
/// A runtime lets a container write neither to `/`, nor to `/sys` nor to `/proc/sys`.
const SCRIPT: &str = "\
root=$1; shift
while [ \"$1\" != -- ]; do
    source=${1%%:*}; rest=${1#*:}; target=$root${rest%%:*}
    mkdir -p \"$target\"
    mount --rbind \"$source\" \"$target\"
    mount -o \"remount,bind,${rest#*:}\" \"$target\"
    shift
done
shift
for dir in \"$root\"/*; do mount --rbind \"$dir\" \"/${dir##*/}\"; done
mount --bind /proc/sys /proc/sys
for dir in /proc/sys /sys /; do mount -o remount,bind,ro \"$dir\"; done
cd /
exec \"$@\"
";

/// A container of the `DaemonSet` on a node.
pub(super) struct Container<'a> {
    control: &'a ControlPlane,
    node: &'a Host,
    account: &'a Account,
    pod: Value,
}

impl<'a> Container<'a> {
    /// By the `DaemonSet` as the API server has it.
    pub(super) fn new(
        control: &'a ControlPlane,
        node: &'a Host,
        account: &'a Account,
    ) -> Result<Self> {
        let daemon_set = object(control, "daemonset", NAME)?;
        let pod = daemon_set["spec"]["template"]["spec"].clone();
        ensure!(pod["serviceAccountName"] == NAME, "another's rights");
        ensure!(pod["hostNetwork"] == true, "not the node's network");
        let priority = &pod["priorityClassName"];
        ensure!(*priority == "system-node-critical", "{priority}");
        Ok(Self {
            control,
            node,
            account,
            pod,
        })
    }

    /// The container's description.
    pub(super) fn description(&self) -> &Value {
        &self.pod["containers"][0]
    }

    /// The capabilities it is to have.
    pub(super) fn capabilities(&self) -> Result<Vec<String>> {
        let capabilities = &self.description()["securityContext"]["capabilities"];
        ensure!(capabilities["drop"] == serde_json::json!(["ALL"]));
        Ok(serde_json::from_value(capabilities["add"].clone())?)
    }

    /// Starts it with its capabilities, but for one.
    pub(super) fn start(&self, without: Option<&str>) -> Result<Process> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--cgroup", "sh", "-euc", SCRIPT, "sh"]);
        // Another one each time: the mounts in it are seen by nobody else.
        let root = self.node.dir.join("container");
        fs::create_dir_all(&root)?;
        command.arg(&root).args(self.mounts()?).arg("--");
        self.confine(&mut command, without)?;
        command.arg(program("lb-agent")?);
        let args: Vec<String> = serde_json::from_value(self.description()["args"].clone())?;
        command.args(args);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.environment()?);
        Process::start("container", &self.node.netns, &self.node.dir, &mut command)
    }

    fn confine(&self, command: &mut Command, without: Option<&str>) -> Result<()> {
        let context = &self.description()["securityContext"];
        ensure!(context["readOnlyRootFilesystem"] == true && context["runAsUser"] == 0);
        let kept = self.capabilities()?;
        let kept = kept.iter().filter(|name| Some(name.as_str()) != without);
        let set = kept.fold("-all".to_owned(), |set, name| {
            set + ",+" + &name.to_lowercase()
        });
        command.args(["setpriv", "--clear-groups", "--bounding-set", &set]);
        command.args(["--inh-caps", "-all"]);
        if context["allowPrivilegeEscalation"] == false {
            command.arg("--no-new-privs");
        }
        Ok(())
    }

    fn environment(&self) -> Result<BTreeMap<String, String>> {
        let mut environment = BTreeMap::new();
        let described = self.description()["env"].as_array();
        for variable in described.context("no environment")? {
            let name = variable["name"].as_str().context("no name")?;
            let from = &variable["valueFrom"];
            let value = if from["fieldRef"]["fieldPath"] == "spec.nodeName" {
                self.node.name.to_owned()
            } else {
                let from = &from["configMapKeyRef"];
                let (map, key) = (from["name"].as_str(), from["key"].as_str());
                self.configured(map.context("no value")?, key.context("no key")?)?
            };
            environment.insert(name.to_owned(), value);
        }
        Ok(environment)
    }

    fn configured(&self, map: &str, key: &str) -> Result<String> {
        let map = object(self.control, "configmap", map)?;
        let value = map["data"][key].as_str();
        Ok(value.with_context(|| format!("no {key}"))?.to_owned())
    }

    /// Sources, targets and options.
    fn mounts(&self) -> Result<Vec<String>> {
        let account = self.account.dir();
        let mut mounts = vec![format!("{}:{ACCOUNT}:ro", account.display())];
        let described = self.description()["volumeMounts"].as_array();
        for mount in described.context("no mounts")? {
            let name = mount["name"].as_str().context("no name")?;
            let source = self.volume(name)?;
            let target = mount["mountPath"].as_str().context("no path")?;
            let options = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            mounts.push(format!("{}:{target}:{options}", source.display()));
        }
        Ok(mounts)
    }

    /// What is mounted: of the node its own share of this machine's.
    fn volume(&self, name: &str) -> Result<PathBuf> {
        let volumes = self.pod["volumes"].as_array().context("no volumes")?;
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        let volume = volume.with_context(|| format!("no volume {name}"))?;
        match volume["hostPath"]["path"].as_str() {
            Some("/sys/fs/bpf") => Ok(self.node.bpffs()),
            Some("/sys/fs/cgroup") => {
                let group = self.node.cgroup.clone();
                group.context("no cgroup2 hierarchy is mounted")
            }
            Some(other) => bail!("the node has nothing at {other}"),
            None => self.config_map(&volume["configMap"]),
        }
    }

    fn config_map(&self, volume: &Value) -> Result<PathBuf> {
        let name = volume["name"].as_str().context("no ConfigMap")?;
        let dir = self.node.dir.join("configuration").join(name);
        fs::create_dir_all(&dir)?;
        let map = object(self.control, "configmap", name)?;
        for (file, text) in map["data"].as_object().context("no data")? {
            fs::write(dir.join(file), text.as_str().context("no text")?)?;
        }
        Ok(dir)
    }
}

/// The `ConfigMap` that names the API server's own address.
pub(super) fn name_api_server(control: &ControlPlane, host: &str, port: u16) -> Result<()> {
    let map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "fairlead-api-server", "namespace": NAMESPACE },
        "data": { "host": host, "port": port.to_string() },
    });
    control.apply(&[map])
}

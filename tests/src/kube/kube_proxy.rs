//! The real kube-proxy, to compare with.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use serde_json::json;

use super::{ControlPlane, assets::program, network::ADDRESS};
use crate::{
    command,
    netns::Netns,
    process::{Process, Usage},
    topology::CLUSTER_CIDRS,
};

/// How kube-proxy does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By nftables.
    Nftables,
    /// By the `iptables` that is installed.
    Iptables,
}

impl Mode {
    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Which `iptables` there is for it.
pub fn iptables_version() -> Result<String> {
    let output = command::run(Command::new("iptables").arg("--version"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A running kube-proxy. Dropped, it is killed; its rules go with the namespace.
#[derive(Debug)]
pub struct KubeProxy {
    /// The program.
    pub process: Process,
}

impl KubeProxy {
    /// Where it says how it is, inside its namespace.
    pub const HEALTH: &str = "127.0.0.1:10256";
    /// Where its metrics are, inside its namespace.
    pub const METRICS: &str = "127.0.0.1:10249";

    /// Starts it in a namespace that has [joined](ControlPlane::join), as the node of this name. With
    /// its defaults, but for limits of conntrack that belong to the machine.
    pub fn start(control: &ControlPlane, netns: &Netns, node: &str, mode: Mode) -> Result<Self> {
        let kubeconfig = control.kubeconfig("system:kube-proxy", None, ADDRESS)?;
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": { "kubeconfig": kubeconfig },
            "mode": mode.name(),
            "hostnameOverride": node,
            "clusterCIDR": CLUSTER_CIDRS,
            "healthzBindAddress": Self::HEALTH,
            "metricsBindAddress": Self::METRICS,
            "conntrack": { "maxPerCore": 0, "min": 0 },
            // It tells of each time it programs.
            "logging": { "verbosity": 2 },
        });
        let name = format!("kube-proxy-{node}-{}", mode.name());
        let file = control.dir().join(format!("{name}.conf"));
        fs::write(&file, config.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = program("kube-proxy")?;
        command.arg("--config").arg(file);
        let process = Process::start(&name, netns, &control.dir(), &mut command)?;
        Ok(Self { process })
    }

    /// What it has taken of the machine.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }
}

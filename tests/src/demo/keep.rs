//! The demo left up: servers that outlive it, commands to play with, and taking it down.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{
    SITE,
    say::{Say, line},
};
use crate::{
    agent::program,
    cluster::{Cluster, POD_PORTS},
    echo::Servers,
    site,
};

/// Hands the pods' servers over to processes of their own and leaves everything up.
pub(super) fn leave_up(say: &Say, mut cluster: Cluster) -> Result<()> {
    for name in ["pod-1", "pod-2", "pod-3"] {
        cluster.silence(name);
        let own = env::current_exe().context("cannot tell where this program is")?;
        cluster.netns(name)?.spawn(
            Command::new(own)
                .args(["serve", name])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0),
        )?;
    }
    explain(say, &cluster)?;
    cluster.keep();
    Ok(())
}

fn explain(say: &Say, cluster: &Cluster) -> Result<()> {
    let topology = &cluster.topology;
    let client = topology.client.netns.name();
    let pod = topology.pod("pod-2")?.netns.name();
    let lbctl = format!(
        "{} --bpffs {}",
        program("lbctl")?.display(),
        topology.node_a.bpffs().display()
    );
    say.heading("It stays up. Things to try");
    let rows = [
        (
            "ask the node port over TCP, over UDP",
            format!(
                "ip netns exec {client} bash -c 'exec 3<>/dev/tcp/10.10.0.1/30080; echo who >&3; head -n1 <&3'"
            ),
        ),
        (
            "",
            format!(
                "ip netns exec {client} bash -c 'exec 3<>/dev/udp/10.10.0.1/30080; echo who >&3; head -n1 <&3'"
            ),
        ),
        (
            "ask a cluster IP from a pod",
            format!(
                "ip netns exec {pod} bash -c 'exec 3<>/dev/tcp/fd00:96::20/7000; echo who >&3; head -n1 <&3'"
            ),
        ),
        ("see what node-a holds", format!("{lbctl} status")),
        ("", format!("{lbctl} service list")),
        ("", format!("{lbctl} maps dump flows")),
        (
            "change the services",
            format!("$EDITOR {}/web.yaml", cluster.source.dir().display()),
        ),
        (
            "watch packets at the client",
            format!("ip netns exec {client} tcpdump -ni eth0"),
        ),
        ("take it down", "cargo xtask demo --down".to_owned()),
    ];
    for (what, command) in rows {
        if !what.is_empty() {
            line(&format!("{what}:"));
        }
        line(&format!("    {command}"));
    }
    Ok(())
}

/// Serves in the namespace the process is in, as the pod of this name, for good.
pub fn serve(pod: &str) -> Result<()> {
    Servers::here(pod, &POD_PORTS)?.wait();
    Ok(())
}

/// Takes down a demo that was left up.
pub fn down() -> Result<()> {
    site::sweep(SITE)
}

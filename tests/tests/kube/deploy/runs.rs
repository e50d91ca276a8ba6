//! The agent in the `DaemonSet`'s container.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{agent::lbctl, cluster::eventually, command, kube::ADDRESS, netns::Netns, site::Site};

use super::{
    SOON, World,
    container::{Container, name_api_server},
    folder,
    rights::granted,
};

/// How long an agent may take until it is ready: the verifier is slow on a busy machine.
const START: Duration = Duration::from_secs(60);

impl World {
    fn container(&self) -> Result<Container<'_>> {
        let node = self.cluster.topology.node("node-a")?;
        name_api_server(self.control(), &ADDRESS.ip().to_string(), ADDRESS.port())?;
        Container::new(self.control(), node, &self.account)
    }
}

/// With the arguments, volumes, capabilities and rights of the manifest all is served, all that is
/// granted is used, and nothing else is asked for.
pub(super) fn as_told(world: &mut World) -> Result<()> {
    let granted = granted(world.control())?;
    let since = world.audit.end();
    let container = world.container()?;
    let mut process = container.start(None)?;
    process.until(START, |process| {
        let ready = process.log().contains("ready:");
        ready.then_some(()).context("it has not said so")
    })?;
    let node = world.cluster.topology.node("node-a")?;
    eventually(SOON, || {
        world.audit.judge(since, &granted)?;
        let status: Value = serde_json::from_str(&lbctl(node, &["status", "-o", "json"])?)?;
        ensure!(status["warnings"] == serde_json::json!([]), "{status:#}");
        ensure!(status["agent"]["sockets"]["mode"] == "host", "{status:#}");
        Ok(())
    })?;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let request = &container.description()[probe]["httpGet"];
        let path = request["path"].as_str().context("no path")?;
        let port = request["port"].as_u64().context("no port")?;
        probe_is_good(&node.netns, path, port.try_into()?).context(probe)?;
    }
    let log = process.log();
    // A kubelet gives Pods of this priority their score; here there is none, and no right to set it.
    let score = "cannot set /proc/self/oom_score_adj to -997";
    let warns = |line: &&str| line.contains("WARN") && !line.contains(score);
    ensure!(log.lines().filter(warns).count() == 0, "{log}");
    process.stop()
}

fn probe_is_good(netns: &Netns, path: &str, port: u16) -> Result<()> {
    let mut stream = netns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))??;
    stream.set_read_timeout(Some(SOON))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

/// Whichever capability is taken away, the agent cannot do its work and says so.
pub(super) fn without_capability(world: &mut World) -> Result<()> {
    let container = world.container()?;
    for capability in container.capabilities()? {
        let mut process = container.start(Some(&capability))?;
        let ended = process.until(START, |process| -> Result<()> {
            ensure!(!process.log().contains("ready:"), "it is ready");
            bail!("it runs")
        });
        let Err(failure) = ended else {
            bail!("nothing is told of {capability}");
        };
        let failure = failure.to_string();
        ensure!(
            failure.contains("ended") && failure.contains("ERROR") && failure.contains("ermission"),
            "without {capability}: {failure}"
        );
    }
    Ok(())
}

/// The static programs run where there is nothing but what the image is made of.
pub(super) fn image(_: &mut World) -> Result<()> {
    let site = Site::new()?;
    let root = site.dir().join("root");
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("there are no static programs for {other}"),
    };
    let programs = folder("../target/static").join(arch);
    ensure!(
        programs.join("lb-agent").exists(),
        "{} has no lb-agent: run `cargo xtask build-static --arch {arch}` first",
        programs.display()
    );
    let script = folder("image/rootfs.sh");
    command::run(Command::new("sh").arg(script).arg(&programs).arg(&root))?;
    for name in ["lb-agent", "lbctl"] {
        let path = Path::new("/usr/bin").join(name);
        let mut run = Command::new("chroot");
        run.arg(&root).arg(path).arg("--version").env_clear();
        let output = command::run(run.env("PATH", "/usr/sbin:/usr/bin"))?;
        let said = String::from_utf8(output.stdout)?;
        let wanted = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        ensure!(said == wanted, "{said}");
    }
    Ok(())
}

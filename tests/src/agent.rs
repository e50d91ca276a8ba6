//! The programs under test: `lb-agent` on a node, and `lbctl` beside it.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use lb_userspace::status::Status;

use crate::{
    process::Process,
    talk::patience,
    topology::{CLUSTER_CIDRS, Host, SERVICE_RANGES},
};

/// Options that say who is a pod, in place of the usual ones.
const WHO_IS_A_POD: [&str; 2] = ["--detect-local-mode", "--config"];

/// How long an agent may take until it is ready.
const START: Duration = Duration::from_secs(20);
/// Where an agent exposes its metrics, on its node.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// What the agent says once everything is attached and the maps are in line with the manifests.
const READY: &str = "ready:";

/// A running agent. Dropped, it is killed and waited for; its programs and maps stay.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

impl Agent {
    /// Starts an agent on a node, with these arguments beside those every agent has. Pods are told
    /// by [`CLUSTER_CIDRS`], unless `--detect-local-mode` or `--config` is among them.
    pub fn launch(node: &Host, arguments: &[OsString]) -> Result<Self> {
        let name = ["--node-name", node.name].map(OsString::from);
        Self::launch_by(&[], node, &[&name, arguments].concat())
    }

    /// Like [`launch`](Self::launch), with another program than the one built beside this.
    pub fn launch_program(agent: &Path, node: &Host, arguments: &[OsString]) -> Result<Self> {
        let name = ["--node-name", node.name].map(OsString::from);
        Self::launch_with(Command::new(agent), node, &[&name, arguments].concat())
    }

    /// Has these words run an agent, which is not told its node's name.
    pub fn launch_by(by: &[&str], node: &Host, arguments: &[OsString]) -> Result<Self> {
        Self::launch_with(command_by(by, &program("lb-agent")?), node, arguments)
    }

    fn launch_with(mut command: Command, node: &Host, arguments: &[OsString]) -> Result<Self> {
        add_arguments(&mut command, node, arguments);
        let process = Process::start(node.name, &node.netns, &node.dir, &mut command)?;
        Ok(Self { process })
    }

    /// Waits until it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.process.until(START, |process| {
            let ready = process.log().contains(READY);
            ready.then_some(()).context("it has not said so")
        })
    }

    /// The program.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop()
    }

    /// Lets it run on after this process.
    pub fn keep(self) {
        self.process.keep();
    }
}

fn add_arguments(command: &mut Command, node: &Host, arguments: &[OsString]) {
    command.arg("run");
    command.args(["--external-interface", "eth0"]);
    // The other ends of the topology's links run an XDP program, so veths are as good as others.
    command.args(["--xdp", "always"]);
    let is_told = |given: &OsString| WHO_IS_A_POD.iter().any(|option| given == option);
    if !arguments.iter().any(is_told) {
        command.args(["--pod-interface", "veth-*"]);
        command.args(["--cluster-cidr", CLUSTER_CIDRS]);
    }
    command.args(["--service-cluster-ip-range", SERVICE_RANGES]);
    match &node.cgroup {
        Some(cgroup) => command.arg("--cgroup").arg(cgroup),
        None => command.args(["--socket-lb", "off"]),
    };
    command.arg("--bpffs").arg(node.bpffs());
    command.arg("--state-dir").arg(node.dir.join("state"));
    command.args(arguments);
}

/// Takes away what an agent left on a node.
pub fn clean_up(node: &Host) -> Result<()> {
    run_cleanup(node, &["--bpffs".into(), node.bpffs().into()])
}

/// Takes away the rules that kube-proxy left on a node.
pub fn clean_up_kube_proxy(node: &Host) -> Result<()> {
    run_cleanup(node, &["--kube-proxy".into()])
}

fn run_cleanup(node: &Host, arguments: &[OsString]) -> Result<()> {
    let mut command = Command::new(program("lb-agent")?);
    command.arg("cleanup").args(arguments);
    node.netns.output(&mut command).map(drop)
}

/// These words running a program, or it alone.
fn command_by(by: &[&str], program: &Path) -> Command {
    match by {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

/// Runs `lbctl` on a node's maps and returns what it prints.
pub fn lbctl(node: &Host, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program("lbctl")?);
    command.arg("--bpffs").arg(node.bpffs()).args(args);
    let output = node.netns.output(&mut command)?;
    Ok(String::from_utf8(output.stdout)?)
}

/// What the agent of a node says of itself in the maps.
pub fn status(node: &Host) -> Result<Status> {
    let text = lbctl(node, &["maps", "dump", "status", "-o", "json"])?;
    let mut shown: serde_json::Value = serde_json::from_str(&text)?;
    Ok(serde_json::from_value(shown["status"].take())?)
}

/// The metrics that the agent of a node exposes, by name and labels.
pub fn metrics(node: &Host) -> Result<BTreeMap<String, f64>> {
    let answer = node.netns.run(|| -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&METRICS, patience())?;
        stream.set_read_timeout(Some(patience()))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').context("a metric without a value")?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}

/// Where a program of the workspace is, as cargo puts them: a folder above a suite of tests, else beside the running
/// program. The folder of the suites comes last, for one of them has the name of what it tests.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    let folder = own.parent();
    [folder.and_then(Path::parent), folder]
        .into_iter()
        .flatten()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is not built beside {}: run `cargo build -p lb-userspace` first",
                own.display()
            )
        })
}

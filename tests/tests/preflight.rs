//! `lb-agent preflight` on a node of the topology: what it finds, and that it changes nothing.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;
use tests::{
    agent, command,
    netns::Netns,
    site::Site,
    topology::{Host, Links, Topology},
};

/// What preflight says of a node with these options: exit status and report.
fn preflight(node: &Host, options: &[&str]) -> Result<(Option<i32>, Value)> {
    let program = agent::program("lb-agent")?;
    let output = run(node, &[], &program, &[&["-o", "json"], options].concat())?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("no report: {said}")
    })?;
    Ok((output.status.code(), report))
}

/// Has these words run preflight on a node.
fn run(node: &Host, by: &[&str], program: &Path, options: &[&str]) -> Result<Output> {
    let mut command = Command::new(by.first().copied().map_or(program, Path::new));
    if let Some((_, rest)) = by.split_first() {
        command.args(rest).arg(program);
    }
    command.args(["preflight", "--external-interface", "eth0"]);
    command.args(["--node-name", node.name, "--bpffs"]);
    command.arg(node.bpffs());
    match &node.cgroup {
        Some(cgroup) => command.arg("--cgroup").arg(cgroup),
        None => command.args(["--socket-lb", "off"]),
    };
    command.args(options);
    node.netns
        .run(|| command.output())?
        .context("cannot run lb-agent")
}

/// The states of a check, by subject.
fn states<'a>(report: &'a Value, check: &str) -> BTreeMap<&'a str, &'a str> {
    let findings = report["findings"].as_array().into_iter().flatten();
    findings
        .filter(|finding| finding["check"] == check)
        .map(|it| {
            (
                it["subject"].as_str().unwrap_or(""),
                it["state"].as_str().unwrap_or(""),
            )
        })
        .collect()
}

/// All that preflight could change on a node.
#[derive(Debug, PartialEq, Eq)]
struct Everything {
    pins: Vec<PathBuf>,
    programs: Vec<usize>,
    links: String,
    qdiscs: String,
    rules: String,
    sysctls: BTreeMap<PathBuf, String>,
    mounts: String,
    modules: Option<Vec<String>>,
}

impl Everything {
    fn of(node: &Host) -> Result<Self> {
        let shown = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            let output = node.netns.output(command.args(&words[1..]))?;
            Ok::<_, anyhow::Error>(String::from_utf8(output.stdout)?)
        };
        let modules = fs::read_to_string("/proc/modules").ok();
        Ok(Self {
            pins: tree(&node.bpffs())?,
            programs: node.netns.run(programs)??,
            links: shown(&["ip", "-details", "link", "show"])?,
            qdiscs: shown(&["tc", "qdisc", "show"])?,
            rules: shown(&["nft", "list", "ruleset"])?,
            sysctls: node
                .netns
                .run(|| parameters(Path::new("/proc/sys/net")))??,
            mounts: fs::read_to_string("/proc/self/mountinfo")?
                .lines()
                .filter(|line| line.contains(&node.dir.display().to_string()))
                .collect(),
            modules: modules.map(|text| {
                let names = text.lines().filter_map(|line| line.split(' ').next());
                names.map(str::to_owned).collect()
            }),
        })
    }
}

/// How many programs of tc are on each hook of the node's external interface.
fn programs() -> Result<Vec<usize>> {
    let hooks = [TcAttachType::Ingress, TcAttachType::Egress];
    let count = |hook| Ok(SchedClassifier::query_tcx(c"eth0", hook)?.1.len());
    hooks.into_iter().map(count).collect()
}

/// Every path below a directory.
fn tree(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                rest.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Every kernel parameter below a directory that can be read and holds still.
fn parameters(dir: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let moves = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with("_count") || name.ends_with("-nr")
    };
    let files = tree(dir)?
        .into_iter()
        .filter(|path| path.is_file() && !moves(path));
    Ok(files
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            Some((path, text))
        })
        .collect())
}

/// Makes what stands in the way of an agent: another CNI's device, rules of kube-proxy, a process on
/// the health port, and a node that forwards nothing. Returns what holds the port.
fn plant(netns: &Netns) -> Result<TcpListener> {
    netns.ip("link add cilium_host type bridge\n")?;
    netns.sysctl(&[("net/ipv4/ip_forward", "0")])?;
    for words in [
        "add table ip kube-proxy",
        "add chain ip kube-proxy services",
    ] {
        netns.output(Command::new("nft").args(words.split(' ')))?;
    }
    Ok(netns.run(|| TcpListener::bind("0.0.0.0:10256"))??)
}

#[test]
fn a_node_that_can_be_served_passes_and_stays_as_it_is() -> Result<()> {
    let topology = Topology::build(Site::new()?, Links::STANDARD)?;
    let node = &topology.node_a;
    fs::set_permissions(node.bpffs(), Permissions::from_mode(0o700))?;
    let before = Everything::of(node)?;
    let (status, report) = preflight(node, &["--xdp", "always"])?;
    assert_eq!(Everything::of(node)?, before);
    assert_eq!(status, Some(0), "{report:#}");
    assert_eq!(report["failures"], 0);
    assert_eq!(
        states(&report, "external"),
        BTreeMap::from([("eth0", "ok")])
    );
    assert_eq!(states(&report, "bpffs"), BTreeMap::from([("", "ok")]));
    assert_eq!(
        states(&report, "forwarding-ipv4"),
        BTreeMap::from([("eth0", "ok")])
    );
    assert_eq!(states(&report, "kube-proxy"), BTreeMap::from([("", "ok")]));
    Ok(())
}

#[test]
fn conflicts_are_failures_and_the_node_stays_as_it_is() -> Result<()> {
    let topology = Topology::build(Site::new()?, Links::JUMBO)?;
    let node = &topology.node_a;
    let _listener = plant(&node.netns)?;
    let before = Everything::of(node)?;
    let (status, report) = preflight(node, &["--xdp", "always"])?;
    assert_eq!(Everything::of(node)?, before);
    assert_eq!(status, Some(1), "{report:#}");
    assert_eq!(report["state"], "failure");
    assert_eq!(
        states(&report, "cni"),
        BTreeMap::from([("Cilium", "failure")])
    );
    assert_eq!(
        states(&report, "forwarding-ipv4"),
        BTreeMap::from([("eth0", "failure")])
    );
    assert_eq!(
        states(&report, "kube-proxy"),
        BTreeMap::from([("rules", "warning")])
    );
    assert_eq!(
        states(&report, "health-port"),
        BTreeMap::from([("", "warning")])
    );
    assert_eq!(
        states(&report, "metrics-port"),
        BTreeMap::from([("", "ok")])
    );
    assert_eq!(
        states(&report, "xdp"),
        BTreeMap::from([("eth0", "warning")])
    );
    let (_, hard) = preflight(node, &["--bind-address-hard-fail"])?;
    assert_eq!(
        states(&hard, "health-port"),
        BTreeMap::from([("", "failure")])
    );
    Ok(())
}

#[test]
fn what_another_agent_has_attached_is_known() -> Result<()> {
    let topology = Topology::build(Site::new()?, Links::STANDARD)?;
    let node = &topology.node_a;
    let manifests = node.dir.join("manifests");
    fs::create_dir(&manifests)?;
    let mut agent = agent::Agent::launch(node, &["--manifests".into(), manifests.into()])?;
    agent.wait_ready()?;
    let (status, report) = preflight(node, &["--xdp", "always"])?;
    assert_eq!(status, Some(0), "{report:#}");
    assert_eq!(states(&report, "agent"), BTreeMap::from([("", "warning")]));
    assert_eq!(states(&report, "health-port"), BTreeMap::from([("", "ok")]));
    assert_eq!(states(&report, "pins"), BTreeMap::from([("", "ok")]));
    assert_eq!(states(&report, "tc-programs"), BTreeMap::new());
    assert_eq!(states(&report, "xdp"), BTreeMap::from([("eth0", "ok")]));
    agent.stop()?;
    agent::clean_up(node)
}

#[test]
fn a_process_without_capabilities_and_wrong_options_are_told_by_the_exit_status() -> Result<()> {
    let topology = Topology::build(Site::new()?, Links::STANDARD)?;
    let node = &topology.node_a;
    let program = agent::program("lb-agent")?;
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let output = run(node, &bare, &program, &["-o", "json"])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(
        states(&report, "capabilities"),
        BTreeMap::from([("", "failure")])
    );
    let output = run(node, &[], &program, &["--service-node-port-range", "x"])?;
    assert_eq!(output.status.code(), Some(2));
    ensure!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let mut help = Command::new(program);
    let help = command::run(help.args(["preflight", "--help"]))?;
    let help = String::from_utf8(help.stdout)?;
    ensure!(
        help.contains("Exit status:") && help.contains("Examples:"),
        "{help}"
    );
    Ok(())
}

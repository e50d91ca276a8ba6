//! K5, K16: what is taken away, and what is left alone.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    checks::Check,
    cluster::eventually,
    command,
    echo::Protocol::Tcp,
    kube::{KubeProxy, Mode},
    raw,
};

use crate::{
    agents::{Left, text},
    world::{SOON, World, row},
};

/// Where it happens; node-a goes on as ever.
const NODE: &str = "node-b";
const WEB: &str = "10.96.1.1:80";
/// How long kube-proxy may take to program what there is, on a busy machine.
const PROGRAMMED: Duration = Duration::from_secs(30);

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("k5_cleanup_leaves_nothing", k5_cleanup),
        row("k5_kube_proxys_nftables_tables", k5_nftables),
        row("k5_kube_proxys_iptables_chains", k5_iptables),
        row("k16_chains_of_others_stay", k16_chains_of_others),
    ]
}

fn given(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: NodePort, clusterIP: 10.96.1.1, ports: [{port: 80, nodePort: 30080}]}}",
    )?;
    world.endpoints("web", &["pod-3"])
}

/// By either way of saying it.
fn k5_cleanup(world: &mut World) -> Result<()> {
    given(world)?;
    let bpffs = world.cluster.topology.node(NODE)?.bpffs();
    let others = bpffs.join("others");
    raw::pin_pass(&others)?;
    let dir = text(bpffs.as_os_str())?;
    for way in [
        &["cleanup", "--bpffs", &dir][..],
        &["run", "--cleanup", "--bpffs", &dir],
    ] {
        let outcome = leaves_nothing(world, way);
        world.restart(NODE, &[])?;
        outcome?;
        ensure!(others.exists(), "the pin of another is gone");
    }
    fs::remove_file(others)?;
    Ok(())
}

fn leaves_nothing(world: &mut World, way: &[&str]) -> Result<()> {
    const AT_B: &str = "10.10.0.2:30080";
    world.served("client", Tcp, AT_B, &["pod-3"])?;
    world.cluster.agent(NODE)?.stop()?;
    let pins = world.pins(NODE)?;
    let left = Left::pinned(&pins)?;
    world.served("client", Tcp, AT_B, &["pod-3"])?;
    world.lb_agent(NODE, way)?;
    ensure!(!pins.root().exists(), "{} stays", pins.root().display());
    left.is_gone()?;
    world.refused("client", Tcp, AT_B)?;
    // What is not of this agent: traffic to pods, and the other node's.
    world.served("client", Tcp, "10.1.2.1:8080", &["pod-3"])?;
    world.served("client", Tcp, "10.10.0.1:30080", &["pod-3"])?;
    // There being nothing is fine.
    world.lb_agent(NODE, way).map(drop)
}

/// What a program prints, run on the node.
fn printed(world: &World, program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    let output = world.cluster.netns(NODE)?.output(command.args(args))?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Does `then`, and leaves the node without rules.
fn with_rules(world: &mut World, then: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    let outcome = then(world);
    printed(world, "nft", &["flush", "ruleset"])?;
    // kube-proxy loosens it for node ports on loopback addresses (B11).
    let netns = world.cluster.netns(NODE)?;
    netns.sysctl(&[("net/ipv4/conf/all/route_localnet", "0")])?;
    outcome
}

/// Waits until kube-proxy has programmed the node, and ends it as a crash would.
fn kube_proxy_programs(world: &World, mode: Mode) -> Result<()> {
    let control = &world.cluster.source.control;
    let mut proxy = KubeProxy::start(control, world.cluster.netns(NODE)?, NODE, mode)?;
    proxy.process.until(PROGRAMMED, |_| {
        let rules = match mode {
            Mode::Nftables => printed(world, "nft", &["list", "table", "ip", "kube-proxy"])?,
            Mode::Iptables => printed(world, "iptables-save", &[])?,
        };
        ensure!(
            rules.contains("10.96.1.1"),
            "no rules of the Service:\n{rules}"
        );
        Ok(())
    })
}

/// An agent tells of kube-proxy's rules, serves in spite of them, and removes them when told to.
fn cleans_up(world: &mut World) -> Result<()> {
    world.restart(NODE, &[])?;
    eventually(SOON, || {
        let log = world.cluster.agents[NODE].log();
        let told = "kube-proxy has left rules";
        ensure!(
            log.contains(told),
            "it does not tell of kube-proxy's rules:\n{log}"
        );
        Ok(())
    })?;
    world.served("pod-3", Tcp, WEB, &["pod-3"])?;
    world.lb_agent(NODE, &["cleanup", "--kube-proxy"])?;
    world.served("pod-3", Tcp, WEB, &["pod-3"])
}

fn k5_nftables(world: &mut World) -> Result<()> {
    given(world)?;
    with_rules(world, |world| {
        printed(world, "nft", &["add", "table", "ip", "others"])?;
        kube_proxy_programs(world, Mode::Nftables)?;
        cleans_up(world)?;
        let tables = printed(world, "nft", &["list", "tables"])?;
        ensure!(tables == "table ip others\n", "{tables}");
        Ok(())
    })
}

/// `KUBE-FIREWALL` stays, for it is the kubelet's too: what kube-proxy has put there keeps outside
/// packets from loopback addresses.
fn k5_iptables(world: &mut World) -> Result<()> {
    given(world)?;
    with_rules(world, |world| {
        kube_proxy_programs(world, Mode::Iptables)?;
        cleans_up(world)?;
        let rest = rules(world)?;
        let of_kube_proxy = |rule: &&String| rule.replace("KUBE-FIREWALL", "").contains("KUBE-");
        let rest: Vec<_> = rest.iter().filter(of_kube_proxy).collect();
        ensure!(rest.is_empty(), "{rest:#?} stay");
        Ok(())
    })
}

/// As the kubelet and a CNI plugin make them.
const CHAINS: &str = "\
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A CNI-HOSTPORT-SETMARK -s PODS -j KUBE-MARK-MASQ
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A INPUT -j KUBE-FIREWALL
COMMIT
";

/// At the start of an agent, while it runs, and when it removes kube-proxy's.
fn k16_chains_of_others(world: &mut World) -> Result<()> {
    given(world)?;
    with_rules(world, |world| {
        let netns = world.cluster.netns(NODE)?;
        for (restore, pods) in [
            ("iptables-restore", "10.1.2.0/24"),
            ("ip6tables-restore", "fd00:1:2::/64"),
        ] {
            let chains = CHAINS.replace("PODS", pods);
            netns.run(|| command::feed(&mut Command::new(restore), &chains))??;
        }
        let before = rules(world)?;
        kube_proxy_programs(world, Mode::Iptables)?;
        cleans_up(world)?;
        let after = rules(world)?;
        let gone: Vec<_> = before.iter().filter(|rule| !after.contains(rule)).collect();
        ensure!(gone.is_empty(), "{gone:#?} are gone");
        let of_kube_proxy = |rule: &&String| {
            [
                "KUBE-SVC-",
                "KUBE-SEP-",
                "KUBE-SERVICES",
                "KUBE-PROXY-CANARY",
            ]
            .iter()
            .any(|chain| rule.contains(chain))
        };
        let rest: Vec<_> = after.iter().filter(of_kube_proxy).collect();
        ensure!(rest.is_empty(), "{rest:#?} stay");
        Ok(())
    })
}

/// Every chain and rule, by program and table, without what it has counted.
fn rules(world: &World) -> Result<Vec<String>> {
    let mut rules = Vec::new();
    for save in ["iptables-save", "ip6tables-save"] {
        let mut table = "";
        let text = printed(world, save, &[])?;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            table = line.strip_prefix('*').unwrap_or(table);
            let line = line.split(" [").next().unwrap_or_default();
            rules.push(format!("{save} {table}: {line}"));
        }
    }
    Ok(rules)
}

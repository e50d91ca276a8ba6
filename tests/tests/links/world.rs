//! The nodes of [`clsact`](crate::clsact), and what `tc` shows of one.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use lb_userspace::pins::Pins;
use tests::{
    cluster::{Cluster, Target},
    echo::Protocol,
    manifests::examples,
    raw,
    site::Site,
    talk::ask,
    topology::{Family, Host, Links},
};

/// `web` of the examples: at node-a, and its cluster IP.
pub(crate) const WEB: Target = Target::new("10.10.0.1", "fd00:10::1", 30080);
pub(crate) const WEB_CLUSTER: Target = Target::new("10.96.0.10", "fd00:96::10", 80);

pub(crate) const BY_FILTERS: [&str; 2] = ["--tc-attach", "clsact"];
pub(crate) const HANDLE: &str = "0xfa11ead";
pub(crate) const DIRECTIONS: [&str; 2] = ["ingress", "egress"];
/// Whom somebody else's filter is on, as Cilium has them.
pub(crate) const SHARED: &str = "eth0";
pub(crate) const OTHER: (&str, &str) = ("1", "0x1");
/// Where nobody else has any.
pub(crate) const POD: &str = "veth-pod-1";

/// Two nodes, on one of which somebody else has a filter already.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
}

/// A filter as `tc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) priority: String,
    pub(crate) handle: String,
    pub(crate) name: String,
    pub(crate) program: String,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let mut cluster = Cluster::build(Site::new()?, Links::STANDARD, &examples())?;
        add_other(&cluster.topology.node_a)?;
        cluster.start_agents_with(&BY_FILTERS)?;
        Ok(Self { cluster })
    }

    pub(crate) fn logs(&self) -> String {
        self.cluster.logs()
    }

    pub(crate) fn node(&self) -> &Host {
        &self.cluster.topology.node_a
    }

    /// Starts the agent of the node again, with these options.
    pub(crate) fn restart(&mut self, options: &[&str]) -> Result<()> {
        let mut agent = self.cluster.launch("node-a", options)?;
        agent.wait_ready()?;
        self.cluster.agents.insert("node-a", agent);
        Ok(())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(agent) = self.cluster.agents.get_mut("node-a") {
            agent.kill();
        }
    }

    /// The filters of an interface, in the order packets meet them.
    pub(crate) fn filters(&self, interface: &str, direction: &str) -> Result<Vec<Shown>> {
        let text = self.tc(&["filter", "show", "dev", interface, direction])?;
        let lines = text.lines().filter(|line| line.contains(" handle "));
        lines
            .map(|line| shown(line).with_context(|| format!("{line:?}")))
            .collect()
    }

    pub(crate) fn ours(&self, interface: &str, direction: &str) -> Result<Vec<Shown>> {
        let filters = self.filters(interface, direction)?.into_iter();
        Ok(filters.filter(|it| it.handle == HANDLE).collect())
    }

    /// The filters of ours on both interfaces and in both directions, of which there is one each.
    pub(crate) fn all_ours(&self) -> Result<Vec<Shown>> {
        let mut all = Vec::new();
        for interface in [SHARED, POD] {
            for direction in DIRECTIONS {
                let mut ours = self.ours(interface, direction)?;
                ensure!(ours.len() == 1, "{interface} {direction}: {ours:?}");
                all.append(&mut ours);
            }
        }
        Ok(all)
    }

    pub(crate) fn no_filters(&self) -> Result<()> {
        for interface in [SHARED, POD, "veth-pod-2"] {
            for direction in DIRECTIONS {
                let ours = self.ours(interface, direction)?;
                ensure!(ours.is_empty(), "{interface} {direction}: {ours:?}");
            }
        }
        Ok(())
    }

    /// The filter of somebody else.
    pub(crate) fn other(&self) -> Result<Shown> {
        let filters = self.filters(SHARED, "ingress")?;
        let of_other = |it: &Shown| (&*it.priority, &*it.handle) == OTHER;
        filters.into_iter().find(of_other).context("it is gone")
    }

    pub(crate) fn has_qdisc(&self, interface: &str) -> Result<bool> {
        Ok(self
            .tc(&["qdisc", "show", "dev", interface])?
            .contains("clsact"))
    }

    pub(crate) fn tc(&self, args: &[&str]) -> Result<String> {
        let output = self.node().netns.output(Command::new("tc").args(args))?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Programs of tc that links are pinned of.
    pub(crate) fn links(&self) -> Result<Vec<String>> {
        let dir = Pins::new(&self.node().bpffs()).links();
        let entries = fs::read_dir(&dir)?.map(|entry| Ok(entry?.file_name()));
        let names = entries.map(|name: Result<_>| Ok(name?.to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names
            .into_iter()
            .filter(|name| name.starts_with("tc_"))
            .collect())
    }

    /// Everybody is served: clients outside by backends on either node, and pods.
    pub(crate) fn serves(&self) -> Result<()> {
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let mut servers = [false; 3];
                for (from, to) in [
                    ("client", WEB),
                    ("client", WEB_CLUSTER),
                    ("pod-2", WEB_CLUSTER),
                ] {
                    for _ in 0..12 {
                        let netns = self.cluster.netns(from)?;
                        let answer = ask(netns, protocol, to.of(family)?)
                            .with_context(|| format!("{from} asked {to:?} over {protocol:?}"))?;
                        let number = answer.server.strip_prefix("pod-").context("no pod")?;
                        servers[number.parse::<usize>()? - 1] = true;
                    }
                }
                ensure!(servers == [true; 3], "not all served: {servers:?}");
            }
        }
        Ok(())
    }

    /// Does something while clients ask without a pause; none of them may go without an answer.
    pub(crate) fn while_asked(&self, what: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = AtomicBool::new(false);
        let client = self.cluster.netns("client")?;
        thread::scope(|scope| {
            let asking = Family::BOTH.map(|family| {
                let done = &done;
                scope.spawn(move || -> Result<usize> {
                    let mut asked = 0;
                    while !done.load(Ordering::Relaxed) {
                        ask(client, Protocol::Tcp, WEB.of(family)?)
                            .with_context(|| format!("{family:?}, after {asked} answers"))?;
                        asked += 1;
                    }
                    Ok(asked)
                })
            });
            let happened = what();
            done.store(true, Ordering::Relaxed);
            for asking in asking {
                let asked = asking
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??;
                ensure!(asked > 10, "a client asked {asked} times only");
            }
            happened
        })
    }
}

/// Reads a line such as `filter protocol all pref 1 bpf chain 0 handle 0x1 nop_tc direct-action not_in_hw id 7 …`.
fn shown(line: &str) -> Option<Shown> {
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|it| *it == word)?;
        words.get(at + 1).map(|it| (*it).to_owned())
    };
    let named = words.iter().position(|it| *it == "handle")? + 2;
    Some(Shown {
        priority: after("pref")?,
        handle: after("handle")?,
        name: (*words.get(named)?).to_owned(),
        program: after("id")?,
    })
}

/// Puts somebody else's filter on an interface, where Cilium has its own.
fn add_other(node: &Host) -> Result<()> {
    let program = node.bpffs().join("other");
    raw::pin_accept(&program)?;
    let program = program.display().to_string();
    let filter = [
        "filter",
        "add",
        "dev",
        SHARED,
        "ingress",
        "pref",
        OTHER.0,
        "handle",
        OTHER.1,
        "bpf",
        "da",
        "object-pinned",
        &program,
    ];
    for args in [&["qdisc", "add", "dev", SHARED, "clsact"][..], &filter] {
        node.netns.output(Command::new("tc").args(args))?;
    }
    Ok(())
}

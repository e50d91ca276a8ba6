//! Agents that are started otherwise than as usual, and what an agent leaves in the kernel.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::MapData,
    programs::{
        ProgramInfo,
        links::{FdLink, PinnedLink},
        loaded_links, loaded_programs,
    },
};
use lb_userspace::pins::Pins;
use serde_json::Value;
use tests::{
    agent::{Agent, program},
    cluster::{Source as _, eventually},
    raw,
};

use crate::world::{SOON, World};

/// How long an agent may take to end by itself: it may load its programs first.
const END: Duration = Duration::from_secs(30);

impl World {
    /// Does `then` while the agent that `launch` starts is on a node, in place of the usual one.
    pub(crate) fn with_agent(
        &mut self,
        node: &'static str,
        launch: impl FnOnce(&Self) -> Result<Agent>,
        then: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.cluster.agent(node)?.stop()?;
        let outcome = launch(self).and_then(|mut agent| {
            let ready = agent.wait_ready();
            self.cluster.agents.insert(node, agent);
            ready.and_then(|()| then(self))
        });
        let restored = self.restart(node, &[]);
        outcome.and(restored)
    }

    /// What an agent says that these words run on a node with these options, and that ends by itself
    /// because of them.
    pub(crate) fn refuses(&self, by: &[&str], node: &str, options: &[&str]) -> Result<String> {
        let mut agent = self.cluster.launch_by(by, node, options)?;
        let status = agent.process().ended(END)?;
        let log = agent.log();
        ensure!(!status.success(), "it ended well:\n{log}");
        Ok(log)
    }

    /// Runs `lb-agent` with these arguments alone in a node's namespace, to its end.
    pub(crate) fn lb_agent(&self, node: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program("lb-agent")?);
        let output = self.cluster.netns(node)?.output(command.args(args))?;
        Ok(String::from_utf8(output.stderr)? + &String::from_utf8(output.stdout)?)
    }

    /// Writes a `KubeProxyConfiguration` with these fields, for an agent of this node: its file.
    pub(crate) fn config(&self, node: &str, fields: &Value) -> Result<String> {
        let host = self.cluster.topology.node(node)?;
        let arguments = self.cluster.source.arguments(host)?;
        let kubeconfig = arguments.last().context("no kubeconfig")?;
        let mut config = fields.clone();
        config["apiVersion"] = "kubeproxy.config.k8s.io/v1alpha1".into();
        config["kind"] = "KubeProxyConfiguration".into();
        config["clientConnection"]["kubeconfig"] = text(kubeconfig)?.into();
        let (file, fresh) = (host.dir.join("config.json"), host.dir.join("fresh.json"));
        // As `ConfigMaps` are replaced: by another file under the same name.
        fs::write(&fresh, config.to_string())?;
        fs::rename(&fresh, &file)?;
        text(file.as_os_str())
    }

    /// Does `then` while writes to a map of a node's agent fail. The map stays so, and the next agent
    /// makes another one.
    pub(crate) fn with_frozen(
        &mut self,
        node: &'static str,
        map: &str,
        then: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let pins = self.pins(node)?;
        raw::freeze(pins.open(map)?.fd())?;
        let outcome = then(self);
        fs::remove_file(pins.map(map))?;
        let restored = self.restart(node, &[]);
        outcome.and(restored)
    }

    /// Where a node's agent pins.
    pub(crate) fn pins(&self, node: &str) -> Result<Pins> {
        Ok(Pins::new(&self.cluster.topology.node(node)?.bpffs()))
    }
}

/// A path as an argument.
pub(crate) fn text(path: &OsStr) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.with_context(|| format!("{} is no text", path.display()))
}

/// The programs, maps and links of an agent, by their numbers in the kernel.
#[derive(Debug)]
pub(crate) struct Left {
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Left {
    /// What is pinned.
    pub(crate) fn pinned(pins: &Pins) -> Result<Self> {
        let mut left = Self {
            links: BTreeSet::new(),
            programs: BTreeSet::new(),
            maps: BTreeSet::new(),
        };
        for path in files(&pins.links())? {
            let info = FdLink::from(PinnedLink::from_pin(&path)?).info()?;
            left.links.insert(info.id());
            left.programs.insert(info.program_id());
        }
        for path in files(&pins.programs())? {
            let program = ProgramInfo::from_pin(&path)?;
            left.programs.insert(program.id());
        }
        for path in files(&pins.maps())? {
            left.maps.insert(MapData::from_pin(&path)?.info()?.id());
        }
        let Self {
            links,
            programs,
            maps,
        } = &left;
        ensure!(
            !links.is_empty() && !programs.is_empty() && !maps.is_empty(),
            "{left:?} is not all of an agent"
        );
        Ok(left)
    }

    /// Soon the kernel has none of it.
    pub(crate) fn is_gone(&self) -> Result<()> {
        let Self {
            links,
            programs,
            maps,
        } = self;
        // What goes in the middle of a listing is no error of it.
        eventually(SOON, || {
            let there: Vec<u32> = loaded_links().flatten().map(|it| it.id()).collect();
            none_of("links", links, &there)?;
            let there: Vec<u32> = loaded_programs().flatten().map(|it| it.id()).collect();
            none_of("programs", programs, &there)?;
            none_of("maps", maps, &raw::map_ids()?)
        })
    }
}

fn none_of(kind: &str, ours: &BTreeSet<u32>, there: &[u32]) -> Result<()> {
    let rest: Vec<_> = there.iter().filter(|id| ours.contains(id)).collect();
    ensure!(rest.is_empty(), "{kind} {rest:?} are still there");
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

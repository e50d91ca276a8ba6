//! A node with services in every situation.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map};
use clap::Parser;
use lb_common::{
    config::Config,
    maps::{self, STATUS_SIZE, programs},
    proto,
    service::{Affinity, Frontend, ServiceName, Slots, backend, frontend},
    socket::Cookie,
};
use lb_model::lists::listed;
use lb_userspace::{
    cli::{Cli, Paint},
    pins::Pins,
    status::{Interface, Mode, Role, SocketMode, Sockets, Status},
};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use serde_json::Value;
use tests::{
    bpffs::Bpffs,
    fixture::{self, names},
    kernel::{Endpoint, Input, Kernel, Output},
    netns::Netns,
    site::Site,
    topology::Family,
};

use crate::packet;

/// Answers of tc programs.
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

const POD: u32 = 0;
const REMOTE: u32 = 1;
const PROHIBITED: u32 = 2;
const POD2: u32 = 3;

/// Name, address and port, protocol, flags, backends inside and outside.
type Service = (
    &'static str,
    (&'static str, u16),
    u8,
    u32,
    &'static [u32],
    &'static [u32],
);

const SERVICES: [Service; 12] = [
    (
        "web",
        ("web", 80),
        proto::TCP,
        frontend::CLUSTER_IP,
        &[POD, REMOTE],
        &[POD, REMOTE],
    ),
    (
        "web",
        ("node", 30080),
        proto::TCP,
        0,
        &[POD, REMOTE],
        &[POD, REMOTE],
    ),
    (
        "local",
        ("node", 30081),
        proto::TCP,
        frontend::DROP_OUTSIDE,
        &[REMOTE],
        &[],
    ),
    (
        "empty",
        ("web", 81),
        proto::TCP,
        frontend::CLUSTER_IP,
        &[],
        &[],
    ),
    (
        "guarded",
        ("balancer", 443),
        proto::TCP,
        frontend::SOURCE_RANGES,
        &[POD],
        &[POD],
    ),
    ("far", ("node", 30082), proto::TCP, 0, &[REMOTE], &[REMOTE]),
    (
        "partly",
        ("node", 30083),
        proto::TCP,
        0,
        &[REMOTE, PROHIBITED],
        &[REMOTE, PROHIBITED],
    ),
    (
        "itself",
        ("web", 83),
        proto::TCP,
        frontend::CLUSTER_IP,
        &[POD],
        &[POD],
    ),
    (
        "dns",
        ("web", 53),
        proto::UDP,
        frontend::CLUSTER_IP,
        &[POD2],
        &[POD2],
    ),
    (
        "signals",
        ("web", 9899),
        proto::SCTP,
        frontend::CLUSTER_IP,
        &[POD2, REMOTE],
        &[POD2, REMOTE],
    ),
    (
        "hashed",
        ("node", 30085),
        proto::TCP,
        frontend::HASHED,
        &[POD, REMOTE],
        &[POD, REMOTE],
    ),
    (
        "sticky",
        ("node", 30084),
        proto::TCP,
        0,
        &[POD, POD2],
        &[POD, POD2],
    ),
];

/// The service whose clients are remembered.
const STICKY: &str = "sticky";
/// The service that only one client may use.
const GUARDED: &str = "guarded";

/// The node, its maps and programs.
pub(crate) struct World {
    bpffs: Bpffs,
    kernel: Kernel,
    interfaces: BTreeMap<&'static str, u32>,
    netns: Netns,
    _site: Site,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let site = Site::new()?;
        let netns = Netns::create(site.name("explain"))?;
        names::build(&netns)?;
        let bpffs = Bpffs::new()?;
        let mut kernel = Kernel::load_pinned(bpffs.pins())?;
        let interfaces = netns.run(interfaces)??;
        for (name, flags) in names::LINKS {
            kernel.link(interfaces[name], flags)?;
        }
        kernel.configure(Config {
            netns: Cookie::new(1),
            ..fixture::config()?
        })?;
        for family in Family::BOTH {
            program(&mut kernel, family)?;
        }
        let world = Self {
            bpffs,
            kernel,
            interfaces,
            netns,
            _site: site,
        };
        world.name_services()?;
        world.write_status()?;
        Ok(world)
    }

    pub(crate) fn pins(&self) -> &Pins {
        self.bpffs.pins()
    }

    pub(crate) fn explain(&self, family: Family, args: &[&str]) -> Result<String> {
        self.lbctl(family, args, "json")
    }

    pub(crate) fn answer(&self, family: Family, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.explain(family, args)?)?)
    }

    /// What `lbctl explain` prints, in the node's network namespace.
    pub(crate) fn lbctl(&self, family: Family, args: &[&str], format: &str) -> Result<String> {
        let [from, to, rest @ ..] = args else {
            anyhow::bail!("from whom to whom?");
        };
        let (from, interface) = from.split_once('%').unwrap_or((from, ""));
        let percent = if interface.is_empty() { "" } else { "%" };
        let from = format!("{}{percent}{interface}", at(family, from)?);
        let to = at(family, to)?;
        let bpffs = self.bpffs.path().display().to_string();
        let mut line = vec!["lbctl", "explain", "--bpffs", &bpffs, "-o", format];
        line.extend(["--from", &from, "--to", &to]);
        line.extend(rest);
        let cli = Cli::try_parse_from(line)?;
        self.netns.run(|| {
            let mut out = Vec::new();
            cli.run(&mut out, Paint::OFF)?;
            Ok(String::from_utf8(out)?)
        })?
    }

    /// Has the live program do what was asked about. The address it leads to.
    pub(crate) fn send(&mut self, answer: &Value) -> Result<String> {
        let output = self.run(answer)?;
        Ok(packet::destination(&output.frame)?.to_string())
    }

    /// Whether the live program does what is said.
    pub(crate) fn compare(&mut self, answer: &Value) -> Result<()> {
        let sent = packet::frame(answer)?;
        let output = self.run(answer)?;
        match answer["verdict"].as_str() {
            Some("pass") => {
                ensure!(output.action == TC_ACT_UNSPEC && output.frame == sent);
            }
            Some("drop") => ensure!(output.action == TC_ACT_SHOT),
            Some("reject") => ensure!(output.action == TC_ACT_REDIRECT),
            Some("forward") => self.compare_candidate(answer, &output)?,
            other => anyhow::bail!("{other:?} is no verdict"),
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "it is a part of `compare`")]
    fn compare_candidate(&self, answer: &Value, output: &Output) -> Result<()> {
        if output.action == TC_ACT_SHOT {
            let lost = answer["candidates"].as_array().into_iter().flatten();
            ensure!(
                lost.into_iter()
                    .any(|candidate| candidate["verdict"] == "drop")
            );
            return Ok(());
        }
        let led = packet::destination(&output.frame)?.to_string();
        let mut candidates = answer["candidates"].as_array().into_iter().flatten();
        let candidate = candidates
            .find(|candidate| candidate["address"] == led.as_str())
            .with_context(|| format!("{led} is no candidate"))?;
        ensure!(candidate["verdict"] == "forward", "{candidate}");
        let (source, port) = packet::source(&output.frame)?;
        ensure!(candidate["source"]["address"] == source.to_string());
        if let Some(kept) = candidate["source"]["port"].as_u64() {
            ensure!(kept == u64::from(port), "{port} instead of {kept}");
        }
        Ok(())
    }

    fn run(&mut self, answer: &Value) -> Result<Output> {
        let program = match answer["seen"]["hook"].as_str() {
            Some("pod") => programs::TC_POD_INGRESS,
            _ => programs::TC_EXTERNAL_INGRESS,
        };
        let interface = answer["seen"]["interface"].as_str().context("nowhere")?;
        let frame = packet::frame(answer)?;
        let ifindex = self.interfaces[interface];
        let kernel = &self.kernel;
        self.netns.run(|| {
            kernel.run(
                program,
                Input {
                    ifindex,
                    frame: &frame,
                    segment: 0,
                },
            )
        })?
    }

    fn name_services(&self) -> Result<()> {
        let map = Map::from_map_data(self.pins().open(maps::SERVICE_NAMES)?)?;
        let mut rows = HashMap::<_, u32, ServiceName>::try_from(map)?;
        for (id, (name, _, protocol, ..)) in SERVICES.iter().enumerate() {
            let name = ServiceName::new("shop", name, "main", *protocol, 4);
            rows.insert(&(id as u32), &name, 0)?;
        }
        Ok(())
    }

    fn write_status(&self) -> Result<()> {
        let interface = |name: &str, role, mode| Interface {
            name: name.to_owned(),
            index: self.interfaces[name],
            role,
            mode,
            reason: String::new(),
        };
        let status = Status {
            interfaces: vec![
                interface("eth0", Role::External, Mode::Xdp),
                interface("eth1", Role::External, Mode::None),
                interface("pod0", Role::Pod, Mode::Tc),
            ],
            sockets: Sockets {
                mode: SocketMode::Host,
                cgroup: None,
                ..Sockets::default()
            },
            ..Status::default()
        };
        let text = serde_json::to_vec(&status)?;
        let mut value = vec![0_u8; STATUS_SIZE as usize];
        value[..4].copy_from_slice(&(text.len() as u32).to_ne_bytes());
        value[4..4 + text.len()].copy_from_slice(&text);
        let map = Map::from_map_data(self.pins().open(maps::STATUS)?)?;
        let mut rows = Array::<_, [u8; STATUS_SIZE as usize]>::try_from(map)?;
        let value = value.try_into().ok().context("not as long as a status")?;
        Ok(rows.set(0, &value, 0)?)
    }
}

fn interfaces() -> Result<BTreeMap<&'static str, u32>> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    names::LINKS
        .into_iter()
        .map(|(name, _)| Ok((name, name_to_index(&socket, name)?)))
        .collect()
}

fn program(kernel: &mut Kernel, family: Family) -> Result<()> {
    let rows = kernel.family(family);
    let every = backend::ALIVE | backend::IN_CLUSTER;
    for (index, name, flags) in [
        (POD, "pod", every | backend::LOCAL),
        (REMOTE, "remote", every),
        (PROHIBITED, "prohibited", every),
        (POD2, "pod2", every | backend::LOCAL),
    ] {
        let at = endpoint(family, name, 8080)?;
        rows.backend(index, at, flags, 1)?;
    }
    let mut next = 0;
    for (id, (name, at, protocol, flags, inside, outside)) in SERVICES.iter().enumerate() {
        let id = id as u32;
        let mut lists = [Slots::default(); 2];
        for (range, backends) in lists.iter_mut().zip([inside, outside]) {
            let drawn = Slots {
                offset: next,
                count: backends.len() as u32,
            };
            let words;
            (words, *range) = if flags & frontend::HASHED == 0 {
                (backends.to_vec(), drawn)
            } else {
                listed(next, backends)
            };
            for word in words {
                rows.slot(next, word)?;
                next += 1;
            }
        }
        let value = Frontend {
            service: id,
            flags: *flags,
            inside: lists[0],
            outside: lists[1],
            affinity: Affinity::new(if *name == STICKY { 3600 } else { 0 }, 1),
        };
        rows.frontend(endpoint(family, at.0, at.1)?, *protocol, Some(&value))?;
        if names::is_cluster_ip(at.0) {
            rows.frontend(endpoint(family, at.0, 0)?, 0, Some(&value))?;
        }
        if *name == GUARDED {
            rows.let_in(id, names::address("other", family)?)?;
        }
    }
    Ok(())
}

fn endpoint(family: Family, name: &str, port: u16) -> Result<Endpoint> {
    let addr = names::address(name, family)?;
    Ok(Endpoint { addr, port })
}

/// `name` or `name:port` as lbctl takes it.
fn at(family: Family, text: &str) -> Result<String> {
    let Some((name, port)) = text.split_once(':') else {
        return Ok(names::address(text, family)?.to_string());
    };
    let address = names::address(name, family)?;
    Ok(match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    })
}

//! `lb-agent preflight`: whether this node can be served, told without a change to it.
//!
//! A file for each group of checks: facts, the function that reads them, and the pure function from
//! facts and options to findings. [`files`] and [`generic_netlink`] are what facts are read by,
//! [`mod@report`] is what the findings come to.

mod attached;
mod cgroups;
mod cni;
mod features;
mod files;
mod finding;
mod generic_netlink;
mod kernel;
mod known_cnis;
mod kube_proxy;
mod links;
mod modules;
mod mounts;
mod nft_tables;
mod parameters;
mod pin_directory;
mod ports;
#[cfg(test)]
mod recorded;
mod report;
mod rights;
#[cfg(test)]
mod tests;
mod xdp;
mod xdp_drivers;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::IpAddr,
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, error::ErrorKind};

use self::{
    attached::AttachedFacts,
    cgroups::CgroupFacts,
    cni::CniFacts,
    files::{Files, Reading},
    finding::{FindingState, NodeFinding},
    kernel::KernelFacts,
    kube_proxy::KubeProxyFacts,
    links::Sorted,
    modules::ModuleFacts,
    mounts::Mount,
    parameters::ParameterFacts,
    pin_directory::PinFacts,
    ports::{PortFacts, PortOptions},
    report::{Node, PreflightReport},
    rights::RightsFacts,
    xdp::Device,
};
use super::{
    monitor::{Monitor, MonitorError},
    options::{self, Cli, Host, Options, PreflightArgs},
    probe,
    table::Table,
};
use crate::{
    cli::output::{self, Detail, Paint},
    source::kubernetes::Requests,
};

/// `lb-agent preflight`: 0 without a failure, 1 with one, 2 if the options are wrong.
pub(super) fn main(args: &PreflightArgs) -> ExitCode {
    let resolved = match options::resolve_preflight(&args.node, &Host::this()) {
        Ok(resolved) => resolved,
        Err(message) => Cli::command()
            .error(ErrorKind::ValueValidation, message)
            .exit(),
    };
    let files = Files::new(args.host_root.clone());
    let facts = read(&files, &resolved.options);
    let report = report(&facts, &resolved.options, resolved.warnings);
    let paint = Paint::detect();
    let shown = args.output.render(&report, |report, detail| {
        report::render(report, detail, paint)
    });
    let written = shown.map_err(io::Error::other).and_then(|text| {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    });
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tracing::error!("cannot write the result: {error}");
            ExitCode::FAILURE
        }
        Ok(()) | Err(_) if report.state == FindingState::Failure => ExitCode::FAILURE,
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Everything that is known of the node.
#[derive(Debug)]
struct NodeFacts {
    kernel: KernelFacts,
    rights: RightsFacts,
    mounts: Reading<Vec<Mount>>,
    pins: PinFacts,
    cgroup: CgroupFacts,
    modules: ModuleFacts,
    cni: CniFacts,
    kube_proxy: KubeProxyFacts,
    ports: PortFacts,
    parameters: ParameterFacts,
    /// Links, addresses and default routes, or why the kernel does not tell.
    network: Result<Network, String>,
}

/// What the kernel tells of interfaces.
#[derive(Clone, Debug, Default)]
struct Network {
    table: Table,
    devices: BTreeMap<u32, Device>,
    attached: AttachedFacts,
}

fn read(files: &Files, options: &Options) -> NodeFacts {
    let kernel = kernel::read(
        files,
        features::tried(&probe::probe(), options.check_kernel()),
    );
    let modules = modules::read(files, &kernel.release);
    let network = network(files, options);
    let empty = Table::default();
    let table = network.as_ref().map_or(&empty, |network| &network.table);
    let sorted = Sorted::new(&options.selection, table, &node(options));
    NodeFacts {
        rights: rights::read(files),
        mounts: mounts::read(files),
        pins: pin_directory::read(files, &options.bpffs),
        cgroup: cgroups::read(options.sockets.cgroup.as_deref()),
        cni: cni::read(files, table),
        kube_proxy: kube_proxy::read(files, kube_proxy::rules(files, &modules), table),
        ports: ports::read(files),
        parameters: parameters::read(files, Path::new("/"), &sorted, options.conntrack()),
        kernel,
        modules,
        network,
    }
}

/// Addresses of the Node that the options tell. Others are in its object, which is not asked for.
fn node(options: &Options) -> Vec<IpAddr> {
    options.bind_address.into_iter().collect()
}

fn network(files: &Files, options: &Options) -> Result<Network, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let (table, attached) = runtime
        .block_on(async {
            let monitor = Monitor::new()?;
            let table = monitor.read().await?;
            let sorted = Sorted::new(&options.selection, &table, &node(options));
            let interfaces = attached::interfaces(&sorted);
            let attached = attached::read(monitor.handle(), &interfaces).await;
            Ok((table, attached))
        })
        .map_err(|error: MonitorError| error.to_string())?;
    let sorted = Sorted::new(&options.selection, &table, &node(options));
    let devices = xdp::read(files, sorted.uplinks().map(|(link, _)| link));
    Ok(Network {
        table,
        devices,
        attached,
    })
}

fn report(facts: &NodeFacts, options: &Options, ignored: Vec<String>) -> PreflightReport {
    let node = Node {
        name: options.node_name.clone(),
        kernel: facts.kernel.release.clone(),
        machine: facts.kernel.machine.clone(),
    };
    PreflightReport::new(node, ignored, check(facts, options))
}

/// All findings, the node's own first.
fn check(facts: &NodeFacts, options: &Options) -> Vec<NodeFinding> {
    let socket_lb = options.sockets.socket_lb;
    let servers = options.servers(Requests::default());
    let ports = PortOptions {
        servers: &servers,
        node_ports: &options.node_ports,
        agent_runs: facts.pins.agent.is_some(),
    };
    let mut findings = kernel::check(&facts.kernel);
    findings.extend(rights::check(&facts.rights, socket_lb));
    findings.extend(pin_directory::check(
        &facts.pins,
        &facts.mounts,
        &facts.rights,
    ));
    findings.push(cgroups::check(&facts.cgroup, &facts.mounts, socket_lb));
    findings.extend(modules::check(
        &facts.modules,
        socket_lb,
        facts.kernel.tried.tcx,
    ));
    match &facts.network {
        Ok(network) => findings.extend(check_network(network, options, facts.kernel.tried.tcx)),
        Err(reason) => findings.push(NodeFinding::failure(
            "interfaces",
            reason,
            "the agent cannot ask the kernel for interfaces either",
            "run it where netlink sockets are allowed (seccomp, AppArmor)",
        )),
    }
    findings.extend(parameters::check(&facts.parameters, &facts.rights));
    findings.extend(ports::check(&facts.ports, &ports));
    findings.extend(cni::check(&facts.cni));
    findings.extend(kube_proxy::check(&facts.kube_proxy));
    findings
}

fn check_network(network: &Network, options: &Options, has_tcx: bool) -> Vec<NodeFinding> {
    let Network {
        table,
        devices,
        attached,
    } = network;
    let sorted = Sorted::new(&options.selection, table, &node(options));
    let mut findings = links::check(&sorted);
    let wanted = options.selection.xdp;
    findings.extend(xdp::check(&sorted, devices, &attached.xdp, wanted));
    findings.extend(attached::check(attached, &sorted, has_tcx));
    findings
}

/// The first few names, and how many more there are; none of none.
fn names_of<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then(|| output::list(&names, Detail::Brief))
}

//! The demo: Fairlead on a small cluster on this machine, told for people.

mod keep;
mod requests;
mod say;
mod scaling;

use anyhow::{Context, Result, bail};

use self::say::{Say, line};
use crate::{
    agent::lbctl,
    bench::{self, Extent, Row},
    cluster::{Cluster, NODES},
    manifests::examples,
    site::Site,
    topology::Links,
};

pub use self::keep::{down, serve};

/// The prefix of everything the demo makes.
const SITE: &str = "fl-demo";

/// Runs the demo. With `keep` it is left up, with a word on how to play with it.
pub fn run(keep: bool) -> Result<()> {
    let mut say = Say::new();
    let mut cluster = set_up(&say)?;
    if let Err(error) = acts(&mut say, &mut cluster) {
        eprintln!("\n{}", cluster.logs());
        return Err(error);
    }
    let failures = say.failures();
    if !failures.is_empty() {
        eprintln!("\n{}", cluster.logs());
        bail!(
            "{} expectations did not hold:\n  {}",
            failures.len(),
            failures.join("\n  ")
        );
    }
    if keep {
        return keep::leave_up(&say, cluster);
    }
    say.heading("Cleaning up");
    say.during("namespaces, agents, maps and mounts removed", || {
        drop(cluster);
        Ok(())
    })
}

fn set_up(say: &Say) -> Result<Cluster> {
    say.heading("A client, two nodes and three pods, each in a network namespace");
    let mut cluster = say.during("built", || {
        Cluster::build(Site::named(SITE)?, Links::STANDARD, &examples())
    })?;
    describe(say, &cluster);
    say.heading("An agent on each node, serving examples/");
    say.during("both ready", || cluster.start_agents())?;
    Ok(cluster)
}

fn describe(say: &Say, cluster: &Cluster) {
    let topology = &cluster.topology;
    let hosts = [&topology.client, &topology.node_a, &topology.node_b].into_iter();
    let hosts = hosts.map(|host| (host.name, "the switch", host.addresses));
    let pods = topology.pods.iter();
    let pods = pods.map(|pod| (pod.name.as_str(), pod.node, pod.addresses));
    let row = |(name, on, addresses): (&str, &str, crate::topology::Addresses)| {
        [
            name.to_owned(),
            on.to_owned(),
            addresses.v4.to_string(),
            addresses.v6.to_string(),
        ]
    };
    say.table(
        ["NAME", "BEHIND", "IPV4", "IPV6"],
        hosts.chain(pods).map(row).collect(),
    );
}

fn acts(say: &mut Say, cluster: &mut Cluster) -> Result<()> {
    requests::show_paths(say, cluster)?;
    requests::show_spread(say, cluster)?;
    show_maps(say, cluster)?;
    show_prices(say)?;
    scaling::show(say, cluster)
}

/// An excerpt of what `lbctl` shows of node-a.
fn show_maps(say: &Say, cluster: &Cluster) -> Result<()> {
    const LINES: usize = 9;
    let node = cluster.topology.node(NODES[0])?;
    for args in [
        &["status"][..],
        &["maps", "dump", "frontends"],
        &["maps", "dump", "flows"],
    ] {
        say.heading(&format!("lbctl {} (on node-a)", args.join(" ")));
        let text = lbctl(node, args).context("cannot show the maps")?;
        let lines: Vec<_> = text.lines().collect();
        let shown = if args == ["status"] {
            lines.len()
        } else {
            LINES.min(lines.len())
        };
        lines.iter().take(shown).for_each(|text| line(text));
        if lines.len() > shown {
            line(&format!("... and {} lines more", lines.len() - shown));
        }
    }
    Ok(())
}

/// What a packet costs, measured apart from the cluster.
fn show_prices(say: &Say) -> Result<()> {
    say.heading("The price of a packet: ns of the program alone, IPv4, one service");
    let report = say.during("measured", || {
        let progress = &mut |what: &str| say.progress(what);
        bench::datapath(Extent::Quick, &bench::built_objects(), None, progress)
    })?;
    let row = |row: &Row| {
        [
            row.path.to_owned(),
            row.hook.to_owned(),
            format!("{:.0}", row.net_ns),
            format!("{:.0}", row.primitives_ns),
        ]
    };
    say.table(
        ["PATH", "HOOK", "NS", "OF WHICH ITS MAP AND FIB LOOKUPS"],
        report.rows.iter().map(row).collect(),
    );
    Ok(())
}

//! Requests on every path, and how the choice between backends is spread.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::say::Say;
use crate::{
    cluster::{Cluster, Target},
    echo::{Answer, Protocol},
    talk,
    topology::Family,
};

/// `web` of the examples, by the node port of node-a.
pub(super) const WEB: Target = Target {
    v4: "10.10.0.1",
    v6: "fd00:10::1",
    port: 30080,
};
/// Requests the spread is shown on.
const SPREAD: usize = 600;

/// A path worth showing.
struct Path {
    what: &'static str,
    from: &'static str,
    to: Target,
    /// Pods that may answer.
    answers: &'static [&'static str],
    /// Whose address they are to see.
    sees: &'static str,
}

#[rustfmt::skip]
const PATHS: [Path; 8] = [
    Path { what: "client to node port, local backend", from: "client", to: WEB, answers: &["pod-1", "pod-2"], sees: "client" },
    Path { what: "client to node port, remote backend", from: "client", to: WEB, answers: &["pod-3"], sees: "node-a" },
    Path { what: "client to external IP, local backend", from: "client", to: SHOP, answers: &["pod-1", "pod-2"], sees: "client" },
    Path { what: "client to external IP, remote backend", from: "client", to: SHOP, answers: &["pod-3"], sees: "node-a" },
    Path { what: "client to load balancer IP", from: "client", to: GATEWAY, answers: &["pod-1", "pod-2"], sees: "client" },
    Path { what: "pod-2 to cluster IP, same node", from: "pod-2", to: API, answers: &["pod-1"], sees: "pod-2" },
    Path { what: "pod-2 to cluster IP, other node", from: "pod-2", to: API, answers: &["pod-3"], sees: "pod-2" },
    Path { what: "pod-1 to itself", from: "pod-1", to: SELF, answers: &["pod-1"], sees: "node-a" },
];

const SHOP: Target = Target {
    v4: "192.0.2.10",
    v6: "2001:db8:1::10",
    port: 8000,
};
const GATEWAY: Target = Target {
    v4: "198.51.100.20",
    v6: "2001:db8:2::20",
    port: 443,
};
const API: Target = Target {
    v4: "10.96.0.20",
    v6: "fd00:96::20",
    port: 7000,
};
const SELF: Target = Target {
    v4: "10.96.0.50",
    v6: "fd00:96::50",
    port: 80,
};
/// `empty` of the examples.
const EMPTY: Target = Target {
    v4: "10.10.0.1",
    v6: "fd00:10::1",
    port: 30090,
};

/// Asks on every path, over TCP and UDP, IPv4 and IPv6, and says who answered and whom they saw.
pub(super) fn show_paths(say: &mut Say, cluster: &Cluster) -> Result<()> {
    say.heading("Requests: who answered, and whom they took the client for");
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for path in &PATHS {
        for family in Family::BOTH {
            for protocol in Protocol::BOTH {
                let (row, right) = follow(cluster, path, family, protocol)
                    .with_context(|| format!("{}, {protocol:?} {family:?}", path.what))?;
                if !right {
                    wrong.push(row.join(" "));
                }
                rows.push(row);
            }
        }
    }
    let count = rows.len();
    say.table(
        [
            "PATH",
            "ASKED",
            "OVER",
            "ANSWERED",
            "SAW CLIENT",
            "WHICH IS",
        ],
        rows,
    );
    say.verdict(
        wrong.is_empty(),
        &format!(
            "{} of {count}: the client's address is kept, but for remote backends of outside \
             clients and for pods that call themselves",
            count - wrong.len()
        ),
    );
    show_refusal(say, cluster)
}

fn follow(
    cluster: &Cluster,
    path: &Path,
    family: Family,
    protocol: Protocol,
) -> Result<([String; 6], bool)> {
    let to = path.to.of(family)?;
    let answer = ask_until(cluster, path, family, protocol)?;
    let seen = answer.client.ip();
    let who = ["client", "node-a", "node-b", "pod-1", "pod-2", "pod-3"].into_iter();
    let mut who = who.filter(|name| cluster.address(name, family).is_ok_and(|ip| ip == seen));
    let who = who.next_back().unwrap_or("unknown");
    let over = format!("{protocol:?}").to_uppercase();
    let row = [
        path.what.to_owned(),
        to.to_string(),
        over,
        answer.server,
        seen.to_string(),
        who.to_owned(),
    ];
    Ok((row, who == path.sees))
}

/// Chance chooses the backend: asks until it is one that belongs to this path.
fn ask_until(cluster: &Cluster, path: &Path, family: Family, protocol: Protocol) -> Result<Answer> {
    // Two thirds to the 60th power: it will have been chosen by then.
    for _ in 0..60 {
        let answer = talk::ask(cluster.netns(path.from)?, protocol, path.to.of(family)?)?;
        if path.answers.contains(&answer.server.as_str()) {
            return Ok(answer);
        }
    }
    anyhow::bail!("none of {:?} ever answered", path.answers)
}

fn show_refusal(say: &mut Say, cluster: &Cluster) -> Result<()> {
    let mut refused = true;
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            let outcome = talk::ask(cluster.netns("client")?, protocol, EMPTY.of(family)?);
            refused &=
                outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        }
    }
    say.verdict(
        refused,
        "a service without endpoints refuses at once, TCP and UDP, IPv4 and IPv6",
    );
    Ok(())
}

/// Counts who answers many requests to `web`.
pub(super) fn show_spread(say: &mut Say, cluster: &Cluster) -> Result<()> {
    say.heading("The choice: one of three backends, at random for each flow");
    let count = say.during(
        &format!("{SPREAD} requests from the client to the node port"),
        || {
            let mut count = BTreeMap::<String, usize>::new();
            for request in 0..SPREAD {
                let family = Family::BOTH[request % 2];
                let protocol = Protocol::BOTH[request / 2 % 2];
                let answer = talk::ask(cluster.netns("client")?, protocol, WEB.of(family)?)?;
                *count.entry(answer.server).or_default() += 1;
            }
            Ok(count)
        },
    )?;
    say.table(["ANSWERED", "REQUESTS", ""], histogram(&count));
    let fair = SPREAD / 3 * 2 / 3..=SPREAD / 3 * 4 / 3;
    say.verdict(
        count.len() == 3 && count.values().all(|requests| fair.contains(requests)),
        "each backend got its share",
    );
    Ok(())
}

fn histogram(count: &BTreeMap<String, usize>) -> Vec<[String; 3]> {
    const WIDTH: usize = 40;
    let most = count.values().max().copied().unwrap_or(1);
    let row = |(pod, requests): (&String, &usize)| {
        [
            pod.clone(),
            requests.to_string(),
            "█".repeat(requests * WIDTH / most),
        ]
    };
    count.iter().map(row).collect()
}

//! Flows whose backend follows from their addresses and ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tests::{
    checks::Check,
    cluster::{Target, eventually},
    echo::Protocol,
    talk::Conversation,
    topology::Family,
};

use crate::World;

/// How soon a changed manifest has to have taken effect, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
const FILE: &str = "hashed.yaml";
/// At node-a.
const HASHED: Target = Target {
    v4: "10.10.0.1",
    v6: "fd00:10::1",
    port: 30103,
};
/// Source ports of the client's flows.
const PORTS: std::ops::Range<u16> = 42_000..42_016;

pub(crate) fn checks(group: &str) -> Vec<Check<World>> {
    vec![Check::new(
        format!("{group}::q1_hashed_flows_find_their_backends_again"),
        hashed_flows_find_their_backends_again,
    )]
}

/// A Service with the backends of `web`.
fn manifest() -> String {
    "{apiVersion: v1, kind: Service, metadata: {name: hashed, annotations: \
     {fairlead.dev/algorithm: maglev}}, spec: {type: NodePort, ipFamilyPolicy: PreferDualStack, \
     clusterIP: 10.96.2.3, clusterIPs: [10.96.2.3, \"fd00:96::203\"], selector: {app: web}, \
     ports: [{port: 80, protocol: UDP, targetPort: 8080, nodePort: 30103}]}}\n"
        .to_owned()
}

/// When the Service has gone and come back nothing is remembered of its flows; by chance, 16 of
/// them would not find their backends again.
fn hashed_flows_find_their_backends_again(world: &mut World) -> Result<()> {
    for family in Family::BOTH {
        let mut rounds = Vec::new();
        for _ in 0..2 {
            world.cluster.source.write(FILE, &manifest())?;
            eventually(SOON, || server(world, family, PORTS.end))?;
            rounds.push(servers(world, family)?);
            world.cluster.source.remove(FILE)?;
            eventually(SOON, || match server(world, family, PORTS.end) {
                Ok(server) => bail!("still served by {server}"),
                Err(_) => Ok(()),
            })?;
        }
        ensure!(rounds[0] == rounds[1], "{family:?}: {rounds:?}");
        let all: BTreeSet<_> = rounds[0].values().collect();
        ensure!(all.len() == 3, "{family:?}: {all:?} serve all flows");
    }
    Ok(())
}

/// Who serves the flow from each port.
fn servers(world: &World, family: Family) -> Result<BTreeMap<u16, String>> {
    PORTS
        .map(|port| Ok((port, server(world, family, port)?)))
        .collect()
}

fn server(world: &World, family: Family, port: u16) -> Result<String> {
    let client = world.cluster.netns("client")?;
    let to = HASHED.of(family)?;
    let mut conversation = Conversation::open(client, Protocol::Udp, to, port)?;
    let answer = conversation.ask();
    Ok(answer.with_context(|| format!("from port {port}"))?.server)
}

//! What there is before anything is tried: servers in pods, who the agents are, the API server's own
//! Service; and the one that tells when others are in force.

use std::net::IpAddr;

use anyhow::{Context, Result};
use lb_userspace::model::{EndpointPort, EndpointSlice, Node, Protocol};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::{
    cluster::{Cluster, NODES},
    echo::Servers,
    frontends::Here,
    kube::{ADDRESS, Account, Api, ControlPlane},
    topology::Family,
};

use crate::{
    unit::{self, Kind, Unit, named},
    writes::Change,
};

/// The pods, and the nodes they are on.
pub(crate) const PODS: [(&str, &str); 4] = [
    ("pod-1", "node-a"),
    ("pod-2", "node-a"),
    ("pod-3", "node-b"),
    ("pod-4", "node-b"),
];

/// How many Services there can be at a time, and so how many have servers.
pub(crate) const SERVICES: u16 = 200;
/// How many ports of every pod serve each.
const PORTS: u16 = 3;
/// The first of these ports.
const FIRST_PORT: u16 = 20_000;

/// A port of the pods that serves only the Service of this number.
pub(crate) const fn pod_port(service: u16, port: u16) -> u16 {
    FIRST_PORT + service * PORTS + port
}

/// The service account of the agents.
const AGENT: &str = "agent";
/// The Service that tells when all that was written before it is in force.
pub(crate) const MARKER: &str = "marker";
/// The API server's Service.
pub(crate) const OWN: &str = "kubernetes";

/// Servers for every Service there may be, in every pod.
pub(crate) fn servers(cluster: &Cluster<Api>) -> Result<Vec<Servers>> {
    // More than a process usually may have open.
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit)?;
    let ports: Vec<u16> = (FIRST_PORT..pod_port(SERVICES, 0)).collect();
    let pods = PODS.iter();
    pods.map(|(pod, _)| Servers::start(cluster.netns(pod)?, pod, &ports))
        .collect()
}

/// Has the agents come with the files of a service account that has a proxy's rights.
pub(crate) fn account(cluster: &mut Cluster<Api>) -> Result<Account> {
    let control = &cluster.source.control;
    control.kubectl(&["create", "serviceaccount", AGENT], "")?;
    let subject = format!("--serviceaccount={}:{AGENT}", unit::NAMESPACE);
    let role = "--clusterrole=system:node-proxier";
    control.kubectl(&["create", "clusterrolebinding", AGENT, role, &subject], "")?;
    let account = renewed_account(control)?;
    for node in NODES {
        let node = cluster.topology.node(node)?;
        cluster.source.reach_with(&account, node, ADDRESS)?;
    }
    Ok(account)
}

/// The files of that account, brought up to date as a kubelet does.
pub(crate) fn renewed_account(control: &ControlPlane) -> Result<Account> {
    control.account(unit::NAMESPACE, AGENT)
}

/// What a node is expected to know of itself.
pub(crate) fn here(cluster: &Cluster<Api>, name: &str) -> Result<Here> {
    let addresses = cluster.topology.node(name)?.addresses;
    let addresses = Family::BOTH.map(|family| addresses.of(family)).to_vec();
    let letter = name
        .strip_prefix("node-")
        .context("a node without a letter")?;
    Ok(Here {
        node: Some(Node {
            addresses: addresses.clone(),
            zone: Some(format!("zone-{letter}")),
            ..Node::default()
        }),
        own: addresses,
        ..Here::new(name)
    })
}

/// The API server's Service, which it makes by itself.
pub(crate) fn own_service() -> Vec<Change> {
    let https = unit::port("https", Protocol::Tcp, 443);
    let unit = Unit::new(OWN, Kind::ClusterIp, &[[10, 96, 0, 1].into()], &[https]);
    let slice = one_endpoint(OWN, ADDRESS.ip(), ("https", ADDRESS.port()));
    vec![
        Change::Service(named(OWN), Some(unit)),
        Change::Slice(slice.name.clone(), Some(slice)),
    ]
}

/// A Service and a slice that differ from those of all other numbers.
pub(crate) fn marker(number: u16) -> Vec<Change> {
    let unit = Unit::new(
        MARKER,
        Kind::ClusterIp,
        &[[10, 96, 250, 1].into()],
        &[unit::port("", Protocol::Tcp, number)],
    );
    let slice = one_endpoint(MARKER, [10, 1, 1, 1].into(), ("", number));
    vec![
        Change::Service(named(MARKER), Some(unit)),
        Change::Slice(slice.name.clone(), Some(slice)),
    ]
}

fn one_endpoint(service: &str, addr: IpAddr, (name, port): (&str, u16)) -> EndpointSlice {
    EndpointSlice {
        name: named(service),
        service: service.to_owned(),
        ports: vec![EndpointPort {
            name: name.to_owned(),
            protocol: Protocol::Tcp,
            port,
        }],
        endpoints: vec![unit::endpoint(addr, None)],
    }
}

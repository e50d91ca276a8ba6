//! A cluster whose agents follow a real API server.

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{ADDRESS, Account, ControlPlane, Options, objects};
use crate::{
    cluster::{Cluster, NODES, Source},
    site::Site,
    topology::{Host, Links, Topology},
};

/// Who the agents are: the user that has the rights of a service proxy in every cluster.
const USER: &str = "system:kube-proxy";

/// A control plane as the source of objects.
#[derive(Debug)]
pub struct Api {
    /// The control plane.
    pub control: ControlPlane,
    kubeconfigs: BTreeMap<&'static str, PathBuf>,
}

impl Source for Api {
    fn arguments(&self, node: &Host) -> Result<Vec<OsString>> {
        let file = self.kubeconfigs.get(node.name);
        let file = file.with_context(|| format!("{} has no kubeconfig", node.name))?;
        Ok(vec!["--kubeconfig".into(), file.into()])
    }
}

impl Api {
    /// Has the agent of a node that is started next reach the API server at `server`.
    pub fn reach_by(&mut self, node: &Host, server: SocketAddr) -> Result<()> {
        self.reach_as(USER, node, server)
    }

    /// The same as this user, with the rights bound to it.
    pub fn reach_as(&mut self, user: &str, node: &Host, server: SocketAddr) -> Result<()> {
        let file = self.control.kubeconfig(user, None, server)?;
        self.kubeconfigs.insert(node.name, file);
        Ok(())
    }

    /// The same as this service account, with its files.
    pub fn reach_with(&mut self, account: &Account, node: &Host, server: SocketAddr) -> Result<()> {
        let file = account.kubeconfig(server)?;
        self.kubeconfigs.insert(node.name, file);
        Ok(())
    }
}

impl Cluster<Api> {
    /// The topology with a control plane: servers in the pods and a Node for each node, in the zone
    /// of its name; no agents, no Services, no Pods.
    pub fn with_api(links: Links, options: Options) -> Result<Self> {
        let control = ControlPlane::start(Site::new()?, options)?;
        let topology = Topology::build(Site::new()?, links)?;
        let mut api = Api {
            control,
            kubeconfigs: BTreeMap::new(),
        };
        for name in NODES {
            let node = topology.node(name)?;
            api.control.join(&node.netns)?;
            api.reach_by(node, ADDRESS)?;
            api.control.apply(&[node_object(node)])?;
        }
        Self::of(api, topology)
    }
}

/// The Node of a node: zone `zone-a` for `node-a`, its external addresses, its pods' networks.
pub fn node_object(node: &Host) -> Value {
    let letter = node.name.strip_prefix("node-").unwrap_or(node.name);
    let number = if letter == "a" { 1 } else { 2 };
    let addresses = node.addresses;
    objects::Node {
        name: node.name,
        zone: Some(&format!("zone-{letter}")),
        addresses: vec![addresses.v4.into(), addresses.v6.into()],
        pod_cidrs: &[
            &format!("10.1.{number}.0/24"),
            &format!("fd00:1:{number}::/64"),
        ],
    }
    .object()
}

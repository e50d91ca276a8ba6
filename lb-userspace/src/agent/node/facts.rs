//! What the programs are told: the node's addresses and ports, and the networks around it.

use std::{collections::BTreeSet, path::Path, time::Instant};

use ipnet::IpNet;
use tracing::info;

use super::Node;
use crate::{
    agent::{
        addresses::node_addresses,
        config::{self, Led},
        families,
        options::Inside,
        problems::Area,
        programs::chain,
        snat,
    },
    model::{self, ObjectName},
};

impl Node {
    /// Source translation takes the ports that neither the host's own connections nor node ports
    /// use.
    pub(super) fn choose_snat_ports(&mut self) {
        let mut problems = BTreeSet::new();
        let ephemeral = snat::ephemeral_ports().unwrap_or_else(|error| {
            problems.insert(format!("cannot read the host's ephemeral ports: {error}"));
            snat::EPHEMERAL_DEFAULT
        });
        let reserved = [ephemeral.clone(), self.options.node_ports.clone()];
        let ports = snat::largest_hole(&reserved).unwrap_or_else(|| {
            let (first, last) = (ephemeral.start(), ephemeral.end());
            problems.insert(format!(
                "net.ipv4.ip_local_port_range {first}-{last} and --service-node-port-range leave no \
                 port for source translation: it shares ports with the host's own connections"
            ));
            snat::LAST_RESORT
        });
        self.snat = (*ports.start(), *ports.end());
        self.problems.set(Area::Options, problems);
    }

    /// Follows what our Node says. An address that an option gives comes before those it has.
    pub(super) fn set_node(&mut self, node: Option<&model::Node>, now: Instant) {
        let stated = node.iter().flat_map(|node| &node.addresses);
        let chosen = self.options.bind_address.iter().chain(stated);
        self.internal_ips = chosen.copied().collect();
        self.pod_networks = node.map_or(Vec::new(), |node| node.pod_cidrs.clone());
        let found = self.found.clone();
        self.set_addresses(now);
        self.look_at_pod_networks();
        self.write_config();
        if found != self.found {
            self.attach(now);
        }
    }

    /// Follows what a Pod says of its sockets.
    pub(super) fn set_pod(&mut self, name: &ObjectName, pod: Option<&model::Pod>) {
        match pod {
            Some(pod) => drop(self.left_pods.insert(name.clone(), pod.clone())),
            None => drop(self.left_pods.remove(name)),
        }
        let addresses = self.left_pods.values().flat_map(|pod| &pod.addresses);
        self.sockets.leave_pods(addresses.copied().collect());
    }

    /// K12.
    fn look_at_pod_networks(&mut self) {
        let primary = self.internal_ips.iter().chain(&self.addresses.all).next();
        let (inside, networks) = (&self.options.inside, &self.pod_networks);
        let problem = families::pod_networks_problem(inside, networks, primary.copied());
        self.problems
            .set(Area::PodNetworks, problem.into_iter().collect());
    }

    /// K11.
    fn look_for_ipv6(&mut self) {
        let missing = families::without_ipv6(Path::new("/"));
        if missing != self.without_ipv6 {
            if let Some(reason) = missing {
                info!("IPv4 alone is served: {reason}");
            } else {
                info!("IPv6 is served too");
            }
            self.without_ipv6 = missing;
        }
    }

    /// Networks of the clients that are inside; none if their interface tells.
    fn inside(&self) -> Option<&[IpNet]> {
        match &self.options.inside {
            Inside::Interfaces => None,
            Inside::Networks(networks) => Some(networks),
            Inside::NodeNetworks => Some(&self.pod_networks),
        }
    }

    pub(super) fn set_addresses(&mut self, now: Instant) {
        self.look_for_ipv6();
        let selection = &self.options.selection;
        self.found = selection.find(&self.table, &self.internal_ips);
        let addresses = node_addresses(&self.table, &self.found.external, &self.internal_ips);
        if addresses == self.addresses && self.written.is_some() {
            return;
        }
        self.problems.set(Area::Node, addresses.problems.clone());
        let begun = Instant::now();
        let outcome = self
            .controller
            .set_node_addresses(addresses.all.clone(), now);
        self.take_outcome(outcome, begun, false);
        self.addresses = addresses;
    }

    /// Takes what the API tells of cluster IPs' networks, beside what the option does.
    pub(super) fn set_cluster_networks(&mut self, told: &BTreeSet<IpNet>) {
        let option = self.options.cluster_ranges.iter();
        self.cluster_networks = option.chain(told).copied().collect();
        let lines = config::too_many(&self.cluster_networks);
        self.problems.set(Area::ClusterNetworks, lines);
    }

    pub(super) fn write_config(&mut self) {
        let config = config::config(
            self.epoch.value(),
            self.snat,
            &self.addresses,
            &self.cluster_networks,
            self.options.masquerade_all,
            self.inside(),
            &Led {
                netns: self.sockets.netns(),
                pods: self.sockets.leads_pods(),
                localhost_node_ports: self.options.sockets.localhost_nodeports,
            },
        );
        if self.written == Some(config) {
            return;
        }
        match self.config.set(0, &config, 0) {
            Ok(()) => self.written = Some(config),
            Err(error) => {
                let line = format!("cannot write map CONFIG: {}", chain(&error));
                self.kernel_problem(Some(line));
            }
        }
    }
}

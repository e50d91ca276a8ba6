//! Slices: which pods, in which state, at which of their ports.

use std::{collections::BTreeSet, net::IpAddr};

use lb_userspace::model::{Endpoint, EndpointPort, EndpointSlice, Protocol};
use tests::topology::{Addresses, Family};

use super::{Draw, Pod};
use crate::{
    setup::pod_port,
    stock::Stock,
    unit::{self, named},
    writes::Change,
};

impl Draw {
    /// Slices for a Service.
    pub(super) fn slices(&mut self, number: u16, stock: &Stock) -> Vec<Change> {
        let mut names = BTreeSet::new();
        let mut changes: Vec<_> = (0..self.random.below(4))
            .map(|_| self.slice(number, stock))
            .collect();
        changes.retain(|change| match change {
            Change::Slice(name, _) => names.insert(name.clone()),
            Change::Service(..) => true,
        });
        changes
    }

    /// Makes, changes or deletes one of a Service's slices.
    pub(super) fn slice(&mut self, number: u16, stock: &Stock) -> Change {
        let kind = self.random.pick(&["4a", "4b", "6a", "6b"]);
        let name = named(format!("s-{number}.{kind}"));
        let family = if kind.starts_with('4') {
            Family::V4
        } else {
            Family::V6
        };
        let slice = match stock.objects.slices.get(&name) {
            Some(_) if self.random.one_in(8) => None,
            Some(slice) if self.random.one_in(2) => Some(self.other_endpoint(slice.clone())),
            Some(_) | None => Some(EndpointSlice {
                name: name.clone(),
                service: format!("s-{number}"),
                ports: self.slice_ports(number),
                endpoints: self.endpoints(family),
            }),
        };
        Change::Slice(name, slice)
    }

    /// A port of any name a Service may have, some with one number in one slice and with another in the next.
    fn slice_ports(&mut self, number: u16) -> Vec<EndpointPort> {
        let mut port = |name: &str, protocol, ports: &[u16]| EndpointPort {
            name: name.to_owned(),
            protocol,
            port: pod_port(number, self.random.pick(ports)),
        };
        vec![
            port("", Protocol::Tcp, &[0, 1]),
            port("web", Protocol::Tcp, &[0, 1]),
            port("alt", Protocol::Tcp, &[2]),
            port("dns", Protocol::Udp, &[0, 1]),
        ]
    }

    fn endpoints(&mut self, family: Family) -> Vec<Endpoint> {
        let hints = self.random.below(6);
        let pods = self.pods.clone();
        let some = pods.iter().filter(|_| self.random.one_in(2));
        let some: Vec<&Pod> = some.collect();
        some.into_iter()
            .map(|pod| {
                let endpoint = self.conditions(pod.addresses.of(family), pod.node);
                self.hinted(endpoint, hints)
            })
            .collect()
    }

    /// A slice of which one endpoint is in another state.
    fn other_endpoint(&mut self, mut slice: EndpointSlice) -> EndpointSlice {
        if !slice.endpoints.is_empty() {
            let at = self.random.below(slice.endpoints.len());
            let addr = slice.endpoints[at].addr;
            let pod = self.pods.iter().find(|pod| {
                let Addresses { v4, v6 } = pod.addresses;
                addr == v4 || addr == v6
            });
            let node = pod.map_or("nowhere", |pod| pod.node);
            slice.endpoints[at] = Endpoint {
                for_zones: slice.endpoints[at].for_zones.clone(),
                for_nodes: slice.endpoints[at].for_nodes.clone(),
                ..self.conditions(addr, node)
            };
        }
        slice
    }

    fn conditions(&mut self, addr: IpAddr, node: &str) -> Endpoint {
        let terminating = self.random.one_in(6);
        let ready = if terminating {
            self.random.one_in(6)
        } else {
            !self.random.one_in(6)
        };
        let node = (!self.random.one_in(8)).then_some(node);
        Endpoint {
            ready,
            serving: ready || !self.random.one_in(4),
            terminating,
            ..unit::endpoint(addr, node)
        }
    }

    fn hinted(&mut self, mut endpoint: Endpoint, hints: usize) -> Endpoint {
        match hints {
            0 => endpoint.for_zones = vec![self.random.pick(&["zone-a", "zone-b"]).to_owned()],
            1 => endpoint.for_nodes = vec![self.random.pick(&["node-a", "node-b"]).to_owned()],
            _ => {}
        }
        endpoint
    }
}

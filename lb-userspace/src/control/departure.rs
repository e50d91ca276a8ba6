//! Backends that are gone, for those who hold flows and sockets that were led to them.
//!
//! A backend *departs* when its index is given back: nothing is led there any more, and what is led
//! anew goes elsewhere. Over TCP and SCTP what is established stays (G2), and the pod may well live:
//! it has only stopped to be ready, or belongs to another Service by now. Once the pod itself is
//! deleted nobody is left to end those connections, so that is told too, when it is seen.
//!
//! There are no Pods here, only EndpointSlices: an endpoint that was last seen *terminating*, which
//! the API tells of deleted pods alone (KEP-1672), and then is in no slice of its Service, was a pod
//! that is deleted. One that has left in any other way is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{V4, V6};

use super::{
    desired::{PortId, PortKey},
    realised::Realised,
};
use crate::{
    maps::Family,
    model::{Endpoint, EndpointSlice, ObjectName, Protocol},
};

/// A backend that is gone. It is told at most twice: when its index is given back, and, unless it
/// was then, when its pod turns out to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Departed<A> {
    /// Protocol of its Service port.
    pub protocol: Protocol,
    /// Its address.
    pub addr: A,
    /// Its port.
    pub port: u16,
    /// The service id of its Service port in this family.
    pub service: u32,
    /// The index it had in `BACKENDS`. May be another one's by the time the pod is deleted.
    pub backend: u32,
    /// The last generation it had. Earlier ones are of the same endpoint, see [`Self::covers`].
    pub generation: u32,
    /// Whether its pod is deleted, so that nobody is left to answer.
    pub pod_deleted: bool,
}

/// Departed backends of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departures {
    /// IPv4.
    pub v4: Vec<Departed<V4>>,
    /// IPv6.
    pub v6: Vec<Departed<V6>>,
}

impl Departures {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        let Self { v4, v6 } = self;
        v4.is_empty() && v6.is_empty()
    }
}

impl<A: Family> Departed<A> {
    /// Whether something that was led to the backend of this address, port, service id and
    /// generation was led to this one. An endpoint that came back in the meantime has a later
    /// generation.
    pub fn covers(&self, (addr, port): (A, u16), service: u32, generation: u32) -> bool {
        (self.addr, self.port, self.service) == (addr, port, service)
            && age(self.generation, generation) >= 0
    }
}

/// How many generations after `earlier` one `later` is; they wrap around.
pub(super) const fn age(later: u32, earlier: u32) -> i32 {
    later.wrapping_sub(earlier).cast_signed()
}

/// Endpoints that were last seen terminating, by the Service they belong to.
#[derive(Clone, Debug, Default)]
pub(super) struct Terminating(BTreeMap<ObjectName, BTreeSet<IpAddr>>);

impl Terminating {
    /// Takes note of a slice as it is, even if the next one replaces it before anybody looks.
    pub(super) fn see(&mut self, slice: &EndpointSlice) {
        for endpoint in slice.endpoints.iter().filter(|it| it.terminating) {
            let service = ObjectName::new(&slice.name.namespace, &slice.service);
            self.insert(service, endpoint.addr);
        }
    }

    /// Takes note of an endpoint that an earlier agent has seen.
    pub(super) fn insert(&mut self, service: ObjectName, addr: IpAddr) {
        self.0.entry(service).or_default().insert(addr);
    }

    /// Looks at all slices of a Service as they stand. Returns the endpoints whose pods are
    /// deleted: each once.
    pub(super) fn look<'a>(
        &mut self,
        service: &ObjectName,
        slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    ) -> BTreeSet<IpAddr> {
        let known = self.0.remove(service).unwrap_or_default();
        let terminating = endpoints(slices.clone()).filter(|it| it.terminating);
        let mut terminating: BTreeSet<_> = terminating.map(|it| it.addr).collect();
        if !terminating.is_empty() {
            // Another pod has the address by now, or it is the same one (A12).
            for endpoint in endpoints(slices.clone()).filter(|it| !it.terminating) {
                terminating.remove(&endpoint.addr);
            }
        }
        if !terminating.is_empty() {
            self.0.insert(service.clone(), terminating);
        }
        absent(known, slices)
    }
}

/// Those of the addresses that no endpoint has.
fn absent<'a>(
    mut addrs: BTreeSet<IpAddr>,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeSet<IpAddr> {
    if !addrs.is_empty() {
        for endpoint in endpoints(slices) {
            addrs.remove(&endpoint.addr);
        }
    }
    addrs
}

fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> impl Iterator<Item = &'a Endpoint> {
    slices.flat_map(|slice| &slice.endpoints)
}

impl<A: Family> Realised<A> {
    /// The endpoints in use that are on their way out, with the Service they belong to.
    pub(super) fn terminating(&self) -> impl Iterator<Item = (ObjectName, IpAddr)> {
        self.ports.iter().flat_map(|(id, port)| {
            let terminating = port.backends.iter().filter(|(_, it)| it.is_terminating());
            terminating.map(|(endpoint, _)| (id.service.clone(), endpoint.addr.to_ip()))
        })
    }

    /// Follows the pods of a Service: has its backends whose pods are deleted depart as such, tells
    /// of those that have departed already, and forgets those that are no endpoints any more.
    pub(super) fn follow_pods<'a>(
        &mut self,
        service: &ObjectName,
        deleted: &BTreeSet<IpAddr>,
        slices: impl Iterator<Item = &'a EndpointSlice>,
    ) {
        let Self {
            ports, departed, ..
        } = self;
        let first = PortId {
            service: service.clone(),
            port: PortKey::FIRST,
        };
        let of_service = |id: &Arc<PortId>| id.service == *service;
        let former = ports.range::<PortId, _>(&first..);
        let former = former.take_while(|(id, _)| of_service(id));
        let former = former.flat_map(|(_, port)| port.former.keys());
        let absent = absent(former.map(|(addr, _)| addr.to_ip()).collect(), slices);
        let ports = ports.range_mut::<PortId, _>(&first..);
        for (id, port) in ports.take_while(|(id, _)| of_service(id)) {
            for (endpoint, entry) in &mut port.backends {
                entry.pod_deleted = deleted.contains(&endpoint.addr.to_ip());
            }
            let gone = port
                .former
                .extract_if(.., |(addr, _), _| absent.contains(&addr.to_ip()));
            let gone = gone.filter(|((addr, _), _)| deleted.contains(&addr.to_ip()));
            let protocol = id.port.protocol;
            departed.extend(gone.map(|(at, it)| it.departed(protocol, port.id, at, true)));
        }
    }
}

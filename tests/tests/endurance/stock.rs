//! The objects that were written.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_userspace::model::{Endpoint, EndpointSlice, ObjectName};
use tests::frontends::{Here, Objects, claims};

use crate::{
    history::Part,
    unit::Unit,
    writes::{Change, Step, Write},
};

/// Services of all kinds with the slices there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stock {
    /// Services, those that nothing is programmed for included.
    pub(crate) units: BTreeMap<ObjectName, Unit>,
    /// What of it concerns nodes.
    pub(crate) objects: Objects,
}

impl Stock {
    /// Takes a change in; what is to be written.
    pub(crate) fn take(&mut self, change: Change) -> Write {
        match change {
            Change::Service(name, unit) => {
                let programmed = unit.as_ref().filter(|unit| unit.kind.is_programmed());
                let programmed = programmed.map(|unit| unit.service.clone());
                replace(&mut self.objects.services, &name, programmed);
                let was = replace(&mut self.units, &name, unit.clone());
                Write::Service(name, Box::new(Step { was, is: unit }))
            }
            Change::Slice(name, slice) => {
                let was = replace(&mut self.objects.slices, &name, slice.clone());
                Write::Slice(name, Box::new(Step { was, is: slice }))
            }
        }
    }

    /// Takes in when a Service was created.
    pub(crate) fn created(&mut self, name: &ObjectName, time: i64) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.service.created = time;
        }
        if let Some(service) = self.objects.services.get_mut(name) {
            service.created = time;
        }
    }

    /// The slices of a Service.
    pub(crate) fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        let slices = self.objects.slices.values();
        slices.filter(|slice| slice.service == service.name)
    }

    /// What a Service has to do with traffic on these nodes.
    pub(crate) fn part(&self, name: &ObjectName, here: &[Here; 2]) -> Part {
        let service = self.objects.services.get(name);
        let claims = here.iter().filter_map(|here| Some(claims(service?, here)));
        let endpoints = |is_meant: fn(&Endpoint) -> bool| {
            let of_slice = move |slice: &EndpointSlice| {
                let meant = slice.endpoints.iter().filter(|it| is_meant(it));
                let ports = slice.ports.iter().map(|port| port.port);
                let at = |addr| ports.clone().map(move |port| SocketAddr::new(addr, port));
                meant.flat_map(|it| at(it.addr)).collect::<Vec<_>>()
            };
            self.slices(name)
                .flat_map(of_slice)
                .collect::<BTreeSet<_>>()
        };
        Part {
            claims: claims.flatten().collect(),
            endpoints: endpoints(|_| true),
            terminating: endpoints(|endpoint| endpoint.terminating),
        }
    }
}

fn replace<T>(map: &mut BTreeMap<ObjectName, T>, name: &ObjectName, value: Option<T>) -> Option<T> {
    match value {
        Some(value) => map.insert(name.clone(), value),
        None => map.remove(name),
    }
}

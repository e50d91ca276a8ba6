//! `lbctl service`.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Serialize;

use super::{
    Error,
    collect::Collector,
    output::{Detail, Format, list, table, text},
    pinned::PinnedMaps,
    snapshot::{BackendRef, Frontend, HostPort, Service},
};
use crate::model::Algorithm;

const EXAMPLES: &str = "\
A line is one port of a Service in one address family. ADDRESSES is all it is reached at: cluster
IPs, external IPs, load balancer IPs, and node addresses with the node port. BACKENDS counts the
endpoints that new connections may be sent to. PACKETS and FLOWS count since the maps were made.

Examples:
  lbctl service list -A
  lbctl service list -n shop -o wide
  lbctl service list -A -o json | jq '.services[] | select(.backends == [])'";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Lists Services with their addresses, backends and traffic.
    #[command(after_help = EXAMPLES)]
    List {
        /// Of every namespace.
        #[arg(short = 'A', long, conflicts_with = "namespace")]
        all_namespaces: bool,
        /// Of this namespace.
        #[arg(short, long, value_name = "NS", default_value = "default")]
        namespace: String,
        /// How to show them.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// The Services of one namespace, or of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ServiceList {
    #[serde(skip)]
    namespace: Option<String>,
    services: Vec<ServicePort>,
}

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ServicePort {
    #[serde(flatten)]
    service: Service,
    addresses: Vec<HostPort>,
    /// How new flows are spread; none without an address.
    algorithm: Option<Algorithm>,
    backends: Vec<BackendRef>,
}

impl Verb {
    pub(super) fn run(&self, maps: &PinnedMaps) -> Result<String, Error> {
        match self {
            Self::List {
                all_namespaces,
                namespace,
                output,
            } => {
                let collector = Collector::new(maps)?;
                let services = collector.services(None)?;
                let frontends = collector.frontends(None)?;
                let namespace = (!all_namespaces).then(|| namespace.clone());
                output.render(&ServiceList::new(namespace, services, &frontends), render)
            }
        }
    }
}

impl ServiceList {
    pub(super) fn new(
        namespace: Option<String>,
        services: Vec<Service>,
        frontends: &[Frontend],
    ) -> Self {
        let mut by_service: BTreeMap<u32, Vec<&Frontend>> = BTreeMap::new();
        for frontend in frontends.iter().filter(|frontend| !frontend.whole_address) {
            by_service
                .entry(frontend.service_id)
                .or_default()
                .push(frontend);
        }
        let services = services
            .into_iter()
            .filter(|service| {
                namespace
                    .as_ref()
                    .is_none_or(|namespace| service.namespace == *namespace)
            })
            .map(|service| {
                let frontends = by_service.remove(&service.id).unwrap_or_default();
                ServicePort {
                    addresses: frontends.iter().map(|frontend| frontend.at).collect(),
                    algorithm: frontends.first().map(|frontend| frontend.algorithm),
                    backends: distinct_backends(&frontends),
                    service,
                }
            })
            .collect();
        Self {
            namespace,
            services,
        }
    }
}

/// Every backend any of these frontends leads to, once.
fn distinct_backends(frontends: &[&Frontend]) -> Vec<BackendRef> {
    let distinct: BTreeMap<_, _> = frontends
        .iter()
        .flat_map(|frontend| [&frontend.inside, &frontend.outside])
        .flat_map(|choice| &choice.backends)
        .map(|backend| ((backend.at, backend.index), backend.clone()))
        .collect();
    distinct.into_values().collect()
}

pub(super) fn render(list: &ServiceList, detail: Detail) -> String {
    let ServiceList {
        namespace,
        services,
    } = list;
    match namespace {
        Some(namespace) if services.is_empty() => {
            let namespace = super::output::printable(namespace);
            format!("No services in namespace {namespace}; -A lists those of all namespaces.\n")
        }
        Some(_) => text(columns(services, detail, false)),
        None => text(columns(services, detail, true)),
    }
}

fn columns(services: &[ServicePort], detail: Detail, with_namespace: bool) -> Vec<String> {
    const HEADER: [&str; 13] = [
        "NAMESPACE",
        "NAME",
        "PORT",
        "PROTO",
        "FAMILY",
        "ADDRESSES",
        "BACKENDS",
        "PACKETS",
        "FLOWS",
        "REJECTS",
        "BYTES",
        "ALGORITHM",
        "ID",
    ];
    let first = usize::from(!with_namespace);
    let last = match detail {
        Detail::Brief => HEADER.len() - 3,
        Detail::Full => HEADER.len(),
    };
    let rows = services.iter().map(|row| {
        let ServicePort {
            service,
            addresses,
            algorithm,
            backends,
        } = row;
        let cells = vec![
            service.namespace.clone(),
            service.name.clone(),
            if service.port.is_empty() {
                "-".to_owned()
            } else {
                service.port.clone()
            },
            service.protocol.clone(),
            service.family.to_string(),
            list(addresses, detail),
            match detail {
                Detail::Brief => count(backends),
                Detail::Full => list(backends, detail),
            },
            service.packets.to_string(),
            service.flows.to_string(),
            service.rejects.to_string(),
            service.bytes.to_string(),
            algorithm.map_or("-", Algorithm::name).to_owned(),
            service.id.to_string(),
        ];
        cells[first..last].to_vec()
    });
    table(&HEADER[first..last], rows)
}

fn count(backends: &[BackendRef]) -> String {
    let local = backends.iter().filter(|backend| backend.local).count();
    match (backends.len(), local) {
        (0, _) => "none".to_owned(),
        (all, 0) => all.to_string(),
        (all, local) => format!("{all} ({local} local)"),
    }
}

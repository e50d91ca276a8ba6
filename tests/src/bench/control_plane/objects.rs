//! The objects: many Services nobody asks for, and one that is probed.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Size;
use crate::kube::ControlPlane;

/// The probed Service: the last one in every list.
const PROBED: &str = "zz-probed";
/// Its address.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
/// Its port, UDP.
pub(super) const PORT: u16 = 53;

/// The path of a watch of its slice.
pub(super) const PROBED_WATCH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
     ?watch=1&fieldSelector=metadata.name%3Dzz-probed";

/// Requests that are under way at a time.
const AT_A_TIME: usize = 16;
/// Cluster IPs are counted up from here.
const FIRST_CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 10, 0);
/// Endpoints' addresses are counted up from here; no pod has one of them.
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// The port of all endpoints.
const ENDPOINT_PORT: u16 = 8080;
/// Nodes that the endpoints are on.
const NODES: u32 = 100;

pub(in crate::bench) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(in crate::bench) const SLICES: &str =
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Makes all objects, the probed Service leading to `backend`.
///
/// Services are restored as from a backup: an API server that makes one counts all that there are, so
/// 10,000 take it many minutes.
pub(in crate::bench) fn make(control: &ControlPlane, size: Size, backend: IpAddr) -> Result<()> {
    let services: Vec<_> = (0..size.services).flat_map(restored).collect();
    control.restore(&services)?;
    control.run(|client| async move {
        post(&client, SERVICES, &probed_service()).await?;
        post(&client, SLICES, &probed_slice(backend)).await?;
        let next = Arc::new(AtomicU32::new(0));
        let mut makers = JoinSet::new();
        for _ in 0..AT_A_TIME {
            makers.spawn(make_slices(client.clone(), size, Arc::clone(&next)));
        }
        while let Some(made) = makers.join_next().await {
            made??;
        }
        Ok::<_, anyhow::Error>(())
    })
}

/// What [`make`] makes, for who is not told by an API server.
pub(in crate::bench) fn documents(size: Size, backend: IpAddr) -> impl Iterator<Item = Value> {
    let many = (0..size.services).flat_map(move |number| {
        let [(_, service), _] = restored(number);
        [service, unasked_slice(size, number)]
    });
    many.chain([probed_service(), probed_slice(backend)])
}

async fn make_slices(client: Client, size: Size, next: Arc<AtomicU32>) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= size.services {
            return Ok(());
        }
        post(&client, SLICES, &unasked_slice(size, number)).await?;
    }
}

/// The slice of a Service that nobody asks for.
fn unasked_slice(size: Size, number: u32) -> Value {
    let first = number * size.endpoints;
    let endpoints: Vec<Value> = (first..first + size.endpoints).map(endpoint).collect();
    let port = json!([{ "name": "http", "protocol": "TCP", "port": ENDPOINT_PORT }]);
    slice(&name(number), &port, &endpoints)
}

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

/// A Service and its cluster IP, with their places in `etcd`.
fn restored(number: u32) -> [(String, Value); 2] {
    let name = name(number);
    let ip = Ipv4Addr::from_bits(FIRST_CLUSTER_IP.to_bits() + number);
    let port =
        json!({ "name": "http", "protocol": "TCP", "port": 80, "targetPort": ENDPOINT_PORT });
    let spec = json!({
        "type": "ClusterIP",
        "clusterIP": ip,
        "clusterIPs": [ip],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": { "app": name },
        "ports": [port],
    });
    let mut service = service(&name, &spec);
    let mut address = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {
            "parentRef": { "resource": "services", "namespace": "default", "name": name },
        },
    });
    service["metadata"]["namespace"] = json!("default");
    for (kind, object) in [&mut service, &mut address].into_iter().enumerate() {
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8{kind:03}-{number:012}"));
    }
    [
        (format!("/registry/services/specs/default/{name}"), service),
        (format!("/registry/ipaddresses/{ip}"), address),
    ]
}

/// Has the probed Service lead to `backend` alone.
pub(super) async fn lead_to(client: Client, backend: IpAddr) -> Result<()> {
    let path = format!("{SLICES}/{PROBED}");
    send(&client, Method::PUT, &path, &probed_slice(backend)).await
}

fn probed_service() -> Value {
    let spec = json!({
        "clusterIP": ADDRESS,
        "ports": [{ "name": "dns", "protocol": "UDP", "port": PORT, "targetPort": ENDPOINT_PORT }],
    });
    service(PROBED, &spec)
}

fn probed_slice(backend: IpAddr) -> Value {
    let port = json!([{ "name": "dns", "protocol": "UDP", "port": ENDPOINT_PORT }]);
    let endpoint = json!({
        "addresses": [backend],
        "conditions": { "ready": true, "serving": true, "terminating": false },
    });
    slice(PROBED, &port, &[endpoint])
}

/// A Service by this name.
pub(in crate::bench) fn service(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": spec,
    })
}

/// A slice with all that the controller would write.
pub(in crate::bench) fn slice(service: &str, ports: &Value, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": service,
            "labels": {
                "app": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn endpoint(number: u32) -> Value {
    let address = Ipv4Addr::from_bits(FIRST_ENDPOINT.to_bits() + number);
    json!({
        "addresses": [address],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": format!("node-{:03}", number % NODES),
        "zone": format!("zone-{}", number % 3),
        "targetRef": {
            "kind": "Pod",
            "namespace": "default",
            "name": format!("pod-{number:06}"),
            "uid": format!("00000000-0000-4000-8000-{number:012}"),
        },
    })
}

/// Makes an object.
pub(in crate::bench) async fn post(client: &Client, path: &str, object: &Value) -> Result<()> {
    send(client, Method::POST, path, object).await
}

async fn send(client: &Client, method: Method, path: &str, object: &Value) -> Result<()> {
    let request = Request::builder().method(method).uri(path);
    let request = request
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    let answer = client.request_text(request).await;
    answer.map(drop).with_context(|| {
        let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
        format!("cannot write {kind} {name}")
    })
}

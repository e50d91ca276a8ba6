//! A: which objects are seen.

use anyhow::Result;
use tests::{checks::Check, echo::Protocol::Tcp};

use crate::world::{World, row};

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("a1_another_proxys_service", a1_another_proxys_service),
        row("a15_service_without_selector", a15_service_without_selector),
    ]
}

fn a1_another_proxys_service(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}",
    )?;
    world.endpoints("web", &["pod-1"])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    world.given(
        "{apiVersion: v1, kind: Service,
          metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: other}},
          spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}",
    )?;
    world.dropped("pod-2", "10.96.1.1:80", "drop-unallocated-cluster-ip")?;
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}",
    )?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])
}

fn a15_service_without_selector(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                 clusterIPs: [10.96.1.1, 'fd00:96::101'],
                 ports: [{port: 80}]}}",
    )?;
    world.endpoints("web", &["pod-1", "pod-3"])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1", "pod-3"])?;
    world.served("pod-2", Tcp, "[fd00:96::101]:80", &["pod-1", "pod-3"])
}

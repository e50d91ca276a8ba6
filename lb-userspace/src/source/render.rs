//! Batches as text to compare.

use std::fmt::{Display, Write};

use k8s_openapi::jiff::Timestamp;

use crate::model::{Batch, Change, EndpointSlice, Node, Service, Weight};

pub(super) fn batch(batch: &Batch) -> String {
    let mut text = String::new();
    for change in &batch.changes {
        match change {
            Change::Service(_, Some(service)) => text += &self::service(service),
            Change::Service(name, None) => line(&mut text, format_args!("Service {name}: gone")),
            Change::Slice(_, Some(slice)) => text += &self::slice(slice),
            Change::Slice(name, None) => line(&mut text, format_args!("Slice {name}: gone")),
            Change::Node(Some(node)) => line(&mut text, self::node(node)),
            Change::Pod(name, Some(pod)) => {
                let addresses = list(&pod.addresses);
                line(
                    &mut text,
                    format_args!("Pod {name}: {addresses} left to tc"),
                );
            }
            Change::Pod(name, None) => line(&mut text, format_args!("Pod {name}: gone")),
            Change::Node(None) => line(&mut text, "Node: gone"),
            Change::ServiceNetworks(networks) => {
                let networks: Vec<_> = networks.iter().collect();
                line(
                    &mut text,
                    format_args!("Service networks: {}", list(&networks)),
                );
            }
        }
    }
    for (service, at) in &batch.triggers {
        let at = Timestamp::try_from(*at).unwrap();
        line(&mut text, format_args!("Service {service}: since {at}"));
    }
    for problem in &batch.problems {
        line(&mut text, format_args!("! {problem}"));
    }
    text
}

fn service(service: &Service) -> String {
    let Service {
        name,
        created,
        kind,
        cluster_ips,
        external_ips,
        ingress_ips,
        ports,
        internal_policy,
        external_policy,
        affinity,
        algorithm,
        source_ranges,
        health_check_node_port,
    } = service;
    let mut text = format!("Service {name}: {kind:?} {}", list(cluster_ips));
    for (title, ips) in [("external", external_ips), ("ingress", ingress_ips)] {
        if !ips.is_empty() {
            write!(text, ", {title} {}", list(ips)).unwrap();
        }
    }
    write!(text, ", policies {internal_policy:?} {external_policy:?}").unwrap();
    if let Some(seconds) = affinity {
        write!(text, ", affinity {seconds} s").unwrap();
    }
    if let Some(algorithm) = algorithm {
        write!(text, ", by {algorithm:?}").unwrap();
    }
    if !source_ranges.is_empty() {
        write!(text, ", only from {}", list(source_ranges)).unwrap();
    }
    if *health_check_node_port != 0 {
        write!(text, ", health check {health_check_node_port}").unwrap();
    }
    if *created != 0 {
        write!(text, ", created {created}").unwrap();
    }
    text.push('\n');
    for port in ports {
        let node_port = match port.node_port {
            0 => String::new(),
            number => format!(", node port {number}"),
        };
        let (name, protocol, number) = (&port.name, port.protocol, port.port);
        line(
            &mut text,
            format_args!("    {name:?} {number}/{protocol}{node_port}"),
        );
    }
    text
}

fn node(node: &Node) -> String {
    let Node {
        addresses,
        zone,
        pod_cidrs,
        eligible,
    } = node;
    let mut text = format!("Node: {}", list(addresses));
    if let Some(zone) = zone {
        write!(text, ", zone {zone}").unwrap();
    }
    if !pod_cidrs.is_empty() {
        write!(text, ", pods in {}", list(pod_cidrs)).unwrap();
    }
    if !eligible {
        text.push_str(", not eligible");
    }
    text
}

fn slice(slice: &EndpointSlice) -> String {
    let EndpointSlice {
        name,
        service,
        ports,
        endpoints,
    } = slice;
    let ports = ports.iter();
    let ports = ports.map(|port| format!("{:?} {}/{}", port.name, port.port, port.protocol));
    let ports: Vec<String> = ports.collect();
    let mut text = format!("Slice {name} of {service}: {}\n", ports.join(", "));
    for endpoint in endpoints {
        let mut words = vec![format!("    {}", endpoint.addr)];
        words.extend(endpoint.node.as_ref().map(|node| format!("on {node}")));
        let conditions = [
            ("ready", endpoint.ready),
            ("serving", endpoint.serving),
            ("terminating", endpoint.terminating),
        ];
        let held = conditions.iter().filter(|(_, holds)| *holds);
        words.extend(held.map(|(word, _)| (*word).to_owned()));
        if endpoint.weight != Weight::ONE {
            words.push(format!("weight {}", endpoint.weight.number()));
        }
        for (title, names) in [
            ("zones", &endpoint.for_zones),
            ("nodes", &endpoint.for_nodes),
        ] {
            if !names.is_empty() {
                words.push(format!("for {title} {}", names.join(",")));
            }
        }
        line(&mut text, words.join(" "));
    }
    text
}

fn list(items: &[impl Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(" ")
}

fn line(text: &mut String, line: impl Display) {
    writeln!(text, "{line}").unwrap();
}

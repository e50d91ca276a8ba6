//! B: addresses and ports.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{
    checks::Check,
    cluster::eventually,
    echo::Protocol::{self, Tcp, Udp},
    kube::node_object,
    talk::Conversation,
};

use crate::world::{SOON, World, row};

const BOTH: [&str; 2] = ["pod-1", "pod-3"];
/// Who asks: pods of either node, the nodes, and somebody outside.
const EVERYONE: [&str; 5] = ["pod-2", "pod-3", "node-a", "node-b", "client"];
/// An address that node-a has for the duration of a row.
const SECOND: &str = "10.10.0.77";

/// A Service at node port 30080.
const NODE_PORTS: &str = "{apiVersion: v1, kind: Service, metadata: {name: web},
    spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
           clusterIPs: [10.96.1.1, 'fd00:96::101'],
           ports: [{name: '', port: 80, nodePort: 30080}]}}";

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("b1_cluster_ip_for_everyone", b1_cluster_ip_for_everyone),
        row("b2_external_ips_of_every_type", b2_external_ips),
        row("b2_external_ips_switched_off", b2_switched_off),
        row("b3_load_balancer_ips", b3_load_balancer_ips),
        row("b4_node_port_on_every_type", b4_node_port_on_every_type),
        row("b5_all_addresses", b5_all_addresses),
        row("b6_primary_addresses", b6_primary_addresses),
        row("b7_networks_of_one_family", b7_networks_of_one_family),
        row("b8_address_comes_and_goes", b8_address_comes_and_goes),
        row("b9_mixed", b9_mixed),
        row("b14_source_ranges_elsewhere", b14_source_ranges_elsewhere),
        row("b15_health_check_port", b15_health_check_port),
        row("b16_older_service_has_it", b16_older_service_has_it),
        row("b17_one_number_two_protocols", b17_two_protocols),
        row("b18_ports_are_independent", b18_ports_are_independent),
    ]
}

fn b1_cluster_ip_for_everyone(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                 clusterIPs: [10.96.1.1, 'fd00:96::101'], ports: [{port: 80}]}}",
    )?;
    world.endpoints("web", &BOTH)?;
    for from in EVERYONE {
        world.served(from, Tcp, "10.96.1.1:80", &BOTH)?;
        world.served(from, Tcp, "[fd00:96::101]:80", &BOTH)?;
    }
    Ok(())
}

fn b2_external_ips(world: &mut World) -> Result<()> {
    for kind in ["ClusterIP", "NodePort", "LoadBalancer"] {
        world.given(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
              spec: {{type: {kind}, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                      clusterIPs: [10.96.1.1, 'fd00:96::101'],
                      externalIPs: [198.51.100.7, 10.10.0.1, '2001:db8:2::7'],
                      ports: [{{port: 80}}]}}}}"
        ))?;
        world.endpoints("web", &BOTH)?;
        for from in ["pod-2", "node-a", "client"] {
            world.served(from, Tcp, "198.51.100.7:80", &BOTH)?;
            world.served(from, Tcp, "[2001:db8:2::7]:80", &BOTH)?;
            world.served(from, Tcp, "10.10.0.1:80", &BOTH)?;
        }
    }
    Ok(())
}

fn b2_switched_off(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, externalIPs: [198.51.100.7], ports: [{port: 80}]}}",
    )?;
    let (internal, external) = (["10.96.1.1:80/TCP"], ["198.51.100.7:80/TCP"]);
    world.programmed(&external)?;
    let off = ["--feature-gates", "AllowServiceExternalIPs=false"];
    world.with_options("node-b", &off, |world| {
        world.programmed_on("node-b", &internal)?;
        world.absent_on("node-b", &external)
    })?;
    world.programmed_on("node-b", &external)
}

fn b3_load_balancer_ips(world: &mut World) -> Result<()> {
    let with = |ingress: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
              spec: {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                      clusterIPs: [10.96.1.1, 'fd00:96::101'], ports: [{{port: 80}}]}},
              status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}"
        )
    };
    world.given(&with(
        "{ip: 192.0.2.10}, {ip: 192.0.2.11, ipMode: VIP}, {ip: '2001:db8:1::10'}",
    ))?;
    world.endpoints("web", &BOTH)?;
    for from in ["pod-2", "node-a", "client"] {
        for to in ["192.0.2.10:80", "192.0.2.11:80", "[2001:db8:1::10]:80"] {
            world.served(from, Tcp, to, &BOTH)?;
        }
    }
    world.given(&with(
        "{ip: 192.0.2.10, ipMode: Proxy}, {hostname: lb.example.org}, {ip: 192.0.2.12}",
    ))?;
    world.programmed(&["192.0.2.12:80/TCP"])?;
    world.absent(&["192.0.2.10:80/TCP", "192.0.2.11:80/TCP"])?;
    world.absent(&["[2001:db8:1::10]:80/TCP"])
}

fn b4_node_port_on_every_type(world: &mut World) -> Result<()> {
    for kind in ["NodePort", "LoadBalancer"] {
        world.given(&NODE_PORTS.replace("NodePort,", &format!("{kind},")))?;
        world.endpoints("web", &BOTH)?;
        for from in EVERYONE {
            for to in ["10.10.0.1:30080", "10.10.0.2:30080", "[fd00:10::1]:30080"] {
                world.served(from, Tcp, to, &BOTH)?;
            }
        }
    }
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false,
                 ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
                 clusterIPs: [10.96.1.1, 'fd00:96::101'], ports: [{name: '', port: 80, nodePort: 0}]}}",
    )?;
    world.absent(&["10.10.0.1:30080/TCP", "[fd00:10::1]:30080/TCP"])
}

fn b5_all_addresses(world: &mut World) -> Result<()> {
    world.given(NODE_PORTS)?;
    world.endpoints("web", &BOTH)?;
    world.with_address("node-a", "10.10.0.77/24", |world| {
        world.with_options("node-a", &["--nodeport-addresses", "all"], |world| {
            for address in [SECOND, "10.10.0.1", "[fd00:10::1]"] {
                world.served("client", Tcp, &format!("{address}:30080"), &BOTH)?;
            }
            Ok(())
        })
    })
}

fn b6_primary_addresses(world: &mut World) -> Result<()> {
    world.given(NODE_PORTS)?;
    let primary = ["10.10.0.1:30080/TCP", "[fd00:10::1]:30080/TCP"];
    world.with_address("node-a", "10.10.0.77/24", |world| {
        world.programmed_on("node-a", &primary)?;
        world.absent_on("node-a", &["10.10.0.77:30080/TCP"])?;
        // The Node object says which one is the primary one.
        let control = &world.cluster.source.control;
        let named = node_object(&world.cluster.topology.node_a);
        let mut other = named.clone();
        other["status"]["addresses"] =
            serde_json::json!([{ "type": "InternalIP", "address": SECOND }]);
        control.apply(&[other])?;
        let moved = world
            .programmed_on("node-a", &["10.10.0.77:30080/TCP"])
            .and_then(|()| world.absent_on("node-a", &["10.10.0.1:30080/TCP"]));
        control.apply(&[named])?;
        moved
    })?;
    world.programmed_on("node-a", &primary)
}

fn b7_networks_of_one_family(world: &mut World) -> Result<()> {
    world.given(NODE_PORTS)?;
    world.with_address("node-b", "fd00:10::77/64", |world| {
        let options = ["--nodeport-addresses", "10.10.0.0/24"];
        world.with_options("node-b", &options, |world| {
            world.programmed_on(
                "node-b",
                &[
                    "10.10.0.2:30080/TCP",
                    "[fd00:10::2]:30080/TCP",
                    "[fd00:10::77]:30080/TCP",
                ],
            )?;
            world.problem("node-b", &["node port addresses", "IPv6"])?;
            world.event("NodePortAddresses", "node-b", "IPv6")?;
            let log = world.cluster.agent("node-b")?.log();
            ensure!(log.contains("no IPv6 network is given"), "{log}");
            Ok(())
        })
    })
}

fn b8_address_comes_and_goes(world: &mut World) -> Result<()> {
    world.given(NODE_PORTS)?;
    let second = ["10.10.0.77:30080/TCP"];
    world.with_options("node-a", &["--nodeport-addresses", "all"], |world| {
        world.absent_on("node-a", &second)?;
        world.with_address("node-a", "10.10.0.77/24", |world| {
            world.programmed_on("node-a", &second)
        })?;
        world.absent_on("node-a", &second)
    })
}

fn b9_mixed(world: &mut World) -> Result<()> {
    world.given(NODE_PORTS)?;
    world.with_address("node-a", "10.10.0.77/24", |world| {
        world.with_address("node-a", "10.10.0.200/24", |world| {
            let options = ["--nodeport-addresses", "primary,10.10.0.64/26"];
            world.with_options("node-a", &options, |world| {
                world.programmed_on(
                    "node-a",
                    &[
                        "10.10.0.1:30080/TCP",
                        "10.10.0.77:30080/TCP",
                        "[fd00:10::1]:30080/TCP",
                    ],
                )?;
                world.absent_on("node-a", &["10.10.0.200:30080/TCP"])
            })?;
            world.with_options(
                "node-a",
                &["--nodeport-addresses", "primary,all"],
                |world| {
                    world.programmed_on("node-a", &["10.10.0.1:30080/TCP", "10.10.0.200:30080/TCP"])
                },
            )
        })
    })
}

fn b14_source_ranges_elsewhere(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: LoadBalancer, clusterIP: 10.96.1.1, externalIPs: [198.51.100.7],
                 loadBalancerSourceRanges: [203.0.113.0/24],
                 ports: [{port: 80, nodePort: 30080}, {name: udp, protocol: UDP, port: 80}]},
          status: {loadBalancer: {ingress: [{ip: 192.0.2.10}]}}}"
            .replace("{port: 80, nodePort", "{name: web, port: 80, nodePort")
            .as_str(),
    )?;
    world.given(&slice("web", "web", "TCP", 8080, "10.1.1.1"))?;
    world.given(&slice("web", "udp", "UDP", 8080, "10.1.1.1"))?;
    for to in ["10.10.0.1:30080", "198.51.100.7:80", "10.96.1.1:80"] {
        world.served("client", Tcp, to, &["pod-1"])?;
    }
    world.dropped("client", "192.0.2.10:80", "drop-source-range")
}

fn b15_health_check_port(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: LoadBalancer, clusterIP: 10.96.1.1, externalTrafficPolicy: Local,
                 healthCheckNodePort: 30099, ports: [{port: 80}]}}",
    )?;
    world.endpoints("web", &["pod-1"])?;
    for from in ["client", "node-a", "pod-2"] {
        eventually(SOON, || {
            let (status, body) = world.get(from, "10.10.0.1:30099", "/")?;
            ensure!(status == 200, "{from} is answered {status}: {body}");
            Ok(())
        })?;
    }
    let mut rules = std::process::Command::new("nft");
    let rules = world
        .cluster
        .netns("node-a")?
        .output(rules.args(["list", "ruleset"]))?;
    ensure!(rules.stdout.is_empty(), "there are rules of netfilter");
    Ok(())
}

fn b16_older_service_has_it(world: &mut World) -> Result<()> {
    let claim = |name: &str, cluster_ip: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}},
              spec: {{clusterIP: {cluster_ip}, externalIPs: [198.51.100.7], ports: [{{port: 80}}]}}}}"
        )
    };
    world.endpoints("zebra", &["pod-1"])?;
    world.endpoints("ant", &["pod-3"])?;
    world.given(&claim("zebra", "10.96.1.1"))?;
    world.served("client", Tcp, "198.51.100.7:80", &["pod-1"])?;
    // Ages are in whole seconds: the younger is made again until it is younger.
    eventually(SOON, || {
        world.delete("service", "ant")?;
        world.given(&claim("ant", "10.96.1.2"))?;
        let (ant, zebra) = (created(world, "ant")?, created(world, "zebra")?);
        ensure!(ant > zebra, "both are of {ant}");
        Ok(())
    })?;
    world.served("pod-2", Tcp, "10.96.1.2:80", &["pod-3"])?;
    world.served("client", Tcp, "198.51.100.7:80", &["pod-1"])?;
    world.problem("node-a", &["default/ant", "198.51.100.7", "default/zebra"])?;
    world.event("FrontendConflict", "ant", "198.51.100.7")?;
    eventually(SOON, || {
        let conflicts = world.metric("node-a", "fairlead_frontend_conflicts")?;
        ensure!(conflicts == 1, "the metric is {conflicts}");
        Ok(())
    })?;
    world.delete("service", "zebra")?;
    world.served("client", Tcp, "198.51.100.7:80", &["pod-3"])
}

fn created(world: &World, service: &str) -> Result<String> {
    let args = ["get", "service", service, "-o", "json"];
    let text = world.cluster.source.control.kubectl(&args, "")?;
    let object: Value = serde_json::from_str(&text)?;
    let created = &object["metadata"]["creationTimestamp"];
    Ok(created.as_str().unwrap_or_default().to_owned())
}

/// A slice of one IPv4 endpoint for a named port.
fn slice(service: &str, port: &str, protocol: &str, number: u16, address: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
          metadata: {{name: '{service}-{port}', labels: {{kubernetes.io/service-name: {service}}}}},
          ports: [{{name: {port}, protocol: {protocol}, port: {number}}}],
          endpoints: [{{addresses: [{address}]}}]}}"
    )
}

fn b17_two_protocols(world: &mut World) -> Result<()> {
    let ports = |udp: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
              spec: {{type: NodePort, clusterIP: 10.96.1.1,
                      ports: [{{name: t, port: 80, nodePort: 30053}}{udp}]}}}}"
        )
    };
    world.given(&slice("web", "t", "TCP", 8080, "10.1.1.1"))?;
    world.given(&slice("web", "u", "UDP", 9090, "10.1.2.1"))?;
    world.given(&ports(
        ", {name: u, port: 80, protocol: UDP, nodePort: 30053}",
    ))?;
    world.served("client", Tcp, "10.10.0.1:30053", &["pod-1"])?;
    world.served("client", Udp, "10.10.0.1:30053", &["pod-3"])?;
    world.given(&ports(""))?;
    world.absent(&["10.10.0.1:30053/UDP"])?;
    world.served("client", Tcp, "10.10.0.1:30053", &["pod-1"])
}

fn b18_ports_are_independent(world: &mut World) -> Result<()> {
    let ports = |more: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
              spec: {{clusterIP: 10.96.1.1,
                      ports: [{{name: a, port: 80}}, {{name: u, protocol: UDP, port: 80}}{more}]}}}}"
        )
    };
    world.given(&slice("web", "a", "TCP", 8080, "10.1.1.1"))?;
    world.given(&slice("web", "u", "UDP", 8080, "10.1.2.1"))?;
    world.given(&slice("web", "b", "TCP", 9090, "10.1.2.1"))?;
    world.given(&ports(""))?;
    let open = |world: &World, protocol: Protocol, by: &str| -> Result<Conversation> {
        world.served("client", protocol, "10.96.1.1:80", &[by])?;
        let netns = world.cluster.netns("client")?;
        Ok(Conversation::open(
            netns,
            protocol,
            "10.96.1.1:80".parse()?,
            0,
        )?)
    };
    let mut tcp = open(world, Tcp, "pod-1")?;
    let mut udp = open(world, Udp, "pod-3")?;
    let mut go_on = || -> Result<()> {
        ensure!(tcp.ask()?.server == "pod-1", "TCP moved");
        ensure!(udp.ask()?.server == "pod-3", "UDP moved");
        Ok(())
    };
    go_on()?;
    world.given(&ports(", {name: b, port: 81}"))?;
    world.served("client", Tcp, "10.96.1.1:81", &["pod-3"])?;
    go_on()?;
    world.given(&ports(""))?;
    world.absent(&["10.96.1.1:81/TCP"])?;
    go_on()
}

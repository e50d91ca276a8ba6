//! A: which objects are seen.

use anyhow::{Result, ensure};
use tests::{
    checks::Check,
    cluster::{NODES, eventually},
    echo::Protocol::{Tcp, Udp},
};

use crate::world::{SOON, World, row};

pub(crate) fn rows() -> Vec<Check<World>> {
    vec![
        row("a1_another_proxys_service", a1_another_proxys_service),
        row("a2_headless_slice", a2_headless_slice),
        row("a3_headless_service", a3_headless_service),
        row("a4_external_name", a4_external_name),
        row("a5_families_by_themselves", a5_families_by_themselves),
        row("a6_port_name_and_protocol", a6_port_name_and_protocol),
        row("a7_which_slices_count", a7_which_slices_count),
        row("a8_numbers_of_a_named_port", a8_numbers_of_a_named_port),
        row("a9_first_address", a9_first_address),
        row("a10_conditions_not_set", a10_conditions_not_set),
        row("a11_local_by_node_name", a11_local_by_node_name),
        row("a12_one_endpoint_twice", a12_one_endpoint_twice),
        row("a13_order_of_endpoints", a13_order_of_endpoints),
        row("a14_not_ready_but_published", a14_not_ready_but_published),
        row("a15_service_without_selector", a15_service_without_selector),
        row("a19_leading_zeros", a19_leading_zeros),
    ]
}

const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web},
    spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}";
const WEB_FRONTEND: &str = "10.96.1.1:80/TCP";

/// A slice for a port without name, its labels and its endpoints written out.
fn slice(name: &str, labels: &str, kind: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: {kind},
          metadata: {{name: {name}, labels: {{{labels}}}}}, ports: [{ports}],
          endpoints: [{endpoints}]}}"
    )
}

/// A slice of `web` in IPv4.
fn of_web(name: &str, ports: &str, endpoints: &str) -> String {
    slice(name, OF_WEB, "IPv4", ports, endpoints)
}

const OF_WEB: &str = "kubernetes.io/service-name: web";
const POD_1: &str = "{addresses: [10.1.1.1], nodeName: node-a}";
const POD_2: &str = "{addresses: [10.1.1.2], nodeName: node-a}";
const POD_3: &str = "{addresses: [10.1.2.1], nodeName: node-b}";

fn a1_another_proxys_service(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    world.endpoints("web", &["pod-1"])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    for value in ["other", "''"] {
        world.given(&WEB.replace(
            "name: web}",
            &format!("name: web, labels: {{service.kubernetes.io/service-proxy-name: {value}}}}}"),
        ))?;
        world.dropped("pod-2", "10.96.1.1:80", "drop-unallocated-cluster-ip")?;
        world.given(WEB)?;
        world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    }
    let labels = format!("{OF_WEB}, service.kubernetes.io/service-proxy-name: other");
    world.given(&slice("web-5", &labels, "IPv4", "{port: 8080}", POD_3))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1", "pod-3"])
}

fn a2_headless_slice(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    world.given(&of_web("web-4", "{port: 8080}", POD_1))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    let labels = format!("{OF_WEB}, service.kubernetes.io/headless: ''");
    world.given(&slice("web-4", &labels, "IPv4", "{port: 8080}", POD_1))?;
    world.refused("pod-2", Tcp, "10.96.1.1:80")?;
    world.given(&of_web("web-5", "{port: 8080}", POD_3))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-3"])
}

fn a3_headless_service(world: &mut World) -> Result<()> {
    world.endpoints("web", &["pod-1"])?;
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: None, externalIPs: [198.51.100.7], ports: [{port: 80}]}}",
    )?;
    world.settled()?;
    for node in NODES {
        let frontends = world.frontends(node)?;
        let own = frontends.keys().find(|name| name.contains("198.51.100.7"));
        ensure!(own.is_none(), "{node} has {own:?}");
    }
    Ok(())
}

fn a4_external_name(world: &mut World) -> Result<()> {
    let cluster_ip = "{apiVersion: v1, kind: Service, metadata: {name: web},
        spec: {type: ClusterIP, clusterIP: 10.96.1.1, externalIPs: [198.51.100.7],
               ports: [{port: 80}]}}";
    let external_name = "{apiVersion: v1, kind: Service, metadata: {name: web},
        spec: {type: ExternalName, externalName: example.org, externalIPs: [198.51.100.7],
               ports: [{port: 80}]}}";
    let both = [WEB_FRONTEND, "198.51.100.7:80/TCP"];
    world.endpoints("web", &["pod-1"])?;
    world.given(external_name)?;
    world.settled()?;
    world.absent(&both)?;
    for _ in 0..2 {
        world.given(cluster_ip)?;
        world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
        world.programmed(&both)?;
        world.given(external_name)?;
        world.absent(&both)?;
    }
    Ok(())
}

fn a5_families_by_themselves(world: &mut World) -> Result<()> {
    let with = |families: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}},
              spec: {{type: LoadBalancer, {families} ports: [{{port: 80, nodePort: 30080}}],
                      externalIPs: [198.51.100.7, '2001:db8:2::7'],
                      loadBalancerSourceRanges: [203.0.113.0/24]}},
              status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.10}}, {{ip: '2001:db8:1::10'}}]}}}}}}"
        )
    };
    let v4 = [
        WEB_FRONTEND,
        "198.51.100.7:80/TCP",
        "192.0.2.10:80/TCP",
        "10.10.0.1:30080/TCP",
    ];
    let v6 = [
        "[2001:db8:2::7]:80/TCP",
        "[2001:db8:1::10]:80/TCP",
        "[fd00:10::1]:30080/TCP",
    ];
    world.endpoints("web", &["pod-1"])?;
    world.given(&with("ipFamilyPolicy: SingleStack, clusterIP: 10.96.1.1,"))?;
    world.programmed_on("node-a", &v4)?;
    world.settled()?;
    world.absent(&v6)?;
    world.given(&with(
        "ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.1.1,
         clusterIPs: [10.96.1.1, 'fd00:96::101'],",
    ))?;
    world.programmed_on("node-a", &[v4.as_slice(), &v6].concat())?;
    // The ranges are of IPv4, so IPv6 is open.
    world.served("client", Tcp, "[2001:db8:1::10]:80", &["pod-1"])?;
    world.unanswered("client", "192.0.2.10:80")
}

fn a6_port_name_and_protocol(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1,
                 ports: [{name: t, port: 80}, {name: u, protocol: UDP, port: 80},
                         {name: s, protocol: SCTP, port: 80}, {name: v, port: 81}]}}",
    )?;
    let udp = "{name: u, protocol: UDP, port: 8080}, {name: v, port: 9090}";
    world.given(&of_web("web-4", "{name: t, port: 8080}", POD_1))?;
    world.given(&of_web("web-5", udp, POD_3))?;
    world.given(&of_web(
        "web-6",
        "{name: s, protocol: SCTP, port: 9}",
        POD_2,
    ))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    world.served("pod-2", Udp, "10.96.1.1:80", &["pod-3"])?;
    world.served("pod-2", Tcp, "10.96.1.1:81", &["pod-3"])?;
    leads(world, "10.96.1.1:80/SCTP", &["10.1.1.2:9"])?;
    world.delete("endpointslice", "web-4")?;
    world.refused("pod-2", Tcp, "10.96.1.1:80")?;
    world.served("pod-2", Udp, "10.96.1.1:80", &["pod-3"])?;
    leads(world, "10.96.1.1:80/SCTP", &["10.1.1.2:9"])
}

/// Soon both nodes lead a frontend to exactly these, in this order.
fn leads(world: &World, frontend: &str, to: &[&str]) -> Result<()> {
    NODES.iter().try_for_each(|node| {
        eventually(SOON, || {
            let backends = world.backends(node, frontend)?;
            ensure!(backends == to, "{node} leads {frontend} to {backends:?}");
            Ok(())
        })
    })
}

fn a7_which_slices_count(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    let named = "{addresses: [example.org]}";
    world.given(&slice("web-f", OF_WEB, "FQDN", "{port: 8080}", named))?;
    world.given(&slice(
        "web-6",
        OF_WEB,
        "IPv6",
        "{port: 8080}",
        "{addresses: ['fd00:1:2::1']}",
    ))?;
    world.given(&slice("web-n", "", "IPv4", "{port: 8080}", POD_2))?;
    world.given(&slice(
        "web-o",
        "kubernetes.io/service-name: other",
        "IPv4",
        "{port: 8080}",
        POD_2,
    ))?;
    world.settled()?;
    leads(world, WEB_FRONTEND, &[])?;
    let managed = format!("{OF_WEB}, endpointslice.kubernetes.io/managed-by: somebody");
    world.given(&slice("web-m", &managed, "IPv4", "{port: 8080}", POD_1))?;
    world.given(&of_web("web-h", "{port: 8080}", POD_3))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1", "pod-3"])
}

fn a8_numbers_of_a_named_port(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80, targetPort: http}]}}",
    )?;
    world.given(&of_web("web-4", "{name: http, port: 8080}", POD_1))?;
    world.given(&of_web("web-5", "{name: http, port: 9090}", POD_3))?;
    // Another name, another protocol, no number: none of them is a number of this port.
    let others = "{name: other, port: 7}, {name: http, protocol: UDP, port: 7}";
    world.given(&of_web("web-6", others, POD_2))?;
    world.given(&of_web("web-7", "{name: http}", POD_2))?;
    world.settled()?;
    leads(world, WEB_FRONTEND, &["10.1.1.1:8080", "10.1.2.1:9090"])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1", "pod-3"])
}

/// The API takes no endpoint without an address; one with several is its whole range.
fn a9_first_address(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    let several = "{addresses: [10.1.2.1, 10.1.1.1, 10.1.1.2]}";
    world.given(&of_web("web-4", "{port: 8080}", several))?;
    leads(world, WEB_FRONTEND, &["10.1.2.1:8080"])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-3"])
}

fn a10_conditions_not_set(world: &mut World) -> Result<()> {
    world.given(WEB)?;
    let none = "{addresses: [10.1.1.1]}";
    world.given(&of_web("web-4", "{port: 8080}", none))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    // Not ready, and not terminating as long as nobody says so: not used.
    let unready = "{addresses: [10.1.1.1], conditions: {ready: false, serving: true}}";
    world.given(&of_web("web-4", "{port: 8080}", unready))?;
    world.refused("pod-2", Tcp, "10.96.1.1:80")?;
    // Serving as long as nobody says otherwise.
    let leaving = "{addresses: [10.1.1.1], conditions: {ready: false, terminating: true}}";
    world.given(&of_web("web-4", "{port: 8080}", leaving))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])
}

fn a11_local_by_node_name(world: &mut World) -> Result<()> {
    world.given(&WEB.replace("ports", "internalTrafficPolicy: Local, ports"))?;
    world.endpoints("web", &["pod-1", "pod-3"])?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1"])?;
    world.served("node-b", Tcp, "10.96.1.1:80", &["pod-3"])?;
    world.endpoints("web", &["pod-1 nowhere", "pod-3"])?;
    world.unanswered("pod-2", "10.96.1.1:80")?;
    world.served("node-b", Tcp, "10.96.1.1:80", &["pod-3"])?;
    let elsewhere = "{addresses: [10.1.1.1], nodeName: node-b}";
    world.endpoints("web", &[])?;
    world.given(&of_web("web-9", "{port: 8080}", elsewhere))?;
    world.served("node-b", Tcp, "10.96.1.1:80", &["pod-1"])?;
    world.unanswered("pod-2", "10.96.1.1:80")
}

fn a12_one_endpoint_twice(world: &mut World) -> Result<()> {
    let leaving = "{addresses: [10.1.1.1], conditions: {ready: false, terminating: true}}";
    world.given(WEB)?;
    for [first, second] in [[POD_1, leaving], [leaving, POD_1], [POD_1, POD_1]] {
        world.given(&of_web("web-4", "{port: 8080}", first))?;
        world.given(&of_web("web-5", "{port: 8080}", second))?;
        world.settled()?;
        leads(world, WEB_FRONTEND, &["10.1.1.1:8080"])?;
        let row = &world.frontends("node-a")?[WEB_FRONTEND]["inside"]["backends"][0];
        ensure!(row["terminating"] == false, "{row}");
    }
    world.given(&of_web("web-4", "{port: 8080}", leaving))?;
    // With another one ready, one that terminates everywhere would not be used.
    world.given(&of_web("web-6", "{port: 8080}", POD_3))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1", "pod-3"])
}

fn a13_order_of_endpoints(world: &mut World) -> Result<()> {
    let slices = [("web-4", POD_3), ("web-5", POD_1), ("web-6", POD_2)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        world.given(WEB)?;
        for (name, endpoint) in order.map(|index| slices[index]) {
            world.given(&of_web(name, "{port: 8080}", endpoint))?;
            world.settled()?;
        }
        leads(
            world,
            WEB_FRONTEND,
            &["10.1.1.1:8080", "10.1.1.2:8080", "10.1.2.1:8080"],
        )?;
        world.delete("service", "web")?;
        for (name, _) in slices {
            world.delete("endpointslice", name)?;
        }
        world.absent(&[WEB_FRONTEND])?;
    }
    Ok(())
}

fn a14_not_ready_but_published(world: &mut World) -> Result<()> {
    world.given(&WEB.replace("ports", "publishNotReadyAddresses: true, ports"))?;
    // As the slice controller writes pods that are not ready, and those that terminate.
    let published = "{addresses: [10.1.1.1], conditions: {ready: true, serving: false}},
        {addresses: [10.1.2.1], conditions: {ready: true, serving: false, terminating: true}}";
    world.given(&of_web("web-4", "{port: 8080}", published))?;
    world.served("pod-2", Tcp, "10.96.1.1:80", &["pod-1", "pod-3"])?;
    let unready = "{addresses: [10.1.1.1], conditions: {ready: false, serving: false}}";
    world.given(&of_web("web-4", "{port: 8080}", unready))?;
    world.refused("pod-2", Tcp, "10.96.1.1:80")
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

/// The API server here takes addresses as older ones did.
fn a19_leading_zeros(world: &mut World) -> Result<()> {
    world.given(
        "{apiVersion: v1, kind: Service, metadata: {name: web},
          spec: {type: LoadBalancer, clusterIP: 10.96.1.1, ports: [{port: 80}],
                 externalIPs: [198.51.100.041, 198.051.100.8],
                 loadBalancerSourceRanges: [010.010.000.000/024]},
          status: {loadBalancer: {ingress: [{ip: 192.0.2.010}]}}}",
    )?;
    world.given(&of_web(
        "web-4",
        "{port: 8080}",
        "{addresses: [10.1.001.001]}",
    ))?;
    world.programmed(&["198.51.100.41:80/TCP", "198.51.100.8:80/TCP"])?;
    leads(world, "192.0.2.10:80/TCP", &["10.1.1.1:8080"])?;
    world.served("client", Tcp, "192.0.2.10:80", &["pod-1"])
}

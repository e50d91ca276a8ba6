//! The topology itself, without Fairlead: what the other tests stand on.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use tests::{
    capture::Capture,
    echo::{Protocol, Servers},
    site::Site,
    talk::{self, Conversation},
    topology::{Family, Links, Pod, Topology, pod_addresses},
};

const PORT: u16 = 8080;

fn build(links: Links) -> Result<(Topology, Vec<Servers>)> {
    let topology = Topology::build(Site::new()?, links)?;
    let serve = |pod: &Pod| Servers::start(&pod.netns, &pod.name, &[PORT]);
    let servers = topology.pods.iter().map(serve).collect::<Result<_>>()?;
    Ok((topology, servers))
}

#[test]
fn everyone_reaches_every_pod_with_clean_checksums() -> Result<()> {
    for links in [Links::STANDARD, Links::JUMBO] {
        let (topology, _servers) = build(links)?;
        let capture = Capture::start(&topology.switch)?;
        let clients = topology.pods.iter().map(|pod| (&pod.netns, pod.addresses));
        let outside = (&topology.client.netns, topology.client.addresses);
        for (netns, addresses) in clients.chain([outside]) {
            for pod in &topology.pods {
                for (family, protocol) in Family::BOTH
                    .into_iter()
                    .flat_map(|f| Protocol::ALL.map(|p| (f, p)))
                {
                    let to = SocketAddr::new(pod.addresses.of(family), PORT);
                    let answer = talk::ask(netns, protocol, to)
                        .with_context(|| format!("{} {protocol:?} {to}", netns.name()))?;
                    assert_eq!(answer.server, pod.name);
                    assert_eq!(answer.client.ip(), addresses.of(family));
                }
            }
        }
        let seen = capture.finish()?;
        assert!(
            seen.packets > 100,
            "only {} packets were on the wire",
            seen.packets
        );
        assert_eq!(seen.faults(), Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn streams_arrive_intact_and_unmerged() -> Result<()> {
    let (topology, _servers) = build(Links::STANDARD)?;
    let capture = Capture::start(&topology.switch)?;
    for family in Family::BOTH {
        let to = SocketAddr::new(topology.pod("pod-3")?.addresses.of(family), PORT);
        for netns in [&topology.client.netns, &topology.pod("pod-1")?.netns] {
            let mut stream = Conversation::open(netns, Protocol::Tcp, to, 0)?;
            stream.transfer(4 << 20)?;
        }
    }
    let seen = capture.finish()?;
    assert_eq!(seen.faults(), Vec::<String>::new());
    let least = 2 * 4 * 2 * (4 << 20) / 1500;
    assert!(
        seen.packets > least,
        "{} packets, expected {least}",
        seen.packets
    );
    Ok(())
}

#[test]
fn source_ports_can_be_chosen() -> Result<()> {
    let (topology, _servers) = build(Links::STANDARD)?;
    for (protocol, family) in [(Protocol::Tcp, Family::V4), (Protocol::Udp, Family::V6)] {
        let to = SocketAddr::new(pod_addresses(1, 1).of(family), PORT);
        let mut flow = Conversation::open(&topology.client.netns, protocol, to, 4321)?;
        assert_eq!(flow.ask()?.client.port(), 4321);
    }
    Ok(())
}

#[test]
fn pods_come_and_go() -> Result<()> {
    let (mut topology, _servers) = build(Links::STANDARD)?;
    topology.add_pod("pod-4", "node-b", pod_addresses(2, 4))?;
    let pod = topology.pod("pod-4")?;
    let server = Servers::start(&pod.netns, "pod-4", &[PORT])?;
    let to = SocketAddr::new(pod.addresses.of(Family::V4), PORT);
    let answer = talk::ask(&topology.client.netns, Protocol::Udp, to)?;
    assert_eq!(answer.server, "pod-4");
    drop(server);
    topology.remove_pod("pod-4")?;
    assert!(talk::ask(&topology.client.netns, Protocol::Tcp, to).is_err());
    topology.add_pod("pod-4", "node-a", pod_addresses(1, 4))?;
    Ok(())
}

#[test]
fn nothing_stays() -> Result<()> {
    let (topology, servers) = build(Links::STANDARD)?;
    let (dir, name) = (topology.dir(), topology.client.netns.name().to_owned());
    let namespace = Path::new("/run/netns").join(name);
    assert!(dir.exists() && namespace.exists());
    drop((servers, topology));
    assert!(!dir.exists() && !namespace.exists());
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
    Ok(())
}

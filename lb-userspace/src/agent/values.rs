//! The values options take.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use glob::Pattern;
use http::Uri;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::control::{NodePortAddress, NodePortAddresses};

/// Longest name the kernel gives an interface (`IFNAMSIZ` less the final zero).
const INTERFACE_NAME_MAX: usize = 15;

/// Longest DNS subdomain (RFC 1123).
const NODE_NAME_MAX: usize = 253;

/// The name of a Node: a DNS subdomain. As with kube-proxy, case does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeName(pub(super) String);

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim().to_lowercase();
        let labels_fit = name.split('.').all(is_label);
        if labels_fit && name.len() <= NODE_NAME_MAX {
            return Ok(Self(name));
        }
        Err(
            "a Node's name is made of lower case letters, digits, '-' and '.', each part \
             beginning and ending with a letter or digit"
                .to_owned(),
        )
    }
}

fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !label.is_empty()
        && label.chars().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The host's name, as kubelet names its Node unless told otherwise (row K7).
pub(super) fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// The address of an API server.
pub(super) fn url(text: &str) -> Result<String, String> {
    let url: Uri = text.trim().parse().map_err(|error| format!("{error}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("https" | "http"), Some(_)) => Ok(text.trim().to_owned()),
        (Some(_) | None, Some(_) | None) => {
            Err("not an address such as https://192.0.2.1:6443".to_owned())
        }
    }
}

/// The name of an interface, which need not exist yet.
pub(super) fn interface(text: &str) -> Result<String, String> {
    let wrong = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() {
        Err("an interface name is missing".to_owned())
    } else if text.len() > INTERFACE_NAME_MAX {
        Err(format!(
            "an interface name has at most {INTERFACE_NAME_MAX} characters"
        ))
    } else if text.contains(wrong) || text == "." || text == ".." {
        Err("an interface name has no '/', ':' or space".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// A pattern of interface names.
pub(super) fn glob(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| error.to_string())
}

/// A network.
pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    text.trim()
        .parse()
        .map_err(|_| "not a network, such as 10.96.0.0/16 or fd00:96::/112".to_owned())
}

/// A range of ports as the API server takes it: `FIRST-LAST`, `FIRST+COUNT` or one port.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    const SHAPE: &str = "not a range of ports, such as 30000-32767";
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| SHAPE.to_owned());
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (number(first)?, number(last)?)
    } else if let Some((first, count)) = text.split_once('+') {
        let first = number(first)?;
        (first, first.saturating_add(number(count)?))
    } else {
        (number(text)?, number(text)?)
    };
    if first == 0 || last > u32::from(u16::MAX) {
        Err("ports are numbered 1 to 65535".to_owned())
    } else if first > last {
        Err(format!(
            "the first port, {first}, is above the last, {last}"
        ))
    } else {
        Ok(first as u16..=last as u16)
    }
}

/// Which of the node's addresses take node ports.
pub(super) fn node_port_addresses(list: &[String]) -> Result<NodePortAddresses, String> {
    let mut entries = Vec::new();
    for text in list {
        match text.as_str() {
            "primary" => entries.push(NodePortAddress::Primary),
            "all" => entries.push(NodePortAddress::All),
            "localhost" => entries.extend(LOOPBACK.map(NodePortAddress::Network)),
            // An address is the network of itself.
            text => entries.push(NodePortAddress::Network(
                text.parse::<IpAddr>()
                    .map(IpNet::from)
                    .or_else(|_| cidr(text))
                    .map_err(|_| {
                        format!(
                            "'{text}' is not 'primary', 'all', 'localhost' \
                             or a network"
                        )
                    })?,
            )),
        }
    }
    Ok(entries.into_iter().collect())
}

/// The networks `localhost` stands for.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// Refuses two networks of one family.
pub(super) fn one_a_family(networks: &[IpNet]) -> Result<(), String> {
    let is_v6 = |network: &IpNet| network.addr().is_ipv6();
    for (index, network) in networks.iter().enumerate() {
        if let Some(other) = networks[..index]
            .iter()
            .find(|other| is_v6(other) == is_v6(network))
        {
            return Err(format!(
                "{other} and {network} are of one family; give one network a family"
            ));
        }
    }
    Ok(())
}

/// Refuses cluster IPs that could be pods.
pub(super) fn disjoint(pods: &[IpNet], services: &[IpNet]) -> Result<(), String> {
    for service in services {
        if let Some(pod) = pods
            .iter()
            .find(|pod| pod.contains(service) || service.contains(*pod))
        {
            return Err(format!(
                "{service} overlaps {pod}, a network of pods: an address would be both a \
                 Service's and a pod's"
            ));
        }
    }
    Ok(())
}

/// The list without what was said before.
pub(super) fn unique(list: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    for item in list {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

//! The API server's checks of single values.

use ipnet::IpNet;
use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
};

use crate::model::Protocol;

/// A field that the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(super) struct Invalid {
    field: String,
    reason: String,
}

impl Invalid {
    pub(super) fn new(field: impl Display, reason: impl Display) -> Self {
        Self {
            field: field.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Names the field of a failed check; the path is put together only on failure.
pub(super) trait At<T> {
    fn at(self, field: impl Display) -> Result<T, Invalid>;
}

impl<T> At<T> for Result<T, String> {
    fn at(self, field: impl Display) -> Result<T, Invalid> {
        self.map_err(|reason| Invalid::new(field, reason))
    }
}

/// A port number, 1 to 65535.
pub(super) fn port(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("{number} is not a port (1 to 65535)")),
    }
}

/// `protocol`, by default TCP.
pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is not one of TCP, UDP, SCTP")),
    }
}

/// An address, canonical. Leading zeros of IPv4 octets are decimal, as the API server has always
/// read them (row A19).
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| legacy_ipv4(text).map(IpAddr::V4))
        .map(|ip| ip.to_canonical())
        .ok_or_else(|| format!("{text:?} is not an IP address"))
}

fn legacy_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = text.split('.').map(|octet| {
        let digits = !octet.is_empty() && octet.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| octet.parse::<u8>().ok()).flatten()
    });
    let addr = [
        octets.next()??,
        octets.next()??,
        octets.next()??,
        octets.next()??,
    ];
    octets.next().is_none().then(|| addr.into())
}

/// An address that packets can be sent to from anywhere.
pub(super) fn routable_ip(text: &str) -> Result<IpAddr, String> {
    let ip = ip(text)?;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let what = if ip.is_unspecified() {
        "the unspecified address"
    } else if ip.is_loopback() {
        "a loopback address"
    } else if link_local {
        "a link-local address"
    } else if ip.is_multicast() {
        "a multicast address"
    } else {
        return Ok(ip);
    };
    Err(format!("{ip} is {what}"))
}

/// An address prefix, octets as in [`ip`].
pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    text.split_once('/')
        .and_then(|(addr, length)| IpNet::new(ip(addr).ok()?, length.parse().ok()?).ok())
        .ok_or_else(|| format!("{text:?} is not an address prefix like 192.0.2.0/24"))
}

/// RFC 1123 label: names of namespaces, Services and ports.
pub(super) fn dns_label(name: &str) -> Result<(), String> {
    if name.len() <= 63 && is_label(name) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a DNS label (at most 63 of a-z, 0-9 and '-', ends alphanumeric)"
    ))
}

/// RFC 1123 subdomain: most other names.
pub(super) fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a DNS subdomain (at most 253 of a-z, 0-9, '-' and '.', parts end alphanumeric)"
    ))
}

fn is_label(part: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| is_lower_alphanumeric(*b));
    let bytes = part.as_bytes();
    alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes
            .iter()
            .all(|b| is_lower_alphanumeric(*b) || *b == b'-')
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// IANA service name: names of container ports, and target ports by name.
pub(super) fn port_name(name: &str) -> Result<(), String> {
    let letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    if name.len() <= 15 && is_label(name) && letter && !name.contains("--") {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a port name (at most 15 of a-z, 0-9 and single '-', one letter, ends alphanumeric)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal() {
        for (text, canonical) in [
            ("172.30.0.041", "172.30.0.41"),
            ("1.2.3.004", "1.2.3.4"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8::0:1", "2001:db8::1"),
        ] {
            assert_eq!(ip(text).unwrap().to_string(), canonical);
        }
        for text in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "1.2.3.+4",
            "1.2.3.",
            "fe80::1%eth0",
        ] {
            assert!(ip(text).is_err(), "{text:?} passed");
        }
    }

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &long] {
            assert!(dns_label(bad).is_err(), "{bad:?} passed");
        }
        assert_eq!(dns_label(&long[1..]), Ok(()));
        for bad in ["", ".a", "a..b", "a.-b"] {
            assert!(dns_subdomain(bad).is_err(), "{bad:?} passed");
        }
        assert_eq!(dns_subdomain("a.b-1.c"), Ok(()));
        for bad in [
            "80",
            "a--b",
            "-http",
            "sixteen-letters-",
            "abcdefghijklmnop",
        ] {
            assert!(port_name(bad).is_err(), "{bad:?} passed");
        }
        assert_eq!(port_name("http-2"), Ok(()));
    }

    #[test]
    fn prefixes_need_a_length_of_their_family() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8"] {
            assert!(cidr(bad).is_err(), "{bad:?} passed");
        }
        assert_eq!(
            cidr("203.0.113.000/025").map(|net| net.to_string()),
            Ok("203.0.113.0/25".to_owned())
        );
        assert_eq!(
            cidr("::/0").map(|net| net.to_string()),
            Ok("::/0".to_owned())
        );
    }
}

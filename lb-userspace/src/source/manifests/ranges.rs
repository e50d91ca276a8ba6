//! Where cluster IPs and node ports come from.
//!
//! The search for a free value starts at a hash of the Service's name, so that agents which read
//! the same manifests at different times (each node has one) still allocate the same values.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

use super::object::Family;

/// How many addresses of a range are used at most: IPv6 ranges are larger than any cluster, and
/// offsets stay within 32 bits.
const MAX_ADDRESSES: u128 = 1 << 32;

/// What Services may ask for and are given from.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    pub(super) cluster: ClusterRanges,
    pub(super) node_ports: RangeInclusive<u16>,
}

/// The Service cluster IP ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterRanges(Vec<IpNet>);

impl ClusterRanges {
    pub(super) fn new(ranges: Vec<IpNet>) -> Self {
        Self(ranges)
    }

    /// Families that cluster IPs are allocated from, the default one first.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families = Vec::new();
        for family in self.0.iter().map(|range| Family::of(range.addr())) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }

    /// Whether a Service may ask for this address. Without ranges it may ask for any.
    pub(super) fn check(&self, ip: IpAddr) -> Result<(), String> {
        if self.0.is_empty() || self.0.iter().any(|range| usable(range).contains(ip)) {
            return Ok(());
        }
        let ranges: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        Err(format!(
            "{ip} is outside the Service cluster IP range {}",
            ranges.join(",")
        ))
    }

    /// Every usable address of a family, in the order they are tried for this Service.
    pub(super) fn candidates(&self, family: Family, seed: u64) -> impl Iterator<Item = IpAddr> {
        self.0
            .iter()
            .map(usable)
            .filter(move |range| Family::of(range.first) == family)
            .flat_map(move |range| {
                let kept_back = (range.size / 16).clamp(16, 256);
                spread(range.size, kept_back, seed).map(move |offset| range.nth(offset))
            })
    }
}

/// Node ports of a range, in the order they are tried for this Service.
pub(super) fn node_port_candidates(
    range: &RangeInclusive<u16>,
    seed: u64,
) -> impl Iterator<Item = u16> {
    let first = *range.start();
    let size = u64::try_from(range.len()).unwrap_or_default();
    let kept_back = (size / 32).clamp(16, 128);
    spread(size, kept_back, seed).map(move |offset| first + offset as u16)
}

/// FNV-1a: the same in every build, unlike the standard library's.
pub(super) fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// All offsets below `size`. As in Kubernetes, the lowest `kept_back` come last: they are what
/// people choose by hand.
fn spread(size: u64, kept_back: u64, seed: u64) -> impl Iterator<Item = u64> {
    let low = if kept_back < size { kept_back } else { 0 };
    let high = size - low;
    let start = if high == 0 { 0 } else { seed % high };
    let upper = (0..high).map(move |i| low + (start + i) % high);
    upper.chain(0..low)
}

/// The addresses of a range that can be a cluster IP.
#[derive(Clone, Copy)]
struct Usable {
    first: IpAddr,
    size: u64,
}

/// A range without its network and broadcast (IPv4) or subnet-router anycast (IPv6) address.
fn usable(range: &IpNet) -> Usable {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
    let excluded = match range {
        IpNet::V4(_) => 2,
        IpNet::V6(_) => 1,
    };
    let size = size.saturating_sub(excluded).min(MAX_ADDRESSES);
    Usable {
        first: offset(range.network(), 1),
        size: u64::try_from(size).unwrap_or_default(),
    }
}

impl Usable {
    fn contains(self, ip: IpAddr) -> bool {
        let distance = match (self.first, ip) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => {
                u32::from(ip).checked_sub(first.into()).map(u128::from)
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) => u128::from(ip).checked_sub(first.into()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        };
        distance.is_some_and(|distance| distance < u128::from(self.size))
    }

    fn nth(self, n: u64) -> IpAddr {
        offset(self.first, n)
    }
}

fn offset(ip: IpAddr, by: u64) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add(by as u32).into()),
        IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add(by.into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges(text: &str) -> ClusterRanges {
        ClusterRanges::new(vec![text.parse().unwrap()])
    }

    #[test]
    fn ends_of_a_range_are_not_used() {
        for (range, ends, inside) in [
            ("10.0.0.0/24", ["10.0.0.0", "10.0.0.255"], "10.0.0.254"),
            ("fd00::/120", ["fd00::", "fd00::100"], "fd00::ff"),
        ] {
            let ranges = ranges(range);
            for end in ends {
                assert!(ranges.check(end.parse().unwrap()).is_err(), "{end} passed");
            }
            assert_eq!(ranges.check(inside.parse().unwrap()), Ok(()));
        }
    }

    #[test]
    fn tiny_ranges_run_out_rather_than_wrap() {
        for range in ["10.0.0.0/31", "10.0.0.1/32", "fd00::1/128"] {
            let ranges = ranges(range);
            let family = ranges.families()[0];
            assert_eq!(ranges.candidates(family, 7).count(), 0, "{range}");
        }
        assert_eq!(node_port_candidates(&(30000..=30000), 7).count(), 1);
        assert_eq!(
            node_port_candidates(&RangeInclusive::new(2, 1), 7).count(),
            0
        );
    }

    #[test]
    fn huge_ranges_are_not_walked() {
        let first = ranges("::/0").candidates(Family::V6, 0).next();
        assert_eq!(first, Some("::101".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn every_address_is_tried_once(prefix in 20u8..=30, seed: u64) {
            let ranges = ranges(&format!("10.0.0.0/{prefix}"));
            let all: Vec<IpAddr> = ranges.candidates(Family::V4, seed).collect();
            prop_assert_eq!(all.len(), (1 << (32 - prefix)) - 2);
            prop_assert!(all.iter().all(|ip| ranges.check(*ip).is_ok()));
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }
}

//! How much is in the cluster, and who is measured with it.

use std::{fmt, str::FromStr, time::Duration};

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use crate::kube::Mode;

/// Endpoints of each Service where nothing else is said.
const ENDPOINTS: u32 = 10;

/// Services with their slices that are made in a second, on two cores.
const MADE_IN_A_SECOND: u32 = 150;

/// How many Services there are, and how many endpoints each has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
}

impl Size {
    /// What is asked for most.
    pub const LARGE: Self = Self::new(10_000, ENDPOINTS);
    /// Those that traffic is measured at where nothing else is said.
    pub const OF_TRAFFIC: [Self; 3] = [
        Self::new(1, ENDPOINTS),
        Self::new(1_000, ENDPOINTS),
        Self::LARGE,
    ];
    /// Those that the control plane is measured at.
    pub const ALL: [Self; 4] = [
        Self::new(100, ENDPOINTS),
        Self::new(1_000, ENDPOINTS),
        Self::LARGE,
        Self::new(5_000, 50),
    ];

    const fn new(services: u32, endpoints: u32) -> Self {
        Self {
            services,
            endpoints,
        }
    }

    /// About how long it takes to make as much.
    pub(in crate::bench) fn making(self) -> Duration {
        Duration::from_secs((self.services / MADE_IN_A_SECOND).into())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.services, self.endpoints)
    }
}

impl FromStr for Size {
    type Err = String;

    /// Reads `1000` or `1000x10`. Slices hold up to 100 endpoints, and each Service has one.
    fn from_str(text: &str) -> Result<Self, String> {
        let (services, endpoints) = match text.split_once('x') {
            Some((services, endpoints)) => (services.parse().ok(), endpoints.parse().ok()),
            None => (text.parse().ok(), Some(ENDPOINTS)),
        };
        match (services, endpoints) {
            (Some(services @ 1..=50_000), Some(endpoints @ 1..=100)) => {
                Ok(Self::new(services, endpoints))
            }
            (_, _) => Err(
                "want SERVICES or SERVICESxENDPOINTS, up to 50000 and 100, such as 5000x50"
                    .to_owned(),
            ),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Who programs the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// Our agent.
    Fairlead,
    /// kube-proxy in nftables mode.
    Nftables,
    /// kube-proxy in iptables mode.
    Iptables,
}

impl Proxy {
    /// All of them, in the order they are measured in.
    pub const ALL: [Self; 3] = [Self::Fairlead, Self::Nftables, Self::Iptables];

    /// The mode of kube-proxy; none if it is ours.
    pub(super) const fn mode(self) -> Option<Mode> {
        match self {
            Self::Fairlead => None,
            Self::Nftables => Some(Mode::Nftables),
            Self::Iptables => Some(Mode::Iptables),
        }
    }

    /// The name in a report.
    pub(in crate::bench) const fn name(self) -> &'static str {
        match self {
            Self::Fairlead => "fairlead",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        for size in Size::ALL {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert_eq!("10000".parse(), Ok(Size::LARGE));
    }

    #[test]
    fn a_size_that_no_slice_holds_is_refused() {
        for text in [
            "", "x", "0", "10x", "10x0", "10x101", "50001", "-1", "1x1x1",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}

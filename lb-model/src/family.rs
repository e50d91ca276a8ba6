//! The same cast of addresses in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Addr, Port};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Networks: IPv4 `10.n.x.x`, IPv6 `fd00:n::x`.
const NODES: u8 = 0;
const LOCAL_PODS: u8 = 1;
const REMOTE_PODS: u8 = 2;
const CLUSTER_IPS: u8 = 96;
const CLIENTS: u8 = 200;

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn ip(self, net: u8, host: u16) -> IpAddr {
        let [high, low] = host.to_be_bytes();
        match self {
            Self::V4 => Ipv4Addr::new(10, net, high, low).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host).into(),
        }
    }

    /// The address of this node.
    pub fn node(self) -> IpAddr {
        self.ip(NODES, 1)
    }

    /// A client outside of the cluster.
    pub fn client(self, number: u16) -> IpAddr {
        self.ip(CLIENTS, number)
    }

    /// A service's cluster IP.
    pub fn service(self, number: u16) -> IpAddr {
        self.ip(CLUSTER_IPS, number)
    }

    /// A pod on this node.
    pub fn local_pod(self, number: u16) -> IpAddr {
        self.ip(LOCAL_PODS, number)
    }

    /// A pod on another node.
    pub fn remote_pod(self, number: u16) -> IpAddr {
        self.ip(REMOTE_PODS, number)
    }

    /// The address that means none.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The network of the cluster IPs, and its mask.
    pub fn cluster_net(self) -> (IpAddr, IpAddr) {
        let mask = match self {
            Self::V4 => Ipv4Addr::new(255, 255, 0, 0).into(),
            Self::V6 => Ipv6Addr::new(0xffff, 0xffff, 0, 0, 0, 0, 0, 0).into(),
        };
        (self.ip(CLUSTER_IPS, 0), mask)
    }
}

/// Shorthand: a socket address.
pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The pipeline's view of an address known to be of family `A`.
pub fn words<A: Addr>(ip: IpAddr) -> A {
    A::from_ip(ip).unwrap()
}

/// The pipeline's view of a socket address known to be of family `A`.
pub fn endpoint<A: Addr>(addr: SocketAddr) -> (A, Port) {
    (words(addr.ip()), Port::new(addr.port()))
}

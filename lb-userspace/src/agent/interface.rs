//! Network interfaces, and what they are to us.

use clap::ValueEnum;
use glob::Pattern;

use crate::status::Role;

/// A network interface, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the kernel tells them"
)]
pub(super) struct Interface {
    /// Its index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// Frames have Ethernet headers.
    pub(super) ethernet: bool,
    /// A loopback device.
    pub(super) loopback: bool,
    /// Administratively up.
    pub(super) up: bool,
    /// A veth.
    pub(super) veth: bool,
    /// Belongs to a bond.
    pub(super) bonded: bool,
    /// The other end, or the device below, is in another network namespace.
    pub(super) peer_elsewhere: bool,
    /// Index of the other end, or of the device below.
    pub(super) peer: Option<u32>,
    /// Largest packet.
    pub(super) mtu: u32,
    /// Its MAC address.
    pub(super) mac: Vec<u8>,
}

/// Which interfaces are ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Names of the external interfaces.
    pub(super) external: Vec<String>,
    /// Names that pod interfaces may have.
    pub(super) pods: Vec<Pattern>,
    /// Where XDP may be used.
    pub(super) xdp: Xdp,
}

/// Where XDP may be used, of the external interfaces whose driver has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Xdp {
    /// On all but veths: what XDP sends back out of a veth is lost without a trace unless its other
    /// end runs XDP too (`veth_xdp_flush`), and that cannot be asked.
    #[default]
    Auto,
    /// On all.
    Always,
    /// On none.
    Off,
}

/// An interface that packets are to be seen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// What it is to us.
    pub(super) role: Role,
    /// Why packets cannot be seen there.
    pub(super) obstacle: Option<&'static str>,
    /// Largest packet: drivers refuse native XDP for large ones.
    pub(super) mtu: u32,
    /// Why XDP is not even tried.
    pub(super) no_xdp: Option<&'static str>,
}

impl Selection {
    /// What the interface is to us, if anything: external when named so, else a pod's when it is a
    /// veth that leads to another network namespace and its name fits.
    pub(super) fn role(&self, interface: &Interface) -> Option<Role> {
        let Self { external, pods, .. } = self;
        if external.contains(&interface.name) {
            return Some(Role::External);
        }
        let leads_away = interface.veth && interface.peer_elsewhere;
        let fits = || pods.iter().any(|glob| glob.matches(&interface.name));
        (leads_away && fits()).then_some(Role::Pod)
    }

    /// The interface as one to attach to; none if it does not concern us.
    pub(super) fn wanted(&self, interface: &Interface) -> Option<Wanted> {
        Some(Wanted {
            index: interface.index,
            name: interface.name.clone(),
            role: self.role(interface)?,
            obstacle: obstacle(interface),
            mtu: interface.mtu,
            no_xdp: self.no_xdp(interface),
        })
    }

    fn no_xdp(&self, interface: &Interface) -> Option<&'static str> {
        match self.xdp {
            Xdp::Auto if interface.veth => Some(
                "a veth loses what XDP sends unless its other end runs XDP too; \
                 if it does, give --xdp always",
            ),
            Xdp::Auto | Xdp::Always => None,
            Xdp::Off => Some("--xdp off"),
        }
    }
}

fn obstacle(interface: &Interface) -> Option<&'static str> {
    if interface.loopback {
        Some("a loopback device: nothing from outside arrives there")
    } else if !interface.ethernet {
        Some("not an Ethernet device")
    } else if interface.bonded {
        Some("part of a bond: name the bond as the external interface")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection() -> Selection {
        Selection {
            external: vec!["eth0".into(), "lo".into(), "tun0".into(), "eth1".into()],
            pods: vec![
                Pattern::new("veth*").unwrap(),
                Pattern::new("eth?").unwrap(),
            ],
            xdp: Xdp::Auto,
        }
    }

    fn veth(name: &str, peer_elsewhere: bool) -> Interface {
        Interface {
            name: name.into(),
            ethernet: true,
            veth: true,
            peer_elsewhere,
            ..Interface::default()
        }
    }

    #[test]
    fn a_pod_interface_is_a_veth_that_leads_away_and_fits_the_pattern() {
        let role = |interface: &Interface| selection().role(interface);
        assert_eq!(role(&veth("veth1", true)), Some(Role::Pod));
        assert_eq!(role(&veth("veth1", false)), None);
        assert_eq!(role(&veth("cali1", true)), None);
        let bridge = Interface {
            veth: false,
            ..veth("veth1", true)
        };
        assert_eq!(role(&bridge), None);
    }

    #[test]
    fn a_named_interface_is_external_even_if_it_looks_like_a_pods() {
        assert_eq!(selection().role(&veth("eth0", true)), Some(Role::External));
    }

    #[test]
    fn what_cannot_carry_services_is_refused_with_a_reason() {
        let obstacle = |interface: &Interface| selection().wanted(interface).unwrap().obstacle;
        let eth = veth("eth0", true);
        assert_eq!(obstacle(&eth), None);
        let loopback = Interface {
            loopback: true,
            ..veth("lo", false)
        };
        let tunnel = Interface {
            ethernet: false,
            ..veth("tun0", false)
        };
        let bonded = Interface {
            bonded: true,
            ..veth("eth1", false)
        };
        insta::assert_debug_snapshot!(
            [loopback, tunnel, bonded].map(|interface| obstacle(&interface)),
            @r#"
        [
            Some(
                "a loopback device: nothing from outside arrives there",
            ),
            Some(
                "not an Ethernet device",
            ),
            Some(
                "part of a bond: name the bond as the external interface",
            ),
        ]
        "#
        );
    }
}

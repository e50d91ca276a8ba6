//! The node's links, addresses and neighbours, kept up to date by events.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::interface::Interface;

/// An address of one of the node's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Index of the interface.
    pub(super) interface: u32,
    /// The address.
    pub(super) ip: IpAddr,
    /// Reaches beyond the link: neither loopback, link-local nor of host scope.
    pub(super) global: bool,
    /// Not to be preferred: a secondary, temporary or deprecated address.
    pub(super) lesser: bool,
}

/// A neighbour: interface and address.
pub(super) type Neighbour = (u32, IpAddr);

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An interface is there, like this.
    Link(Interface),
    /// An interface is gone.
    LinkGone(u32),
    /// An address is usable.
    Address(Address),
    /// An address is gone, or not usable.
    AddressGone(u32, IpAddr),
    /// A neighbour has this MAC; none if it has none (yet).
    Neighbour(Neighbour, Option<Vec<u8>>),
    /// A route or a routing rule changed.
    Route {
        /// It is one to anywhere.
        default: bool,
    },
    /// Events were lost: all must be read again.
    Lost,
}

/// What an event means for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent consequences")]
pub(super) struct Effects {
    /// Cached next hops may be wrong.
    pub(super) hops: bool,
    /// Interfaces changed.
    pub(super) links: bool,
    /// Addresses changed.
    pub(super) addresses: bool,
    /// The default routes must be read again: of several with one destination the kernel does not
    /// tell which are left.
    pub(super) default_routes: bool,
    /// The table must be read again from the kernel.
    pub(super) reread: bool,
    /// These interfaces must be read again: their other end went elsewhere, of which the kernel
    /// sends no event.
    pub(super) peers: BTreeSet<u32>,
}

impl Effects {
    /// Adds the effects of another event.
    pub(super) fn merge(&mut self, other: Self) {
        let Self {
            hops,
            links,
            addresses,
            default_routes,
            reread,
            peers,
        } = other;
        self.hops |= hops;
        self.links |= links;
        self.addresses |= addresses;
        self.default_routes |= default_routes;
        self.reread |= reread;
        self.peers.extend(peers);
    }
}

/// Links, addresses and neighbours.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    links: BTreeMap<u32, Interface>,
    addresses: Vec<Address>,
    neighbours: HashMap<Neighbour, Vec<u8>>,
    default_routes: BTreeSet<u32>,
}

impl Table {
    /// Every interface, by index.
    pub(super) fn links(&self) -> impl Iterator<Item = &Interface> {
        self.links.values()
    }

    /// The interface of that name.
    pub(super) fn link(&self, name: &str) -> Option<&Interface> {
        self.links.values().find(|link| link.name == name)
    }

    /// Every usable address, in the kernel's order.
    pub(super) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Indices of the interfaces that default routes lead out of.
    pub(super) fn default_routes(&self) -> &BTreeSet<u32> {
        &self.default_routes
    }

    /// These are the default routes.
    pub(super) fn set_default_routes(&mut self, interfaces: BTreeSet<u32>) -> Effects {
        let changed = self.default_routes != interfaces;
        self.default_routes = interfaces;
        Effects {
            links: changed,
            ..Effects::default()
        }
    }

    /// Takes in an event; says what follows from it. An event that brings nothing new has no
    /// effects, so a neighbour that is merely confirmed voids no cached hop.
    pub(super) fn apply(&mut self, event: Event) -> Effects {
        match event {
            Event::Link(link) => self.link_is(link),
            Event::LinkGone(index) => self.link_gone(index),
            Event::Address(address) => self.address_is(address),
            Event::AddressGone(interface, ip) => self.address_gone(interface, ip),
            Event::Neighbour(neighbour, mac) => self.neighbour_is(neighbour, mac.as_deref()),
            Event::Route { default } => Effects {
                hops: true,
                default_routes: default,
                ..Effects::default()
            },
            Event::Lost => Effects {
                reread: true,
                ..Effects::default()
            },
        }
    }

    fn link_is(&mut self, link: Interface) -> Effects {
        let changed = self.links.get(&link.index) != Some(&link);
        self.links.insert(link.index, link);
        Effects {
            hops: changed,
            links: changed,
            ..Effects::default()
        }
    }

    fn link_gone(&mut self, index: u32) -> Effects {
        let Some(gone) = self.links.remove(&index) else {
            return Effects::default();
        };
        self.addresses.retain(|address| address.interface != index);
        self.neighbours
            .retain(|(interface, _), _| *interface != index);
        let peers = self.links.values().filter(|link| {
            let of_gone = link.peer == Some(index) || gone.peer == Some(link.index);
            link.veth && link.peer_netns.is_none() && of_gone
        });
        Effects {
            hops: true,
            links: true,
            addresses: true,
            default_routes: false,
            reread: false,
            peers: peers.map(|link| link.index).collect(),
        }
    }

    fn address_is(&mut self, address: Address) -> Effects {
        let same = |old: &Address| (old.interface, old.ip) == (address.interface, address.ip);
        let changed = match self.addresses.iter_mut().find(|old| same(old)) {
            Some(old) if *old == address => false,
            Some(old) => {
                *old = address;
                true
            }
            None => {
                self.addresses.push(address);
                true
            }
        };
        address_effects(changed)
    }

    fn address_gone(&mut self, interface: u32, ip: IpAddr) -> Effects {
        let before = self.addresses.len();
        self.addresses
            .retain(|address| (address.interface, address.ip) != (interface, ip));
        address_effects(self.addresses.len() != before)
    }

    fn neighbour_is(&mut self, neighbour: Neighbour, mac: Option<&[u8]>) -> Effects {
        let old = match mac {
            Some(mac) => self.neighbours.insert(neighbour, mac.to_owned()),
            None => self.neighbours.remove(&neighbour),
        };
        Effects {
            hops: old.as_deref() != mac,
            ..Effects::default()
        }
    }
}

fn address_effects(changed: bool) -> Effects {
    Effects {
        hops: changed,
        addresses: changed,
        ..Effects::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPS: Effects = Effects {
        hops: true,
        links: false,
        addresses: false,
        default_routes: false,
        reread: false,
        peers: BTreeSet::new(),
    };
    const NOTHING: Effects = Effects {
        hops: false,
        links: false,
        addresses: false,
        default_routes: false,
        reread: false,
        peers: BTreeSet::new(),
    };

    fn veth(index: u32, peer: u32) -> Interface {
        Interface {
            index,
            name: format!("veth{index}"),
            veth: true,
            peer: Some(peer),
            ..Interface::default()
        }
    }

    #[test]
    fn a_neighbour_moves_cached_hops_only_with_its_mac() {
        let mut table = Table::default();
        let neighbour = (2, "192.0.2.1".parse().unwrap());
        let is = |mac: Option<u8>| Event::Neighbour(neighbour, mac.map(|last| vec![2, last]));
        assert_eq!(table.apply(is(None)), NOTHING);
        assert_eq!(table.apply(is(Some(1))), HOPS);
        assert_eq!(table.apply(is(Some(1))), NOTHING);
        assert_eq!(table.apply(is(Some(2))), HOPS);
        assert_eq!(table.apply(is(None)), HOPS);
    }

    #[test]
    fn a_link_told_again_changes_nothing() {
        let mut table = Table::default();
        assert!(table.apply(Event::Link(veth(2, 3))).links);
        assert_eq!(table.apply(Event::Link(veth(2, 3))), NOTHING);
        assert!(table.apply(Event::LinkGone(2)).links);
        assert_eq!(table.apply(Event::LinkGone(2)), NOTHING);
    }

    #[test]
    fn a_veth_whose_other_end_leaves_is_read_again() {
        // Of a new pair the kernel tells the other end's index for one only.
        for (gone, stays) in [(2, 3), (3, 2)] {
            let mut table = Table::default();
            table.apply(Event::Link(veth(2, 0)));
            table.apply(Event::Link(veth(3, 2)));
            assert_eq!(table.apply(Event::LinkGone(gone)).peers, [stays].into());
            assert_eq!(table.apply(Event::LinkGone(stays)).peers, [].into());
        }
    }

    #[test]
    fn addresses_keep_the_kernels_order_and_go_with_their_link() {
        let mut table = Table::default();
        let address = |interface, ip: &str| Address {
            interface,
            ip: ip.parse().unwrap(),
            global: true,
            lesser: false,
        };
        table.apply(Event::Link(veth(2, 3)));
        for ip in ["192.0.2.9", "192.0.2.1"] {
            assert!(table.apply(Event::Address(address(2, ip))).addresses);
        }
        assert_eq!(
            table.apply(Event::Address(address(2, "192.0.2.9"))),
            NOTHING
        );
        let ips: Vec<_> = table.addresses().iter().map(|a| a.ip.to_string()).collect();
        assert_eq!(ips, ["192.0.2.9", "192.0.2.1"]);
        assert!(table.apply(Event::LinkGone(2)).addresses);
        assert!(table.addresses().is_empty());
    }
}

//! Nodes as tests have them.

use std::{collections::BTreeSet, fs, net::IpAddr};

use tempfile::TempDir;

use crate::agent::{
    interface::Interface,
    table::{Address, Event, Table},
};

/// A network card that is up.
pub(super) fn link(index: u32, name: &str) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        ethernet: true,
        up: true,
        uplink: true,
        mtu: 1500,
        ..Interface::default()
    }
}

/// An address that others reach.
pub(super) fn address(interface: u32, ip: &str) -> Address {
    let ip: IpAddr = ip.parse().unwrap();
    Address {
        interface,
        ip,
        global: true,
        lesser: false,
    }
}

/// A node of these links, addresses and interfaces with a default route.
pub(super) fn table(links: Vec<Interface>, addresses: &[Address], routes: &[u32]) -> Table {
    let mut table = Table::default();
    for link in links {
        table.apply(Event::Link(link));
    }
    for address in addresses {
        table.apply(Event::Address(*address));
    }
    table.set_default_routes(BTreeSet::from_iter(routes.iter().copied()));
    table
}

/// A directory with the files of a record: each after a line `=== PATH`. A file without a line is a
/// directory.
pub(super) fn unpack(record: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in record.split("=== /").skip(1) {
        let (path, text) = file.split_once('\n').unwrap();
        let path = root.path().join(path);
        if text.is_empty() {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
    }
    root
}

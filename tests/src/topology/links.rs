//! What joins the client and the nodes: veths to the switch, or NICs of the machine that are joined outside it; and
//! what `eth0` is: such a device itself, a VLAN on it, or a bond of two.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{cluster::eventually, command, netns::Netns};

/// Set to anything by whoever started the tests where all NICs are theirs: guests of `cargo xtask kernels`. Elsewhere a
/// NIC may be somebody's only way to the machine.
const NICS_ARE_FREE: &str = "FAIRLEAD_NICS_ARE_FREE";

/// The VLAN that client and nodes are in, where they are in one.
const VLAN: u16 = 7;

/// The devices that are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// A veth whose other end is a port of the switch.
    Veth,
    /// A NIC of the machine, by the name of its driver. All NICs of a driver have to be on one network.
    Nic(&'static str),
}

/// What `eth0` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eth0 {
    /// The device on the wire.
    Port,
    /// A VLAN on it.
    Vlan,
    /// A bond of two of them that uses one, and the other in its place.
    ActiveBackup,
    /// A bond of two of them that uses both; the switch has one too.
    BalanceXor,
}

/// The links of client and nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// What is on the wire.
    pub port: Port,
    /// What the hosts use.
    pub eth0: Eth0,
    /// How long a frame's payload may be, in bytes.
    pub mtu: u32,
    /// Whether devices put checksums in and cut segments: then what a capture sees has neither.
    pub offloads: bool,
}

/// The other ends of veths.
pub(super) struct Switch<'a> {
    pub(super) netns: &'a Netns,
    /// An XDP program that passes everything: with one, a port takes what the other end's XDP sends.
    pub(super) program: &'a Path,
}

impl Links {
    /// Frames of 1500 bytes; native XDP can be attached.
    pub const STANDARD: Self = Self {
        port: Port::Veth,
        eth0: Eth0::Port,
        mtu: 1500,
        offloads: false,
    };
    /// Frames of 9000 bytes: more than a page, so veth refuses XDP and tc is on its own.
    pub const JUMBO: Self = Self {
        mtu: 9000,
        ..Self::STANDARD
    };

    /// Why this machine cannot have such links, if it cannot.
    pub fn lacking(self) -> Option<String> {
        if let Port::Nic(driver) = self.port {
            if env::var_os(NICS_ARE_FREE).is_none() {
                return Some("no NICs to be taken".to_owned());
            }
            let (wanted, found) = (3 * self.ports().len(), nics(driver).len());
            if found < wanted {
                return Some(format!("{found} of {wanted} NICs of the driver {driver}"));
            }
        }
        let kind = self.eth0.kind()?;
        let probe = format!("fl-{}-probe", std::process::id());
        let try_it = || -> Result<()> {
            // Its devices go with the namespace.
            let netns = Netns::create(probe.clone())?;
            let veth = "link add wire0 type veth peer name wire1";
            let made = netns.ip(&format!("{veth}\n{}", self.eth0.make("wire0", 1500)));
            netns.remove()?;
            made
        };
        try_it().err().map(|_| format!("no {kind} devices"))
    }

    /// Makes `eth0` of a host.
    pub(super) fn make_eth0(self, host: &Netns, switch: &Switch<'_>, name: &str) -> Result<()> {
        let ports = self.ports();
        for (number, device) in ports.iter().enumerate() {
            match self.port {
                Port::Veth => {
                    let port = port_name(name, ports, number);
                    self.plug_veth(host, switch, &port, device)?;
                }
                Port::Nic(driver) => self.take_nic(host, driver, device)?,
            }
            self.offload(host, device)?;
        }
        let [first, ..] = ports else { return Ok(()) };
        if self.eth0 != Eth0::Port {
            host.ip(&self.eth0.make(first, self.mtu))?;
            for device in ports.iter().filter(|_| self.eth0.is_bond()) {
                host.ip(&format!(
                    "link set {device} down\nlink set {device} master eth0"
                ))?;
            }
            for device in ports {
                host.ip(&format!("link set {device} up"))?;
            }
            self.offload(host, "eth0")?;
        }
        if self.eth0 == Eth0::BalanceXor && self.port == Port::Veth {
            bond_ports(switch.netns, name, ports)?;
        }
        Ok(())
    }

    /// The devices of a host that are on the wire.
    pub const fn ports(self) -> &'static [&'static str] {
        match self.eth0 {
            Eth0::Port => &["eth0"],
            Eth0::Vlan => &["wire0"],
            Eth0::ActiveBackup | Eth0::BalanceXor => &["wire0", "wire1"],
        }
    }

    fn plug_veth(self, host: &Netns, switch: &Switch<'_>, port: &str, device: &str) -> Result<()> {
        let Switch { netns, program } = switch;
        let mtu = self.mtu;
        netns.ip(&format!(
            "link add {port} mtu {mtu} gro_max_size 1 type veth peer name {device} mtu {mtu} netns {}\n\
             link set {port} master br0\n\
             link set {port} up",
            host.name()
        ))?;
        netns.offload(port, &["tx", "off"])?;
        if mtu <= Self::STANDARD.mtu {
            netns.ip(&format!(
                "link set {port} xdpdrv pinned {}",
                program.display()
            ))?;
        }
        Ok(())
    }

    /// Moves a NIC in. It comes back to the machine's own namespace, some time after the host's is gone.
    fn take_nic(self, host: &Netns, driver: &str, device: &str) -> Result<()> {
        let nic = eventually(Duration::from_secs(5), || {
            let nic = nics(driver).into_iter().next();
            nic.with_context(|| format!("there is no NIC of the driver {driver} left"))
        })?;
        let words = ["link", "set", &nic, "netns", host.name(), "name", device];
        command::run(Command::new("ip").args(words))?;
        host.ip(&format!("link set {device} mtu {}", self.mtu))
    }

    fn offload(self, host: &Netns, device: &str) -> Result<()> {
        if self.offloads {
            host.offload(device, &["tx", "on", "sg", "on", "tso", "on"])
        } else {
            // NICs merge what they receive; the ends of veths do so where the switch lets them.
            host.offload(device, &["tx", "off", "gro", "off"])
        }
    }
}

impl Eth0 {
    /// The kind of device, if it is made.
    fn kind(self) -> Option<&'static str> {
        match self {
            Self::Port => None,
            Self::Vlan => Some("vlan"),
            Self::ActiveBackup | Self::BalanceXor => Some("bond"),
        }
    }

    fn is_bond(self) -> bool {
        self.kind() == Some("bond")
    }

    /// For `ip`: makes it, a VLAN on this device.
    fn make(self, on: &str, mtu: u32) -> String {
        let options = match self {
            Self::Port => return String::new(),
            Self::Vlan => {
                return format!("link add link {on} name eth0 mtu {mtu} type vlan id {VLAN}");
            }
            Self::ActiveBackup => "active-backup miimon 100",
            Self::BalanceXor => "balance-xor miimon 100 xmit_hash_policy layer3+4",
        };
        format!("link add eth0 mtu {mtu} type bond mode {options}")
    }
}

/// The port of the switch that a host's device is plugged into.
fn port_name(host: &str, ports: &[&str], number: usize) -> String {
    match ports {
        [_] => format!("to-{host}"),
        _ => format!("to-{host}-{number}"),
    }
}

/// Has the switch see two ports as one.
fn bond_ports(switch: &Netns, host: &str, ports: &[&str]) -> Result<()> {
    let bond = format!("to-{host}");
    switch.ip(&format!(
        "link add {bond} type bond mode balance-xor miimon 100 xmit_hash_policy layer3+4"
    ))?;
    for number in 0..ports.len() {
        let port = port_name(host, ports, number);
        switch.ip(&format!(
            "link set {port} nomaster\nlink set {port} down\nlink set {port} master {bond}\nlink set {port} up"
        ))?;
    }
    switch.ip(&format!("link set {bond} master br0\nlink set {bond} up"))
}

/// The NICs of a driver in the machine's own namespace, which is where sysfs was mounted.
fn nics(driver: &str) -> Vec<String> {
    let devices = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    let named = devices.filter_map(|device| {
        let path: PathBuf = device.path().join("device/driver");
        let found = fs::read_link(path).ok()?;
        let name = device.file_name().into_string().ok()?;
        (found.file_name()? == driver).then_some(name)
    });
    let mut nics: Vec<_> = named.collect();
    nics.sort();
    nics
}

/// Takes away the carrier of a host's device, as a pulled cable would, or gives it back.
pub fn set_carrier(
    switch: &Netns,
    host: &str,
    links: Links,
    number: usize,
    up: bool,
) -> Result<()> {
    ensure!(links.port == Port::Veth, "only veths can be pulled out");
    let port = port_name(host, links.ports(), number);
    switch.ip(&format!(
        "link set {port} {}",
        if up { "up" } else { "down" }
    ))
}

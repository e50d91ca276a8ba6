//! XDP on external interfaces: what drivers have, and what stands in its way.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    attached::XdpProgram,
    files::{Files, Reading},
    finding::NodeFinding,
    generic_netlink::Devices,
    links::Sorted,
    xdp_drivers::has_native_xdp,
};
use crate::agent::interface::{Interface, Wanted, Xdp};

/// `NETDEV_XDP_ACT_BASIC`: the driver runs XDP programs.
const BASIC: u64 = 1;

/// From about this MTU on a frame takes more than one page of 4096 bytes, of which XDP and the
/// kernel's own records keep 256 and 320.
const ONE_PAGE: u32 = 3498;

/// What is known of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Device {
    /// Name of its driver.
    pub(super) driver: Option<String>,
    /// The kernel's own answer what of XDP it has.
    pub(super) features: Option<u64>,
    /// Offloads that are on.
    pub(super) offloads: Option<BTreeSet<String>>,
}

/// Reads what is known of devices, by index.
pub(super) fn read<'a>(
    files: &Files,
    links: impl Iterator<Item = &'a Interface>,
) -> BTreeMap<u32, Device> {
    let mut devices = Devices::open().ok();
    links
        .map(|link| {
            let index = link.index;
            let device = Device {
                driver: driver(files, link),
                features: devices.as_mut().and_then(|it| it.xdp_features(index)),
                offloads: devices.as_mut().and_then(|it| it.offloads(index)),
            };
            (index, device)
        })
        .collect()
}

/// The driver, as sysfs has it. That shows the network namespace it was mounted in, which may be
/// another one.
fn driver(files: &Files, link: &Interface) -> Option<String> {
    let dir = format!("/sys/class/net/{}", link.name);
    let same = files.number(&format!("{dir}/ifindex")) == Reading::Value(u64::from(link.index));
    let mac: Vec<_> = link.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let address = files.text(&format!("{dir}/address"));
    let same = same && address.value().is_some_and(|it| it.trim() == mac.join(":"));
    let driver = files
        .link_name(&format!("{dir}/device/driver"))
        .filter(|_| same);
    driver.or_else(|| link.veth.then(|| "veth".to_owned()))
}

/// What the facts mean, for each external interface that is no tunnel.
pub(super) fn check(
    sorted: &Sorted,
    devices: &BTreeMap<u32, Device>,
    programs: &BTreeMap<u32, XdpProgram>,
    wanted: Xdp,
) -> Vec<NodeFinding> {
    sorted
        .usable()
        .flat_map(|(link, it)| {
            let device = devices.get(&link.index).cloned().unwrap_or_default();
            let foreign = programs.get(&link.index).filter(|program| !program.ours);
            let xdp = mode(link, it, &device, foreign, wanted);
            let offloads = offloads(link, &device);
            [
                Some(xdp.on(&link.name)),
                offloads.map(|it| it.on(&link.name)),
            ]
        })
        .flatten()
        .collect()
}

/// How packets of the interface would be seen. tc serves every interface, so none of it is a failure.
fn mode(
    link: &Interface,
    wanted: &Wanted,
    device: &Device,
    foreign: Option<&XdpProgram>,
    xdp: Xdp,
) -> NodeFinding {
    let driver = device.driver.as_deref();
    let named = driver.unwrap_or("unknown");
    if let Some(program) = foreign {
        return NodeFinding::warning(
            "xdp",
            format!("another XDP program is on it: {program}"),
            "it sees packets first and may drop them; where it stays, tc serves alone, at more cost",
            format!(
                "ask its owner, or take it off (ip link set dev {} xdp off)",
                link.name
            ),
        );
    }
    if let Some(reason) = wanted.no_xdp {
        let hidden = trunk_without_hiding(device, reason);
        return NodeFinding::ok("xdp", format!("tc alone: {reason}{hidden}"));
    }
    let has_xdp = device.features.map(|bits| bits & BASIC != 0);
    let lacking = |found: String| match xdp {
        Xdp::Always => NodeFinding::warning(
            "xdp",
            found,
            "tc serves alone, at more cost a packet, in spite of --xdp always",
            "use a card whose driver has native XDP, or give --xdp auto",
        ),
        Xdp::Auto | Xdp::Off => NodeFinding::ok("xdp", found),
    };
    match has_xdp {
        Some(false) => lacking(format!("tc alone: driver {named} has no native XDP")),
        // Fairlead's program takes a frame in one piece, whatever fragments a driver has.
        Some(true) | None if link.mtu > ONE_PAGE => NodeFinding::warning(
            "xdp",
            format!(
                "driver {named}, MTU {}: a frame takes more than one page",
                link.mtu
            ),
            "most drivers refuse XDP at such an MTU: tc then serves alone, at more cost",
            format!("ip link set {} mtu {ONE_PAGE}, or accept tc", link.name),
        ),
        Some(true) => NodeFinding::ok("xdp", format!("driver {named} has native XDP")),
        None if driver.is_some_and(has_native_xdp) => {
            NodeFinding::ok("xdp", format!("driver {named} is known to have native XDP"))
        }
        None => lacking(format!(
            "driver {named}: not known to have native XDP; it is tried at the start, else tc serves"
        )),
    }
}

/// Says that the reason for keeping XDP off a device with VLANs does not hold.
fn trunk_without_hiding(device: &Device, reason: &str) -> &'static str {
    let off = |offloads: &BTreeSet<String>| !offloads.contains("rx-vlan-hw-parse");
    let applies = reason.contains("VLAN") && device.offloads.as_ref().is_some_and(off);
    if applies {
        " (rxvlan is off here: --xdp always works)"
    } else {
        ""
    }
}

fn offloads(link: &Interface, device: &Device) -> Option<NodeFinding> {
    let offloads = device.offloads.as_ref()?;
    if offloads.contains("rx-lro") {
        return Some(NodeFinding::warning(
            "offloads",
            "large receive offload (LRO) is on",
            "merged packets cannot be forwarded, and drivers refuse XDP beside it",
            format!("ethtool -K {} lro off", link.name),
        ));
    }
    Some(NodeFinding::ok(
        "offloads",
        "large receive offload (LRO) is off",
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{finding::FindingState, recorded::link},
        *,
    };
    use crate::status::Role;

    fn wanted(no_xdp: Option<&'static str>) -> Wanted {
        Wanted {
            index: 2,
            name: "eth0".into(),
            role: Role::External,
            obstacle: None,
            mtu: 1500,
            no_xdp,
        }
    }

    fn device(driver: Option<&str>, features: Option<u64>) -> Device {
        Device {
            driver: driver.map(str::to_owned),
            features,
            offloads: None,
        }
    }

    #[test]
    fn the_kernels_answer_comes_before_what_is_known_of_the_driver() {
        let rows = [
            (
                Some("virtio_net"),
                Some(0),
                Xdp::Auto,
                FindingState::Ok,
                "tc alone",
            ),
            (
                Some("virtio_net"),
                Some(0),
                Xdp::Always,
                FindingState::Warning,
                "tc alone",
            ),
            (
                Some("e1000"),
                Some(BASIC),
                Xdp::Auto,
                FindingState::Ok,
                "has native XDP",
            ),
            (
                Some("ena"),
                None,
                Xdp::Auto,
                FindingState::Ok,
                "known to have native XDP",
            ),
            (
                Some("e1000"),
                None,
                Xdp::Auto,
                FindingState::Ok,
                "tried at the start",
            ),
            (
                None,
                None,
                Xdp::Always,
                FindingState::Warning,
                "tried at the start",
            ),
        ];
        for (driver, features, xdp, state, text) in rows {
            let device = device(driver, features);
            let finding = mode(&link(2, "eth0"), &wanted(None), &device, None, xdp);
            assert_eq!(finding.state, state, "{driver:?} {features:?} {xdp:?}");
            assert!(finding.found.contains(text), "{}", finding.found);
        }
    }

    #[test]
    fn frames_of_several_pages_are_a_warning_where_there_is_xdp() {
        let state = |mtu, features| {
            let link = Interface {
                mtu,
                ..link(2, "eth0")
            };
            let device = device(Some("ena"), features);
            mode(&link, &wanted(None), &device, None, Xdp::Auto).state
        };
        assert_eq!(state(3498, Some(BASIC)), FindingState::Ok);
        assert_eq!(state(9001, Some(BASIC)), FindingState::Warning);
        assert_eq!(state(9001, None), FindingState::Warning);
        assert_eq!(state(9001, Some(0)), FindingState::Ok);
    }

    #[test]
    fn another_program_in_our_place_is_a_warning() {
        let program = XdpProgram {
            id: 42,
            name: Some("dispatcher".into()),
            ours: false,
        };
        let device = device(Some("ice"), Some(BASIC));
        let finding = mode(
            &link(2, "eth0"),
            &wanted(None),
            &device,
            Some(&program),
            Xdp::Auto,
        );
        assert_eq!(finding.state, FindingState::Warning);
        assert_eq!(
            finding.found,
            "another XDP program is on it: dispatcher (42)"
        );
    }

    #[test]
    fn vlans_that_the_card_leaves_alone_are_no_reason() {
        let with = |offloads: &[&str]| Device {
            offloads: Some(offloads.iter().map(|it| (*it).to_owned()).collect()),
            ..Device::default()
        };
        let reason = "VLANs are on it";
        let found = |device: &Device| {
            mode(
                &link(2, "eth0"),
                &wanted(Some(reason)),
                device,
                None,
                Xdp::Auto,
            )
            .found
        };
        assert_eq!(
            found(&with(&["rx-vlan-hw-parse"])),
            "tc alone: VLANs are on it"
        );
        assert!(found(&with(&[])).ends_with("--xdp always works)"));
    }

    #[test]
    fn merged_packets_are_a_warning() {
        let with = |offload: &str| Device {
            offloads: Some([offload.to_owned()].into()),
            ..Device::default()
        };
        let state = |device: &Device| offloads(&link(2, "eth0"), device).map(|it| it.state);
        assert_eq!(state(&with("rx-lro")), Some(FindingState::Warning));
        assert_eq!(state(&with("rx-gro")), Some(FindingState::Ok));
        assert_eq!(state(&Device::default()), None);
    }
}

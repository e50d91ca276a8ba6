//! Drivers of network cards that have native XDP.

/// Whether the driver is known to have native XDP. Nothing is known of a driver that is not listed.
pub(super) fn has_native_xdp(driver: &str) -> bool {
    NATIVE.binary_search(&driver).is_ok()
}

/// Drivers with native XDP, by the name that sysfs has for the driver of the interface's device.
///
/// They are the drivers of Linux 6.1 (6.1.192) that implement `ndo_bpf`, except for tun, bonds and
/// netdevsim. Linux 6.3 and newer say themselves what a device has, so no newer driver is listed.
///
/// The device may be bound to another driver than the one with the XDP code: `mlx4_core` has the devices
/// of `mlx4_en`, and `fsl_dpaa_mac` those of `fsl_dpa`. The driver of Xen's network devices is named `vif`.
/// Many drivers share the code of stmmac: one for each maker of chips, such as `imx-dwmac`.
const NATIVE: [&str; 56] = [
    "anarion-dwmac",
    "atlantic",
    "bnxt_en",
    "cpsw",
    "cpsw-switch",
    "dwc-eth-dwmac",
    "dwmac-loongson-pci",
    "dwmac-mediatek",
    "dwmac-sun8i",
    "ena",
    "fsl_dpaa2_eth",
    "fsl_dpaa_mac",
    "fsl_enetc",
    "funeth",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "imx-dwmac",
    "ingenic-mac",
    "intel-eth-pci",
    "intel-eth-plat",
    "ipq806x-gmac-dwmac",
    "ixgbe",
    "ixgbevf",
    "lpc18xx-dwmac",
    "mana",
    "meson6-dwmac",
    "meson8b-dwmac",
    "mlx4_core",
    "mlx5_core",
    "mlx5_core.sf",
    "mtk_soc_eth",
    "mvneta",
    "mvpp2",
    "netsec",
    "nfp",
    "nfp_netvf",
    "nicvf",
    "oxnas-dwmac",
    "qcom-ethqos",
    "qede",
    "rk_gmac-dwmac",
    "rvu_nicpf",
    "sfc",
    "sfc_siena",
    "socfpga-dwmac",
    "sti-dwmac",
    "stm32-dwmac",
    "stmmaceth",
    "sun7i-dwmac",
    "veth",
    "vif",
    "virtio_net",
    "visconti-eth-dwmac",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_sorted_and_each_is_there_once() {
        assert!(NATIVE.is_sorted_by(|one, next| one < next), "{NATIVE:?}");
    }

    #[test]
    fn a_driver_is_known_by_the_name_that_sysfs_has_for_it() {
        for known in ["mlx4_core", "mlx5_core", "vif", "hv_netvsc", "stmmaceth"] {
            assert!(has_native_xdp(known), "{known}");
        }
        for unknown in ["mlx4_en", "fsl_dpa", "rvu_nicvf", "fsl_enetc_vf", "e1000e"] {
            assert!(!has_native_xdp(unknown), "{unknown}");
        }
    }
}

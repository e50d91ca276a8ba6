//! A kernel out of its packages: the image, and of the modules those that guests have a use for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt::Apt,
    archive,
    catalogue::{Flavour, Release},
    progress::Progress,
};
use crate::exec::{output, program};

/// Modules that guests have, if their kernel knows them; a `*` at the end stands for anything.
///
/// Beside what Kubernetes' networks are made of, these are the devices that the development machine's kernel
/// lacks, and the drivers of the NICs that QEMU has.
const WANTED: &[&str] = &[
    "veth",
    "dummy",
    "bridge",
    "br_netfilter",
    "8021q",
    "bonding",
    "macvlan",
    "ipvlan",
    "netkit",
    "tun",
    "vxlan",
    "geneve",
    "ipip",
    "ip_gre",
    "ip6_gre",
    "ip6_tunnel",
    "sit",
    "wireguard",
    "sch_*",
    "cls_bpf",
    "cls_u32",
    "cls_matchall",
    "act_bpf",
    "act_mirred",
    "sctp",
    "sctp_diag",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "af_packet_diag",
    // The checksums of SCTP, and of what conntrack calls libcrc32c.
    "crc32c_generic",
    "nf_conntrack*",
    "nf_nat*",
    "nf_tables*",
    "nf_reject_*",
    "nfnetlink*",
    "nft_*",
    "ip_tables",
    "ip6_tables",
    "iptable_*",
    "ip6table_*",
    "xt_*",
    "ipt_*",
    "ip6t_*",
    "ip_set*",
    "ip_vs*",
    "openvswitch",
    "virtio_net",
    "virtio_pci",
    "e1000e",
    "overlay",
];

/// Modules that exist only as drivers of hardware, or are too new for some kernels, are not missed aloud.
const MAY_LACK: &[&str] = &[
    "crc32c_generic",
    // Built into newer ones, which do not list it.
    "virtio_pci",
    "ipt_",
    "ip6t_",
    "af_packet_diag",
    "netkit",
];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Bootable {
    /// As `uname -r` says it.
    pub(super) release: String,
    pub(super) flavour: Flavour,
    pub(super) image: PathBuf,
    /// An archive of the modules, as part of an initial file system.
    pub(super) modules: PathBuf,
    /// Modules that guests should have and this kernel does not know.
    pub(super) lacks: Vec<String>,
}

/// Fetches and unpacks a kernel, if it is not in the cache.
pub(super) fn provide(
    cache: &Path,
    apt: &Apt,
    release: &Release,
    flavour: Flavour,
    progress: &Progress,
) -> Result<Bootable> {
    let Release { release, packages } = release;
    let folder = cache.join("images").join(format!(
        "{release}-{:016x}",
        archive::fingerprint(&(packages, WANTED))
    ));
    let bootable = |lacks| Bootable {
        release: release.clone(),
        flavour,
        image: folder.join("vmlinuz"),
        modules: folder.join("modules.cpio"),
        lacks,
    };
    let lacks = folder.join("lacks");
    if let Ok(lacks) = fs::read_to_string(&lacks) {
        return Ok(bootable(lacks.lines().map(str::to_owned).collect()));
    }
    let debs = apt.download(packages, progress)?;
    progress.say("unpacking the kernel");
    let unpacked = archive::Scratch::new(&folder.with_extension("unpacked"))?;
    let fresh = archive::Scratch::new(&folder.with_extension("fresh"))?;
    for deb in debs {
        output(program("dpkg-deb").arg("-x").arg(deb).arg(unpacked.path()))?;
    }
    let image = find_image(unpacked.path(), release)?;
    fs::copy(&image, fresh.path().join("vmlinuz")).context("cannot copy the kernel's image")?;
    let missing = pick(unpacked.path(), fresh.path(), release)?;
    // Written last: with it the folder is complete.
    fs::write(fresh.path().join("lacks"), missing.join("\n"))?;
    fresh.become_folder(&folder)?;
    progress.say(&format!("unpacked {release} ({flavour})"));
    Ok(bootable(missing))
}

/// The image is in /boot, or beside the modules since 7.0.
fn find_image(unpacked: &Path, release: &str) -> Result<PathBuf> {
    let places = [
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
        format!("lib/modules/{release}/vmlinuz"),
    ];
    let mut places = places.iter().map(|place| unpacked.join(place));
    places
        .find(|place| place.exists())
        .with_context(|| format!("the packages of {release} hold no image"))
}

/// Archives the wanted modules with those they need, unpacked: a guest has no time to do it. Those that the
/// kernel does not know.
fn pick(unpacked: &Path, fresh: &Path, release: &str) -> Result<Vec<String>> {
    let mut places = ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .map(|place| unpacked.join(place).join(release));
    let tree = places
        .find(|place| place.join("kernel").exists())
        .with_context(|| format!("the packages of {release} hold no modules"))?;
    let mut files = BTreeMap::new();
    collect(&tree.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
    let builtin: BTreeSet<_> = builtin.lines().map(module_name).collect();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let (mut queue, lacks) = choose(&names, &builtin);
    let mut picked = BTreeSet::new();
    while let Some(name) = queue.pop() {
        let Some(file) = files.get(&name) else {
            continue;
        };
        if picked.insert(name) {
            let depends = output(program("modinfo").args(["-F", "depends"]).arg(file))?;
            queue.extend(
                depends
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(module_name),
            );
        }
    }
    let root = archive::Scratch::new(&fresh.join("root"))?;
    let target = root.path().join("lib/modules").join(release);
    fs::create_dir_all(&target)?;
    for listing in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        let from = tree.join(listing);
        if from.exists() {
            fs::copy(from, target.join(listing))?;
        }
    }
    for name in &picked {
        expand(&files[name], &target.join(format!("{name}.ko")))?;
    }
    output(program("depmod").arg("-b").arg(root.path()).arg(release))?;
    archive::pack(root.path(), &fresh.join("modules.cpio"))?;
    Ok(lacks)
}

/// The modules that are wanted, of those there are; and what is wanted in vain.
fn choose(names: &[&str], builtin: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    let (mut chosen, mut lacks) = (Vec::new(), Vec::new());
    for wanted in WANTED {
        let fits = |name: &str| match wanted.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *wanted,
        };
        let found: Vec<_> = names.iter().filter(|name| fits(name)).collect();
        let excused = MAY_LACK.iter().any(|start| wanted.starts_with(start));
        if found.is_empty() && !builtin.iter().any(|name| fits(name)) && !excused {
            lacks.push((*wanted).to_owned());
        }
        chosen.extend(found.into_iter().map(|name| (*name).to_owned()));
    }
    (chosen, lacks)
}

/// `kernel/drivers/net/veth.ko.xz` is `veth`; the kernel takes `-` in names for `_`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && name.contains(".ko")
        {
            files.insert(module_name(name), path.clone());
        }
    }
    Ok(())
}

fn expand(from: &Path, to: &Path) -> Result<()> {
    let extension = from.extension().and_then(|it| it.to_str()).unwrap_or("");
    let tool = match extension {
        "ko" => {
            fs::copy(from, to)?;
            return Ok(());
        }
        "xz" => "xz",
        "zst" => "zstd",
        other => bail!(
            "{} is packed by {other}, which is not known",
            from.display()
        ),
    };
    let file = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let status = program(tool)
        .args(["-d", "-c"])
        .arg(from)
        .stdout(file)
        .status();
    let status = status.with_context(|| format!("cannot start {tool}"))?;
    if !status.success() {
        bail!("{tool} cannot unpack {}", from.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        assert_eq!(
            module_name("kernel/net/sched/sch-ingress.ko.zst"),
            "sch_ingress"
        );
        assert_eq!(module_name("veth.ko"), "veth");
    }

    #[test]
    fn what_a_kernel_does_not_know_is_told_but_for_the_excused() {
        let builtin = BTreeSet::from(["bridge".to_owned()]);
        let (chosen, lacks) = choose(&["veth", "nft_nat", "nft_ct", "usbcore"], &builtin);
        assert_eq!(chosen, ["veth", "nft_nat", "nft_ct"]);
        assert!(lacks.contains(&"wireguard".to_owned()), "{lacks:?}");
        for known in ["veth", "bridge", "nft_*", "netkit"] {
            assert!(!lacks.contains(&known.to_owned()), "{known}");
        }
    }
}

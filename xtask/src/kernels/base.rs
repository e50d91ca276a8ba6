//! The part of a guest's file system that neither its kernel nor this tree decides: Debian's packages.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    apt::Apt,
    archive::{self, Scratch},
    progress::Progress,
};
use crate::{
    exec::{output, program},
    static_build::Arch,
};

/// What the tests start, and what init runs on.
const PACKAGES: &[&str] = &[
    "bash",
    "busybox-static",
    "iproute2",
    "ethtool",
    "nftables",
    "iptables",
];

/// Packages that come along and are of no use to a guest that installs nothing.
const NEEDLESS: &[&str] = &["debconf_", "gcc-"];

/// Folders that no program of a guest reads.
const UNREAD: &[&str] = &[
    "usr/share",
    "usr/lib/locale",
    "var/cache",
    "var/lib",
    "boot",
];

/// Names that a package's scripts would have made: the nftables flavour, as on a machine of today.
const IPTABLES: [&str; 3] = ["", "-save", "-restore"];

/// The archive, from the cache if it is there.
pub(super) fn provide(cache: &Path, apt: &Apt, arch: Arch, progress: &Progress) -> Result<PathBuf> {
    let mut debs = apt.resolve(PACKAGES, progress)?;
    debs.retain(|deb| {
        let name = deb.file_name().and_then(|name| name.to_str());
        !NEEDLESS
            .iter()
            .any(|needless| name.is_some_and(|name| name.starts_with(needless)))
    });
    let key = archive::fingerprint(&(&debs, UNREAD));
    let archive = cache.join("bases").join(format!("{arch}-{key:016x}.cpio"));
    if archive.exists() {
        return Ok(archive);
    }
    progress.say(&format!("unpacking {} packages for {arch}", debs.len()));
    let root = Scratch::new(&archive.with_extension("unpacked"))?;
    for deb in &debs {
        output(program("dpkg-deb").arg("-x").arg(deb).arg(root.path()))?;
    }
    tidy_up(root.path())?;
    let unfinished = archive.with_extension("unfinished");
    archive::pack(root.path(), &unfinished)?;
    fs::rename(&unfinished, &archive)
        .with_context(|| format!("cannot move {}", archive.display()))?;
    Ok(archive)
}

fn tidy_up(root: &Path) -> Result<()> {
    for folder in UNREAD {
        archive::remove(&root.join(folder))?;
    }
    // Packages of newer releases have everything below /usr, and the links from a package of their own.
    for name in ["bin", "sbin", "lib", "lib64"] {
        let (link, target) = (root.join(name), Path::new("usr").join(name));
        if !link.exists() && root.join(&target).exists() {
            symlink(&target, &link).with_context(|| format!("cannot link {}", link.display()))?;
        }
    }
    let busybox = root.join("bin/busybox");
    if !busybox.exists() {
        fs::create_dir_all(root.join("bin"))?;
        symlink("/usr/bin/busybox", &busybox).context("cannot link busybox")?;
    }
    for tool in ["iptables", "ip6tables"] {
        for verb in IPTABLES {
            let link = root.join(format!("usr/sbin/{tool}{verb}"));
            if !link.exists() {
                symlink(format!("{tool}-nft{verb}"), &link)
                    .with_context(|| format!("cannot link {}", link.display()))?;
            }
        }
    }
    Ok(())
}

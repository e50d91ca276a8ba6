//! Which kernels there are, and which Debian package each comes as.

use std::{cmp::Ordering, fmt, fs};

use anyhow::{Context as _, Result, bail};

use crate::static_build::Arch;

/// This machine's own CPU.
pub(super) fn own_arch() -> Result<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Arch::Amd64),
        "aarch64" => Ok(Arch::Arm64),
        other => bail!("guests of {other} are not known: amd64 and arm64 are"),
    }
}

/// How much a kernel's package holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// A third of the size: no drivers of hardware, no tunnels but VXLAN and Geneve.
    Cloud,
    /// Every module.
    Generic,
}

impl Flavour {
    /// Whether it has the drivers of the NICs that guests can have.
    pub(super) fn has_drivers(self) -> bool {
        self == Self::Generic
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cloud => "cloud",
            Self::Generic => "generic",
        })
    }
}

/// A kernel that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// This machine's own, without a guest.
    Host,
    /// The newest of these two numbers that a Debian suite has.
    Debian {
        /// Such as `6.12`.
        number: &'static str,
        suite: Suite,
    },
}

/// A release of Debian, by its code name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// Whether it has security updates of its own.
    pub(super) security: bool,
}

const BULLSEYE: Suite = Suite::with_security("bullseye");
const BOOKWORM: Suite = Suite::with_security("bookworm");
const TRIXIE: Suite = Suite::with_security("trixie");
/// Keeps kernels that were the newest once, beside the newest.
const BACKPORTS: Suite = Suite {
    name: "trixie-backports",
    security: false,
};

/// Every kernel that has a name here, oldest first, the machine's own last.
pub(super) const ALL: &[Kernel] = &[
    Kernel::of("5.10", BULLSEYE),
    Kernel::of("6.1", BOOKWORM),
    Kernel::of("6.12", TRIXIE),
    Kernel::of("6.18", BACKPORTS),
    Kernel::of("7.2", BACKPORTS),
    Kernel::of("7.3", BACKPORTS),
    Kernel::Host,
];

/// What is run when no kernel is named: those that Fairlead supports.
pub(super) const USUAL: &[&str] = &["6.1", "6.12", "6.18", "7.2", "7.3", "host"];

/// The oldest that Fairlead supports, and one in the middle.
pub(super) const QUICK: &[&str] = &["6.1", "6.12"];

impl Suite {
    const fn with_security(name: &'static str) -> Self {
        Self {
            name,
            security: true,
        }
    }

    /// For programs that need no library of the system.
    pub(super) const ANY: Self = BOOKWORM;

    /// The one that this machine runs.
    pub(super) fn of_machine() -> Result<Self> {
        let path = "/etc/os-release";
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let name = text
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map_or("(without a name)", |name| name.trim_matches('"'));
        [BULLSEYE, BOOKWORM, TRIXIE]
            .into_iter()
            .find(|suite| suite.name == name)
            .with_context(|| {
                format!(
                    "this machine's system is {name}, and guests of that are not known: it takes one of \
                     Debian's releases from 11 to 13, whose libraries programs that are built here want"
                )
            })
    }
}

impl Kernel {
    const fn of(number: &'static str, suite: Suite) -> Self {
        Self::Debian { number, suite }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Debian { number, .. } => number,
        }
    }

    pub(super) fn find(name: &str) -> Result<Self> {
        let found = ALL.iter().find(|kernel| kernel.name() == name).copied();
        found.with_context(|| {
            let names: Vec<_> = ALL.iter().map(|kernel| kernel.name()).collect();
            format!(
                "there is no kernel {name} here: choose of {}",
                names.join(", ")
            )
        })
    }
}

/// A kernel in Debian's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// The packages that hold it, each with its version.
    pub(super) packages: Vec<(String, String)>,
}

/// The newest kernel of a number and flavour, of what `apt-cache dumpavail` prints.
///
/// Since 7.0 the image is apart from the modules, and `linux-image` holds neither.
pub(super) fn newest(dump: &str, number: &str, flavour: Flavour, arch: Arch) -> Result<Release> {
    let stanzas: Vec<_> = dump.split("\n\n").filter_map(Stanza::read).collect();
    let releases = stanzas.iter().filter_map(|stanza| {
        let release = stanza.package.strip_prefix("linux-image-")?;
        is_of(release, number, flavour, arch).then_some((release, stanza.version))
    });
    let newest = releases.max_by(|a, b| compare(a.1, b.1).then_with(|| compare(a.0, b.0)));
    let (release, _) =
        newest.with_context(|| format!("there is no {flavour} kernel {number} for {arch}"))?;
    let holders: &[&str] = if has(&stanzas, "linux-modules-", release) {
        &["linux-binary-", "linux-modules-"]
    } else {
        &["linux-image-"]
    };
    let packages = holders.iter().map(|prefix| {
        let name = format!("{prefix}{release}");
        let of_name = stanzas.iter().filter(|stanza| stanza.package == name);
        let newest = of_name.max_by(|a, b| compare(a.version, b.version));
        let version = newest.with_context(|| format!("there is no package {name}"))?;
        Ok((name, version.version.to_owned()))
    });
    Ok(Release {
        release: release.to_owned(),
        packages: packages.collect::<Result<_>>()?,
    })
}

struct Stanza<'a> {
    package: &'a str,
    version: &'a str,
}

impl<'a> Stanza<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            package: field("Package: ")?,
            version: field("Version: ")?,
        })
    }
}

fn has(stanzas: &[Stanza<'_>], prefix: &str, release: &str) -> bool {
    let name = format!("{prefix}{release}");
    stanzas.iter().any(|stanza| stanza.package == name)
}

/// Whether a release is of a number and flavour: `6.1.0-57-cloud-amd64` is, `6.1-amd64` (which only leads to the
/// newest) is not, nor are those with `-rt`, `-16k`, `-unsigned` and `-dbg`.
fn is_of(release: &str, number: &str, flavour: Flavour, arch: Arch) -> bool {
    let Some(rest) = release.strip_prefix(number) else {
        return false;
    };
    let Some(rest) = rest
        .strip_prefix('.')
        .and_then(|rest| rest.strip_suffix(arch.name()))
    else {
        return false;
    };
    let Some(rest) = rest.strip_suffix('-') else {
        return false;
    };
    let (rest, is_cloud) = match rest.strip_suffix("-cloud") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let plain = !["-rt", "-16k", "-cloud", "deb11", "bpo"]
        .iter()
        .any(|other| rest.contains(other));
    plain && is_cloud == (flavour == Flavour::Cloud)
}

/// Numbers within by their value, everything else by its bytes.
fn compare(a: &str, b: &str) -> Ordering {
    runs(a).cmp(runs(b))
}

fn runs(mut text: &str) -> impl Iterator<Item = (u64, &str)> {
    std::iter::from_fn(move || {
        let first = text.chars().next()?;
        let end = text.find(|c: char| c.is_ascii_digit() != first.is_ascii_digit());
        let (run, rest) = text.split_at(end.unwrap_or(text.len()));
        text = rest;
        Some((run.parse().unwrap_or(0), run))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\
Package: linux-image-6.1-amd64
Version: 6.1.192-1

Package: linux-image-6.1.0-9-cloud-amd64
Version: 6.1.27-1

Package: linux-image-6.1.0-57-cloud-amd64
Source: linux-signed-amd64 (6.1.192+1)
Version: 6.1.192-1

Package: linux-image-6.1.0-57-cloud-amd64-dbg
Version: 6.1.192-1

Package: linux-image-6.1.0-57-amd64
Version: 6.1.192-1

Package: linux-image-6.1.0-57-rt-amd64
Version: 6.1.192-1

Package: linux-image-6.12.9-amd64
Version: 6.12.9-1
";

    const NEW: &str = "\
Package: linux-binary-7.3.4+deb13-amd64
Version: 7.3.4-1~bpo13+1

Package: linux-image-7.3.4+deb13-amd64
Version: 7.3.4-1~bpo13+1

Package: linux-modules-7.3.4+deb13-amd64
Version: 7.3.4-1~bpo13+1

Package: linux-image-7.3.4+deb13-amd64-unsigned
Version: 7.3.4-1~bpo13+1
";

    fn package(name: &str, version: &str) -> (String, String) {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn the_newest_of_a_number_is_taken() -> Result<()> {
        let found = newest(OLD, "6.1", Flavour::Cloud, Arch::Amd64)?;
        assert_eq!(found.release, "6.1.0-57-cloud-amd64");
        assert_eq!(
            found.packages,
            [package("linux-image-6.1.0-57-cloud-amd64", "6.1.192-1")]
        );
        let found = newest(OLD, "6.1", Flavour::Generic, Arch::Amd64)?;
        assert_eq!(found.release, "6.1.0-57-amd64");
        Ok(())
    }

    #[test]
    fn image_and_modules_are_apart_in_newer_ones() -> Result<()> {
        let found = newest(NEW, "7.3", Flavour::Generic, Arch::Amd64)?;
        assert_eq!(
            found.packages,
            [
                package("linux-binary-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
                package("linux-modules-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
            ]
        );
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = newest(NEW, "7.3", Flavour::Cloud, Arch::Arm64).unwrap_err();
        assert_eq!(error.to_string(), "there is no cloud kernel 7.3 for arm64");
        let error = Kernel::find("6.6").unwrap_err();
        assert!(error.to_string().starts_with("there is no kernel 6.6 here"));
    }

    #[test]
    fn numbers_are_compared_by_value() {
        assert_eq!(compare("6.1.9-1", "6.1.10-1"), Ordering::Less);
        assert_eq!(compare("6.1.0-9", "6.1.0-57"), Ordering::Less);
        assert_eq!(compare("7.3.4", "7.3.4"), Ordering::Equal);
    }

    #[test]
    fn the_usual_kernels_have_names() -> Result<()> {
        for name in USUAL.iter().chain(QUICK) {
            Kernel::find(name)?;
        }
        Ok(())
    }
}

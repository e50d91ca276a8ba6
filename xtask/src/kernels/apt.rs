//! Packages of any Debian suite and CPU, without a word to the system's own package manager: each suite has a
//! configuration, lists and a cache of its own. The mirror is the one that this machine uses.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use super::{catalogue::Suite, progress::Progress};
use crate::{
    exec::{output, program},
    static_build::Arch,
};

/// What Debian signs its archives with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists younger than this are not fetched anew.
const FRESH: Duration = Duration::from_hours(12);

/// A suite for one CPU, as APT sees it.
pub(super) struct Apt {
    folder: PathBuf,
    suite: Suite,
    arch: Arch,
}

impl Apt {
    /// Below `cache`, with lists that are fresh.
    pub(super) fn of(cache: &Path, suite: Suite, arch: Arch, progress: &Progress) -> Result<Self> {
        let folder = cache.join("apt").join(format!("{}-{arch}", suite.name));
        let apt = Self {
            folder,
            suite,
            arch,
        };
        apt.configure()?;
        apt.update(progress)?;
        Ok(apt)
    }

    /// Every package that the suite has.
    pub(super) fn available(&self) -> Result<String> {
        output(self.command("apt-cache").arg("dumpavail"))
    }

    /// Fetches packages by name and version; where they are.
    pub(super) fn download(
        &self,
        packages: &[(String, String)],
        progress: &Progress,
    ) -> Result<Vec<PathBuf>> {
        let archives = self.archives();
        let paths: Vec<_> = packages
            .iter()
            .map(|(name, version)| archives.join(file_name(name, version, self.arch.name())))
            .collect();
        for ((name, version), path) in packages.iter().zip(&paths) {
            if path.exists() {
                continue;
            }
            progress.say(&format!("fetching {name} {version}"));
            output(
                self.command("apt-get")
                    .args(["download", "--quiet=2", &format!("{name}={version}")])
                    .current_dir(&archives),
            )?;
            if !path.exists() {
                bail!("apt-get download {name} has not left {}", path.display());
            }
        }
        Ok(paths)
    }

    /// Fetches packages with all that they depend on; where they are.
    pub(super) fn resolve(&self, names: &[&str], progress: &Progress) -> Result<Vec<PathBuf>> {
        let install = |option: &str| {
            let mut install = self.command("apt-get");
            install.args(["install", "--yes", "--no-install-recommends", "--quiet=2"]);
            install.arg(option).args(names);
            output(&mut install)
        };
        let files: Vec<_> = installed(&install("--simulate")?)
            .map(|file| self.archives().join(file))
            .collect();
        if files.is_empty() {
            bail!("APT has no packages for {}", names.join(", "));
        }
        if !files.iter().all(|file| file.exists()) {
            let (count, suite, arch) = (files.len(), self.suite.name, self.arch);
            progress.say(&format!("fetching {count} packages of {suite} {arch}"));
            install("--download-only")?;
        }
        match files.iter().find(|file| !file.exists()) {
            Some(file) => bail!("APT has not left {}", file.display()),
            None => Ok(files),
        }
    }

    fn archives(&self) -> PathBuf {
        self.folder.join("cache/archives")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = program(name);
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command
    }

    fn configure(&self) -> Result<()> {
        let Self {
            folder,
            suite,
            arch,
        } = self;
        for inside in [
            "lists/partial",
            "cache/archives/partial",
            "etc/apt.conf.d",
            "etc/preferences.d",
        ] {
            let inside = folder.join(inside);
            fs::create_dir_all(&inside)
                .with_context(|| format!("cannot make {}", inside.display()))?;
        }
        let place = folder.display();
        let settings = format!(
            r#"Dir::State "{place}";
Dir::State::Lists "{place}/lists";
Dir::State::status "{place}/status";
Dir::Cache "{place}/cache";
Dir::Etc "{place}/etc";
Dir::Etc::SourceList "{place}/etc/debian.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Log "{place}";
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
        );
        // Nothing counts as installed, so that what is asked for comes with all it needs.
        fs::write(folder.join("status"), "")?;
        fs::write(folder.join("apt.conf"), settings)?;
        let sources = sources(&mirror()?, *suite)?;
        let path = folder.join("etc/debian.sources");
        fs::write(&path, sources).with_context(|| format!("cannot write {}", path.display()))
    }

    fn update(&self, progress: &Progress) -> Result<()> {
        let stamp = self.folder.join("updated");
        let age = fs::metadata(&stamp).and_then(|it| it.modified());
        let fresh = age.is_ok_and(|at| {
            SystemTime::now()
                .duration_since(at)
                .is_ok_and(|age| age < FRESH)
        });
        if fresh {
            return Ok(());
        }
        progress.say(&format!("fetching the list of {}", self.suite.name));
        let mut update = self.command("apt-get");
        update.args(["update", "--quiet=2", "-oAPT::Update::Error-Mode=any"]);
        match output(&mut update) {
            Ok(_) => fs::write(&stamp, "").context("cannot mark the list as fresh"),
            // Kernels that were fetched once can be booted without a mirror.
            Err(error) if stamp.exists() => {
                progress.say(&format!("warning: the old list has to do: {error:#}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The file of a package as APT names it: the colon of an epoch cannot stand in every file name.
fn file_name(name: &str, version: &str, arch: &str) -> String {
    format!("{name}_{}_{arch}.deb", version.replace(':', "%3a"))
}

/// The files of what APT would install, of lines such as `Inst ip (1:6.1-1 Debian:12.9/oldstable [amd64])`.
fn installed(simulated: &str) -> impl Iterator<Item = String> {
    simulated.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let version = rest.split(' ').next()?;
        let (_, arch) = rest.split_once('[')?;
        Some(file_name(name, version, arch.split(']').next()?))
    })
}

/// Where this machine has its packages from, by the archives' labels.
fn mirror() -> Result<BTreeMap<String, String>> {
    let targets = output(program("apt-get").args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ]))?;
    Ok(labels(&targets))
}

/// Lines of `label uri`; the first of a label wins.
fn labels(targets: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for line in targets.lines() {
        if let Some((label, uri)) = line.rsplit_once(' ') {
            labels
                .entry(label.to_owned())
                .or_insert_with(|| uri.to_owned());
        }
    }
    labels
}

/// What APT reads of a suite, in the form of deb822.
fn sources(mirror: &BTreeMap<String, String>, suite: Suite) -> Result<String> {
    let mut text = String::new();
    let security = format!("{}-security", suite.name);
    let mut archives = vec![("Debian", suite.name)];
    if suite.security {
        archives.push(("Debian-Security", &security));
    }
    for (label, suite) in archives {
        let uri = mirror.get(label).with_context(|| {
            format!(
                "this machine's APT knows no archive that is labelled {label}: kernels are fetched from \
                 where it has its own packages from; run `apt-get update`, or name kernels of your own \
                 machine (`host`)"
            )
        })?;
        writeln!(
            text,
            "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_mirror_serves_other_suites_too() -> Result<()> {
        let mirror = labels(
            "Debian http://mirror.test/debian/\nDebian http://mirror.test/updates/\n\
             Debian-Security http://mirror.test/security/\n",
        );
        let suite = Suite {
            name: "trixie",
            security: true,
        };
        assert_eq!(
            sources(&mirror, suite)?,
            format!(
                "Types: deb\nURIs: http://mirror.test/debian/\nSuites: trixie\nComponents: main\n\
                 Signed-By: {KEYRING}\n\n\
                 Types: deb\nURIs: http://mirror.test/security/\nSuites: trixie-security\n\
                 Components: main\nSigned-By: {KEYRING}\n\n"
            )
        );
        Ok(())
    }

    #[test]
    fn packages_are_found_in_what_apt_would_do() {
        let simulated = "Inst libc6 (2.36-9+deb12u14 Debian:12.12/oldstable [amd64])\n\
            Inst ethtool (1:6.1-1 Debian:12.12/oldstable [amd64]) []\n\
            Conf libc6 (2.36-9+deb12u14 Debian:12.12/oldstable [amd64])\n";
        let files: Vec<_> = installed(simulated).collect();
        assert_eq!(
            files,
            [
                "libc6_2.36-9+deb12u14_amd64.deb",
                "ethtool_1%3a6.1-1_amd64.deb"
            ]
        );
    }

    #[test]
    fn a_machine_without_a_mirror_is_told_what_to_do() {
        let suite = Suite {
            name: "trixie-backports",
            security: false,
        };
        let error = sources(&BTreeMap::new(), suite).unwrap_err().to_string();
        assert!(error.contains("labelled Debian"), "{error}");
    }
}

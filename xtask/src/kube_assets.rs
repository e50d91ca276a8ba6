//! `cargo xtask kube-assets`: the real Kubernetes components that tests run, built once.

use std::{
    fs::{self, File, TryLockError},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::ErrorKind,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    exec::{root, run},
    go::Go,
    tools,
};

/// Each program, the package it is made from, and how many seconds that takes two cores.
const PROGRAMS: [(&str, &str, u32); 5] = [
    ("etcd", "go.etcd.io/etcd/server/v3", 30),
    (
        "kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        250,
    ),
    (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        60,
    ),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 20),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl", 60),
];

/// Programs that do not remember where they were built, by as many compilers as CI has cores.
const FLAGS: [&str; 2] = ["-trimpath", "-p=2"];

/// Where tests look: a link to the directory the programs are in.
pub(crate) const PUBLISHED: &str = "target/kube-assets";

/// Makes sure the programs are there, and points `target/kube-assets` at them.
pub(crate) fn provide() -> Result<()> {
    let assets = match given() {
        Some(assets) => assets,
        None => built()?,
    };
    publish(&assets)?;
    eprintln!("{PUBLISHED} is {}", assets.display());
    Ok(())
}

/// What the caller brings along, if it is complete.
fn given() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    let missing = missing(&folder);
    if missing.is_empty() {
        return folder.canonicalize().ok();
    }
    eprintln!(
        "KUBEBUILDER_ASSETS is {}, which lacks {}: using our own",
        folder.display(),
        missing.join(", ")
    );
    None
}

/// The programs that cannot be run from a folder.
fn missing(folder: &Path) -> Vec<&'static str> {
    let can_run = |name: &str| {
        fs::metadata(folder.join(name))
            .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    let names = PROGRAMS.iter().map(|(name, ..)| *name);
    names.filter(|name| !can_run(name)).collect()
}

/// Our own build: from the cache, else made for it.
fn built() -> Result<PathBuf> {
    let recipe = Recipe::read()?;
    let cache = tools::cache_directory()?.join("kube-assets");
    let assets = cache.join(recipe.key());
    if missing(&assets).is_empty() {
        return Ok(assets);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let _one_at_a_time = lock(&cache.join("lock"))?;
    if missing(&assets).is_empty() {
        return Ok(assets);
    }
    // What an interrupted build left is of no use: the lock says that nobody is at it.
    let unfinished = assets.with_extension("unfinished");
    for folder in [&unfinished, &assets] {
        remove(folder)?;
    }
    recipe.build(&unfinished)?;
    fs::rename(&unfinished, &assets)
        .with_context(|| format!("cannot move the programs to {}", assets.display()))?;
    Ok(assets)
}

/// All that decides what comes out of a build.
struct Recipe {
    folder: PathBuf,
    module: String,
    sums: String,
}

impl Recipe {
    fn read() -> Result<Self> {
        let folder = root().join("tests/kube-assets");
        let read = |name| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            module: read("go.mod")?,
            sums: read("go.sum")?,
            folder,
        })
    }

    /// A name for what this recipe makes.
    fn key(&self) -> String {
        let Self {
            folder: _,
            module,
            sums,
        } = self;
        let mut hasher = DefaultHasher::new();
        (module, sums, FLAGS, std::env::consts::ARCH).hash(&mut hasher);
        for (name, package, _) in PROGRAMS {
            (name, package).hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }

    fn build(&self, target: &Path) -> Result<()> {
        let started = Instant::now();
        let go = Go::of_version(self.second_word_of("toolchain")?)?;
        let version = self.second_word_of("k8s.io/kubernetes")?;
        // Without these a program calls itself v0.0.0, and some refuse to talk to it.
        let flags = ["component-base/version", "client-go/pkg/version"]
            .map(|package| format!("-X k8s.io/{package}.gitVersion={version}"))
            .join(" ");
        fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
        for (number, (name, package, seconds)) in (1..).zip(PROGRAMS) {
            eprintln!(
                "building {name} ({number} of {}), about {seconds} s on two cores",
                PROGRAMS.len()
            );
            let begun = Instant::now();
            run(go
                .command(&self.folder)
                .arg("build")
                .args(FLAGS)
                .arg(format!("-ldflags=-s -w {flags}"))
                .arg("-o")
                .arg(target.join(name))
                .arg(package))
            .with_context(|| format!("cannot build {name}"))?;
            eprintln!("built {name} in {:.0} s", begun.elapsed().as_secs_f32());
        }
        eprintln!(
            "built the components of Kubernetes {version} in {:.0} s",
            started.elapsed().as_secs_f32()
        );
        Ok(())
    }

    /// What `go.mod` says of a word, at the first line that begins with it.
    fn second_word_of(&self, first: &str) -> Result<&str> {
        let mut lines = self.module.lines().map(str::split_whitespace);
        lines
            .find_map(|mut words| (words.next() == Some(first)).then(|| words.next())?)
            .with_context(|| format!("{}/go.mod has no {first}", self.folder.display()))
    }
}

/// Waits until no other process builds; dropped, it lets the next one in.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another build of the same");
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
    .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Points the link at a folder, in one step: tests of another process may be looking.
fn publish(assets: &Path) -> Result<()> {
    let link = root().join(PUBLISHED);
    if fs::read_link(&link).is_ok_and(|target| target == assets) {
        return Ok(());
    }
    let fresh = link.with_extension(std::process::id().to_string());
    fs::create_dir_all(root().join("target")).context("cannot make target")?;
    symlink(assets, &fresh)
        .and_then(|()| fs::rename(&fresh, &link))
        .with_context(|| format!("cannot point {} at the programs", link.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_names_its_versions() -> Result<()> {
        let recipe = Recipe::read()?;
        let toolchain = recipe.second_word_of("toolchain")?;
        assert!(toolchain.starts_with("go1."), "{toolchain}");
        let kubernetes = recipe.second_word_of("k8s.io/kubernetes")?;
        assert!(kubernetes.starts_with("v1."), "{kubernetes}");
        Ok(())
    }

    #[test]
    fn another_module_has_another_place() {
        let recipe = |module: &str| Recipe {
            folder: PathBuf::new(),
            module: module.to_owned(),
            sums: String::new(),
        };
        assert_eq!(recipe("a").key(), recipe("a").key());
        assert_ne!(recipe("a").key(), recipe("b").key());
    }
}

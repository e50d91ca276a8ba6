//! What the verbs need from the machine: found, else installed where we may, else asked for.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::exec::{cargo, command_line, output, program, run, succeeds};

/// Settings of the caller that are meant for this workspace and would derail the build of a tool.
const CALLERS_BUILD_SETTINGS: &[&str] = &[
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_BOOTSTRAP",
    "RUSTFLAGS",
];

/// A Debian package, and the file by which it is known to be there.
#[derive(Clone, Copy)]
pub(crate) struct Package {
    name: &'static str,
    provides: Provides,
}

#[derive(Clone, Copy)]
enum Provides {
    Program(&'static str),
    File(&'static str),
}

impl Package {
    const fn with_program(name: &'static str, program: &'static str) -> Self {
        let provides = Provides::Program(program);
        Self { name, provides }
    }

    const fn with_file(name: &'static str, file: &'static str) -> Self {
        let provides = Provides::File(file);
        Self { name, provides }
    }

    fn is_there(self) -> bool {
        match self.provides {
            Provides::Program(name) => on_path(name),
            Provides::File(path) => Path::new(path).exists(),
        }
    }
}

/// What `bpf-linker` is built from; rustc 1.98 carries LLVM 22, and the two have to agree.
const LLVM: &[Package] = &[
    Package::with_program("llvm-22-dev", "llvm-config-22"),
    Package::with_file("libpolly-22-dev", "/usr/lib/llvm-22/lib/libPolly.a"),
];

/// What removes DWARF, from the BPF objects too.
const LLVM_STRIP: Package = Package::with_program("llvm-22", "llvm-strip-22");

/// C compiler for x86-64.
pub(crate) const GCC_FOR_AMD64: Package =
    Package::with_program("gcc-x86-64-linux-gnu", "x86_64-linux-gnu-gcc");

/// C compiler for 64-bit Arm.
pub(crate) const GCC_FOR_ARM64: Package =
    Package::with_program("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc");

/// Headers of the C library for the other CPU's compiler; those for this machine's own come with `libc6-dev`.
pub(crate) const HEADERS_FOR_AMD64: Package = Package::with_file(
    "libc6-dev-amd64-cross",
    "/usr/x86_64-linux-gnu/include/stdint.h",
);
/// See [`HEADERS_FOR_AMD64`].
pub(crate) const HEADERS_FOR_ARM64: Package = Package::with_file(
    "libc6-dev-arm64-cross",
    "/usr/aarch64-linux-gnu/include/stdint.h",
);

/// What network namespaces and their links are made with.
pub(crate) const NETWORK: &[Package] = &[
    Package::with_program("iproute2", "ip"),
    Package::with_program("ethtool", "ethtool"),
];

/// What fetches the Go that is wanted, whatever version it is itself.
pub(crate) const GO: &[Package] = &[Package::with_program("golang-go", "go")];

/// What kube-proxy programs with.
pub(crate) const NFTABLES: &[Package] = &[Package::with_program("nftables", "nft")];

/// What it programs with in its other mode.
pub(crate) const IPTABLES: &[Package] = &[Package::with_program("iptables", "iptables")];

/// What counts system calls.
pub(crate) const STRACE: &[Package] = &[Package::with_program("strace", "strace")];

/// What reads shell scripts.
pub(crate) const SHELLCHECK: &[Package] = &[Package::with_program("shellcheck", "shellcheck")];

/// What runs guests of each CPU.
pub(crate) const QEMU_AMD64: Package =
    Package::with_program("qemu-system-x86", "qemu-system-x86_64");
pub(crate) const QEMU_ARM64: Package =
    Package::with_program("qemu-system-arm", "qemu-system-aarch64");

/// What guests are made of.
pub(crate) const GUESTS: &[Package] = &[
    Package::with_program("cpio", "cpio"),
    Package::with_program("kmod", "depmod"),
    Package::with_program("xz-utils", "xz"),
    Package::with_program("zstd", "zstd"),
    Package::with_program("binutils", "strip"),
    Package::with_file(
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    ),
];

/// What the database of advisories is fetched with.
const GIT: &[Package] = &[Package::with_program("git", "git")];

/// A component of the pinned toolchain.
#[derive(Clone, Copy)]
pub(crate) enum Component {
    Clippy,
    RustSrc,
    Rustfmt,
}

impl Component {
    fn name(self) -> &'static str {
        match self {
            Self::Clippy => "clippy",
            Self::RustSrc => "rust-src",
            Self::Rustfmt => "rustfmt",
        }
    }

    fn is_there(self) -> Result<bool> {
        Ok(match self {
            Self::Clippy => succeeds(cargo().args(["clippy", "--version"])),
            Self::Rustfmt => succeeds(cargo().args(["fmt", "--version"])),
            Self::RustSrc => {
                let sysroot = output(program("rustc").args(["--print", "sysroot"]))?;
                Path::new(&sysroot)
                    .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                    .exists()
            }
        })
    }
}

/// Makes sure the pinned toolchain has a component.
pub(crate) fn component(component: Component) -> Result<()> {
    if component.is_there()? {
        return Ok(());
    }
    let name = component.name();
    eprintln!("the toolchain lacks its component {name}");
    run(program("rustup").args(["component", "add", name]))
        .with_context(|| format!("cannot install the toolchain component {name}"))
}

/// Makes sure the pinned toolchain can build for a target.
pub(crate) fn rust_target(target: &str) -> Result<()> {
    let sysroot = output(program("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(&sysroot).join("lib/rustlib").join(target);
    if library.join("lib").is_dir() {
        return Ok(());
    }
    eprintln!("the toolchain lacks its target {target}");
    run(program("rustup").args(["target", "add", target]))
        .with_context(|| format!("cannot install the toolchain's target {target}"))
}

/// The name of the `llvm-strip` that knows the objects of the pinned toolchain.
pub(crate) fn llvm_strip() -> Result<&'static str> {
    debian_packages(&[LLVM_STRIP])?;
    Ok("llvm-strip-22")
}

/// The path of `bpf-linker`.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let root = tools_directory()?.join("bpf-linker-0.13.0-llvm-22");
    let linker = root.join("bin/bpf-linker");
    if runs(&linker) {
        return Ok(linker);
    }
    eprintln!(
        "bpf-linker 0.13.0 is not at {}, or lacks LLVM 22",
        linker.display()
    );
    debian_packages(LLVM)?;
    // A linker from before may only have missed the LLVM it is linked with.
    if !runs(&linker) {
        let mut install = cargo_install("bpf-linker", "0.13.0", &root);
        install.args(["--no-default-features", "--features", "llvm-22"]);
        if let Ok(prefix) = output(program("llvm-config-22").arg("--prefix")) {
            install.env("LLVM_PREFIX", prefix);
        }
        run(&mut install).context("cannot install bpf-linker")?;
    }
    Ok(linker)
}

/// The path of `cargo-deny`.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    debian_packages(GIT)?;
    let root = tools_directory()?.join("cargo-deny-0.20.2");
    let deny = root.join("bin/cargo-deny");
    if !runs(&deny) {
        eprintln!("cargo-deny 0.20.2 is not at {}", deny.display());
        run(&mut cargo_install("cargo-deny", "0.20.2", &root))
            .context("cannot install cargo-deny")?;
    }
    Ok(deny)
}

/// Makes sure these packages are installed.
pub(crate) fn debian_packages(packages: &[Package]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|package| !package.is_there())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("missing on this machine: {}", missing.join(", "));
    let mut install = program("apt-get");
    install.args(["install", "-y", "--no-install-recommends"]);
    install
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    if !on_path("apt-get") {
        bail!(
            "install what this system calls the Debian packages {}",
            missing.join(" ")
        );
    }
    if !is_root()? {
        bail!("as root, run: apt-get update && {}", command_line(&install));
    }
    // Package lists may be old or absent; asking for new ones first would slow down every run.
    run(&mut install).or_else(|_| {
        run(program("apt-get").arg("update"))?;
        run(&mut install)
    })
}

fn cargo_install(name: &str, version: &str, root: &Path) -> Command {
    let mut install = cargo();
    for variable in CALLERS_BUILD_SETTINGS {
        install.env_remove(variable);
    }
    install.args(["install", name, "--version", version, "--locked", "--root"]);
    install.arg(root);
    install
}

/// Where our own builds of tools live, shared by all checkouts; the version is in each path.
fn tools_directory() -> Result<PathBuf> {
    Ok(cache_directory()?.join("tools"))
}

/// Where what is made once for all checkouts is kept.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| Path::new(path).is_absolute())
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: no place for what is built")?;
    Ok(cache.join("fairlead"))
}

fn runs(path: &Path) -> bool {
    succeeds(Command::new(path).arg("--version"))
}

/// Debian keeps `ip` and its like where an ordinary user's path does not look.
fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|directory| directory.join(name).is_file())
}

fn is_root() -> Result<bool> {
    Ok(output(program("id").arg("-u"))? == "0")
}

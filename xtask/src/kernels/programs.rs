//! The programs that guests run, and the files that these read.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    archive::{self, Scratch},
    plan::Step,
    progress::Progress,
};
use crate::{
    exec::{cargo, output, program, root, run, run_reading},
    kube_assets,
    static_build::{self, Arch},
};

/// Where a guest has the programs; the suites of tests are in `tests` below, and find the others one folder up.
const PLACE: &str = "fairlead/bin";

/// Files that the tests read, at the paths they were compiled with; and all below tests/ that is no code.
const READ: &[&str] = &[
    "deploy",
    "examples",
    "lb-userspace/Cargo.toml",
    "target/bpf",
];

const INIT: &str = include_str!("init.sh");

/// What init loads; whatever else is needed the kernel asks for by itself.
const MODULES: &[&str] = &[
    "veth",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "tcp_diag",
    "udp_diag",
    "nf_conntrack",
    "nf_conntrack_netlink",
];

/// What init loads where there are NICs; nobody else would.
const DRIVERS: &[&str] = &["virtio_pci", "virtio_net", "e1000e"];

/// Deadlines in tests are so many times as long in a guest: TCG is some 10 to 20 times slower than the machine.
const PATIENCE: u32 = 10;

/// Built programs.
pub(super) struct Programs {
    /// `lb-agent`, `lbctl`, and the programs of the `tests` crate; its suites in `tests`.
    pub(super) folder: PathBuf,
}

/// Builds as `cargo xtask test` does, so that what it has built already is not built again; stripped copies.
pub(super) fn of_this_machine(progress: &Progress) -> Result<Programs> {
    progress.say("building the programs, as `cargo xtask test` does");
    let mut executables = Vec::new();
    let mut read = |line: &str| executables.extend(executable(line));
    let format = "--message-format=json-render-diagnostics";
    run_reading(
        cargo().args(["build", "--package=lb-userspace", "--bins", format]),
        &mut read,
    )?;
    run_reading(
        cargo().args(["test", "--package=tests", "--no-run", format]),
        &mut read,
    )?;
    let folder = root().join("target/kernels/programs");
    fs::create_dir_all(folder.join("tests"))
        .with_context(|| format!("cannot make {}", folder.display()))?;
    for Executable { name, path, kind } in executables {
        let copy = match kind {
            Kind::Binary => folder.join(&name),
            Kind::Suite => folder.join("tests").join(&name),
            Kind::Other => continue,
        };
        if !is_newer(&copy, &path) {
            run(program("strip").arg("-o").args([&copy, &path]))?;
        }
    }
    Ok(Programs { folder })
}

/// Builds the static programs for a CPU: agent and `lbctl` as they are shipped, the suites as is fastest.
pub(super) fn without_libraries(arch: Arch, progress: &Progress) -> Result<Programs> {
    progress.say(&format!("building static programs for {arch}"));
    static_build::binaries(arch, "release")?;
    static_build::test_programs(arch, "dev")?;
    Ok(Programs {
        folder: arch.folder(),
    })
}

fn is_newer(copy: &Path, original: &Path) -> bool {
    let at = |path: &Path| fs::metadata(path).and_then(|it| it.modified()).ok();
    matches!((at(copy), at(original)), (Some(copy), Some(original)) if copy > original)
}

struct Executable {
    name: String,
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Binary,
    Suite,
    /// The unit tests of a library.
    Other,
}

/// The program that a message of cargo's is about, if it is about one.
fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?.into();
    let target = &message["target"];
    let is = |kind: &str| {
        target["kind"]
            .as_array()
            .is_some_and(|it| it.iter().any(|it| it == kind))
    };
    let kind = if is("bin") {
        Kind::Binary
    } else if is("test") {
        Kind::Suite
    } else {
        Kind::Other
    };
    let name = target["name"].as_str()?.to_owned();
    Some(Executable { name, path, kind })
}

impl Programs {
    /// Where the machine itself has a program, given as a guest names it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Archives what this tree adds to a guest: programs, the files they read, and what is to be run.
    pub(super) fn archive(&self, steps: &[Step], has_nics: bool, archive: &Path) -> Result<()> {
        let tree = Scratch::new(&archive.with_extension("tree"))?;
        let within = |path: &str| tree.path().join(path);
        let mut names: Vec<_> = vec!["lb-agent", "lbctl", "programs", "demo"];
        names.extend(steps.iter().map(|step| step.program.as_str()));
        names.sort_unstable();
        names.dedup();
        fs::create_dir_all(within(PLACE).join("tests"))?;
        for name in names {
            let (from, to) = (self.path(name), within(PLACE).join(name));
            fs::copy(&from, &to)
                .with_context(|| format!("there is no program {}", from.display()))?;
        }
        let own = root();
        let own = own
            .strip_prefix("/")
            .context("the repository has no absolute path")?;
        let needs_kubernetes = steps.iter().any(Step::needs_kubernetes);
        let kubernetes = needs_kubernetes.then_some(kube_assets::PUBLISHED);
        for read in READ.iter().copied().chain(kubernetes) {
            copy_tree(&root().join(read), &tree.path().join(own).join(read))?;
        }
        copy_data(&root().join("tests"), &tree.path().join(own).join("tests"))?;
        let drivers = if has_nics { DRIVERS } else { &[] };
        let modules = [MODULES, drivers].concat().join("\n") + "\n";
        fs::write(within("fairlead/modules"), modules)?;
        fs::write(within("fairlead/environment"), environment())?;
        let steps: String = steps
            .iter()
            .map(|step| step.line(&format!("/{PLACE}")))
            .collect();
        fs::write(within("fairlead/steps"), steps)?;
        fs::write(within("init"), INIT)?;
        fs::set_permissions(within("init"), fs::Permissions::from_mode(0o755))?;
        archive::pack(tree.path(), archive)
    }
}

/// Assignments for all steps, as a shell reads them.
fn environment() -> String {
    let root = root();
    format!(
        "export FAIRLEAD_PATIENCE={PATIENCE}\nexport FAIRLEAD_NICS_ARE_FREE=yes\nexport INSTA_WORKSPACE_ROOT='{}'\nexport INSTA_UPDATE=no\n\
         cd '{}/tests' || exit 1\n",
        root.display(),
        root.display()
    )
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        bail!(
            "{} is not there: run `cargo xtask build-ebpf`",
            from.display()
        );
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    // What the links lead to: it may be outside of the tree.
    output(program("cp").arg("-RL").arg(from).arg(to)).map(drop)
}

/// Fixtures, golden files and manifests of the suites: everything but their code.
fn copy_data(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else {
            continue;
        };
        if path.is_dir() {
            copy_data(&path, &to.join(name))?;
        } else if path.extension().is_none_or(|extension| extension != "rs") {
            fs::copy(&path, to.join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_what_cargo_says() {
        let suite = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"snat"},"executable":"/t/snat-1"}"#;
        let found = executable(suite).unwrap();
        assert!(matches!(found.kind, Kind::Suite));
        assert_eq!(
            (found.name.as_str(), found.path.to_str()),
            ("snat", Some("/t/snat-1"))
        );
        for other in [
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"executable":null}"#,
            "warning: unused",
        ] {
            assert!(executable(other).is_none(), "of {other}");
        }
    }
}

//! The Go that builds what others wrote in it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    exec::{output, run},
    tools,
};

/// Settings of the caller that would derail a build for this machine.
const CALLERS_SETTINGS: &[&str] = &["GOARCH", "GOBIN", "GOEXPERIMENT", "GOOS", "GOROOT"];

/// Which of a toolchain's files are programs: its archive does not say so.
const PROGRAMS: [&str; 2] = ["bin", "pkg/tool"];

/// A Go of one certain version.
pub(crate) struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// The Go of this version (such as `go1.26.8`): the machine's own, else what it can fetch.
    pub(crate) fn of_version(version: &str) -> Result<Self> {
        tools::debian_packages(tools::GO)?;
        let own = Self {
            program: "go".into(),
            version: version.to_owned(),
        };
        if own.is_right() {
            return Ok(own);
        }
        eprintln!("the machine's go is older than 1.21, which cannot become {version} by itself");
        let fetched = own.fetch()?;
        if !fetched.is_right() {
            bail!("{} is not {version}", fetched.program.display());
        }
        Ok(fetched)
    }

    /// A Go command to be run in `folder`, with no settings but those that say where modules come from.
    pub(crate) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        for name in CALLERS_SETTINGS {
            command.env_remove(name);
        }
        command
            .current_dir(folder)
            // From 1.21 on, Go fetches and becomes the version that is asked for.
            .env("GOTOOLCHAIN", &self.version)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-buildvcs=false")
            .env("GOWORK", "off");
        command
    }

    fn is_right(&self) -> bool {
        output(self.command(Path::new("/")).arg("version"))
            .is_ok_and(|said| said.split(' ').any(|word| word == self.version))
    }

    /// Has an older Go fetch this version, as the module that newer ones fetch it as.
    fn fetch(&self) -> Result<Self> {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => bail!(
                "no toolchain is known for {other}: install {}",
                self.version
            ),
        };
        let module = format!("golang.org/toolchain@v0.0.1-{}.linux-{arch}", self.version);
        run(self
            .command(Path::new("/"))
            .args(["mod", "download", &module]))
        .with_context(|| format!("cannot fetch {}", self.version))?;
        let modules = output(self.command(Path::new("/")).args(["env", "GOMODCACHE"]))?;
        let toolchain = Path::new(&modules).join(module);
        for folder in PROGRAMS {
            make_executable(&toolchain.join(folder))?;
        }
        Ok(Self {
            program: toolchain.join("bin/go"),
            version: self.version.clone(),
        })
    }
}

fn make_executable(folder: &Path) -> Result<()> {
    let list = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(list)? {
        let path = entry.with_context(list)?.path();
        if path.is_dir() {
            make_executable(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o555))
                .with_context(|| format!("cannot make {} executable", path.display()))?;
        }
    }
    Ok(())
}

//! Against the real API server and controllers, as `cargo xtask kube-assets` builds them.

mod control_plane;
mod deploy;
mod source;

use std::process::ExitCode;

use anyhow::Result;
use tests::{
    checks::Checks,
    kube::{ControlPlane, Options},
    site::Site,
};

/// A control plane under check.
struct World {
    control: ControlPlane,
}

impl World {
    fn start() -> Result<Self> {
        Self::of(Options {
            controllers: true,
            ..Options::default()
        })
    }

    /// One that lists page by page, as those of old do.
    fn without_streams() -> Result<Self> {
        Self::of(Options {
            api_server_flags: vec!["--feature-gates=WatchList=false".to_owned()],
            ..Options::default()
        })
    }

    fn of(options: Options) -> Result<Self> {
        let control = ControlPlane::start(Site::new()?, options)?;
        Ok(Self { control })
    }
}

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    checks.group(control_plane::checks(), World::start, |world| {
        world.control.logs()
    });
    checks.group(source::checks(), World::start, |world| world.control.logs());
    checks.group(source::checks_of_pages(), World::without_streams, |world| {
        world.control.logs()
    });
    checks.group(deploy::checks(), deploy::World::start, deploy::World::logs);
    checks.finish()
}

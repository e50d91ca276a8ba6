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
        let options = Options {
            controllers: true,
            ..Options::default()
        };
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
    checks.group(deploy::checks(), deploy::World::start, deploy::World::logs);
    checks.finish()
}

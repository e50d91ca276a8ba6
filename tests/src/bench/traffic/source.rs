//! Where contestants have their objects from: the real API server, or files where it is not there.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::objects;
use crate::{
    bench::control_plane::{
        self, Proxy, Size,
        stage::{Feed, Stage, Start},
    },
    kube::{self, ControlPlane},
    manifests::Manifests,
    site::Site,
};

/// How many objects there are in a file.
const IN_A_FILE: usize = 1000;

/// See the [module](self).
pub(super) enum Source {
    /// All have them from here.
    Api(Box<ControlPlane>),
    /// kube-proxy has them from nowhere.
    Manifests {
        manifests: Manifests,
        /// Where the files are.
        _place: Site,
    },
}

impl Source {
    /// As many objects as are to be, and the Services that lead to the pods.
    pub(super) fn new(size: Size, [near, far]: [Ipv4Addr; 2]) -> Result<Self> {
        let asked_for = objects::all(near.into(), far.into());
        if kube::are_there() {
            let control = ControlPlane::start(Site::new()?, kube::Options::default())?;
            control_plane::objects::make(&control, size, near.into())?;
            objects::make(&control, &asked_for)?;
            return Ok(Self::Api(Box::new(control)));
        }
        let place = Site::new()?;
        let manifests = Manifests::new(place.dir().join("manifests"))?;
        let many = control_plane::objects::documents(size, near.into());
        let asked_for = asked_for.into_iter().map(|(_, object)| object);
        let all: Vec<_> = many.chain(asked_for).collect();
        for (number, some) in all.chunks(IN_A_FILE).enumerate() {
            manifests.write_objects(&format!("objects-{number:03}.yaml"), some)?;
        }
        Ok(Self::Manifests {
            manifests,
            _place: place,
        })
    }

    /// Whether there is anything for a proxy.
    pub(super) const fn is_for(&self, proxy: Proxy) -> bool {
        matches!((self, proxy), (Self::Api(_), _) | (_, Proxy::Fairlead))
    }

    /// Starts a proxy on a topology of its own.
    pub(super) fn start(&mut self, proxy: Proxy) -> Result<(Stage, Start)> {
        let feed = match self {
            Self::Api(control) => Feed::Api(control),
            Self::Manifests { manifests, .. } => Feed::Manifests(manifests),
        };
        Stage::start(feed, proxy, None)
    }
}

//! Puts the programs of sockets on a cgroup, for the processes in it and below it, and keeps them
//! there. As with interfaces, the pins are the state.

mod destroy;
mod diag;
mod look;
mod pods;

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use aya::{
    pin::PinError,
    programs::{
        CgroupAttachMode, ProgramError,
        cgroup_sock_addr::CgroupSockAddrLink,
        links::{FdLink, LinkError},
    },
};
use lb_common::{maps::programs, socket::Cookie};
use thiserror::Error;
use tracing::{debug, info};

pub(super) use pods::Ends;

use self::{destroy::Destroyer, pods::Pods};
pub(super) use destroy::Report as Destroyed;

use super::{
    cgroup::{self, CgroupError},
    links::{self, Place},
    netns,
    programs::{LoadError, Programs, chain},
    socket_options::{SocketLb, SocketOptions},
};
use crate::{
    control::Departures,
    pins::Pins,
    status::{SocketMode, Sockets as Account},
};

/// Name of the pins, in an interface's place.
const PIN: &str = "cgroup";

/// The programs could not be put on a cgroup.
#[derive(Debug, Error)]
enum SocketError {
    /// There is no cgroup to use.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file operation failed.
    #[error("cannot {0} {path}: {2}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
    /// The namespace cannot be told.
    #[error("cannot tell the cookie of the network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The kernel refused a program.
    #[error("{name}: {}", chain(.1), name = .0)]
    Program(&'static str, #[source] ProgramError),
    /// A link cannot be used.
    #[error("{name}: {}", chain(.1), name = .0)]
    Link(&'static str, #[source] LinkError),
    /// A link cannot be pinned.
    #[error("{name}: cannot pin the link: {}", chain(.1), name = .0)]
    Pin(&'static str, #[source] PinError),
    /// The object lacks a program, or the kernel does not take it.
    #[error(transparent)]
    Object(#[from] LoadError),
}

/// The programs of sockets on their cgroup.
#[derive(Debug)]
pub(super) struct Sockets {
    pins: Pins,
    wanted: SocketLb,
    cgroup: Option<PathBuf>,
    netns: Result<Cookie, SocketError>,
    attached: bool,
    problem: Option<String>,
    pods: Option<Pods>,
    destroyer: Destroyer,
    undestroyed: Option<String>,
}

impl Sockets {
    /// Attached to nothing yet.
    ///
    /// With `masquerade_all` a pod's packets to services are to look like this node's, which takes
    /// tc.
    pub(super) fn new(pins: Pins, options: &SocketOptions, masquerade_all: bool) -> Self {
        Self {
            pods: match options.socket_lb {
                SocketLb::All if !masquerade_all => Some(Pods::new(pins.clone())),
                SocketLb::All | SocketLb::Host | SocketLb::Off => None,
            },
            destroyer: Destroyer::new(pins.clone()),
            undestroyed: None,
            pins,
            wanted: options.socket_lb,
            cgroup: options.cgroup.clone(),
            netns: netns::cookie().map_err(SocketError::Namespace),
            attached: false,
            problem: None,
        }
    }

    /// The network namespace of the node, if sockets are to be led.
    pub(super) fn netns(&self) -> Cookie {
        match self.wanted {
            SocketLb::All | SocketLb::Host => *self.netns.as_ref().unwrap_or(&Cookie::NONE),
            SocketLb::Off => Cookie::NONE,
        }
    }

    /// Whether those of pods are.
    pub(super) const fn leads_pods(&self) -> bool {
        self.pods.is_some()
    }

    /// These are the pods' interfaces.
    pub(super) fn follow_pods(&mut self, ends: Ends, now: Instant) {
        if let Some(pods) = &mut self.pods {
            pods.follow(ends, now);
        }
    }

    /// The pods of these addresses ask to be left to tc.
    pub(super) fn leave_pods(&mut self, asked: BTreeSet<IpAddr>) {
        if let Some(pods) = &mut self.pods {
            pods.leave(asked);
        }
    }

    /// Attaches the programs, or takes them off, as is wanted. What is done already is not done
    /// again.
    pub(super) fn reconcile(&mut self, programs: &mut Programs) {
        let done = match self.wanted {
            SocketLb::All | SocketLb::Host if self.attached => Ok(()),
            SocketLb::All | SocketLb::Host => self.attach(programs),
            SocketLb::Off => self.detach(),
        };
        self.problem = done.err().map(|error| match self.wanted {
            SocketLb::All | SocketLb::Host => format!(
                "sockets: the node's own processes are not led to services: {error}; pods and \
                 clients outside are"
            ),
            SocketLb::Off => format!("sockets: {error}"),
        });
    }

    /// Whether something failed that may work when tried again.
    pub(super) const fn has_failed(&self) -> bool {
        self.problem.is_some()
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> BTreeSet<String> {
        let pods = self.pods.iter().flat_map(Pods::problems);
        let own = self.problem.iter().chain(&self.undestroyed);
        let masqueraded = (self.wanted == SocketLb::All && !self.leads_pods()).then(|| {
            "sockets: pods are left to tc in spite of --socket-lb all, for with masqueradeAll \
             backends are to see this node in their place"
                .to_owned()
        });
        own.chain(pods).cloned().chain(masqueraded).collect()
    }

    /// These backends are gone: sockets that were led to them are to be destroyed.
    pub(super) fn departed(&mut self, departures: Departures, now: Instant) {
        match self.wanted {
            SocketLb::All | SocketLb::Host => self.destroyer.departed(departures, now),
            SocketLb::Off => {}
        }
    }

    /// When [`Self::poll`] has something to do.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let pods = self.pods.as_ref().map(|pods| pods.due(now));
        self.destroyer.due(now).into_iter().chain(pods).min()
    }

    /// Does what is due. Returns the sockets that were destroyed, once.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Destroyed> {
        if let Some(pods) = &mut self.pods {
            pods.poll(now);
        }
        let pods = self.pods.as_ref().map(Pods::numbers);
        let destroyed = self.destroyer.poll(pods.as_ref(), now)?;
        self.undestroyed = destroyed.as_ref().err().map(|error| {
            format!(
                "sockets: those that were led to deleted backends stay: {error}; their processes \
                 have to notice by themselves"
            )
        });
        destroyed.ok()
    }

    /// What is attached, for the status.
    pub(super) fn account(&self) -> Account {
        let (pods_led, pods_left) = self.pods.as_ref().map_or((0, 0), Pods::counts);
        Account {
            mode: match (self.wanted, self.attached) {
                (SocketLb::Off, _) => SocketMode::Off,
                (SocketLb::All, true) if self.leads_pods() => SocketMode::All,
                (SocketLb::All | SocketLb::Host, true) => SocketMode::Host,
                (SocketLb::All | SocketLb::Host, false) => SocketMode::None,
            },
            cgroup: self.cgroup.clone(),
            pods_led,
            pods_left,
        }
    }

    fn attach(&mut self, programs: &mut Programs) -> Result<(), SocketError> {
        if let Err(SocketError::Namespace(error)) = &self.netns {
            let again = io::Error::new(error.kind(), error.to_string());
            return Err(SocketError::Namespace(again));
        }
        let dir = cgroup::locate(self.cgroup.as_deref())?;
        let cgroup = File::open(&dir).map_err(|error| io_error("open", &dir, error))?;
        let number = cgroup
            .metadata()
            .map_err(|error| io_error("look at", &dir, error))?
            .ino();
        let pins = &self.pins;
        // Who is led to a backend is to be told of the service: that part first.
        let done = programs::SOCKETS
            .into_iter()
            .rev()
            .try_for_each(|name| attach_one(programs, pins, name, &cgroup, number));
        if let Err(error) = done {
            self.detach()?;
            return Err(error);
        }
        self.attached = true;
        info!("sockets: attached to cgroup {}", dir.display());
        self.cgroup = Some(dir);
        Ok(())
    }

    /// Takes the programs off; there being none is fine.
    fn detach(&mut self) -> Result<(), SocketError> {
        self.attached = false;
        programs::SOCKETS.into_iter().try_for_each(|name| {
            let path = self.pins.link(name, PIN);
            links::remove(&path).map_err(|error| io_error("remove", &path, error))
        })
    }
}

fn attach_one(
    programs: &mut Programs,
    pins: &Pins,
    name: &'static str,
    cgroup: &File,
    number: u64,
) -> Result<(), SocketError> {
    let refused = |error| SocketError::Program(name, error);
    let path = pins.link(name, PIN);
    let program = programs.socket(name)?;
    let there = links::open_on(&path, Place::Cgroup(number));
    if let Some(link) = there.map_err(|error| SocketError::Link(name, error))? {
        let link = CgroupSockAddrLink::try_from(link);
        let link = link.map_err(|error| SocketError::Link(name, error))?;
        match program.attach_to_link(link) {
            Ok(id) => return program.take_link(id).map(drop).map_err(refused),
            Err(error) => debug!("{}: attached afresh: {}", path.display(), chain(&error)),
        }
    }
    links::remove(&path).map_err(|error| io_error("remove", &path, error))?;
    // A link never keeps others out, whatever the mode; of this one every kernel takes the flags.
    let id = program
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    let link = FdLink::try_from(link).map_err(|error| SocketError::Link(name, error))?;
    link.pin(&path)
        .map_err(|error| SocketError::Pin(name, error))?;
    Ok(())
}

fn io_error(operation: &'static str, path: &Path, error: io::Error) -> SocketError {
    SocketError::Io(operation, path.to_owned(), error)
}

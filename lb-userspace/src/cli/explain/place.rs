//! Where a packet is seen: the hook, and the interface.

use std::net::IpAddr;

use clap::ValueEnum;
use serde::Serialize;

use super::{super::Error, route::Route};
use crate::status::{Interface, Mode, Role};

/// The loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Hook {
    /// A pod of this node sends, by its interface.
    Pod,
    /// A client or another node sends, by an external interface.
    External,
    /// A process of the node itself connects.
    Host,
}

impl Hook {
    /// Its name on the command line and in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::External => "external",
            Self::Host => "host",
        }
    }

    const fn role(self) -> Option<Role> {
        match self {
            Self::Pod => Some(Role::Pod),
            Self::External => Some(Role::External),
            Self::Host => None,
        }
    }
}

/// Where the packet is seen, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) hook: Hook,
    pub(super) ifindex: u32,
    /// Name of the interface; none on the host.
    pub(super) interface: Option<String>,
    pub(super) because: &'static str,
    /// Whether Fairlead is on the interface.
    pub(super) attached: bool,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) source: IpAddr,
    pub(super) interface: Option<&'a str>,
    pub(super) hook: Option<Hook>,
}

/// What is known of the node.
pub(super) struct Known<'a> {
    /// The interfaces the agent looks after.
    pub(super) interfaces: &'a [Interface],
    /// The kernel's index of a name, in this network namespace.
    pub(super) index: &'a dyn Fn(&str) -> Option<u32>,
    /// The way back to an address.
    pub(super) route: &'a dyn Fn(IpAddr) -> Result<Route, Error>,
}

/// Finds the place a packet is seen at.
pub(super) fn find(wish: Wish<'_>, known: &Known<'_>) -> Result<Place, Error> {
    match (wish.hook, wish.interface) {
        (Some(Hook::Host), Some(name)) => Err(Error::Usage(format!(
            "--hook host is of no interface: leave out `%{name}`"
        ))),
        (Some(Hook::Host), None) => Ok(host("as asked")),
        (hook, Some(name)) => known.named(name, hook),
        (hook, None) => known.routed(wish.source, hook),
    }
}

fn host(because: &'static str) -> Place {
    Place {
        hook: Hook::Host,
        ifindex: LOOPBACK,
        interface: None,
        because,
        attached: true,
    }
}

impl Known<'_> {
    fn named(&self, name: &str, hook: Option<Hook>) -> Result<Place, Error> {
        let interface = self.interfaces.iter().find(|known| known.name == name);
        match (interface, hook) {
            (Some(interface), _) => {
                let own = hook_of(interface.role);
                self.at(interface, hook.unwrap_or(own), "the interface was named")
            }
            (None, Some(hook)) => Ok(Place {
                hook,
                ifindex: (self.index)(name).ok_or_else(|| no_such(name))?,
                interface: Some(name.to_owned()),
                because: "as asked",
                attached: false,
            }),
            (None, None) if (self.index)(name).is_none() => Err(no_such(name)),
            (None, None) => Err(Error::Nowhere(format!(
                "Fairlead is not on interface {name}: its packets pass untouched; \
                 name one of `lbctl status`, or say --hook pod or --hook external"
            ))),
        }
    }

    fn routed(&self, source: IpAddr, hook: Option<Hook>) -> Result<Place, Error> {
        let route = (self.route)(source)?;
        let by = match route {
            Route::By(index) => self.interfaces.iter().find(|known| known.index == index),
            Route::Local | Route::None => None,
        };
        match (hook, by) {
            (None, _) if route == Route::Local => Ok(host("the source is an address of this node")),
            (None, Some(interface)) => {
                let because = match interface.role {
                    Role::Pod => "the source is routed to this pod interface",
                    Role::External => "the source is routed to this interface",
                };
                self.at(interface, hook_of(interface.role), because)
            }
            (Some(hook), Some(interface)) if hook.role() == Some(interface.role) => {
                self.at(interface, hook, "the source is routed to this interface")
            }
            (hook, _) => self.first(hook.unwrap_or(Hook::External)),
        }
    }

    /// The first interface of a hook: the route to the source names none.
    fn first(&self, hook: Hook) -> Result<Place, Error> {
        let mut fit = self
            .interfaces
            .iter()
            .filter(|interface| Some(interface.role) == hook.role());
        let attached = fit.clone().find(|interface| interface.mode != Mode::None);
        let Some(interface) = attached.or_else(|| fit.next()) else {
            let hook = hook.name();
            return Err(Error::Nowhere(format!(
                "Fairlead is on no {hook} interface: name one behind the source, as in \
                 `--from ADDRESS%eth0`"
            )));
        };
        let because = match hook {
            Hook::External | Hook::Host => {
                "the first external interface: the source is routed to none"
            }
            Hook::Pod => "the first pod interface: the source is routed to none",
        };
        self.at(interface, hook, because)
    }

    fn at(&self, interface: &Interface, hook: Hook, because: &'static str) -> Result<Place, Error> {
        let name = &interface.name;
        if (self.index)(name) != Some(interface.index) {
            return Err(Error::Nowhere(format!(
                "interface {name} of lb-agent is not here: run lbctl in the node's network \
                 namespace"
            )));
        }
        Ok(Place {
            hook,
            ifindex: interface.index,
            interface: Some(name.clone()),
            because,
            attached: interface.mode != Mode::None,
        })
    }
}

fn hook_of(role: Role) -> Hook {
    match role {
        Role::Pod => Hook::Pod,
        Role::External => Hook::External,
    }
}

fn no_such(name: &str) -> Error {
    Error::Nowhere(format!(
        "there is no interface {name} here: `lbctl status` lists those of the node, and lbctl \
         runs in its network namespace"
    ))
}

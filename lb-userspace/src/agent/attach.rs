//! Puts the programs on interfaces, and keeps them there.
//!
//! The kernel has the state: each link lives as a file, and filters of tc have our name, so programs stay when
//! the agent goes, and an agent that comes finds what is attached and swaps the programs in place.

mod tc;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use aya::{
    maps::{HashMap, MapData, MapError},
    programs::{ProgramError, XdpMode, links::FdLink, xdp::XdpLink},
};
use lb_common::{
    config::link,
    maps::programs::{
        SOCKETS, TC_EXTERNAL_EGRESS, TC_EXTERNAL_INGRESS, TC_POD_EGRESS, TC_POD_INGRESS,
        XDP_EXTERNAL,
    },
};
use tracing::{info, warn};

use self::tc::{AttachError, Device, TcHooks, not_swapped};
use super::{
    filters::{FilterError, Hook},
    interface::Wanted,
    links::{self, Place},
    programs::{Programs, chain},
};
use crate::{
    pins::Pins,
    status::{Interface, Mode, Role, TcWay},
};

/// Attaches to interfaces and remembers how that went.
#[derive(Debug)]
pub(super) struct Attacher {
    pins: Pins,
    programs: Programs,
    tc: TcHooks,
    links: HashMap<MapData, u32, u32>,
    attached: BTreeMap<u32, Attached>,
    problems: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    wanted: Wanted,
    mode: Mode,
    reason: String,
}

impl Attacher {
    /// Attaches to nothing yet.
    pub(super) fn new(
        pins: Pins,
        programs: Programs,
        links: HashMap<MapData, u32, u32>,
        way: TcWay,
    ) -> Result<Self, FilterError> {
        Ok(Self {
            tc: TcHooks::new(pins.clone(), way)?,
            pins,
            programs,
            links,
            attached: BTreeMap::new(),
            problems: BTreeSet::new(),
        })
    }

    /// By what programs of tc are on interfaces.
    pub(super) const fn way(&self) -> TcWay {
        self.tc.way()
    }

    /// Makes it so that exactly these interfaces are attached to. What did not work the last time
    /// is tried again.
    pub(super) fn reconcile(&mut self, wanted: &[Wanted]) {
        self.problems.clear();
        let looked = self.tc.look();
        self.complain_of(looked);
        self.rename(wanted);
        self.remove_others(wanted);
        for interface in wanted {
            if self.is_due(interface) {
                self.attach(interface);
            }
        }
        let attached = wanted.iter().filter(|it| it.obstacle.is_none());
        let swept = self.tc.sweep(&attached.map(|it| it.index).collect());
        self.complain_of(swept);
        if let Err(error) = self.write_links() {
            self.problems
                .insert(format!("cannot write map LINKS: {}", chain(&error)));
        }
    }

    /// The programs, to be put elsewhere.
    pub(super) const fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Whether somebody has taken off what was attached: then it is due to be attached again.
    pub(super) fn has_lost(&mut self, now: Instant) -> bool {
        let attached = self.attached.values().filter(|it| it.mode != Mode::None);
        let lost = self.tc.lost(attached.map(|it| it.wanted.index), now);
        let lost = match lost {
            Ok(lost) => lost,
            Err(error) => {
                self.complain_of(Err(error));
                return false;
            }
        };
        for attached in lost.iter().filter_map(|index| self.attached.remove(index)) {
            let name = attached.wanted.name;
            warn!("interface {name}: somebody has removed our filters; they are put there again");
        }
        !lost.is_empty()
    }

    /// Whether something failed that may work when tried again.
    pub(super) fn has_failed(&self) -> bool {
        let failed = |a: &Attached| a.mode == Mode::None && a.wanted.obstacle.is_none();
        !self.problems.is_empty() || self.attached.values().any(failed)
    }

    /// What is attached how, external interfaces first.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let mut interfaces: Vec<_> = self.attached.values().map(Attached::interface).collect();
        interfaces.sort_by(|a, b| {
            let key = |i: &Interface| (i.role == Role::Pod, i.name.clone());
            key(a).cmp(&key(b))
        });
        interfaces
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> BTreeSet<String> {
        let unattached = self.attached.values().filter(|a| a.mode == Mode::None);
        let lines = unattached.map(|a| {
            let Attached { wanted, reason, .. } = a;
            format!("interface {}: not attached: {reason}", wanted.name)
        });
        self.problems.iter().cloned().chain(lines).collect()
    }

    fn is_due(&self, wanted: &Wanted) -> bool {
        match self.attached.get(&wanted.index) {
            None => true,
            Some(old) => {
                old.wanted != *wanted || (old.mode == Mode::None && wanted.obstacle.is_none())
            }
        }
    }

    /// Moves the pins of interfaces that have another name than before.
    fn rename(&mut self, wanted: &[Wanted]) {
        for new in wanted {
            let Some(old) = self.attached.get(&new.index) else {
                continue;
            };
            if old.wanted.name == new.name || old.wanted.role != new.role {
                continue;
            }
            for program in programs_of(new.role) {
                let from = self.pins.link(program, &old.wanted.name);
                // A failure leaves no pin by the new name: the program is attached afresh.
                let _ = fs::rename(from, self.pins.link(program, &new.name));
            }
        }
    }

    /// Removes every pin, and with it the program, that is no wanted interface's.
    fn remove_others(&mut self, wanted: &[Wanted]) {
        let keep: HashSet<PathBuf> = wanted
            .iter()
            .filter(|interface| interface.obstacle.is_none())
            .flat_map(|interface| {
                programs_of(interface.role).map(|program| self.pins.link(program, &interface.name))
            })
            .collect();
        match links::list(&self.pins) {
            Ok(found) => {
                let of_interfaces = |pin: &links::Pin| !SOCKETS.contains(&&*pin.program);
                let others = found.into_iter().filter(of_interfaces);
                for pin in others.filter(|pin| !keep.contains(&pin.path)) {
                    self.remove(&pin.path);
                }
            }
            Err(error) => self.complain("list pinned links", &error),
        }
        let gone = |index: &u32| !wanted.iter().any(|interface| interface.index == *index);
        let indices: Vec<u32> = self.attached.keys().copied().filter(gone).collect();
        for attached in indices
            .iter()
            .filter_map(|index| self.attached.remove(index))
        {
            info!("interface {}: forgotten", attached.wanted.name);
        }
    }

    /// Removes a pin, if it is there.
    fn remove(&mut self, path: &Path) {
        if let Err(error) = links::remove(path) {
            self.complain(&format!("remove {}", path.display()), &error);
        }
    }

    fn complain_of(&mut self, done: Result<(), FilterError>) {
        let line = done.err().map(|error| format!("interfaces: {error}"));
        self.problems.extend(line);
    }

    fn complain(&mut self, operation: &str, error: &io::Error) {
        self.problems.insert(format!("cannot {operation}: {error}"));
    }

    fn attach(&mut self, wanted: &Wanted) {
        let (mode, reason) = match (wanted.obstacle, wanted.role) {
            (Some(obstacle), _) => (Mode::None, obstacle.to_owned()),
            (None, Role::External) => self.attach_external(wanted),
            (None, Role::Pod) => match self.attach_tc(wanted, TC_POD_EGRESS, TC_POD_INGRESS) {
                Ok(()) => (Mode::Tc, String::new()),
                Err(error) => (Mode::None, error.to_string()),
            },
        };
        let attached = Attached {
            wanted: wanted.clone(),
            mode,
            reason,
        };
        attached.log(self.attached.get(&wanted.index));
        self.attached.insert(wanted.index, attached);
    }

    fn attach_external(&mut self, wanted: &Wanted) -> (Mode, String) {
        if let Err(error) = self.attach_tc(wanted, TC_EXTERNAL_EGRESS, TC_EXTERNAL_INGRESS) {
            self.remove(&self.pins.link(XDP_EXTERNAL, &wanted.name));
            return (Mode::None, error.to_string());
        }
        if let Some(reason) = wanted.no_xdp {
            let path = self.pins.link(XDP_EXTERNAL, &wanted.name);
            if path.exists() {
                self.remove(&path);
            }
            return (Mode::Tc, format!("no XDP: {reason}"));
        }
        match self.attach_xdp(wanted) {
            Ok(()) => (Mode::Xdp, String::new()),
            Err(error) => (Mode::Tc, format!("no native XDP: {}", why_no_xdp(&error))),
        }
    }

    /// The reverse translation first: it is harmless alone.
    fn attach_tc(
        &mut self,
        wanted: &Wanted,
        egress: &'static str,
        ingress: &'static str,
    ) -> Result<(), AttachError> {
        let device = Device {
            index: wanted.index,
            name: &wanted.name,
        };
        let (tc, programs) = (&mut self.tc, &mut self.programs);
        let done = tc
            .put(programs, device, egress, Hook::Egress)
            .and_then(|()| tc.put(programs, device, ingress, Hook::Ingress));
        if done.is_err() {
            for (program, hook) in [(ingress, Hook::Ingress), (egress, Hook::Egress)] {
                if let Err(error) = self.tc.remove(device, program, hook) {
                    self.problems
                        .insert(format!("interface {}: {error}", wanted.name));
                }
            }
        }
        done
    }

    fn attach_xdp(&mut self, wanted: &Wanted) -> Result<(), AttachError> {
        let path = self.pins.link(XDP_EXTERNAL, &wanted.name);
        let program = self.programs.xdp()?;
        if let Some(link) = links::open_on(&path, Place::Interface(wanted.index))? {
            match program.attach_to_link(XdpLink::try_from(link)?) {
                Ok(id) => return program.take_link(id).map(drop).map_err(Into::into),
                Err(error) => not_swapped(&path, &error),
            }
        }
        links::remove(&path)?;
        let id = program.attach(wanted.index, XdpMode::Driver)?;
        // Where the kernel refuses a BPF link aya attaches through netlink, which would end with
        // this process; such a link fails to convert, and is detached.
        FdLink::try_from(program.take_link(id)?)?.pin(&path)?;
        Ok(())
    }

    /// Brings `LINKS` in line with what is attached.
    fn write_links(&mut self) -> Result<(), MapError> {
        let flags: BTreeMap<u32, u32> = self
            .attached
            .values()
            .filter_map(|a| Some((a.wanted.index, link_flags(a.wanted.role, a.mode)?)))
            .collect();
        let known = self.links.keys().collect::<Result<Vec<_>, _>>()?;
        for index in known {
            if !flags.contains_key(&index) {
                self.links.remove(&index)?;
            }
        }
        for (index, flags) in flags {
            if self.links.get(&index, 0).ok() != Some(flags) {
                self.links.insert(&index, &flags, 0)?;
            }
        }
        Ok(())
    }
}

impl Attached {
    fn interface(&self) -> Interface {
        let Self {
            wanted,
            mode,
            reason,
        } = self;
        Interface {
            name: wanted.name.clone(),
            index: wanted.index,
            role: wanted.role,
            mode: *mode,
            reason: reason.clone(),
        }
    }

    /// Logs how the interface is attached, if that is news; that it is not attached is a problem
    /// and logged as one.
    fn log(&self, old: Option<&Self>) {
        let Self {
            wanted,
            mode,
            reason,
        } = self;
        if old.is_some_and(|old| (old.mode, &old.reason) == (self.mode, &self.reason)) {
            return;
        }
        let name = &wanted.name;
        match (wanted.role, mode) {
            (_, Mode::None) => {}
            (Role::Pod, Mode::Xdp | Mode::Tc) => info!("interface {name}: pod, attached"),
            (Role::External, Mode::Xdp) => info!("interface {name}: external, native XDP and tc"),
            (Role::External, Mode::Tc) => info!("interface {name}: external, tc alone: {reason}"),
        }
    }
}

fn programs_of(role: Role) -> impl Iterator<Item = &'static str> {
    match role {
        Role::External => [XDP_EXTERNAL, TC_EXTERNAL_INGRESS, TC_EXTERNAL_EGRESS].as_slice(),
        Role::Pod => [TC_POD_INGRESS, TC_POD_EGRESS].as_slice(),
    }
    .iter()
    .copied()
}

/// The value of `LINKS` for an interface; none if it gets no row.
fn link_flags(role: Role, mode: Mode) -> Option<u32> {
    match (role, mode) {
        (Role::Pod, _) | (Role::External, Mode::None) => None,
        (Role::External, Mode::Tc) => Some(link::DIRECT),
        (Role::External, Mode::Xdp) => Some(link::DIRECT | link::XDP_TARGET),
    }
}

fn why_no_xdp(error: &AttachError) -> String {
    const EBUSY: i32 = 16;
    const ERANGE: i32 = 34;
    const EOPNOTSUPP: i32 = 95;
    let text = error.to_string();
    let code = match error {
        AttachError::Program(ProgramError::SyscallError(error)) => error.io_error.raw_os_error(),
        AttachError::Program(_)
        | AttachError::Link(_)
        | AttachError::Pin(_)
        | AttachError::Remove(_)
        | AttachError::Filter(_)
        | AttachError::Object(_) => None,
    };
    match code {
        Some(EOPNOTSUPP) => "the driver does not support it".to_owned(),
        Some(EBUSY) => "another XDP program is on the interface".to_owned(),
        Some(ERANGE) => "the driver refuses it at this MTU".to_owned(),
        _ => text,
    }
}

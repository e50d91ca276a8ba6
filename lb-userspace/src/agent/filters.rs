//! Filters of the clsact qdisc: how programs of tc are attached where the kernel has no tcx links.
//!
//! A filter of ours has one handle and a name that begins with [`NAME`], so it is known again by asking the
//! kernel, by whichever agent and whatever is pinned. There is one a direction at most. Filters of others
//! are never touched.

mod messages;

use std::{collections::BTreeMap, io, os::fd::BorrowedFd};

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
        NetlinkPayload,
    },
    packet_route::RouteNetlinkMessage as Message,
    sys::protocols::NETLINK_ROUTE,
};
use thiserror::Error;

use super::netlink::Asker;
use messages::{Answer, filter, mark, qdisc};
pub(super) use messages::{Filter, Hook};

/// What the names of our filters begin with; the program's name follows.
pub(super) const NAME: &str = "fairlead/";

/// The handle of our filters, and the number of the chain that marks a qdisc of ours.
const HANDLE: u32 = 0x0fa1_1ead;

/// The kind of qdisc that has filters for both directions.
const CLSACT: &str = "clsact";

/// A priority for whoever comes first.
const FIRST: u16 = 1;

/// Filters could not be read or changed.
#[derive(Debug, Error)]
pub(super) enum FilterError {
    /// There is no netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// A request failed.
    #[error("cannot {0}: {1}")]
    Request(&'static str, #[source] io::Error),
    /// Another qdisc has its place.
    #[error(
        "its {0} qdisc has no filters for what leaves, and takes the place of clsact, which the kernel needs \
         for lack of tcx links; remove it (`tc qdisc del dev … {0}`), or have whoever made it use clsact"
    )]
    Occupied(String),
    /// Every priority is taken.
    #[error("filters of others leave no priority free")]
    NoPriority,
}

/// The qdiscs that can have filters, by the index of their interface: their kinds.
pub(super) type Qdiscs = BTreeMap<u32, String>;

/// Who asks for filters and changes them, in the network namespace of the thread that made it.
pub(super) struct Filters(Asker);

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Filters")
    }
}

impl Filters {
    /// Opens a socket for it.
    pub(super) fn open() -> Result<Self, FilterError> {
        Asker::open(NETLINK_ROUTE)
            .map(Self)
            .map_err(FilterError::Socket)
    }

    /// The qdiscs of all interfaces.
    pub(super) fn qdiscs(&mut self) -> Result<Qdiscs, FilterError> {
        let message = Message::GetQueueDiscipline(qdisc(0, None));
        let mut found = Qdiscs::new();
        let listed = self.dump("list qdiscs", message, |answer| {
            found.extend(answer.qdisc());
        });
        match listed {
            // A kernel without traffic control has none.
            Err(FilterError::Request(_, error))
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(Qdiscs::new())
            }
            listed => listed.map(|()| found),
        }
    }

    /// Puts a program on an interface. A filter of ours that is there is replaced in place: at no moment does
    /// a packet meet none of the two, or both.
    pub(super) fn put(
        &mut self,
        index: u32,
        hook: Hook,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<(), FilterError> {
        let there = self.list(index, hook)?;
        let name = format!("{NAME}{name}");
        let mut own = there.iter().filter(|filter| filter.is_ours());
        if let Some(old) = own.next() {
            let message = filter(index, hook, old.priority, HANDLE, Some((&name, program)));
            let message = Message::NewTrafficFilter(message);
            self.change("replace a filter", NLM_F_REPLACE, message)?;
            return own.try_for_each(|old| self.delete(index, hook, old));
        }
        let priority = free_priority(&there).ok_or(FilterError::NoPriority)?;
        let message = filter(index, hook, priority, HANDLE, Some((&name, program)));
        let message = Message::NewTrafficFilter(message);
        self.change("add a filter", NLM_F_CREATE | NLM_F_EXCL, message)
    }

    /// Takes ours off an interface; that there is none is fine. Returns how many there were.
    pub(super) fn remove(&mut self, index: u32, hook: Hook) -> Result<usize, FilterError> {
        let there = self.list(index, hook)?;
        let own: Vec<_> = there.iter().filter(|filter| filter.is_ours()).collect();
        for filter in &own {
            self.delete(index, hook, filter)?;
        }
        Ok(own.len())
    }

    /// Whether a filter of ours is on an interface.
    pub(super) fn is_on(&mut self, index: u32, hook: Hook) -> Result<bool, FilterError> {
        let there = self.list(index, hook)?;
        Ok(there.iter().any(Filter::is_ours))
    }

    /// Makes the qdisc that filters are in, and marks it as ours, unless there is one.
    pub(super) fn make_qdisc(
        &mut self,
        index: u32,
        qdiscs: &mut Qdiscs,
    ) -> Result<(), FilterError> {
        match qdiscs.get(&index).map(String::as_str) {
            Some(CLSACT) => return Ok(()),
            Some(other) => return Err(FilterError::Occupied(other.to_owned())),
            None => {}
        }
        let message = Message::NewQueueDiscipline(qdisc(index, Some(CLSACT)));
        match self.change("add a clsact qdisc", NLM_F_CREATE | NLM_F_EXCL, message) {
            // Somebody has made it meanwhile: it is theirs, and may be of the other kind.
            Err(FilterError::Request(_, error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                *qdiscs = self.qdiscs()?;
                match qdiscs.get(&index).map(String::as_str) {
                    Some(CLSACT) => Ok(()),
                    Some(other) => Err(FilterError::Occupied(other.to_owned())),
                    None => Err(FilterError::Request("add a clsact qdisc", error)),
                }
            }
            Err(error) => Err(error),
            Ok(()) => {
                qdiscs.insert(index, CLSACT.to_owned());
                let message = Message::NewTrafficChain(mark(index, HANDLE));
                self.change("mark a qdisc", NLM_F_CREATE | NLM_F_EXCL, message)
            }
        }
    }

    /// Removes the qdisc of an interface if we made it and nobody has a filter in it.
    pub(super) fn remove_empty_qdisc(&mut self, index: u32) -> Result<(), FilterError> {
        for hook in Hook::BOTH {
            if !self.list(index, hook)?.is_empty() {
                return Ok(());
            }
        }
        let message = Message::GetTrafficChain(mark(index, 0));
        let mut ours = false;
        self.dump("list chains", message, |answer| {
            ours |= answer.chain() == Some(HANDLE);
        })?;
        if !ours {
            return Ok(());
        }
        let message = Message::DelQueueDiscipline(qdisc(index, Some(CLSACT)));
        none_if_gone(self.change("remove a clsact qdisc", 0, message))
    }

    fn list(&mut self, index: u32, hook: Hook) -> Result<Vec<Filter>, FilterError> {
        let message = Message::GetTrafficFilter(filter(index, hook, 0, 0, None));
        let mut found = Vec::new();
        self.dump("list filters", message, |answer| {
            found.extend(answer.filter());
        })?;
        Ok(found)
    }

    fn delete(&mut self, index: u32, hook: Hook, old: &Filter) -> Result<(), FilterError> {
        let message = Message::DelTrafficFilter(filter(index, hook, old.priority, HANDLE, None));
        none_if_gone(self.change("remove a filter", 0, message))
    }

    fn change(
        &mut self,
        what: &'static str,
        flags: u16,
        message: Message,
    ) -> Result<(), FilterError> {
        let failed = |error| FilterError::Request(what, error);
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.0.send(flags, message).map_err(failed)?;
        self.0.answers::<Answer>(|_| {}).map_err(failed)
    }

    fn dump(
        &mut self,
        what: &'static str,
        message: Message,
        mut take: impl FnMut(&Answer),
    ) -> Result<(), FilterError> {
        let failed = |error| FilterError::Request(what, error);
        self.0
            .send(NLM_F_REQUEST | NLM_F_DUMP, message)
            .map_err(failed)?;
        let answers = self.0.answers::<Answer>(|message| {
            if let NetlinkPayload::InnerMessage(answer) = &message.payload {
                take(answer);
            }
        });
        answers.map_err(failed)
    }
}

impl Filter {
    /// Whether it is one of an agent's.
    pub(super) fn is_ours(&self) -> bool {
        let named = || {
            self.name
                .as_ref()
                .is_some_and(|name| name.starts_with(NAME))
        };
        self.is_bpf() && self.handle == HANDLE && named()
    }
}

/// The first priority that a filter of ours can have beside these.
///
/// Filters of one priority have the kind and the protocol in common; of programs the newest comes first. So
/// ours precedes those of another that are there, of the lowest priority too, which is what tcx links do
/// in both directions: they precede all filters.
fn free_priority(there: &[Filter]) -> Option<u16> {
    let fits = |filter: &Filter| filter.is_bpf() && filter.is_for_all() && filter.handle != HANDLE;
    (FIRST..=u16::MAX).find(|priority| {
        let mut same = there.iter().filter(|filter| filter.priority == *priority);
        same.all(fits)
    })
}

/// Without the filter the kernel says `ENOENT`, without the qdisc `EINVAL`, without the interface `ENODEV`.
fn none_if_gone(done: Result<(), FilterError>) -> Result<(), FilterError> {
    match done {
        Err(FilterError::Request(_, error))
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u16 = libc::ETH_P_ALL as u16;

    fn program(priority: u16, handle: u32, name: &str) -> Filter {
        Filter {
            priority,
            protocol: ALL,
            handle,
            kind: "bpf".to_owned(),
            name: Some(name.to_owned()),
        }
    }

    #[test]
    fn ours_is_known_by_handle_and_name() {
        assert!(program(1, HANDLE, "fairlead/tc_ext_in").is_ours());
        assert!(program(7, HANDLE, "fairlead/tc_of_another_version").is_ours());
        assert!(!program(1, 1, "fairlead/tc_ext_in").is_ours());
        assert!(!program(1, HANDLE, "cil_from_netdev").is_ours());
        let unnamed = Filter {
            name: None,
            ..program(1, HANDLE, "")
        };
        assert!(!unnamed.is_ours());
        let kind = "flower".to_owned();
        assert!(
            !Filter {
                kind,
                ..program(1, HANDLE, "fairlead/tc_ext_in")
            }
            .is_ours()
        );
    }

    #[test]
    fn ours_shares_the_first_priority_with_other_programs() {
        assert_eq!(free_priority(&[]), Some(1));
        let cilium = program(1, 1, "cil_from_netdev");
        assert_eq!(free_priority(std::slice::from_ref(&cilium)), Some(1));
        assert_eq!(free_priority(&[cilium, program(2, 1, "other")]), Some(1));
    }

    #[test]
    fn ours_makes_way_for_filters_that_leave_no_place() {
        let kind = "flower".to_owned();
        let flower = Filter {
            kind,
            name: None,
            ..program(1, 1, "")
        };
        assert_eq!(free_priority(std::slice::from_ref(&flower)), Some(2));
        let of_ipv4 = Filter {
            protocol: libc::ETH_P_IP as u16,
            ..program(2, 1, "v4")
        };
        assert_eq!(free_priority(&[flower.clone(), of_ipv4]), Some(3));
        let same_handle = program(2, HANDLE, "somebody else's");
        assert_eq!(free_priority(&[flower, same_handle]), Some(3));
    }
}

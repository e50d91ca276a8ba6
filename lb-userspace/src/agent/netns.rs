//! Network namespaces: the one the agent runs in, as BPF programs know it, and those of pods.

mod cookie;
mod find;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use lb_common::socket::Cookie;
use rustix::{
    net::{AddressFamily, SocketType, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

pub(super) use find::find;

/// Takes this thread into a namespace, for good.
pub(super) fn enter(netns: &File) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(netns.as_fd(), kind).map_err(io::Error::from)
}

/// The cookie of this thread's network namespace.
///
/// Where no socket option has it (before Linux 5.14), a BPF program finds it out.
pub(super) fn cookie() -> io::Result<Cookie> {
    match cookie_by_option() {
        Err(error) if lacks_option(&error) => {
            let found = cookie::by_program();
            found.map_err(|error| io::Error::other(format!("no socket has it, and {error}")))
        }
        known => known,
    }
}

/// The cookie by `SO_NETNS_COOKIE` (Linux 5.14).
pub(super) fn cookie_by_option() -> io::Result<Cookie> {
    let of_ours = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    of_socket(&of_ours).map(Cookie::new)
}

/// Whether the kernel does not know that option.
pub(super) fn lacks_option(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOPROTOOPT)
}

fn of_socket(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the descriptor is open, `cookie` is writable for the `length` bytes told, and any
    // eight bytes are one.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match failed {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::namespace::Namespace;

    #[test]
    fn a_namespace_has_one_cookie() {
        let cookie = cookie().unwrap();
        assert_ne!(cookie, Cookie::NONE);
        assert_eq!(cookie, super::cookie().unwrap());
    }

    #[test]
    fn a_program_finds_the_cookie_that_the_option_has() {
        let namespace = Namespace::new();
        let here = [cookie::by_program().unwrap(), cookie_by_option().unwrap()];
        let there = namespace.run(|| [cookie::by_program().unwrap(), cookie_by_option().unwrap()]);
        assert_eq!(here[0], here[1]);
        assert_eq!(there[0], there[1]);
        assert_ne!(here[0], there[0]);
    }
}

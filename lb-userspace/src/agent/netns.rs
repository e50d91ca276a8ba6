//! Network namespaces: the one the agent runs in, as BPF programs know it, and those of pods.

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
pub(super) fn cookie() -> io::Result<Cookie> {
    let of_ours = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    of_socket(&of_ours).map(Cookie::new)
}

/// Asks a socket for the cookie of its namespace (Linux 5.14).
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

    #[test]
    fn a_namespace_has_one_cookie() {
        let cookie = cookie().unwrap();
        assert_ne!(cookie, Cookie::NONE);
        assert_eq!(cookie, super::cookie().unwrap());
    }
}

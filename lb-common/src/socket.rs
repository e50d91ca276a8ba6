//! Sockets of processes that were led straight to a backend.
//!
//! Like a flow, a led socket has two rows: the request's says which backend a service address
//! leads this socket to, the reply's which service address a backend stands for.
//! Sockets of pods are led in the network namespaces that the agent names.

use crate::{Addr, Port, V4, V6, assert_layout, flow::Half};

/// A number by which the kernel names a socket or a network namespace, never given twice; as two
/// words, so that no layout needs more alignment than an address does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Cookie([u32; 2]);

assert_layout!(Cookie = 8);

impl Cookie {
    /// No socket's and no namespace's.
    pub const NONE: Self = Self([0; 2]);

    /// The cookie as the kernel tells it.
    #[inline(always)]
    pub const fn new(number: u64) -> Self {
        Self([number as u32, (number >> 32) as u32])
    }

    /// The kernel's number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        (self.0[1] as u64) << 32 | self.0[0] as u64
    }
}

/// A socket and the other end it was told: a service address in the request's row, a backend in
/// the reply's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SocketKey<A> {
    /// The socket.
    pub socket: Cookie,
    /// Address of the other end.
    pub addr: A,
    /// Its port.
    pub port: Port,
    /// IP protocol number, see [`crate::proto`].
    pub proto: u8,
    half: u8,
}

assert_layout!(SocketKey<V4> = 16, SocketKey<V6> = 28);

impl<A: Addr> SocketKey<A> {
    /// The key of one row.
    #[inline(always)]
    pub const fn new(half: Half, socket: Cookie, proto: u8, (addr, port): (A, Port)) -> Self {
        Self {
            socket,
            addr,
            port,
            proto,
            half: half as u8,
        }
    }

    /// Which row it is.
    #[inline(always)]
    pub const fn half(&self) -> Half {
        if self.half == Half::Request as u8 {
            Half::Request
        } else {
            Half::Reply
        }
    }
}

/// What stands for the other end of a [`SocketKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SocketPeer<A> {
    /// Address of the backend in a request's row, of the service in a reply's.
    pub addr: A,
    /// Its port.
    pub port: Port,
    /// Zero.
    pub zero: u16,
    /// Service id.
    pub service: u32,
    /// Index of the backend in `BACKENDS`.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
}

assert_layout!(SocketPeer<V4> = 20, SocketPeer<V6> = 32);

/// By which addresses a pod is known, of the processes in its network namespace: the value of
/// `NETNS`. A family that the pod has no address of is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PodAddresses {
    /// Its IPv4 address.
    pub v4: V4,
    /// Its IPv6 address.
    pub v6: V6,
}

assert_layout!(PodAddresses = 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_keep_all_their_bits() {
        let number = 0x0123_4567_89ab_cdef;
        assert_eq!(Cookie::new(number).number(), number);
        assert_eq!(Cookie::new(0), Cookie::NONE);
    }
}

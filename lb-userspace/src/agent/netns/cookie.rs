//! The cookie of a network namespace by a BPF program, for kernels whose sockets have no
//! `SO_NETNS_COOKIE`.
//!
//! For a moment a program is on the `connect` hook of the cgroup2 hierarchy's root. It lets every call go on
//! unchanged, and notes the cookie when a socket connects to one address of 127.0.0.0/8, which is drawn
//! for the occasion and which a socket of this thread connects to. That one is of UDP, so nothing is sent.

use std::{
    fmt,
    fs::File,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
};

use lb_common::socket::Cookie;

use crate::{
    agent::cgroup,
    bpf::trial::{
        Instruction as I, Kind,
        Reg::{R0, R1, R2, R3, R4, R6, R7, R10},
        Target, link, load, read_word, word,
    },
};

/// `enum bpf_func_id`
const MAP_UPDATE_ELEM: i32 = 2;
const GET_NETNS_COOKIE: i32 = 122;

/// The cookie of this thread's network namespace.
pub(super) fn by_program() -> io::Result<Cookie> {
    let dir = cgroup::mounted().map_err(io::Error::other)?;
    let cgroup = File::open(&dir).map_err(failed(format_args!("open {}", dir.display())))?;
    let to = drawn();
    let found = word().map_err(failed("make a map"))?;
    let program = load(Kind::Connect4, &program(to, found.as_fd()));
    let program = program.map_err(failed("load a program that asks for it"))?;
    let on = link(program.as_fd(), Target::Connect4(cgroup.as_fd()));
    let on = on.map_err(failed(format_args!("attach that to {}", dir.display())))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed("make a socket"))?;
    // Whether it is connected does not matter: the hook comes first.
    let _ = socket.connect(to);
    drop(on);
    match read_word(found.as_fd()).map_err(failed("read a map"))? {
        0 => Err(io::Error::other("no program on connect was run")),
        cookie => Ok(Cookie::new(cookie)),
    }
}

fn failed(operation: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    let operation = operation.to_string();
    move |error| io::Error::new(error.kind(), format!("cannot {operation}: {error}"))
}

/// An address that nobody else connects to.
fn drawn() -> SocketAddrV4 {
    let [a, b, c, high, low, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    SocketAddrV4::new(
        Ipv4Addr::new(127, a, b, c),
        u16::from_ne_bytes([high, low]) | 1,
    )
}

/// Notes the cookie of the namespace of what connects to `to`.
fn program(to: SocketAddrV4, found: BorrowedFd<'_>) -> Vec<I> {
    // Of `struct bpf_sock_addr`, both in network order.
    const USER_IP4: i16 = 4;
    const USER_PORT: i16 = 24;
    // How many instructions note the cookie: `note`, `map` and `update`.
    const NOTE: i16 = 12;
    let addr = i32::from_ne_bytes(to.ip().octets());
    let port = i32::from(to.port().to_be());
    let note = [
        I::copy(R1, R6),
        I::call(GET_NETNS_COOKIE),
        I::push64(-8, R0),
        I::store64(-16, 0),
        I::copy(R2, R10),
        I::add(R2, -16),
        I::copy(R3, R10),
        I::add(R3, -8),
        I::set(R4, 0),
    ];
    let map = I::map(R1, found);
    let update = [I::call(MAP_UPDATE_ELEM)];
    let compare = [
        I::copy(R6, R1),
        I::load32(R7, R6, USER_IP4),
        I::unless_equal32(R7, addr, NOTE + 2),
        I::load32(R7, R6, USER_PORT),
        I::unless_equal32(R7, port, NOTE),
    ];
    let allow = [I::set(R0, 1), I::exit()];
    [&compare[..], &note, &map, &update, &allow].concat()
}

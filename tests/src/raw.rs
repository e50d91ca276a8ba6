//! What takes bare system calls: programs for the far ends of links, a map that takes no more, and frames
//! that no socket sends by itself.
//!
//! The programs are XDP of a few instructions, loaded without an object file so that a topology needs
//! nothing built. One passes everything: a veth takes frames that XDP transmits (`XDP_TX`) only if its peer
//! has an XDP program too; with GRO alone they are queued, and nobody is told (`veth_xdp_flush` in the
//! kernel's `drivers/net/veth.c`). The other one hands frames on as a NIC's driver has them.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result};
use lb_userspace::bpf::bpf;
use rustix::net::{AddressFamily, SocketType, eth, socket};

use crate::netns::interface_index;

/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [instruction(MOV, 0, 0, 0, XDP_PASS), EXIT];
const XDP_PASS: i32 = 2;

/// Operations of instructions (RFC 9669): loads of 4, 2 and 1 bytes, moves and an addition, jumps to where
/// the offset says, a call of a helper.
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_BYTE: u8 = 0x71;
const MOV: u8 = 0xb7;
const MOV_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const JUMP_GREATER: u8 = 0x2d;
const JUMP_UNEQUAL: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u64 = 0x95;

/// An instruction as `struct bpf_insn` has it on a little-endian machine: destination and source are registers.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = number.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

static LICENSE: &CStr = c"GPL";

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs; the kernel takes the rest as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The same for `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Sends a frame out of an interface of the caller's namespace, as it is: with a VLAN tag in it, which no
/// device of this kernel would put there.
pub fn send_frame(interface: &str, frame: &[u8]) -> Result<()> {
    let index = interface_index(interface)?;
    let packets = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL))?;
    // SAFETY: all fields are integers, or arrays of them.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = i32::try_from(index)?;
    // SAFETY: buffer and address are as long as said, and outlive the call.
    let sent = unsafe {
        libc::sendto(
            packets.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error()).context("cannot send a frame");
    }
    Ok(())
}

/// Pins XDP that passes everything at `path`, which is in a bpffs.
pub fn pin_pass(path: &Path) -> Result<()> {
    pin_program(BPF_PROG_TYPE_XDP, &PASS, path)
}

/// Pins a program of tc at `path`, which is in a bpffs, that accepts everything: no filter behind it is asked.
pub fn pin_accept(path: &Path) -> Result<()> {
    const TC_ACT_OK: i32 = 0;
    const ACCEPT: [u64; 2] = [instruction(MOV, 0, 0, 0, TC_ACT_OK), EXIT];
    pin_program(BPF_PROG_TYPE_SCHED_CLS, &ACCEPT, path)
}

/// Pins XDP at `path`, which is in a bpffs, that sends UDP over IPv4 out of another interface and passes
/// everything else.
///
/// What it sends to a veth comes out at the other end as what the driver of a NIC hands to XDP: a frame in a
/// page of its own, without a `struct sk_buff` yet.
pub fn pin_udp_redirect(ifindex: u32, path: &Path) -> Result<()> {
    const IPV4: i32 = 0x0800_u16.to_be() as i32;
    const UDP: i32 = 17;
    const REDIRECT: i32 = 23;
    // As far as the protocol in an IPv4 header that follows Ethernet's.
    const READ: i32 = 24;
    pin_program(
        BPF_PROG_TYPE_XDP,
        &[
            instruction(LOAD_WORD, 2, 1, 0, 0),
            instruction(LOAD_WORD, 3, 1, 4, 0),
            instruction(MOV_REGISTER, 4, 2, 0, 0),
            instruction(ADD, 4, 0, 0, READ),
            instruction(JUMP_GREATER, 4, 3, 8, 0),
            instruction(LOAD_HALF, 4, 2, 12, 0),
            instruction(JUMP_UNEQUAL, 4, 0, 6, IPV4),
            instruction(LOAD_BYTE, 4, 2, 23, 0),
            instruction(JUMP_UNEQUAL, 4, 0, 4, UDP),
            instruction(MOV, 1, 0, 0, i32::try_from(ifindex)?),
            instruction(MOV, 2, 0, 0, 0),
            instruction(CALL, 0, 0, 0, REDIRECT),
            EXIT,
            instruction(MOV, 0, 0, 0, XDP_PASS),
            EXIT,
        ],
        path,
    )
}

fn pin_program(kind: u32, instructions: &[u64], path: &Path) -> Result<()> {
    let program = load(kind, instructions).context("cannot load a BPF program")?;
    pin(&program, path).with_context(|| format!("cannot pin a program at {}", path.display()))
}

fn load(kind: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut attributes = ProgLoad {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
    };
    // SAFETY: the pointers inside are of as many instructions as it says, which outlive the call, and of a
    // string that ends in zero.
    let descriptor = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn pin(program: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjPin {
        pathname: path.as_ptr() as u64,
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: the path ends in zero and outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// The same for `BPF_MAP_FREEZE`.
#[repr(C)]
struct MapFreeze {
    map_fd: u32,
}

/// Has a map refuse all writes but those of programs, for good.
pub fn freeze(map: impl AsFd) -> Result<()> {
    let mut attributes = MapFreeze {
        map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
    };
    // SAFETY: there are no pointers in it.
    unsafe { bpf(BPF_MAP_FREEZE, &mut attributes) }.context("cannot freeze a map")?;
    Ok(())
}

/// The same for `BPF_MAP_GET_NEXT_ID`.
#[repr(C)]
struct NextId {
    start: u32,
    next: u32,
    open_flags: u32,
}

/// The ids of all maps there are, none of which is opened. A program array whose last pin has gone is emptied by
/// a work queue of the kernel, which holds it meanwhile. Each time somebody opens and closes it, that is asked for
/// again, with another hold; asked for twice before its turn comes, it is done, and lets go, but once: the array
/// stays for good (`prog_array_map_clear`).
pub fn map_ids() -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut attributes = NextId {
        start: 0,
        next: 0,
        open_flags: 0,
    };
    loop {
        // SAFETY: there are no pointers in it.
        match unsafe { bpf(BPF_MAP_GET_NEXT_ID, &mut attributes) } {
            Ok(_) => ids.push(attributes.next),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
            Err(error) => return Err(error).context("cannot list the maps"),
        }
        attributes.start = attributes.next;
    }
}

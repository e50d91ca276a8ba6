//! What takes bare system calls: a program for the far end of a link, a map that takes no more, and frames
//! that no socket sends by itself.
//!
//! The program is XDP that passes everything. A veth takes frames that XDP transmits (`XDP_TX`) only if its peer has an XDP program too: with
//! GRO alone they are queued, and nobody is told (`veth_xdp_flush` in the kernel's
//! `drivers/net/veth.c`). The program is two instructions, loaded without an object file so that a
//! topology needs nothing built.

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
use rustix::net::{AddressFamily, SocketType, eth, netdevice::name_to_index, socket};

/// `r0 = XDP_PASS; exit`, as `struct bpf_insn` lays them out on a little-endian machine.
static PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
static LICENSE: &CStr = c"GPL";

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
const BPF_MAP_FREEZE: libc::c_long = 22;
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
    let index = {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        name_to_index(&any, interface).with_context(|| format!("there is no {interface}"))?
    };
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

/// Loads the program and pins it at `path`, which is in a bpffs.
pub fn pin_pass(path: &Path) -> Result<()> {
    let program = load_pass().context("cannot load a BPF program")?;
    pin(&program, path).with_context(|| format!("cannot pin a program at {}", path.display()))
}

fn load_pass() -> io::Result<OwnedFd> {
    let mut attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: PASS.len() as u32,
        insns: PASS.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
    };
    // SAFETY: the pointers inside are of statics: two instructions, as many as it says, and a
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

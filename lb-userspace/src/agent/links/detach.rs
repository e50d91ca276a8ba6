//! Detaching a pinned link at once (`BPF_OBJ_GET`, `BPF_LINK_DETACH`, Linux 5.9).
//!
//! Removing the pin is not enough: the kernel lets go of what it pinned after a grace period and in a work
//! queue (`bpf_free_inode`, `bpf_link_put`), and until then the program goes on leading.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands of `bpf()`, and what they take of `union bpf_attr`.
const OBJ_GET: libc::c_int = 7;
const LINK_DETACH: libc::c_int = 34;
#[repr(C)]
struct Get {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}
#[repr(C)]
struct Detach {
    link_fd: u32,
}

/// Takes the program of a pinned link off what it is on.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let mut attr = Detach {
        link_fd: link.as_raw_fd().cast_unsigned(),
    };
    bpf(LINK_DETACH, &mut attr).map(drop)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = Get {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = bpf(OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just opened it for this process, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is as large as said, and what it points to outlives the call; these two commands write to
    // neither.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    match libc::c_int::try_from(done) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

//! The system call `bpf()`, for the commands that aya has no function for.

pub(crate) mod trial;

use std::{
    ffi::{CString, c_long},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands, and what they take of `union bpf_attr`.
const OBJ_GET: c_long = 7;
const LINK_DETACH: c_long = 34;
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

/// Does a command, whose attributes the kernel reads and may write to; see bpf(2).
///
/// # Safety
///
/// `attributes` is laid out as the command wants it, may hold any bytes where the kernel writes, and its pointers
/// are good for the call.
pub unsafe fn bpf<T>(command: c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes as many bytes as it is told there are; for what is behind pointers
    // the caller answers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(done).map_err(io::Error::other)
}

/// Takes the program of a pinned link off what it is on, at once (Linux 5.9).
///
/// Removing the pin is not enough: the kernel lets go of what it pinned after a grace period and in a work
/// queue (`bpf_free_inode`, `bpf_link_put`), and until then the program goes on leading.
pub fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let mut attributes = Detach {
        link_fd: link.as_raw_fd().cast_unsigned(),
    };
    // SAFETY: there are no pointers in it.
    unsafe { bpf(LINK_DETACH, &mut attributes) }.map(drop)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = Get {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the path outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &mut attributes) }?;
    // SAFETY: the kernel has just opened it for this process, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

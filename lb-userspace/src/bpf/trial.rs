//! Small programs and maps that find out what the kernel can do.
//!
//! The programs are a dozen instructions each and are assembled here: they belong to no object, so a trial
//! needs no ELF file, no BTF and no map of ours, and is over in microseconds.

use std::{
    ffi::{CStr, c_long},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::process::{Resource, Rlimit, setrlimit};
use tracing::debug;

use super::bpf;

/// Commands, and what they take of `union bpf_attr`.
const MAP_CREATE: c_long = 0;
const MAP_LOOKUP_ELEM: c_long = 1;
const PROG_LOAD: c_long = 5;
const PROG_TEST_RUN: c_long = 10;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const LINK_CREATE: c_long = 28;
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}
#[repr(C)]
struct Lookup {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}
#[repr(C)]
struct Describe {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}
#[repr(C)]
struct Link {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Licence of the programs: `bpf_fib_lookup` is for GPL-compatible ones only.
const LICENSE: &CStr = c"Dual MIT/GPL";

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reg {
    /// Result of a call, and of the program.
    R0 = 0,
    /// First argument; the context when the program begins.
    R1 = 1,
    /// Second argument.
    R2 = 2,
    /// Third argument.
    R3 = 3,
    /// Fourth argument.
    R4 = 4,
    /// Kept by calls.
    R6 = 6,
    /// Kept by calls.
    R7 = 7,
    /// End of the stack.
    R10 = 10,
}

impl Instruction {
    const fn new(code: u8, dst: Reg, src: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: dst as u8 | src << 4,
            offset,
            immediate,
        }
    }

    /// `dst = value`
    pub(crate) const fn set(dst: Reg, value: i32) -> Self {
        Self::new(0xb7, dst, 0, 0, value)
    }

    /// `dst = src`
    pub(crate) const fn copy(dst: Reg, src: Reg) -> Self {
        Self::new(0xbf, dst, src as u8, 0, 0)
    }

    /// `dst += value`
    pub(crate) const fn add(dst: Reg, value: i32) -> Self {
        Self::new(0x07, dst, 0, 0, value)
    }

    /// `dst = *(u32 *)(src + offset)`
    pub(crate) const fn load32(dst: Reg, src: Reg, offset: i16) -> Self {
        Self::new(0x61, dst, src as u8, offset, 0)
    }

    /// `*(u64 *)(stack's end + offset) = src`
    pub(crate) const fn push64(offset: i16, src: Reg) -> Self {
        Self::new(0x7b, Reg::R10, src as u8, offset, 0)
    }

    /// `*(u64 *)(stack's end + offset) = value`
    pub(crate) const fn store64(offset: i16, value: i32) -> Self {
        Self::new(0x7a, Reg::R10, 0, offset, value)
    }

    /// `*(u8 *)(stack's end + offset) = value`
    pub(crate) const fn store8(offset: i16, value: i32) -> Self {
        Self::new(0x72, Reg::R10, 0, offset, value)
    }

    /// Skips instructions if the low half of a register is not `value`.
    pub(crate) const fn unless_equal32(dst: Reg, value: i32, skip: i16) -> Self {
        Self::new(0x56, dst, 0, skip, value)
    }

    /// `dst = map`; two instructions.
    pub(crate) fn map(dst: Reg, map: BorrowedFd<'_>) -> [Self; 2] {
        const PSEUDO_MAP_FD: u8 = 1;
        [
            Self::new(0x18, dst, PSEUDO_MAP_FD, 0, map.as_raw_fd()),
            Self::new(0, Reg::R0, 0, 0, 0),
        ]
    }

    /// Calls a helper by its number (`enum bpf_func_id`).
    pub(crate) const fn call(helper: i32) -> Self {
        Self::new(0x85, Reg::R0, 0, 0, helper)
    }

    /// Ends the program.
    pub(crate) const fn exit() -> Self {
        Self::new(0x95, Reg::R0, 0, 0, 0)
    }
}

/// Type of a program (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `BPF_PROG_TYPE_SCHED_CLS`
    Tc,
    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, for `BPF_CGROUP_INET4_CONNECT`
    Connect4,
}

/// Where a link puts a program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// `BPF_TCX_EGRESS` of the interface with this index.
    TcxEgress(u32),
    /// `BPF_CGROUP_INET4_CONNECT` of a cgroup.
    Connect4(BorrowedFd<'a>),
}

/// `enum bpf_attach_type`
const CONNECT4: u32 = 10;
const TCX_EGRESS: u32 = 47;

/// Lets this process have as many programs and maps as it needs: before Linux 5.11 they count as locked memory, of
/// which all of a user's processes have a limit in common. Who may not lift it has to do with what there is.
pub(crate) fn lift_limit() {
    let none = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, none) {
        debug!("the limit of locked memory stays: {error}");
    }
}

/// Loads a program.
pub(crate) fn load(kind: Kind, program: &[Instruction]) -> io::Result<OwnedFd> {
    let (prog_type, expected_attach_type) = match kind {
        Kind::Tc => (3, 0),
        Kind::Connect4 => (18, CONNECT4),
    };
    let mut attributes = Load {
        prog_type,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().expose_provenance() as u64,
        license: LICENSE.as_ptr().expose_provenance() as u64,
        expected_attach_type,
        ..Load::default()
    };
    // SAFETY: instructions and licence outlive the call, and there are as many of the former as it is told.
    let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    Ok(own(fd))
}

/// Runs a program of tc on a frame of zeros, and returns its result.
pub(crate) fn run(program: BorrowedFd<'_>) -> io::Result<i32> {
    let frame = [0_u8; 64];
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr().expose_provenance() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: the frame outlives the call and is as long as it is told; nothing is asked to be written.
    unsafe { bpf(PROG_TEST_RUN, &mut attributes) }?;
    Ok(attributes.retval.cast_signed())
}

/// Bytes of machine code a program was compiled to; zero where the kernel interprets it.
pub(crate) fn compiled_length(program: BorrowedFd<'_>) -> io::Result<u32> {
    const JITED_PROG_LEN: usize = 4;
    let mut info = [0_u32; 64];
    let mut attributes = Describe {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: the room for the answer outlives the call and is as long as it is told; all pointers in it are null.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info[JITED_PROG_LEN])
}

/// Puts a program on something for as long as the link is held.
pub(crate) fn link(program: BorrowedFd<'_>, target: Target<'_>) -> io::Result<OwnedFd> {
    let (target, attach_type) = match target {
        Target::TcxEgress(interface) => (interface, TCX_EGRESS),
        Target::Connect4(cgroup) => (cgroup.as_raw_fd().cast_unsigned(), CONNECT4),
    };
    let mut attributes = Link {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target,
        attach_type,
        flags: 0,
    };
    // SAFETY: there are no pointers in it.
    let fd = unsafe { bpf(LINK_CREATE, &mut attributes) }?;
    Ok(own(fd))
}

/// An empty trie: keys are a prefix length and four bytes, values four bytes.
pub(crate) fn trie(max_entries: u32) -> io::Result<OwnedFd> {
    const LPM_TRIE: u32 = 11;
    const NO_PREALLOC: u32 = 1;
    create(Create {
        map_type: LPM_TRIE,
        key_size: 8,
        value_size: 4,
        max_entries,
        map_flags: NO_PREALLOC,
    })
}

/// An array of one word of 64 bits.
pub(crate) fn word() -> io::Result<OwnedFd> {
    const ARRAY: u32 = 2;
    create(Create {
        map_type: ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        map_flags: 0,
    })
}

/// What is in an array that [`word`] made.
pub(crate) fn read_word(map: BorrowedFd<'_>) -> io::Result<u64> {
    let (key, mut value) = (0_u32, 0_u64);
    let mut attributes = Lookup {
        map_fd: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw mut value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: key and value outlive the call and have the sizes of the map's.
    unsafe { bpf(MAP_LOOKUP_ELEM, &mut attributes) }?;
    Ok(value)
}

fn create(mut attributes: Create) -> io::Result<OwnedFd> {
    // SAFETY: there are no pointers in it.
    let fd = unsafe { bpf(MAP_CREATE, &mut attributes) }?;
    Ok(own(fd))
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the callers got it from a command that opens a descriptor for this process alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

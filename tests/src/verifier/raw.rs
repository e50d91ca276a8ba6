//! The calls of `bpf()` that load a program and keep the verifier's log.

use std::{
    ffi::CStr,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::{
    Function,
    generated::{bpf_attr, bpf_cmd, bpf_prog_info},
};
use lb_userspace::bpf::bpf;

use super::chains::{Code, Instruction};

/// How much the verifier writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The counts, and the reason of a refusal.
    Statistics,
    /// Every instruction each time the verifier comes by, with what it knows of the registers (level 2).
    Walk,
}

/// Level `STATS`: the reason of a refusal, and the counts, but no walk through the program. With the
/// walk a refusal takes minutes where this one takes seconds.
const LOG_STATS: u32 = 4;

/// Room for a log without the walk.
const LOG_SIZE: usize = 1 << 20;

/// Level of the walk, and room for it: a kilobyte for each instruction that the verifier walks through.
const LOG_WALK: u32 = 2;
const WALK_SIZE: usize = 1 << 29;

/// What says how a program is loaded.
pub(super) struct Load<'a> {
    /// `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// `enum bpf_attach_type`, 0 where the kind has none.
    pub(super) attach: u32,
    pub(super) license: &'a CStr,
    /// Instructions, with maps and calls in place.
    pub(super) function: &'a Function,
    pub(super) btf: BorrowedFd<'a>,
}

/// Loads a program; with the outcome comes what the verifier wrote.
pub(super) fn load(load: &Load<'_>, wanted: Wanted) -> (io::Result<OwnedFd>, String) {
    let (level, room) = match wanted {
        Wanted::Statistics => (LOG_STATS, LOG_SIZE),
        Wanted::Walk => (LOG_WALK, WALK_SIZE),
    };
    let Load {
        kind,
        attach,
        license,
        function,
        btf,
    } = load;
    let (functions, lines) = (
        function.func_info.func_info_bytes(),
        function.line_info.line_info_bytes(),
    );
    let mut log = vec![0_u8; room];
    // SAFETY: it is a union of structures of integers, for which zero is a value.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: the command reads this member; every byte of it has been set.
    let program = unsafe { &mut attributes.__bindgen_anon_3 };
    program.prog_type = *kind;
    program.expected_attach_type = *attach;
    program.insns = function.instructions.as_ptr().expose_provenance() as u64;
    program.insn_cnt = function.instructions.len() as u32;
    program.license = license.as_ptr().expose_provenance() as u64;
    program.log_level = level;
    program.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    program.log_size = log.len() as u32;
    program.prog_btf_fd = btf.as_raw_fd().cast_unsigned();
    program.func_info = functions.as_ptr().expose_provenance() as u64;
    program.func_info_cnt = function.func_info.len() as u32;
    program.func_info_rec_size = function.func_info_rec_size as u32;
    program.line_info = lines.as_ptr().expose_provenance() as u64;
    program.line_info_cnt = function.line_info.len() as u32;
    program.line_info_rec_size = function.line_info_rec_size as u32;
    // SAFETY: all buffers are as long as said, and outlive the call.
    let done = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD as _, &mut attributes) };
    let end = log.iter().position(|byte| *byte == 0);
    log.truncate(end.unwrap_or(room));
    // What the kernel writes is ASCII.
    let log = String::from_utf8(log).unwrap_or_default();
    (done.map(own), log)
}

/// Brings type information into the kernel.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: it is a union of structures of integers, for which zero is a value.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: the command reads this member; every byte of it has been set.
    let types = unsafe { &mut attributes.__bindgen_anon_7 };
    types.btf = btf.as_ptr().expose_provenance() as u64;
    types.btf_size = btf.len() as u32;
    // SAFETY: the buffer is as long as said, and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_BTF_LOAD as _, &mut attributes) }.map(own)
}

/// A loaded program, as it is after what the verifier has changed.
pub(super) fn code(program: &OwnedFd) -> io::Result<Code> {
    // The first time the kernel says how much there is.
    let (mut words, mut functions) = (Vec::new(), Vec::new());
    let (length, count) = read(program, &mut words, &mut functions)?;
    words.resize(length, 0);
    functions.resize(count, [0; 2]);
    read(program, &mut words, &mut functions)?;
    Ok(Code {
        instructions: words.into_iter().map(Instruction::from_word).collect(),
        starts: functions.iter().map(|[start, _]| *start as usize).collect(),
    })
}

/// Instructions, and of each function the index of its first one and the id of its type: as many as there is room
/// for are written. How many there are.
fn read(
    program: &OwnedFd,
    words: &mut [u64],
    functions: &mut [[u32; 2]],
) -> io::Result<(usize, usize)> {
    // SAFETY: it is a structure of integers and arrays of them.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    if !words.is_empty() {
        info.xlated_prog_insns = words.as_mut_ptr().expose_provenance() as u64;
        info.xlated_prog_len = size_of_val(words) as u32;
    }
    if !functions.is_empty() {
        info.func_info = functions.as_mut_ptr().expose_provenance() as u64;
        info.nr_func_info = functions.len() as u32;
        info.func_info_rec_size = size_of::<[u32; 2]>() as u32;
    }
    // SAFETY: it is a union of structures of integers, for which zero is a value.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    attributes.info.bpf_fd = program.as_fd().as_raw_fd().cast_unsigned();
    attributes.info.info_len = size_of::<bpf_prog_info>() as u32;
    attributes.info.info = (&raw mut info).expose_provenance() as u64;
    // SAFETY: all buffers are as long as said, and outlive the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as _, &mut attributes) }?;
    let length = info.xlated_prog_len as usize / size_of::<u64>();
    Ok((length, info.nr_func_info as usize))
}

fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just opened it for this process, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

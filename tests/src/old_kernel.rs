//! A program run as on an older kernel: system calls that such a kernel does not know fail as they do there.
//!
//! What a kernel can do is found out by trying, so it does not help to tell a program of another version. A
//! seccomp filter answers in the kernel's stead. It sees numbers and no memory: of `bpf()` the command, not what
//! it is about.

use std::{env, io, mem::offset_of, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context, Result};
use libc::{sock_filter, sock_fprog};

/// The first argument that has a test program run another one this way.
const MARK: &str = "as-on-an-older-kernel";

/// The kernel's own number for what it does not support.
const ENOTSUPP: i32 = 524;

/// What the kernel is not to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// BPF programs.
    Programs,
    /// BPF links of any kind.
    Links,
    /// Batches of any map.
    Batches,
    /// `SO_NETNS_COOKIE`
    NetnsCookie,
}

impl Lack {
    const ALL: [Self; 4] = [
        Self::Programs,
        Self::Links,
        Self::Batches,
        Self::NetnsCookie,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Links => "links",
            Self::Batches => "batches",
            Self::NetnsCookie => "netns-cookie",
        }
    }

    /// The system call that fails, where a number is among its arguments, that number, and how it fails.
    const fn rule(self) -> (libc::c_long, usize, u32, i32) {
        match self {
            Self::Programs => (libc::SYS_bpf, 0, 5, libc::EINVAL),
            Self::Links => (libc::SYS_bpf, 0, 28, libc::EINVAL),
            Self::Batches => (libc::SYS_bpf, 0, 24, ENOTSUPP),
            Self::NetnsCookie => (
                libc::SYS_getsockopt,
                2,
                libc::SO_NETNS_COOKIE.cast_unsigned(),
                libc::ENOPROTOOPT,
            ),
        }
    }
}

/// The words before a command that run it without these; [`run_if_asked`] has to be the first thing the running
/// program does.
pub fn without(lacks: &[Lack]) -> Result<Vec<String>> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    let lacks: Vec<_> = lacks.iter().map(|lack| lack.word()).collect();
    Ok(vec![
        own.display().to_string(),
        MARK.to_owned(),
        lacks.join(","),
    ])
}

/// Becomes the program that the arguments name, if they are those of [`without`].
pub fn run_if_asked() -> Result<()> {
    let mut args = env::args_os().skip(1);
    if args.next().is_none_or(|first| first != MARK) {
        return Ok(());
    }
    let words = args.next().context("nothing is to be lacked")?;
    let words = words.to_string_lossy().into_owned();
    let lacked = |lack: &Lack| words.split(',').any(|word| word == lack.word());
    let lacks: Vec<_> = Lack::ALL.into_iter().filter(lacked).collect();
    let program = args.next().context("no program is to be run")?;
    install(&lacks).context("cannot install a seccomp filter")?;
    Err(Command::new(program).args(args).exec()).context("cannot run the program")
}

/// Has this process and those that come of it get these answers.
fn install(lacks: &[Lack]) -> io::Result<()> {
    let mut filter = Vec::new();
    for lack in lacks {
        let (call, argument, number, error) = lack.rule();
        let argument = offset_of!(libc::seccomp_data, args) + 8 * argument;
        filter.extend([
            load(offset_of!(libc::seccomp_data, nr)),
            unless_equal(u32::try_from(call).map_err(io::Error::other)?, 3),
            // The low half, of a little-endian machine.
            load(argument),
            unless_equal(number, 1),
            answer(libc::SECCOMP_RET_ERRNO | error.unsigned_abs()),
        ]);
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the filter outlives the call and is as long as it is told.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const fn load(offset: usize) -> sock_filter {
    sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset as u32,
    }
}

const fn unless_equal(number: u32, skip: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k: number,
    }
}

const fn answer(value: u32) -> sock_filter {
    sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: value,
    }
}

//! The trials. None of them changes anything: programs and maps go with their descriptors, and the program
//! that is to be attached is asked to be where there is no interface.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};

use super::{Feature, State};
use crate::{
    agent::netns,
    bpf::trial::{
        self, Instruction as I, Kind,
        Reg::{R0, R2, R3, R4, R10},
        Target,
    },
    maps::batch,
};

/// `linux/bpf.h` and `linux/pkt_cls.h`
const TC_ACT_UNSPEC: i32 = -1;
const FIB_LOOKUP: i32 = 69;
const FIB_PARAMS_SIZE: i16 = 64;
const BPF_FIB_LOOKUP_SRC: i32 = 1 << 4;

/// Tries a feature.
pub(super) fn of(feature: Feature) -> State {
    let told = match feature {
        Feature::Jit => jit(),
        Feature::RedirectNeigh => helper(
            ProgramType::SchedClassifier,
            BpfHelper::BPF_FUNC_redirect_neigh,
        ),
        Feature::Tcx => tcx(),
        Feature::FibSource => fib_source(),
        Feature::Retval => helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
        Feature::NetnsCookie => netns_cookie(),
        Feature::TrieBatch => trie_batch(),
    };
    match told {
        Ok(true) => State::Has,
        Ok(false) => State::Lacks,
        Err(error) => State::Unknown(error.to_string()),
    }
}

/// A program of tc that leaves the packet to others.
fn idle() -> io::Result<OwnedFd> {
    trial::load(Kind::Tc, &[I::set(R0, TC_ACT_UNSPEC), I::exit()])
}

/// Asked of a program rather than of `net.core.bpf_jit_enable`, which only the first network namespace shows.
fn jit() -> io::Result<bool> {
    let program = idle()?;
    Ok(trial::compiled_length(program.as_fd())? > 0)
}

fn helper(kind: ProgramType, helper: BpfHelper) -> io::Result<bool> {
    is_helper_supported(kind, helper).map_err(|error| match error {
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    })
}

/// Only a kernel that knows the hook looks for the interface, and there is none of number 0.
fn tcx() -> io::Result<bool> {
    let program = idle()?;
    match trial::link(program.as_fd(), Target::TcxEgress(0)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(true),
        // Without BPF links, the command itself is unknown, which is EINVAL too.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("a link on no interface was made")),
    }
}

/// Flags are looked at first, then the interface, of which there is none of number 0.
fn fib_source() -> io::Result<bool> {
    let answer = |flags| {
        let program = trial::load(Kind::Tc, &fib_lookup(flags))?;
        trial::run(program.as_fd())
    };
    match (answer(0)?, answer(BPF_FIB_LOOKUP_SRC)?) {
        (without, _) if without == -libc::EINVAL => {
            let reason = "bpf_fib_lookup refuses the question without the flag too";
            Err(io::Error::other(reason))
        }
        (_, with) if with == -libc::EINVAL => Ok(false),
        _ => Ok(true),
    }
}

/// Looks up the way from no interface to no IPv4 address, and returns what the helper does.
fn fib_lookup(flags: i32) -> Vec<I> {
    let params = -FIB_PARAMS_SIZE;
    let zeros = (0..FIB_PARAMS_SIZE).step_by(8);
    let clear = zeros.map(|at| I::store64(params + at, 0));
    let call = [
        I::store8(params, libc::AF_INET),
        I::copy(R2, R10),
        I::add(R2, params.into()),
        I::set(R3, FIB_PARAMS_SIZE.into()),
        I::set(R4, flags),
        I::call(FIB_LOOKUP),
        I::exit(),
    ];
    clear.chain(call).collect()
}

fn netns_cookie() -> io::Result<bool> {
    match netns::cookie_by_option() {
        Ok(_) => Ok(true),
        Err(error) if netns::lacks_option(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn trie_batch() -> io::Result<bool> {
    let trie = trial::trie(1)?;
    batch::is_supported(trie.as_fd())
}

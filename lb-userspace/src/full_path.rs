//! Which program takes what the fast path leaves: program arrays of the BPF object.

use aya::{
    Ebpf,
    maps::{MapError, ProgramArray},
    programs::{Program, ProgramError},
};
use lb_common::maps::{self, programs};

/// The programs cannot be put into their arrays.
#[derive(Debug, thiserror::Error)]
pub enum FullPathError {
    /// The object has no such program or map.
    #[error("the BPF object has no fit {0}")]
    Missing(&'static str),
    /// The program is not loaded.
    #[error("program {program} cannot be used: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What is wrong with it.
        source: ProgramError,
    },
    /// The kernel does not take it.
    #[error("cannot put program {program} into map {map}: {source}")]
    Map {
        /// The program.
        program: &'static str,
        /// The array.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
}

/// Leads the programs of the fast path to those of the full one, which have to be loaded. An array
/// that was pinned by an earlier agent leads to ours from then on, for its programs too.
///
/// The kernel empties an array when nobody holds it open and it is not pinned.
pub fn connect(object: &mut Ebpf) -> Result<(), FullPathError> {
    put(object, maps::XDP_FULL, 0, programs::XDP_FULL)?;
    let places = (0..).zip(programs::TC_FULL);
    for (place, program) in places {
        put(object, maps::TC_FULL, place, program)?;
    }
    Ok(())
}

fn put(
    object: &mut Ebpf,
    map: &'static str,
    place: u32,
    program: &'static str,
) -> Result<(), FullPathError> {
    let fd = match object.program(program) {
        Some(Program::Xdp(it)) => it.fd().and_then(|fd| Ok(fd.try_clone()?)),
        Some(Program::SchedClassifier(it)) => it.fd().and_then(|fd| Ok(fd.try_clone()?)),
        _ => return Err(FullPathError::Missing(program)),
    };
    let fd = fd.map_err(|source| FullPathError::Program { program, source })?;
    let array = object.map_mut(map).ok_or(FullPathError::Missing(map))?;
    let failed = |source| FullPathError::Map {
        program,
        map,
        source,
    };
    let mut array = ProgramArray::try_from(array).map_err(failed)?;
    array.set(place, &fd, 0).map_err(failed)
}

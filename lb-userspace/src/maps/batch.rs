//! All entries of a map by a system call for thousands of them (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6),
//! where a walk from key to key takes two for each.

use std::{
    ffi::c_long,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};
use rustix::io::Errno;

use crate::bpf::bpf;

/// The command of `bpf()`, and what it takes of `union bpf_attr`.
const LOOKUP_BATCH: c_long = 24;
#[repr(C)]
#[expect(clippy::struct_field_names, reason = "they are the kernel's")]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Entries to ask for. All those of one bucket of a hash have to fit.
const ENTRIES: usize = 1 << 12;
/// Least room for where a batch ended: a bucket's number, or a key.
const PLACE: usize = 8;

/// The entries of a hash or a trie, in no order. If somebody writes meanwhile, some may be missing,
/// or there twice.
pub(super) fn entries<K: Pod, V: Pod>(map: &MapData) -> io::Result<Vec<(K, V)>> {
    let mut walk = Walk::new();
    let mut all = Vec::new();
    loop {
        let (entries, is_last) = walk.next(map)?;
        all.extend(entries);
        if is_last {
            return Ok(all);
        }
    }
}

/// A walk over all entries of a map, some thousands at a time.
#[derive(Debug)]
pub(super) struct Walk {
    room: usize,
    place: Option<Vec<u8>>,
}

impl Walk {
    /// One that has yet to begin.
    pub(super) const fn new() -> Self {
        Self {
            room: ENTRIES,
            place: None,
        }
    }

    /// The entries that follow, and whether they are the last ones: then the next walk begins.
    pub(super) fn next<K: Pod, V: Pod>(
        &mut self,
        map: &MapData,
    ) -> io::Result<(Vec<(K, V)>, bool)> {
        loop {
            let mut next = vec![0; size_of::<K>().max(PLACE)];
            match some(map, self.room, self.place.as_deref(), &mut next) {
                (entries, Ok(())) => {
                    self.place = Some(next);
                    return Ok((entries, false));
                }
                (entries, Err(Errno::NOENT)) => {
                    self.place = None;
                    return Ok((entries, true));
                }
                (_, Err(Errno::NOSPC)) => self.room *= 2,
                (_, Err(Errno::INTR)) => {}
                (_, Err(error)) => return Err(error.into()),
            }
        }
    }
}

/// The entries that follow on `place`, up to `room`, and where that ended. `NOENT` says that these
/// are the last ones; with any other error there are none.
fn some<K: Pod, V: Pod>(
    map: &MapData,
    room: usize,
    place: Option<&[u8]>,
    next: &mut [u8],
) -> (Vec<(K, V)>, Result<(), Errno>) {
    let mut keys = vec![MaybeUninit::<K>::uninit(); room];
    let mut values = vec![MaybeUninit::<V>::uninit(); room];
    let mut batch = Batch {
        in_batch: place.map_or(0, |place| place.as_ptr().expose_provenance() as u64),
        out_batch: next.as_mut_ptr().expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count: room as u32,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `batch` names buffers that outlive the call, with room for as
    // many keys and values of the map's sizes as it says (aya has compared the map's with those of
    // `K` and `V`), and for a place that is as long as a key or a bucket's number.
    let done = unsafe { bpf(LOOKUP_BATCH, &mut batch) };
    let done = done.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let count = match done {
        Ok(_) | Err(Errno::NOENT) => batch.count as usize,
        Err(_) => 0,
    };
    let entries = keys.iter().zip(&values).take(count);
    // SAFETY: the kernel has filled in that many of each; `Pod` types are nothing but bytes.
    let entries = entries.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) });
    (entries.collect(), done.map(drop))
}

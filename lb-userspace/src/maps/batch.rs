//! All entries of a map by a system call for thousands of them (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6),
//! where a walk from key to key takes two for each.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};
use rustix::io::Errno;

/// The command of `bpf()`, and what it takes of `union bpf_attr`.
const LOOKUP_BATCH: libc::c_int = 24;
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
    let mut all = Vec::new();
    let mut room = ENTRIES;
    let mut place: Option<Vec<u8>> = None;
    loop {
        let mut next = vec![0; size_of::<K>().max(PLACE)];
        match some(map, room, place.as_deref(), &mut next) {
            (entries, Ok(())) => {
                all.extend(entries);
                place = Some(next);
            }
            (entries, Err(Errno::NOENT)) => {
                all.extend(entries);
                return Ok(all);
            }
            (_, Err(Errno::NOSPC)) => room *= 2,
            (_, Err(Errno::INTR)) => {}
            (_, Err(error)) => return Err(error.into()),
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
    // SAFETY: `batch` is as large as said and names buffers that outlive the call, with room for as
    // many keys and values of the map's sizes as it says (aya has compared the map's with those of
    // `K` and `V`), and for a place that is as long as a key or a bucket's number.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LOOKUP_BATCH,
            &raw mut batch,
            size_of::<Batch>(),
        )
    };
    let done = if done < 0 {
        let error = io::Error::last_os_error();
        Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    } else {
        Ok(())
    };
    let count = match done {
        Ok(()) | Err(Errno::NOENT) => batch.count as usize,
        Err(_) => 0,
    };
    let entries = keys.iter().zip(&values).take(count);
    // SAFETY: the kernel has filled in that many of each; `Pod` types are nothing but bytes.
    let entries = entries.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) });
    (entries.collect(), done)
}

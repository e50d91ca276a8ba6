//! All entries of a map by a system call for thousands of them (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6),
//! where a walk from key to key takes two for each.
//!
//! A kernel that has no batches of a kind of map (LPM tries before Linux 5.13) is walked from key to key.

use std::{
    ffi::c_long,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{Pod, maps::MapData};
use rustix::io::Errno;

use crate::bpf::bpf;

/// Commands of `bpf()`, and what they take of `union bpf_attr`.
const LOOKUP_ELEM: c_long = 1;
const GET_NEXT_KEY: c_long = 4;
const LOOKUP_BATCH: c_long = 24;
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}
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
/// What the kernel says of a kind of map that has no batches. Its own number, which the C library has no
/// name for.
const ENOTSUPP: i32 = 524;
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
    /// Where a batch ended, or the last key.
    place: Option<Vec<u8>>,
    way: Way,
}

/// How entries are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By batches.
    Batches,
    /// From key to key; so many have been passed on this walk.
    Keys(usize),
}

impl Walk {
    /// One that has yet to begin.
    pub(super) const fn new() -> Self {
        Self {
            room: ENTRIES,
            place: None,
            way: Way::Batches,
        }
    }

    /// The entries that follow, and whether they are the last ones: then the next walk begins.
    pub(super) fn next<K: Pod, V: Pod>(
        &mut self,
        map: &MapData,
    ) -> io::Result<(Vec<(K, V)>, bool)> {
        loop {
            if let Way::Keys(passed) = self.way {
                return self.next_by_keys(map, passed);
            }
            let mut next = vec![0; size_of::<K>().max(PLACE)];
            match some(
                map.fd().as_fd(),
                self.room,
                self.place.as_deref(),
                &mut next,
            ) {
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
                (_, Err(error)) if self.place.is_none() && is_unsupported(error) => {
                    self.way = Way::Keys(0);
                }
                (_, Err(error)) => return Err(error.into()),
            }
        }
    }
}

impl Walk {
    fn next_by_keys<K: Pod, V: Pod>(
        &mut self,
        map: &MapData,
        mut passed: usize,
    ) -> io::Result<(Vec<(K, V)>, bool)> {
        let fd = map.fd().as_fd();
        // Where a key that was removed meanwhile leads back to the first one, the walk would have no end.
        let most = map
            .info()
            .map_or(usize::MAX, |info| info.max_entries() as usize);
        let mut entries = Vec::new();
        while passed < most {
            let Some(key) = key_after::<K>(fd, self.place.as_deref())? else {
                break;
            };
            entries.extend(value_of(fd, &key)?.map(|value| (key, value)));
            passed += 1;
            self.place = Some(bytes_of(&key));
            if passed.is_multiple_of(ENTRIES) {
                self.way = Way::Keys(passed);
                return Ok((entries, false));
            }
        }
        self.place = None;
        self.way = Way::Keys(0);
        Ok((entries, true))
    }
}

/// Whether a kind of map has batches, asked of an empty map.
pub(crate) fn is_supported(map: BorrowedFd<'_>) -> io::Result<bool> {
    let (_, done) = some::<[u8; PLACE], [u8; PLACE]>(map, 1, None, &mut [0; PLACE]);
    match done {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(error) if is_unsupported(error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_unsupported(error: Errno) -> bool {
    error == Errno::INVAL || error.raw_os_error() == ENOTSUPP
}

/// The key that follows on another, or the first one; none after the last.
fn key_after<K: Pod>(map: BorrowedFd<'_>, key: Option<&[u8]>) -> io::Result<Option<K>> {
    let key = key.map_or(0, |key| key.as_ptr().expose_provenance() as u64);
    read(GET_NEXT_KEY, map, key)
}

/// The value of a key; none if it was removed meanwhile.
fn value_of<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    read(
        LOOKUP_ELEM,
        map,
        std::ptr::from_ref(key).expose_provenance() as u64,
    )
}

fn read<T: Pod>(command: c_long, map: BorrowedFd<'_>, key: u64) -> io::Result<Option<T>> {
    let mut room = MaybeUninit::<T>::uninit();
    let mut attributes = Element {
        map_fd: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key,
        value: room.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: `key` is null or that of a key, and `room` is for a key or a value, as long as the map's are (aya
    // has compared them with those of `K` and `V`); both outlive the call.
    match unsafe { bpf(command, &mut attributes) } {
        // SAFETY: the kernel has filled it in; `Pod` types are nothing but bytes.
        Ok(_) => Ok(Some(unsafe { room.assume_init() })),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn bytes_of<K: Pod>(key: &K) -> Vec<u8> {
    let start = std::ptr::from_ref(key).cast::<u8>();
    // SAFETY: a `Pod` type is nothing but bytes, and there are as many as it is long.
    unsafe { std::slice::from_raw_parts(start, size_of::<K>()) }.to_vec()
}

/// The entries that follow on `place`, up to `room`, and where that ended. `NOENT` says that these
/// are the last ones; with any other error there are none.
fn some<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
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
        map_fd: map.as_raw_fd().cast_unsigned(),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aya::maps::{IterableMap as _, LpmTrie, Map, MapData, lpm_trie::Key};

    use super::*;
    use crate::bpf::trial;

    /// More than a batch takes.
    const COUNT: u32 = 2 * ENTRIES as u32 + 17;

    fn trie() -> LpmTrie<MapData, [u8; 4], u32> {
        trial::lift_limit();
        let data = MapData::from_fd(trial::trie(COUNT).unwrap()).unwrap();
        let mut trie = LpmTrie::try_from(Map::LpmTrie(data)).unwrap();
        for number in 0..COUNT {
            let key = Key::new(32, number.to_be_bytes());
            trie.insert(&key, &number, 0).unwrap();
        }
        trie
    }

    fn all(mut walk: Walk, map: &MapData) -> Vec<u32> {
        let mut found = Vec::new();
        loop {
            let (entries, is_last) = walk.next::<Key<[u8; 4]>, u32>(map).unwrap();
            for (key, value) in entries {
                assert_eq!(key.data(), value.to_be_bytes());
                found.push(value);
            }
            if is_last {
                return found;
            }
        }
    }

    fn by_keys() -> Walk {
        Walk {
            way: Way::Keys(0),
            ..Walk::new()
        }
    }

    #[test]
    fn a_walk_from_key_to_key_finds_what_batches_do() {
        let trie = trie();
        let expected: BTreeSet<u32> = (0..COUNT).collect();
        for walk in [Walk::new(), by_keys()] {
            let found = all(walk, trie.map());
            assert_eq!(found.len(), expected.len());
            assert_eq!(BTreeSet::from_iter(found), expected);
        }
    }

    #[test]
    fn a_walk_goes_on_when_the_key_it_stood_at_is_removed() {
        let mut trie = trie();
        let mut walk = by_keys();
        let (first, is_last) = walk.next::<Key<[u8; 4]>, u32>(trie.map()).unwrap();
        assert!(!is_last);
        assert_eq!(first.len(), ENTRIES);
        trie.remove(&first.last().unwrap().0).unwrap();
        let rest = all(walk, trie.map());
        assert!(rest.len() >= COUNT as usize - ENTRIES - 1);
    }
}

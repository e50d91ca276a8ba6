//! A BPF array map (`BPF_F_MMAPABLE`) as shared memory: a store costs no system call.
//!
//! With `batch`, the only unsafe code of the control plane. The kernel's programs read the same memory
//! concurrently, so every access is an atomic one of a 32-bit word.

use std::{
    io,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array map.
#[derive(Debug)]
pub(super) struct MappedArray {
    base: NonNull<u8>,
    bytes: usize,
    stride: usize,
    entries: u32,
    /// Keeps the map, and so the memory's backing, referenced for as long as it is used.
    _map: MapData,
}

// SAFETY: the mapping belongs to the process, not to the thread that made it, and is only
// accessed atomically.
unsafe impl Send for MappedArray {}

impl MappedArray {
    /// Maps `map`, whose values are made of `words` 32-bit words.
    pub(super) fn new(map: MapData, words: usize) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() as usize != words * size_of::<u32>() {
            return Err(io::Error::other(format!(
                "its values have {} bytes, expected {}",
                info.value_size(),
                words * size_of::<u32>()
            )));
        }
        // The kernel's array_map_alloc: values at multiples of 8 bytes.
        let stride = (info.value_size() as usize).next_multiple_of(8);
        let entries = info.max_entries();
        let bytes = entries as usize * stride;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases no Rust object.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd(),
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            base,
            bytes,
            stride,
            entries,
            _map: map,
        })
    }

    /// The number of entries.
    pub(super) const fn len(&self) -> u32 {
        self.entries
    }

    /// The given word of an entry; none outside the map.
    pub(super) fn word(&self, index: u32, word: usize) -> Option<&AtomicU32> {
        let within = (word + 1) * size_of::<u32>();
        if index >= self.entries || within > self.stride {
            return None;
        }
        let offset = index as usize * self.stride + word * size_of::<u32>();
        // SAFETY: `offset` lies inside the mapping as just checked and is a multiple of 4 from a
        // page-aligned base; the mapping lives as long as `self`, the kernel accesses it with
        // plain loads of at most a word, and this process through this method only.
        Some(unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }

    /// Stores a word; whoever sees it also sees every earlier store.
    pub(super) fn store(&self, index: u32, word: usize, value: u32) -> io::Result<()> {
        let cell = self
            .word(index, word)
            .ok_or_else(|| io::Error::from(rustix::io::Errno::INVAL))?;
        cell.store(value, Ordering::Release);
        Ok(())
    }

    /// Loads a word; zero outside the map.
    pub(super) fn load(&self, index: u32, word: usize) -> u32 {
        self.word(index, word)
            .map_or(0, |cell| cell.load(Ordering::Acquire))
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: exactly the range `new` mapped; no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(unmapped, Ok(()), "a whole mapping can always be unmapped");
    }
}

//! Words at any address, in one instruction.
//!
//! The processor and the verifier allow unaligned accesses to packets (not to the stack); LLVM's
//! BPF back end, which does not know which is which, takes them apart into bytes.

use core::{arch::asm, ffi::c_void};

macro_rules! words {
    ($word:ty, $load:ident, $store:ident, $c:literal) => {
        /// The word at `at`, in memory order.
        #[inline(always)]
        pub(crate) fn $load<const N: usize>(bytes: &[u8; N], at: usize) -> $word {
            let word: u64;
            let from = bytes[at..at + size_of::<$word>()].as_ptr();
            // SAFETY: the bytes read are those of the slice.
            unsafe {
                asm!(
                    concat!("{word} = *(", $c, " *)({from} + 0)"),
                    word = out(reg) word,
                    from = in(reg) from,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            word as $word
        }

        /// Writes the word at `at`.
        #[inline(always)]
        pub(crate) fn $store<const N: usize>(bytes: &mut [u8; N], at: usize, word: $word) {
            let to = bytes[at..at + size_of::<$word>()].as_mut_ptr();
            // SAFETY: the bytes written are those of the slice.
            unsafe {
                asm!(
                    concat!("*(", $c, " *)({to} + 0) = {word}"),
                    word = in(reg) u64::from(word),
                    to = in(reg) to,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

words!(u16, load16, store16, "u16");
words!(u32, load32, store32, "u32");

/// A packet pointer out of the context: its field at `OFFSET`.
///
/// The field is declared as 32 bits and the verifier makes a pointer of it. Told so, the compiler
/// would save half the pointer to the stack and restore it.
///
/// # Safety
///
/// `ctx` is the program's context, and a packet pointer is at `OFFSET`.
#[inline(always)]
pub(crate) unsafe fn packet_pointer<const OFFSET: usize>(ctx: *const c_void) -> usize {
    let pointer: usize;
    // SAFETY: reads the context, as the caller promises.
    unsafe {
        asm!(
            "{pointer} = *(u32 *)({ctx} + {offset})",
            pointer = out(reg) pointer,
            ctx = in(reg) ctx,
            offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    pointer
}

/// Where a packet's bytes at `offset` start.
///
/// The verifier learns how far a pointer may be read from a comparison of that very pointer. With
/// an offset known only at run time the compiler would compare one sum and read through another;
/// what it cannot see through it cannot compute twice.
#[inline(always)]
pub(crate) fn start(data: usize, offset: usize) -> usize {
    let mut start = data + offset;
    if !core::intrinsics::is_val_statically_known(offset) {
        // SAFETY: adds nothing. An instruction there must be: line info cannot name an empty one.
        unsafe { asm!("{start} += 0", start = inout(reg) start, options(pure, nomem, nostack)) };
    }
    start
}

/// A map's value, once the look-up is known to have found it.
///
/// Verifiers of Linux 6.12 and older refuse arithmetic on a pointer that may be null. The compiler computes the address of a
/// field ahead of the comparison with null, unless it cannot see through the pointer that the comparison yields.
#[inline(always)]
pub(crate) fn found<T>(value: Option<&T>) -> Option<&T> {
    value.map(|value| {
        let mut pointer = core::ptr::from_ref(value);
        // SAFETY: adds nothing, so the pointer stays what it was; see `start` on the instruction.
        unsafe {
            asm!("{pointer} += 0", pointer = inout(reg) pointer, options(pure, readonly, nostack));
            &*pointer
        }
    })
}

/// The same number, of which the verifier knows nothing: to it, what is combined with an unknown `salt` stays unknown.
#[inline(always)]
pub(crate) fn blurred(number: u32, salt: u32) -> u32 {
    let mut word = u64::from(number);
    // SAFETY: it is arithmetic on one register.
    unsafe {
        asm!(
            "{word} ^= {salt}",
            "{word} ^= {salt}",
            word = inout(reg) word,
            salt = in(reg) u64::from(salt),
            options(pure, nomem, nostack),
        );
    }
    word as u32
}

/// The same number, as `number & MASK`: to be used where a comparison has shown that the mask changes nothing.
///
/// Verifiers of Linux 6.1 and older do not follow all comparisons. The compiler does, and would leave the mask out.
#[inline(always)]
pub(crate) fn masked<const MASK: i32>(mut number: i32) -> i32 {
    // SAFETY: it is arithmetic on one register.
    unsafe {
        asm!(
            "{number} &= {mask}",
            number = inout(reg) number,
            mask = const MASK,
            options(pure, nomem, nostack),
        );
    }
    number
}

/// Copies a value word by word. The compiler calls a loop over bytes, which the verifier follows each time a program
/// comes by.
///
/// # Safety
///
/// Both pointers are good for a whole value, which is made of aligned 32-bit words without padding.
#[inline(always)]
pub(crate) unsafe fn copy<T>(from: *const T, to: *mut T) {
    let (from, to) = (from.cast::<u32>(), to.cast::<u32>());
    for word in 0..size_of::<T>() / size_of::<u32>() {
        // SAFETY: within the value, as the caller promises.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// Zeroes a value word by word; see [`copy`].
///
/// # Safety
///
/// The value is made of aligned 32-bit words without padding, and all of its bytes may be zero.
#[inline(always)]
pub(crate) unsafe fn zero<T>(value: *mut T) {
    let words = value.cast::<u32>();
    for word in 0..size_of::<T>() / size_of::<u32>() {
        // SAFETY: within the value, as the caller promises.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// What [`lb_ebpf::Packet`] needs of bytes and words, over a context with `data` and `data_end`.
macro_rules! access_methods {
    () => {
        #[inline(always)]
        fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
            // SAFETY: within the packet, as `at` checks; an array of bytes has no alignment.
            self.at(offset).map(|bytes| unsafe { &*bytes })
        }

        #[inline(always)]
        fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
            // SAFETY: as in `bytes`; `&mut self` keeps other references away.
            self.at(offset).map(|bytes| unsafe { &mut *bytes })
        }

        #[inline(always)]
        fn load16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
            $crate::words::load16(bytes, at)
        }

        #[inline(always)]
        fn load32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
            $crate::words::load32(bytes, at)
        }

        #[inline(always)]
        fn sctp_checksum_change(ports: u32, length: u16) -> u32 {
            // SAFETY: it takes numbers only.
            unsafe { $crate::entry::sctp_change(ports, u32::from(length)) }
        }

        #[inline(always)]
        fn store16<const N: usize>(bytes: &mut [u8; N], at: usize, word: u16) {
            $crate::words::store16(bytes, at, word);
        }

        #[inline(always)]
        fn store32<const N: usize>(bytes: &mut [u8; N], at: usize, word: u32) {
            $crate::words::store32(bytes, at, word);
        }
    };
}

/// Where a packet's bytes are: its context is `$context`, in the field `$field`.
macro_rules! bounds {
    ($context:ty, $field:ident) => {
        #[inline(always)]
        fn data(&self) -> usize {
            // SAFETY: the context is the program's own, and `data` a packet pointer.
            unsafe {
                $crate::words::packet_pointer::<{ ::core::mem::offset_of!($context, data) }>(
                    self.$field.cast(),
                )
            }
        }

        #[inline(always)]
        fn data_end(&self) -> usize {
            // SAFETY: the context is the program's own, and `data_end` a packet pointer.
            unsafe {
                $crate::words::packet_pointer::<{ ::core::mem::offset_of!($context, data_end) }>(
                    self.$field.cast(),
                )
            }
        }

        #[inline(always)]
        fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
            let start = $crate::words::start(self.data(), offset);
            (offset <= Self::MAX_OFFSET && start + N <= self.data_end())
                .then_some(start as *mut [u8; N])
        }
    };
}
pub(crate) use {access_methods, bounds};

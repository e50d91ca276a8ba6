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

/// The word methods of [`lb_ebpf::Packet`], in one instruction each.
macro_rules! word_methods {
    () => {
        #[inline(always)]
        fn load16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
            $crate::words::load16(bytes, at)
        }

        #[inline(always)]
        fn load32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
            $crate::words::load32(bytes, at)
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
pub(crate) use word_methods;

//! The deepest chain of calls of a program, from its instructions as the kernel has them.
//!
//! The verifier tells the stack depth of each function (`stack depth 240+32+0`), but its limit is on a chain of
//! calls. Instructions are read back after loading: then the code that the verifier found dead is gone, and the
//! functions are those that it counted.

use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL};

/// Frames are counted in steps of so many bytes, and none is smaller (`check_max_stack_depth` in the kernel).
const STEP: u32 = 32;

/// Functions may not be nested deeper than this (`MAX_CALL_FRAMES`); more means that there is a circle.
const DEEPEST: usize = 64;

/// What matters of `struct bpf_insn` here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    code: u8,
    source: u8,
    offset: i16,
}

impl Instruction {
    /// Of its eight bytes in memory, on a little-endian machine.
    pub(super) fn from_word(word: u64) -> Self {
        let [code, registers, o0, o1, ..] = word.to_le_bytes();
        Self {
            code,
            source: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
        }
    }

    fn is_call(self) -> bool {
        u32::from(self.code) == BPF_JMP | BPF_CALL && u32::from(self.source) == BPF_PSEUDO_CALL
    }
}

/// A program as it is in the kernel.
#[derive(Clone, Debug)]
pub(super) struct Code {
    pub(super) instructions: Vec<Instruction>,
    /// Index of the first instruction of each function, in ascending order.
    pub(super) starts: Vec<usize>,
}

impl Code {
    /// Bytes of stack of the deepest chain, given those of each function. `None` where the calls do not fit them.
    ///
    /// A function may have no caller left: older kernels check global functions, and keep them, in any case.
    pub(super) fn deepest(&self, frames: &[u32]) -> Option<u32> {
        if self.starts.len() != frames.len() || self.starts.first() != Some(&0) {
            return None;
        }
        let mut callees = vec![Vec::new(); frames.len()];
        for (at, instruction) in self.instructions.iter().enumerate() {
            if instruction.is_call() {
                // A compiled program's call holds the way to the function here, and its number elsewhere.
                let target = at.checked_add_signed(isize::from(instruction.offset) + 1)?;
                let caller = self.starts.partition_point(|start| *start <= at) - 1;
                callees[caller].push(self.starts.binary_search(&target).ok()?);
            }
        }
        deepest(&callees, frames, 0, DEEPEST)
    }
}

fn deepest(callees: &[Vec<usize>], frames: &[u32], function: usize, left: usize) -> Option<u32> {
    let left = left.checked_sub(1)?;
    let own = frames[function].max(1).next_multiple_of(STEP);
    let mut below = 0;
    for &callee in &callees[function] {
        below = below.max(deepest(callees, frames, callee, left)?);
    }
    Some(own + below)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Instruction = Instruction {
        code: 0x95,
        source: 0,
        offset: 0,
    };

    /// A call at an index of the function that begins at another one.
    fn call(at: i16, start: i16) -> Instruction {
        Instruction {
            code: 0x85,
            source: 1,
            offset: start - at - 1,
        }
    }

    fn code(instructions: &[Instruction], starts: &[usize]) -> Code {
        Code {
            instructions: instructions.to_vec(),
            starts: starts.to_vec(),
        }
    }

    #[test]
    fn an_instruction_is_read_from_memory() {
        let read = Instruction::from_word(u64::from_le_bytes([0x85, 0x10, 2, 0, 1, 0, 0, 0]));
        assert!(read.is_call());
        assert_eq!(read.offset, 2);
        // A helper's call has no such source.
        assert!(!Instruction::from_word(u64::from_le_bytes([0x85, 0, 0, 0, 1, 0, 0, 0])).is_call());
    }

    #[test]
    fn a_chain_is_the_sum_of_rounded_frames() {
        // Function 0 calls 1 and 2, 1 calls 2, and nobody calls 3.
        let program = [call(0, 3), call(1, 5), EXIT, call(3, 5), EXIT, EXIT, EXIT];
        let program = code(&program, &[0, 3, 5, 6]);
        assert_eq!(program.deepest(&[240, 8, 0, 500]), Some(256 + 32 + 32));
        assert_eq!(code(&[EXIT], &[0]).deepest(&[40]), Some(64));
    }

    #[test]
    fn calls_that_do_not_fit_the_frames_are_not_guessed_at() {
        let program = [call(0, 2), EXIT, EXIT];
        assert_eq!(code(&program, &[0, 2]).deepest(&[8]), None);
        assert_eq!(code(&program, &[0, 1]).deepest(&[8, 8]), None);
        assert_eq!(code(&program, &[]).deepest(&[]), None);
        let circle = [call(0, 2), EXIT, call(2, 0), EXIT];
        assert_eq!(code(&circle, &[0, 2]).deepest(&[8, 8]), None);
    }
}

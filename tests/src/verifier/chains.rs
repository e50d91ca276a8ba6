//! The deepest chain of calls of a program, from its instructions as the kernel has them.
//!
//! The verifier tells the stack depth of each function (`stack depth 240+32+0`), but its limit is on a chain of
//! calls. Instructions are read back after loading: then the code that the verifier found dead is gone, and the
//! functions are those that it counted.

use std::collections::BTreeMap;

use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL};

/// Frames are counted in steps of so many bytes, and none is smaller (`check_max_stack_depth` in the kernel).
const STEP: u32 = 32;

/// Functions may not be nested deeper than this (`MAX_CALL_FRAMES`); more means that there is a circle.
const DEEPEST: usize = 64;

/// What matters of `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    code: u8,
    source: u8,
    offset: i16,
    number: i32,
}

impl Instruction {
    /// Of its eight bytes in memory, on a little-endian machine.
    pub(super) fn from_word(word: u64) -> Self {
        let [code, registers, o0, o1, n0, n1, n2, n3] = word.to_le_bytes();
        Self {
            code,
            source: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
            number: i32::from_le_bytes([n0, n1, n2, n3]),
        }
    }

    fn is_call(self) -> bool {
        u32::from(self.code) == BPF_JMP | BPF_CALL && u32::from(self.source) == BPF_PSEUDO_CALL
    }
}

/// Bytes of stack of the deepest chain. `None` where the calls do not fit `frames`, the bytes of each function.
pub(super) fn deepest(instructions: &[Instruction], frames: &[u32]) -> Option<u32> {
    let calls = Calls::read(instructions, frames.len())?;
    calls.deepest(frames, 0, DEEPEST)
}

/// Which functions each function calls.
struct Calls(Vec<Vec<usize>>);

impl Calls {
    fn read(instructions: &[Instruction], functions: usize) -> Option<Self> {
        // A compiled program's calls hold the number of the function, and the way to it.
        let calls: Vec<(usize, usize)> = (0..)
            .zip(instructions)
            .filter(|(_, instruction)| instruction.is_call())
            .map(|(at, instruction)| Some((at, usize::try_from(instruction.number).ok()?)))
            .collect::<Option<_>>()?;
        let mut starts = BTreeMap::from([(0, 0)]);
        for &(at, function) in &calls {
            let start = at.checked_add_signed(isize::from(instructions[at].offset) + 1)?;
            let known = starts.insert(start, function);
            if known.is_some_and(|known| known != function) {
                return None;
            }
        }
        if starts.len() != functions || !starts.values().copied().eq(0..functions) {
            return None;
        }
        let mut callees = vec![Vec::new(); functions];
        for (at, function) in calls {
            let (_, caller) = starts.range(..=at).next_back()?;
            callees.get_mut(*caller)?.push(function);
        }
        Some(Self(callees))
    }

    fn deepest(&self, frames: &[u32], function: usize, left: usize) -> Option<u32> {
        let left = left.checked_sub(1)?;
        let own = frames.get(function)?.max(&1).next_multiple_of(STEP);
        let mut below = 0;
        for &callee in self.0.get(function)? {
            below = below.max(self.deepest(frames, callee, left)?);
        }
        Some(own + below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Instruction = Instruction {
        code: 0x95,
        source: 0,
        offset: 0,
        number: 0,
    };

    /// A call at an index of the function that begins at another one.
    fn call(at: i16, start: i16, function: i32) -> Instruction {
        Instruction {
            code: 0x85,
            source: 1,
            offset: start - at - 1,
            number: function,
        }
    }

    #[test]
    fn an_instruction_is_read_from_memory() {
        let read = Instruction::from_word(u64::from_le_bytes([0x85, 0x10, 2, 0, 1, 0, 0, 0]));
        assert!(read.is_call());
        assert_eq!((read.offset, read.number), (2, 1));
        // A helper's call has no such source.
        assert!(!Instruction::from_word(u64::from_le_bytes([0x85, 0, 0, 0, 1, 0, 0, 0])).is_call());
    }

    #[test]
    fn a_chain_is_the_sum_of_rounded_frames() {
        // 0: calls 1 and 2; 1: calls 2; 2: calls nothing.
        let program = [
            call(0, 3, 1),
            call(1, 5, 2),
            EXIT,
            call(3, 5, 2),
            EXIT,
            EXIT,
        ];
        assert_eq!(deepest(&program, &[240, 8, 0]), Some(256 + 32 + 32));
        assert_eq!(deepest(&[EXIT], &[40]), Some(64));
    }

    #[test]
    fn calls_that_do_not_fit_the_frames_are_not_guessed_at() {
        let program = [call(0, 2, 1), EXIT, EXIT];
        assert_eq!(deepest(&program, &[8]), None);
        assert_eq!(deepest(&program, &[8, 8, 8]), None);
        // As an interpreter has it: no number of a function.
        assert_eq!(deepest(&[call(0, 2, 7), EXIT, EXIT], &[8, 8]), None);
        // A circle.
        let circle = [call(0, 2, 1), EXIT, call(2, 0, 0), EXIT];
        assert_eq!(deepest(&circle, &[8, 8]), None);
    }
}

//! Numbers that a function reads from its caller's stack, and that the verifier knows something of.
//!
//! Before Linux 6.8 the verifier does not follow the precision of a number through a pointer to the stack (kernel commit
//! 41f6f64e6999). It may then take two states for the same that differ in such a number, check only one of them, and
//! remove the other's branch as dead. It accepts the program, and the program does the wrong thing. So our functions
//! out of line take such numbers in registers; what they read from the caller's stack is unknown to the verifier.
//!
//! This reads the walk of a verifier that is right (log level 2 of Linux 6.18 or newer):
//!
//! ```text
//! ; let proto = quote.proto; @ icmp.rs:270
//! 10366: (71) r3 = *(u8 *)(r1 +8)      ; frame1: R1=fp[0]-56 R3=6
//! ```
//!
//! A number that is the same each time the verifier comes by decides nothing, and is no finding.

use std::collections::BTreeMap;

/// Stands for what the verifier says of a number of which it knows nothing.
const UNKNOWN: &str = "nothing";

/// Reads of one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reads<'a> {
    source: &'a str,
    instruction: &'a str,
    /// What was known the first time.
    first: &'a str,
    differ: bool,
}

/// The findings in the verifier's walk through a program, each on a line.
pub(super) fn find(log: &str) -> Vec<String> {
    let mut source = "";
    let mut reads = BTreeMap::<u32, Reads<'_>>::new();
    for line in log.lines() {
        if let Some(text) = line.strip_prefix("; ") {
            source = text;
        } else if line.contains(" = *(")
            && let Some((number, instruction, known)) = read(line)
        {
            let seen = reads.entry(number).or_insert(Reads {
                source,
                instruction,
                first: known,
                differ: false,
            });
            seen.differ |= seen.first != known;
        }
    }
    let differ = reads.into_values().filter(|it| it.differ);
    differ.map(|it| it.to_string()).collect()
}

impl std::fmt::Display for Reads<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            source,
            instruction,
            first,
            differ: _,
        } = self;
        write!(
            f,
            "`{instruction}` reads a number from the caller's stack of which the verifier knows {first} at first, \
             and something else later: {source}"
        )
    }
}

/// A read through a pointer to the stack other than `r10`: number of the instruction, the instruction, and what is known
/// of the number that it reads. None if the line is of another instruction.
fn read(line: &str) -> Option<(u32, &str, &str)> {
    // `10366: (71) r3 = *(u8 *)(r1 +8)      ; frame1: R1=fp[0]-56 R3=6`
    let (code, state) = line.split_once(';')?;
    let (number, rest) = code.split_once(": (")?;
    let number = number.rsplit(' ').next()?.parse().ok()?;
    let instruction = rest.get(4..)?.trim();
    let (target, place) = instruction.split_once(" = *(")?;
    let (width, place) = place.split_once(" *)(")?;
    let (base, _) = place.split_once(' ')?;
    if base == "r10" || !value(state, base)?.starts_with("fp") {
        return None;
    }
    let known = value(state, target)?;
    let known = if is_known(known, width) {
        known
    } else {
        UNKNOWN
    };
    Some((number, instruction, known))
}

/// What a state says of a register, which it names in capitals: `R3=6`, `R3_w=scalar(...)`.
fn value<'a>(state: &'a str, register: &str) -> Option<&'a str> {
    let number = register.get(1..)?;
    let mut rest = state;
    loop {
        let at = rest.find(" R")? + 2;
        rest = rest.get(at..)?;
        let Some(after) = rest.strip_prefix(number) else {
            continue;
        };
        let (mark, text) = after.split_once('=')?;
        if mark.is_empty() || mark.starts_with('_') {
            // Precision is marked by a P. Values hold no space outside of parentheses.
            let text = text.strip_prefix('P').unwrap_or(text);
            return Some(text.get(..end(text)).unwrap_or(text));
        }
    }
}

/// Length of a value.
fn end(text: &str) -> usize {
    let mut depth = 0_i32;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b' ' | b'\n' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

/// Whether a value says more of a number than its width does.
fn is_known(value: &str, width: &str) -> bool {
    let Some(inner) = value.strip_prefix("scalar(") else {
        // A constant is written as a number; all else is a pointer.
        return value
            .trim_start_matches('-')
            .starts_with(|c: char| c.is_ascii_digit());
    };
    let most = match width {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        // Signed or of 64 bits: any bound is knowledge.
        _ => u64::MAX,
    };
    // `smin=0,smax=umax=0xffff,...`: the largest value stands behind the last name of its chain.
    let bounds = inner.split(',').filter(|bound| bound.contains("umax="));
    let mut largest = bounds.filter_map(|bound| number(bound.rsplit('=').next()?));
    largest.next().is_some_and(|largest| largest < most)
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim_end_matches(')');
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two visits that differ in a number on the caller's stack.
    fn visits(first: &str, second: &str) -> String {
        let line = |known| {
            format!("10366: (71) r3 = *(u8 *)(r1 +8)   ; frame1: R1=fp[0]-56 R3={known} fp-8=mm\n")
        };
        format!(
            "; quote.proto @ icmp.rs:270\n{}{}",
            line(first),
            line(second)
        )
    }

    #[test]
    fn a_number_that_differs_is_found() {
        let known = "scalar(id=4,smin=umin=28,smax=umax=smax32=umax32=252,var_off=(0x0; 0xfc))";
        let byte = "scalar(smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))";
        for (first, second) in [("6", "17"), (known, "0"), ("0", byte), (byte, "0")] {
            let found = find(&visits(first, second));
            assert_eq!(found.len(), 1, "{first} and {second}");
            assert!(found[0].contains("r3 = *(u8 *)(r1 +8)"), "{found:?}");
            assert!(found[0].ends_with("quote.proto @ icmp.rs:270"), "{found:?}");
        }
    }

    #[test]
    fn what_the_verifier_does_not_know_is_none() {
        let byte = "scalar(smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))";
        assert!(find(&visits(byte, byte)).is_empty());
        assert!(find(&visits("6", "6")).is_empty());
        assert!(find(&visits("fp-64", "map_value(map=FLOWS4,ks=16,vs=64)")).is_empty());
    }

    #[test]
    fn reads_by_the_frame_pointer_and_of_maps_are_none() {
        let log = "1: (71) r3 = *(u8 *)(r10 -8) ; R3=6 R10=fp0\n1: (71) r3 = *(u8 *)(r10 -8) ; R3=7 R10=fp0\n\
                   2: (71) r3 = *(u8 *)(r1 +8) ; R1=map_value(map=A,ks=4,vs=64) R3=6\n\
                   2: (71) r3 = *(u8 *)(r1 +8) ; R1=map_value(map=A,ks=4,vs=64) R3=7\n";
        assert!(find(log).is_empty());
    }

    #[test]
    fn a_register_is_found_among_others_and_whatever_its_marks() {
        let state = " frame1: R1_w=fp[0]-56 R3=P17 R10=fp0";
        assert_eq!(value(state, "r1"), Some("fp[0]-56"));
        assert_eq!(value(state, "r3"), Some("17"));
        assert_eq!(value(state, "r10"), Some("fp0"));
        assert_eq!(value(state, "r7"), None);
    }
}

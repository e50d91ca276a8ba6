//! The text that the verifier writes at log level `STATS`.
//!
//! ```text
//! verification time 12345 usec
//! stack depth 240+32+0
//! processed 19000 insns (limit 1000000) max_states_per_insn 4 total_states 900 peak_states 300 mark_read 20
//! ```
//!
//! Since 7.3 the second line is followed by one for each function:
//!
//! ```text
//! stack depth max 272
//! subprog 0 (tc_ext_in) main insns_self 1391 insns_total 19000 stack 240
//! ```
//!
//! For a refused program the reason stands before these lines.

/// How many lines of a refusal are kept.
const REASON_LINES: usize = 3;

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// Instructions the verifier walked through.
    pub(super) instructions: Option<u64>,
    /// Bytes of stack of each function, in the order of their first instructions.
    pub(super) frames: Vec<u32>,
    /// The last lines that are no statistics, joined by ` | `.
    pub(super) reason: String,
}

/// Reads a log; lines it does not know belong to the reason.
pub(super) fn parse(text: &str) -> Log {
    let mut log = Log::default();
    let mut reasons = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("processed ") {
            log.instructions = first_word(rest).and_then(|word| word.parse().ok());
        } else if let Some(rest) = line.strip_prefix("stack depth ") {
            let depths = first_word(rest).unwrap_or_default().split('+');
            log.frames = depths.map_while(|depth| depth.parse().ok()).collect();
        } else if let Some((_, stack)) = subprogram(line) {
            log.frames.extend(stack.parse::<u32>());
        } else if !line.starts_with("verification time ") {
            reasons.push(line);
        }
    }
    let kept = reasons.len().saturating_sub(REASON_LINES);
    log.reason = reasons[kept..].join(" | ");
    log
}

/// What stands around the word `stack` of a line about a function.
fn subprogram(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("subprog ")?.rsplit_once(" stack ")
}

fn first_word(text: &str) -> Option<&str> {
    text.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_program_has_its_counts() {
        let log = parse(
            "func#0 @0\nverification time 12345 usec\nstack depth 240+32+0\n\
             processed 19000 insns (limit 1000000) max_states_per_insn 4 total_states 900\n",
        );
        assert_eq!(log.instructions, Some(19_000));
        assert_eq!(log.frames, [240, 32, 0]);
    }

    #[test]
    fn newer_kernels_have_a_line_for_each_function() {
        let log = parse(
            "verification time 121308 usec\nstack depth max 144\n\
             subprog 0 (sock_connect4) main insns_self 1391 insns_total 1447 stack 136\n\
             subprog 1 (memset) static insns_self 56 insns_total 56 stack 0\n\
             processed 1447 insns (limit 1000000) max_states_per_insn 5\n",
        );
        assert_eq!(log.instructions, Some(1_447));
        assert_eq!(log.frames, [136, 0]);
        assert_eq!(log.reason, "");
    }

    #[test]
    fn a_refused_program_has_its_reason() {
        let log = parse(
            "BPF program is too large. Processed 1000001 insn\nverification time 9 usec\n\
             stack depth 240+32\nprocessed 1000001 insns (limit 1000000) max_states_per_insn 4\n",
        );
        assert_eq!(log.instructions, Some(1_000_001));
        assert_eq!(
            log.reason,
            "BPF program is too large. Processed 1000001 insn"
        );
        let log = parse("one\ntwo\nR3 offset is outside of the packet\n\nfour\n");
        assert_eq!(
            log.reason,
            "two | R3 offset is outside of the packet | four"
        );
    }

    #[test]
    fn an_empty_log_says_nothing() {
        assert_eq!(parse(""), Log::default());
    }
}

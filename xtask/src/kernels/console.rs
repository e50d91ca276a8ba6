//! What a guest says on its console: lines that begin with `@@`, as `init.sh` prints them, among anything else.

use std::collections::VecDeque;

/// How many lines that are not ours are kept for a guest that did not come to its end.
const REST: usize = 30;

/// One thing that a guest has said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    /// It is up; seconds since the kernel began.
    Booted {
        release: String,
        machine: String,
        cpus: u32,
        seconds: f64,
    },
    /// A module could not be loaded.
    Lacks(String),
    /// A step begins.
    Begin(String),
    /// A line of the step's output.
    Line(String),
    /// A line of the kernel's log after a step that failed.
    Kernel(String),
    /// The step is over, with its exit code, after so many seconds.
    End {
        step: String,
        code: i32,
        seconds: f64,
    },
    /// All steps are over.
    Done,
}

impl Word {
    /// `None` for what is not said by us.
    pub(super) fn read(line: &str) -> Option<Self> {
        let line = line.trim_end_matches('\r');
        let said = line.strip_prefix("@@ ")?;
        let (verb, rest) = said.split_once(' ').unwrap_or((said, ""));
        let mut words = rest.split(' ');
        Some(match verb {
            "|" => Self::Line(rest.to_owned()),
            "k" => Self::Kernel(rest.to_owned()),
            "booted" => Self::Booted {
                release: words.next()?.to_owned(),
                machine: words.next()?.to_owned(),
                cpus: words.next()?.parse().ok()?,
                seconds: words.next()?.parse().ok()?,
            },
            "lacks" => Self::Lacks(rest.to_owned()),
            "begin" => Self::Begin(rest.to_owned()),
            "end" => Self::End {
                step: words.next()?.to_owned(),
                code: words.next()?.parse().ok()?,
                seconds: words.next()?.parse().ok()?,
            },
            "done" => Self::Done,
            _ => return None,
        })
    }
}

/// How a step went.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StepRun {
    pub(super) step: String,
    /// `None` when the guest did not come to the step's end.
    pub(super) code: Option<i32>,
    pub(super) seconds: f64,
    pub(super) lines: Vec<String>,
    /// The end of the kernel's log, after a failure.
    pub(super) kernel: Vec<String>,
}

/// All that a guest has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Transcript {
    pub(super) release: String,
    /// Seconds from the kernel's beginning to the first step.
    pub(super) boot: f64,
    pub(super) cpus: u32,
    /// Modules that could not be loaded.
    pub(super) lacks: Vec<String>,
    pub(super) steps: Vec<StepRun>,
    /// Whether it came to its end.
    pub(super) done: bool,
    /// The last lines that are not ours.
    pub(super) rest: VecDeque<String>,
}

impl Transcript {
    /// Takes in a line of the console.
    pub(super) fn add(&mut self, line: &str) -> Option<Word> {
        let Some(word) = Word::read(line) else {
            let line = line.trim();
            if !line.is_empty() {
                if self.rest.len() == REST {
                    self.rest.pop_front();
                }
                self.rest.push_back(line.to_owned());
            }
            return None;
        };
        match word.clone() {
            Word::Booted {
                release,
                machine: _,
                cpus,
                seconds,
            } => (self.release, self.cpus, self.boot) = (release, cpus, seconds),
            Word::Lacks(module) => self.lacks.push(module),
            Word::Begin(step) => self.steps.push(StepRun {
                step,
                code: None,
                seconds: 0.0,
                lines: Vec::new(),
                kernel: Vec::new(),
            }),
            Word::Line(line) => self.last(|step| step.lines.push(line)),
            Word::Kernel(line) => self.last(|step| step.kernel.push(line)),
            Word::End {
                step: _,
                code,
                seconds,
            } => self.last(|step| (step.code, step.seconds) = (Some(code), seconds)),
            Word::Done => self.done = true,
        }
        Some(word)
    }

    fn last(&mut self, change: impl FnOnce(&mut StepRun)) {
        if let Some(step) = self.steps.last_mut() {
            change(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
SeaBIOS (version 1.16)\r
\r
@@ booted 6.1.0-57-cloud-amd64 x86_64 2 3.21\r
\r
@@ lacks netkit\r
@@ begin loads\r
@@ | {\"program\":\"a b\"}\r
[    9.1] a word of the kernel's\r
@@ end loads 1 12.5\r
@@ k <4>[ 9.1] a warning\r
@@ done\r
[   10.0] reboot: Power down\r
";

    #[test]
    fn a_console_is_read_to_its_end() {
        let mut transcript = Transcript::default();
        let words: Vec<_> = CONSOLE
            .lines()
            .filter_map(|line| transcript.add(line))
            .collect();
        assert_eq!(words.len(), 7);
        assert!(transcript.done);
        assert_eq!(transcript.release, "6.1.0-57-cloud-amd64");
        assert_eq!((transcript.cpus, transcript.boot), (2, 3.21));
        assert_eq!(transcript.lacks, ["netkit"]);
        assert_eq!(
            transcript.steps,
            [StepRun {
                step: "loads".to_owned(),
                code: Some(1),
                seconds: 12.5,
                lines: vec!["{\"program\":\"a b\"}".to_owned()],
                kernel: vec!["<4>[ 9.1] a warning".to_owned()],
            }]
        );
        assert_eq!(transcript.rest.len(), 3);
    }

    #[test]
    fn a_step_that_was_cut_off_has_no_code() {
        let mut transcript = Transcript::default();
        for line in ["@@ begin loads", "@@ | one", "Kernel panic - not syncing"] {
            transcript.add(line);
        }
        assert!(!transcript.done);
        assert_eq!(transcript.steps[0].code, None);
        assert_eq!(transcript.rest, ["Kernel panic - not syncing"]);
    }

    #[test]
    fn what_only_looks_like_ours_is_not() {
        for line in [
            "@@",
            "@@done",
            "@@ booted x",
            "@@ end loads",
            "@@ sing",
            " @@ done",
        ] {
            assert_eq!(Word::read(line), None, "of {line}");
        }
    }
}

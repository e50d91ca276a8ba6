//! What is being done, as lines on standard error: what a verb prints may be read by a program.

use std::time::Instant;

/// Says what happens to one kernel, with the seconds since it began.
pub(super) struct Progress {
    subject: String,
    begun: Instant,
}

impl Progress {
    pub(super) fn of(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            begun: Instant::now(),
        }
    }

    pub(super) fn say(&self, what: &str) {
        let Self { subject, begun } = self;
        eprintln!(
            "[{subject} {:>5.1} s] {what}",
            begun.elapsed().as_secs_f32()
        );
    }
}

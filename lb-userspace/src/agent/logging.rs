//! The agent's log: one line a fact, on standard error.

use std::io::{IsTerminal as _, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Level {
    /// What stops the agent.
    Error,
    /// Problems.
    Warn,
    /// Problems, and what happens.
    Info,
    /// For whoever looks for a bug.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Starts the log. Libraries are heard from `warn` on.
pub(super) fn start(level: Level) {
    let filter = EnvFilter::new(format!("warn,lb_userspace={}", level.name()));
    let coloured =
        stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(coloured)
        .with_target(false)
        .init();
}

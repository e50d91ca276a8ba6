//! How the demo talks: short headings, tables that line up, colours and progress on terminals.

use std::{
    env,
    io::{IsTerminal, Write, stdout},
    time::Instant,
};

use anyhow::Result;
use comfy_table::{Table, presets::NOTHING};

/// The narrator, and what it had to report as wrong.
#[derive(Debug)]
pub(super) struct Say {
    terminal: bool,
    colours: bool,
    failures: Vec<String>,
}

#[derive(Clone, Copy)]
enum Colour {
    Bold = 1,
    Red = 31,
    Green = 32,
    Grey = 90,
}

impl Say {
    /// A narrator on standard output.
    pub(super) fn new() -> Self {
        let terminal = stdout().is_terminal();
        Self {
            terminal,
            colours: terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            failures: Vec::new(),
        }
    }

    /// Begins a chapter.
    pub(super) fn heading(&self, text: &str) {
        println!("\n{}", self.paint(Colour::Bold, text));
    }

    /// Says that something takes a while, does it, and says how long it took.
    pub(super) fn during<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.progress(what);
        let start = Instant::now();
        let outcome = work();
        let took = format!("{:.1} s", start.elapsed().as_secs_f64());
        let took = match outcome {
            Ok(_) => self.paint(Colour::Grey, &took),
            Err(_) => self.paint(Colour::Red, "failed"),
        };
        let back = if self.terminal { "\r\x1b[K" } else { "" };
        println!("{back}  {what}: {took}");
        outcome
    }

    /// Says what is at hand, on a line that is written over.
    pub(super) fn progress(&self, what: &str) {
        if self.terminal {
            print!("\r\x1b[K  {what} ...");
            // Progress that cannot be shown is no reason to stop.
            stdout().flush().ok();
        }
    }

    /// A table whose columns line up.
    pub(super) fn table<const N: usize>(&self, header: [&str; N], rows: Vec<[String; N]>) {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(header).add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        for (number, line) in table.trim_fmt().lines().enumerate() {
            let line = if number == 0 {
                self.paint(Colour::Grey, line)
            } else {
                line.to_owned()
            };
            println!("  {line}");
        }
    }

    /// States what was expected and whether it held.
    pub(super) fn verdict(&mut self, held: bool, expectation: &str) {
        if held {
            println!("  {} {expectation}", self.paint(Colour::Green, "✓"));
        } else {
            println!("  {} {expectation}", self.paint(Colour::Red, "✗"));
            self.failures.push(expectation.to_owned());
        }
    }

    /// Expectations that did not hold.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        if self.colours {
            format!("\x1b[{}m{text}\x1b[0m", colour as u8)
        } else {
            text.to_owned()
        }
    }
}

/// A line of text.
pub(super) fn line(text: &str) {
    println!("{}", format!("  {text}").trim_end());
}

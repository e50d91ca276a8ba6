//! How results are written: formats, colours, and text that cannot steer the terminal.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::Error;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns, nothing shortened.
    Wide,
    /// One JSON object; the field names are stable.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How much a table tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    Brief,
    Full,
}

impl Format {
    /// `value` in this format; `table` makes the text for people.
    pub(crate) fn render<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T, Detail) -> String,
    ) -> Result<String, Error> {
        match self {
            Self::Table => Ok(table(value, Detail::Brief)),
            Self::Wide => Ok(table(value, Detail::Full)),
            Self::Json => json(value),
            Self::Yaml => Ok(serde_saphyr::to_string(value)?),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value)?;
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // serde_json has escaped the ASCII controls of strings: a line feed is its own.
        if c != '\n' && steers_terminal(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    Ok(safe)
}

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// No colours.
    pub const OFF: Self = Self { on: false };

    /// Colours if standard output is a terminal that has them and `NO_COLOR` is not set.
    pub fn detect() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            on: io::stdout().is_terminal() && !dumb && !set("NO_COLOR"),
        }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn warning(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn problem(self, text: &str) -> String {
        self.wrap("31", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Lines of columns that line up, the header first, made safe for a terminal.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// Lines, each ended.
pub(crate) fn text(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().fold(String::new(), |mut text, line| {
        text.push_str(&line);
        text.push('\n');
        text
    })
}

/// `items` in one cell; a brief one has room for three.
pub(crate) fn list<T: ToString>(items: &[T], detail: Detail) -> String {
    const ROOM: usize = 3;
    if items.is_empty() {
        return "none".to_owned();
    }
    let shown = match detail {
        Detail::Brief => items.len().min(ROOM),
        Detail::Full => items.len(),
    };
    let mut cells: Vec<String> = items[..shown].iter().map(ToString::to_string).collect();
    if shown < items.len() {
        cells.push(format!("+{} more", items.len() - shown));
    }
    cells.join(", ")
}

/// `text` with whatever could move the cursor, colour or reorder the screen made visible.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::new(), |mut safe, c| {
        if steers_terminal(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
        safe
    })
}

/// Control characters, and the format characters that hide or reorder text (Unicode UAX 9).
fn steers_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_lets_a_name_steer_the_terminal() {
        let hostile = "web\u{1b}[2J\u{9b}31m\n\u{202e}gnp";
        let brief = |name: &&str, _| text(table(&["NAME"], [vec![(*name).to_owned()]]));
        assert_eq!(
            Format::Table.render(&hostile, brief).unwrap(),
            "NAME\nweb\\u{1b}[2J\\u{9b}31m\\n\\u{202e}gnp\n"
        );
        let json = Format::Json.render(&hostile, brief).unwrap();
        assert_eq!(json, "\"web\\u001b[2J\\u009b31m\\n\\u202egnp\"\n");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
        let yaml = Format::Yaml.render(&hostile, brief).unwrap();
        assert!(!yaml.trim_end().chars().any(char::is_control), "{yaml:?}");
    }

    #[test]
    fn a_brief_list_says_how_much_it_leaves_out() {
        assert_eq!(list(&[1, 2, 3], Detail::Brief), "1, 2, 3");
        assert_eq!(list(&[1, 2, 3, 4, 5], Detail::Brief), "1, 2, 3, +2 more");
        assert_eq!(list(&[1, 2, 3, 4, 5], Detail::Full), "1, 2, 3, 4, 5");
    }

    #[test]
    fn colours_only_when_asked() {
        assert_eq!(Paint::OFF.problem("gone"), "gone");
        assert_eq!(Paint { on: true }.problem("gone"), "\x1b[31mgone\x1b[0m");
    }
}

//! A file's documents, before they mean anything.

use std::path::Path;

use serde_json::Value;
use serde_saphyr::{Budget, Options, UserMessageFormatter};

/// A document that holds something, by its number in the file (from 1), or why it cannot be
/// parsed.
pub(crate) struct Document {
    pub(crate) number: usize,
    pub(crate) value: Result<Value, String>,
}

/// Parses a file by the format that its name tells.
pub(crate) fn documents(file: &str, text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if Path::new(file)
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        json_documents(text)
    } else {
        yaml_documents(text)
    }
}

fn json_documents(text: &str) -> Vec<Document> {
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .enumerate()
        .map(|(index, value)| Document {
            number: index + 1,
            value: value.map_err(|error| error.to_string()),
        })
        .collect()
}

/// Documents are parsed one by one, so that a broken one does not hide those after it.
fn yaml_documents(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut number = 0;
    for chunk in chunks(text) {
        number += 1;
        if is_blank(chunk.text) {
            // What stands before the first marker is a document only if it holds something.
            number -= usize::from(!chunk.text.starts_with("---"));
            continue;
        }
        match yaml(chunk) {
            Ok(Value::Null) => {}
            value @ (Ok(_) | Err(_)) => documents.push(Document { number, value }),
        }
    }
    documents
}

#[derive(Clone, Copy)]
struct Chunk<'a> {
    lines_before: usize,
    text: &'a str,
}

/// Splits before every line that starts with a document marker: YAML allows that at the start of
/// a line for nothing else, not even in a block scalar.
fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && offset > start {
            chunks.push(Chunk {
                lines_before: start_line,
                text: &text[start..offset],
            });
            (start, start_line) = (offset, index);
        }
        offset += line.len();
    }
    chunks.push(Chunk {
        lines_before: start_line,
        text: &text[start..],
    });
    chunks
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Nothing but markers, comments and directives.
fn is_blank(chunk: &str) -> bool {
    chunk.lines().enumerate().all(|(index, line)| {
        let rest = if index == 0 && is_marker(line) {
            &line[3..]
        } else {
            line
        };
        let rest = rest.trim();
        rest.is_empty() || rest.starts_with('#') || rest == "..." || line.starts_with('%')
    })
}

fn yaml(chunk: Chunk<'_>) -> Result<Value, String> {
    serde_saphyr::from_str_with_options(chunk.text, options()).map_err(|error| {
        let place = error.location().map(|at| {
            let line = chunk.lines_before as u64 + at.line();
            format!(" at line {line}, column {}", at.column())
        });
        let reason = error
            .without_snippet()
            .render_with_formatter(&UserMessageFormatter);
        let reason = reason.split(" at line ").next().unwrap_or_default();
        format!("{reason}{}", place.unwrap_or_default())
    })
}

/// Room for as many objects as a file of the greatest size can hold in one `List`; bombs of
/// aliases and of nesting are still refused.
fn options() -> Options {
    let mut budget = Budget::default();
    budget.max_events = usize::MAX;
    budget.max_nodes = usize::MAX;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.with_snippet = false;
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<usize> {
        yaml_documents(text).iter().map(|d| d.number).collect()
    }

    #[test]
    fn documents_are_numbered_as_written() {
        for (text, expected) in [
            ("", vec![]),
            ("# nothing\n", vec![]),
            ("a: 1\n", vec![1]),
            ("---\na: 1\n---\nb: 2\n", vec![1, 2]),
            ("# head\n---\na: 1\n", vec![1]),
            ("%YAML 1.2\n---\na: 1\n...\n", vec![1]),
            ("a: 1\n---\n---\nb: 2\n", vec![1, 3]),
            ("a: 1\n--- # two\nb: 2\r\n---\r\nc: 3", vec![1, 2, 3]),
            ("a: |\n  ---\n  x\n---\nnull\n---\nb: ----\n", vec![1, 3]),
        ] {
            assert_eq!(numbers(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_broken_document_leaves_the_others() {
        let documents = yaml_documents("a: 1\n---\nb: [\n---\nc: 3\n");
        let parsed: Vec<bool> = documents.iter().map(|d| d.value.is_ok()).collect();
        assert_eq!(parsed, [true, false, true]);
    }

    #[test]
    fn an_error_tells_the_line_of_the_file() {
        let documents = yaml_documents("a: 1\n---\nb: 2\nc: {\n");
        let error = documents[1].value.as_ref().unwrap_err();
        assert!(error.contains(" at line 4, column 4"), "{error}");
    }

    #[test]
    fn bombs_are_refused() {
        let nested = "[".repeat(100_000);
        let aliases = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            let before = n - 1;
            format!("{text}a{n}: &a{n} [*a{before}, *a{before}]\n")
        });
        for bomb in [nested, aliases] {
            assert!(yaml_documents(&bomb)[0].value.is_err());
        }
        assert!(json_documents(&"[".repeat(100_000))[0].value.is_err());
    }
}

//! What of a Rust file is code: comments and literals are left out, so that talking of `unsafe` is not using it.

use std::{iter::Peekable, str::Chars};

/// The lines of a Rust file with the content of comments, strings and characters left out.
pub(super) fn code_lines(text: &str) -> Vec<String> {
    let mut lexer = Lexer {
        rest: text.chars().peekable(),
        code: String::new(),
    };
    lexer.run();
    lexer.code.split('\n').map(str::to_owned).collect()
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    code: String,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(c) = self.rest.next() {
            match c {
                '/' if self.rest.peek() == Some(&'/') => self.line_comment(),
                '/' if self.rest.peek() == Some(&'*') => self.block_comment(),
                '"' => self.string(),
                '\'' => self.quote(),
                'r' if !self.inside_word() => self.perhaps_raw_string(),
                c => self.code.push(c),
            }
        }
    }

    fn line_comment(&mut self) {
        while self.rest.next_if(|&c| c != '\n').is_some() {}
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        let mut last = '/';
        while let Some(c) = self.next_leaving_out() {
            // A character can end one mark only: `/*/` opens and does not close.
            let mark = (last, c);
            last = c;
            if mark == ('/', '*') {
                depth += 1;
                last = ' ';
            } else if mark == ('*', '/') {
                depth -= 1;
                last = ' ';
            }
            if depth == 0 {
                break;
            }
        }
    }

    fn string(&mut self) {
        self.code.push('"');
        while let Some(c) = self.next_leaving_out() {
            if c == '\\' {
                self.next_leaving_out();
            } else if c == '"' {
                break;
            }
        }
        self.code.push('"');
    }

    /// A character, or the mark of a lifetime, which has no second quote.
    fn quote(&mut self) {
        let mut ahead = self.rest.clone();
        let first = ahead.next();
        if first != Some('\\') && ahead.next() != Some('\'') {
            self.code.push('\'');
            return;
        }
        while let Some(c) = self.next_leaving_out() {
            if c == '\\' {
                self.next_leaving_out();
            } else if c == '\'' {
                break;
            }
        }
        self.code.push_str("''");
    }

    fn perhaps_raw_string(&mut self) {
        let hashes = self.rest.clone().take_while(|&c| c == '#').count();
        if self.rest.clone().nth(hashes) != Some('"') {
            self.code.push('r');
            return;
        }
        self.code.push('"');
        self.rest.nth(hashes);
        while let Some(c) = self.next_leaving_out() {
            let closing = self.rest.clone().take_while(|&c| c == '#').count();
            if c == '"' && closing >= hashes {
                self.rest.by_ref().take(hashes).for_each(|_hash| {});
                break;
            }
        }
        self.code.push('"');
    }

    /// The next character; only the ends of lines are kept.
    fn next_leaving_out(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.code.push(c);
        }
        Some(c)
    }

    fn inside_word(&self) -> bool {
        let last = self.code.chars().next_back();
        // `br"…"` is a raw string too.
        last.is_some_and(|c| c != 'b' && (c.is_alphanumeric() || c == '_'))
    }
}

/// The words of a line: names and keywords.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        for (text, code) in [
            ("a // unsafe\nb", "a \nb"),
            ("a /* x /* y */ z\n */ b", "a \n b"),
            ("a /*/ x */ b", "a  b"),
            (r#"f("a\"b // c", d)"#, r#"f("", d)"#),
            ("r#\"a \" b\"# + c", "\"\" + c"),
            ("br\"x\\\" + c", "b\"\" + c"),
            ("for r in x", "for r in x"),
            ("'\"' + '\\'' + '\\n'", "'' + '' + ''"),
            ("&'a str, 'b'", "&'a str, ''"),
            ("\"two\nlines\"", "\"\n\""),
        ] {
            assert_eq!(code_lines(text).join("\n"), code, "of {text}");
        }
    }
}

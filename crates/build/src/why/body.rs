//! Where the body of a function ends in its source.

/// How many lines a declaration may have before its body begins.
const LONGEST_DECLARATION: u64 = 64;

/// The line of the brace that closes the body of the function that is declared at a line, both
/// counted from 1. `None` if no body follows or its braces do not match.
///
/// Of alternatives (`#if`, `#else`) the first is read, so that braces in each of them count once.
/// C, C++ and Rust are alike as far as that goes.
pub(super) fn end_of_body(text: &[u8], line: u64) -> Option<u64> {
    let first = usize::try_from(line.checked_sub(1)?).ok()?;
    let mut scanner = Scanner::default();
    for (number, text) in (line..).zip(text.split(|byte| *byte == b'\n').skip(first)) {
        if scanner.skips(text) {
            continue;
        }
        match scanner.read(text) {
            Step::Closed => return Some(number),
            Step::Ended => return None,
            Step::Open if scanner.depth == 0 && number >= line + LONGEST_DECLARATION => {
                return None;
            }
            Step::Open => {}
        }
    }
    None
}

/// What a line has done.
enum Step {
    /// The body is not over, or has not begun.
    Open,
    /// The body has ended.
    Closed,
    /// There is none: it was a declaration.
    Ended,
}

#[derive(Default)]
struct Scanner {
    /// Braces that are open.
    depth: u64,
    /// Parentheses and brackets that are open before the body.
    nested: u64,
    in_comment: bool,
    /// Nested conditions inside an alternative that is not read; 0 outside of one.
    skipped: u64,
    /// The line before is a directive that goes on.
    in_directive: bool,
}

impl Scanner {
    /// Whether a line is a directive, or in an alternative that is not read.
    fn skips(&mut self, text: &[u8]) -> bool {
        let text = text.trim_ascii();
        let continues = text.ends_with(b"\\");
        if std::mem::replace(&mut self.in_directive, false) {
            self.in_directive = continues;
            return true;
        }
        let directive = text.strip_prefix(b"#").filter(|_| !self.in_comment);
        let Some(directive) = directive.map(<[u8]>::trim_ascii_start) else {
            return self.skipped > 0;
        };
        // An attribute of Rust.
        if directive.starts_with(b"[") || directive.starts_with(b"!") {
            return self.skipped > 0;
        }
        self.in_directive = continues;
        if directive.starts_with(b"if") {
            self.skipped += u64::from(self.skipped > 0);
        } else if directive.starts_with(b"endif") {
            self.skipped = self.skipped.saturating_sub(1);
        } else if directive.starts_with(b"el") {
            self.skipped = self.skipped.max(1);
        }
        true
    }

    fn read(&mut self, text: &[u8]) -> Step {
        let mut rest = text;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.in_comment {
                self.in_comment = !rest.starts_with(b"*/");
                rest = if self.in_comment { behind } else { &rest[2..] };
                continue;
            }
            rest = behind;
            match byte {
                b'/' if behind.starts_with(b"/") => break,
                b'/' if behind.starts_with(b"*") => {
                    self.in_comment = true;
                    rest = &behind[1..];
                }
                b'"' => rest = behind_quote(behind, b'"').unwrap_or_default(),
                b'\'' if is_character(behind) => {
                    rest = behind_quote(behind, b'\'').unwrap_or_default();
                }
                b'{' => self.depth += 1,
                b'}' if self.depth <= 1 => {
                    return if self.depth == 1 {
                        Step::Closed
                    } else {
                        Step::Ended
                    };
                }
                b'}' => self.depth -= 1,
                b'(' | b'[' => self.nested += u64::from(self.depth == 0),
                b')' | b']' if self.depth == 0 => self.nested = self.nested.saturating_sub(1),
                b';' if self.depth == 0 && self.nested == 0 => return Step::Ended,
                _ => {}
            }
        }
        Step::Open
    }
}

/// What follows the closing quote, if it is on this line.
fn behind_quote(text: &[u8], quote: u8) -> Option<&[u8]> {
    let mut escaped = false;
    for (index, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if *byte == quote => return text.get(index + 1..),
            _ => {}
        }
    }
    None
}

/// Whether an apostrophe begins a character, and not a lifetime or the thousands of a number.
fn is_character(behind: &[u8]) -> bool {
    behind.first() == Some(&b'\\') || behind.iter().take(5).skip(1).any(|byte| *byte == b'\'')
}

#[cfg(test)]
mod tests {
    use super::end_of_body;

    #[track_caller]
    fn ends(text: &str, line: u64, end: Option<u64>) {
        assert_eq!(end_of_body(text.as_bytes(), line), end, "{text}");
    }

    #[test]
    fn a_body_ends_with_its_brace() {
        ends("int f(void)\n{\n\tif (x) {\n\t}\n}\nint g;\n", 1, Some(5));
        ends("int f(void) { return 1; }\n", 1, Some(1));
        ends("int f(\n\tint a,\n\tint b)\n{\n}\n", 1, Some(5));
        ends("int a;\nint f(void)\n{\n}\n", 2, Some(4));
        ends(
            "fn f<'a>(x: &'a [u8; 2]) -> char {\n    '{'\n}\n",
            1,
            Some(3),
        );
    }

    #[test]
    fn braces_in_texts_and_comments_do_not_count() {
        ends(
            "int f(void)\n{ /* } */\n\tputs(\"}\\\"}\"); // }\n\tc = '}';\n}\n",
            1,
            Some(5),
        );
        ends("int f(void)\n{\n/*\n}\n*/\n}\n", 1, Some(6));
        ends("int f(void)\n{\n\tint n = 1'000;\n}\n", 1, Some(4));
    }

    #[test]
    fn the_first_alternative_is_read() {
        let text = "int f(void)\n{\n#ifdef A\n\tif (a) {\n#else\n\tif (b) {\n#if C\n{\n#endif\n#endif\n\t}\n}\n";
        ends(text, 1, Some(12));
        ends("int f(void)\n{\n#define X { \\\n\t{\n}\n", 1, Some(5));
    }

    #[test]
    fn a_declaration_has_none() {
        ends("int f(void);\nint g(void)\n{\n}\n", 1, None);
        ends("DEFINE(f);\n", 1, None);
        ends("int f(void)\n{\n", 1, None);
        ends("}\n", 1, None);
        ends("", 3, None);
        ends("int f(void)\n{\n}\n", 0, None);
    }
}

//! Where in a C or C++ file a preprocessing directive may be put.

/// Follows a file line by line.
///
/// A directive is safe before a line if that line does not continue the one before it, and is
/// not within a comment, a string, or parentheses: a directive among the arguments of a macro
/// call is undefined, and which parentheses are a macro call's is not known here.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    /// Open parentheses of the code.
    depth: usize,
    groups: Vec<Group>,
    /// Within a number, where an apostrophe separates digits.
    in_number: bool,
    /// The last word, which tells a raw string from others.
    word: Vec<u8>,
}

/// A conditional group that is open, and parentheses.
#[derive(Debug)]
struct Group {
    /// Open where it begins, so that each branch begins with as many.
    before: usize,
    /// The most that a branch has left open.
    after: usize,
    /// Whether the present branch is `#if 0`: it holds anything, and counts for nothing.
    disabled: bool,
    /// Whether one of the branches is an `#else`, so that one of them is always taken.
    complete: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Code,
    /// A directive, until its last line ends.
    Directive,
    LineComment,
    /// A comment, and whether it began in a directive, which then goes on after it.
    BlockComment {
        in_directive: bool,
    },
    /// A literal, its quote, and whether it is in a directive.
    Literal {
        quote: u8,
        in_directive: bool,
    },
    /// A raw string and what ends it.
    RawString(Vec<u8>),
}

/// What a line does to conditional groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conditional {
    /// `#if` and its kind.
    Opens,
    /// `#else` and its kind.
    Switches,
    /// `#endif`.
    Closes,
    /// A directive that gives the next line a number of its own.
    SetsLine,
}

impl Lexer {
    /// Whether a directive may be put between the lines so far and the next one.
    pub(super) fn is_safe(&self) -> bool {
        self.state == State::Code && self.depth == 0
    }

    /// Takes in the next line, with or without its end.
    pub(super) fn read(&mut self, line: &[u8]) -> Option<Conditional> {
        let text = line.trim_ascii_end();
        let continues = text.ends_with(b"\\");
        let text = if continues {
            &text[..text.len() - 1]
        } else {
            text
        };
        let mut directive = None;
        let mut rest = text;
        if self.state == State::Code
            && let Some(body) = directive_body(text)
        {
            directive = classify(body);
            self.note_conditional(directive, body);
            self.state = State::Directive;
            rest = body;
        }
        self.scan(rest);
        if !continues {
            self.end_line();
        }
        directive
    }

    fn note_conditional(&mut self, directive: Option<Conditional>, body: &[u8]) {
        match directive {
            Some(Conditional::Opens) => self.groups.push(Group {
                before: self.depth,
                after: 0,
                disabled: body.trim_ascii() == b"if 0",
                complete: false,
            }),
            Some(Conditional::Switches) => {
                if let Some(group) = self.groups.last_mut() {
                    group.end_branch(self.depth);
                    group.complete |= body.trim_ascii_start().starts_with(b"else");
                    self.depth = group.before;
                }
            }
            Some(Conditional::Closes) => {
                if let Some(mut group) = self.groups.pop() {
                    group.end_branch(self.depth);
                    self.depth = if group.complete {
                        group.after
                    } else {
                        group.after.max(group.before)
                    };
                }
            }
            Some(Conditional::SetsLine) | None => {}
        }
    }

    fn end_line(&mut self) {
        self.in_number = false;
        self.word.clear();
        match self.state {
            State::Code | State::BlockComment { .. } | State::RawString(_) => {}
            // A literal that is not closed is text in a skipped group, such as an apostrophe.
            State::Directive | State::LineComment | State::Literal { .. } => {
                self.state = State::Code;
            }
        }
    }

    fn scan(&mut self, text: &[u8]) {
        let mut at = 0;
        while at < text.len() {
            at += self.step(&text[at..]);
        }
    }

    /// Takes in one token or character and returns its length.
    fn step(&mut self, text: &[u8]) -> usize {
        match &self.state {
            State::Code => self.step_code(text, false),
            State::Directive => self.step_code(text, true),
            State::LineComment => text.len(),
            State::BlockComment { in_directive } => {
                let in_directive = *in_directive;
                match find(text, b"*/") {
                    Some(at) => {
                        self.state = code(in_directive);
                        at + 2
                    }
                    None => text.len(),
                }
            }
            State::Literal {
                quote,
                in_directive,
            } => {
                let (quote, in_directive) = (*quote, *in_directive);
                if text[0] == b'\\' {
                    2
                } else {
                    if text[0] == quote {
                        self.state = code(in_directive);
                    }
                    1
                }
            }
            State::RawString(end) => match find(text, end) {
                Some(at) => {
                    let length = at + end.len();
                    self.state = State::Code;
                    length
                }
                None => text.len(),
            },
        }
    }

    fn step_code(&mut self, text: &[u8], in_directive: bool) -> usize {
        let first = text[0];
        if self.in_number {
            let separates = first == b'\'' && text.get(1).is_some_and(u8::is_ascii_alphanumeric);
            if separates || first.is_ascii_alphanumeric() || matches!(first, b'_' | b'.') {
                return 1;
            }
            self.in_number = false;
        }
        if first.is_ascii_alphanumeric() || first == b'_' {
            self.in_number = first.is_ascii_digit() && self.word.is_empty();
            self.word.push(first);
            return 1;
        }
        let word = std::mem::take(&mut self.word);
        match first {
            b'/' if text.starts_with(b"//") => self.state = State::LineComment,
            b'/' if text.starts_with(b"/*") => {
                self.state = State::BlockComment { in_directive };
                return 2;
            }
            b'"' if word.ends_with(b"R") && !in_directive => {
                if let Some(delimiter) = raw_delimiter(&text[1..]) {
                    let length = delimiter.len() + 2;
                    let mut end = vec![b')'];
                    end.extend(delimiter);
                    end.push(b'"');
                    self.state = State::RawString(end);
                    return length;
                }
                self.state = State::Literal {
                    quote: first,
                    in_directive,
                };
            }
            b'"' | b'\'' => {
                self.state = State::Literal {
                    quote: first,
                    in_directive,
                };
            }
            b'(' if !in_directive => self.depth += 1,
            b')' if !in_directive => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        1
    }
}

impl Group {
    fn end_branch(&mut self, depth: usize) {
        if !self.disabled {
            self.after = self.after.max(depth);
        }
        self.disabled = false;
    }
}

fn code(in_directive: bool) -> State {
    if in_directive {
        State::Directive
    } else {
        State::Code
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// The delimiter of a raw string, from after the quote to the parenthesis.
fn raw_delimiter(text: &[u8]) -> Option<&[u8]> {
    let at = text.iter().position(|&byte| byte == b'(')?;
    let delimiter = &text[..at];
    let fits = at <= 16
        && !delimiter
            .iter()
            .any(|byte| byte.is_ascii_whitespace() || matches!(byte, b')' | b'\\' | b'"'));
    fits.then_some(delimiter)
}

/// What follows the `#` of a directive.
fn directive_body(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii_start();
    line.strip_prefix(b"#")
        .or_else(|| line.strip_prefix(b"%:"))
        .or_else(|| line.strip_prefix(b"??="))
}

fn classify(body: &[u8]) -> Option<Conditional> {
    let body = body.trim_ascii_start();
    let end = body
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric())
        .unwrap_or(body.len());
    match &body[..end] {
        b"if" | b"ifdef" | b"ifndef" => Some(Conditional::Opens),
        b"else" | b"elif" | b"elifdef" | b"elifndef" => Some(Conditional::Switches),
        b"endif" => Some(Conditional::Closes),
        b"line" => Some(Conditional::SetsLine),
        number if number.first().is_some_and(u8::is_ascii_digit) => Some(Conditional::SetsLine),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Lexer;

    /// Numbers of the lines (from 1) before which a directive is safe.
    fn safe_lines(text: &str) -> Vec<usize> {
        let mut lexer = Lexer::default();
        let mut safe = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if lexer.is_safe() {
                safe.push(index + 1);
            }
            lexer.read(line.as_bytes());
        }
        safe
    }

    #[test]
    fn plain_code_is_safe_everywhere() {
        assert_eq!(safe_lines("int a;\nint f(void)\n{\n}\n"), [1, 2, 3, 4]);
    }

    #[test]
    fn comments_are_not() {
        assert_eq!(safe_lines("/* a\n(b\n*/ int x;\nint y;\n"), [1, 4]);
        assert_eq!(safe_lines("int x; // it's (\nint y;\n"), [1, 2]);
        assert_eq!(safe_lines("// goes on \\\n( still\nint y;\n"), [1, 3]);
        assert_eq!(safe_lines("int a; /* x */ /* y\n*/\nint b;\n"), [1, 3]);
    }

    #[test]
    fn parentheses_are_not_over_any_number_of_lines() {
        assert_eq!(safe_lines("LOG(a,\n  (b),\n  c);\nint x;\n"), [1, 4]);
        assert_eq!(safe_lines("f(\")\", ')',\n 1);\nint x;\n"), [1, 3]);
        assert_eq!(safe_lines("f(1 /* ) */\n);\nint x;\n"), [1, 3]);
    }

    #[test]
    fn strings_hide_what_is_in_them() {
        assert_eq!(
            safe_lines("a = \"/*\";\nb = '\"';\nc = \"\\\"(\";\nd;\n"),
            [1, 2, 3, 4]
        );
        assert_eq!(safe_lines("a = \"x\\\n(y\\\nz\";\nd;\n"), [1, 4]);
    }

    #[test]
    fn raw_strings_end_only_at_their_delimiter() {
        let text = "a = R\"x(\n)\" \" ( /*\n)x\";\nint b;\n";
        assert_eq!(safe_lines(text), [1, 4]);
        assert_eq!(safe_lines("a = u8R\"(\n(\n)\";\nint b;\n"), [1, 4]);
        // A macro named R before a string is rare, and an identifier that ends with R is not raw
        // unless a parenthesis follows.
        assert_eq!(safe_lines("a = FOR\"x\";\nint b;\n"), [1, 2]);
    }

    #[test]
    fn apostrophes_separate_digits() {
        assert_eq!(
            safe_lines("x = 1'000'000;\ny = 0xff'ff'(1);\nz;\n"),
            [1, 2, 3]
        );
        assert_eq!(safe_lines("x = u'(';\nz;\n"), [1, 2]);
    }

    #[test]
    fn directives_end_with_their_last_line() {
        assert_eq!(
            safe_lines("#define A(x) \\\n  (x \\\n  ((\nint y;\n"),
            [1, 4]
        );
        assert_eq!(safe_lines("#define A /* x\n y */ \\\n (\nint y;\n"), [1, 4]);
        assert_eq!(safe_lines("#define A \\  \n (\nint y;\n"), [1, 3]);
        assert_eq!(safe_lines("# define A '\nint y;\n"), [1, 2]);
    }

    #[test]
    fn branches_of_a_group_continue_the_same_code() {
        let text = "#ifdef A\nif (a &&\n#else\nif (b &&\n#endif\n  c)\nint x;\n";
        assert_eq!(safe_lines(text), [1, 2, 4, 7]);
        let text = "#if A\nf(\n#elif B\n#endif\n1);\nint x;\n";
        assert_eq!(safe_lines(text), [1, 2, 4, 6]);
    }

    #[test]
    fn what_is_switched_off_counts_for_nothing() {
        let text = "#if 0\ndon't (\nwell ((\n#endif\nint x;\n";
        assert_eq!(safe_lines(text), [1, 2, 3, 5]);
        let text = "#if 0\n(\n#else\nf(\n#endif\n1);\nint x;\n";
        assert_eq!(safe_lines(text), [1, 2, 4, 7]);
    }

    #[test]
    fn carriage_returns_do_not_matter() {
        assert_eq!(safe_lines("#define A \\\r\n (\r\nint y;\r\n"), [1, 3]);
    }
}

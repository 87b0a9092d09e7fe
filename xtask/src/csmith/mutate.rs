//! One function of a generated program, changed at random.
//!
//! The generator's style makes this a matter of lines: a function begins in the first column
//! and ends with a brace there, constants of expressions have a suffix, and operators have
//! blanks around them.

use super::statements;
use crate::random::Random;

/// A changed program.
#[derive(Debug)]
pub(super) struct Mutant {
    pub(super) text: String,
    /// What was changed.
    pub(super) description: String,
}

/// A function's lines, from its head to its closing brace.
struct Function<'a> {
    name: &'a str,
    head: usize,
    end: usize,
}

const OPERATORS: &[(&str, &[&str])] = &[
    (" ^ ", &[" | ", " & "]),
    (" | ", &[" ^ ", " & "]),
    (" & ", &[" ^ ", " | "]),
    (" && ", &[" || "]),
    (" || ", &[" && "]),
    (" == ", &[" != "]),
    (" != ", &[" == "]),
    (" < ", &[" >= ", " > "]),
    (" > ", &[" <= ", " < "]),
    (" >= ", &[" < "]),
    (" ^= ", &[" |= ", " &= "]),
    (" |= ", &[" ^= ", " = "]),
    (" &= ", &[" ^= ", " |= "]),
    ("safe_add_func_", &["safe_sub_func_", "safe_mul_func_"]),
    ("safe_sub_func_", &["safe_add_func_", "safe_mul_func_"]),
    ("safe_mul_func_", &["safe_add_func_", "safe_sub_func_"]),
    ("safe_div_func_", &["safe_mod_func_"]),
    ("safe_mod_func_", &["safe_div_func_"]),
];

/// Changes one function; nothing when the choice fell on a function without a fitting place.
pub(super) fn mutate(program: &str, random: &mut Random) -> Option<Mutant> {
    let lines: Vec<&str> = program.lines().collect();
    let functions = find_functions(&lines);
    if functions.is_empty() {
        return None;
    }
    let function = &functions[random.below(functions.len() as u64) as usize];
    let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let what = match random.below(6) {
        0 => change_constant(&mut changed, function, random)?,
        1 | 2 => change_operator(&mut changed, function, random)?,
        3 => negate_condition(&mut changed, function, random)?,
        4 => drop_statement(&mut changed, function, random)?,
        _ => {
            let statement = statements::choose(random);
            add_statement(&mut changed, function, &statement, random)?
        }
    };
    Some(Mutant {
        text: changed.join("\n") + "\n",
        description: format!("{}: {what}", function.name),
    })
}

fn find_functions<'a>(lines: &[&'a str]) -> Vec<Function<'a>> {
    let mut functions = Vec::new();
    for (head, pair) in lines.windows(2).enumerate() {
        let starts = pair[0].starts_with(char::is_alphabetic) && pair[1].starts_with('{');
        let Some((before, _)) = pair[0].split_once('(') else {
            continue;
        };
        if !starts || !pair[0].ends_with(')') {
            continue;
        }
        let name = before.split_whitespace().last().unwrap_or_default();
        let length = lines[head..].iter().position(|line| line.starts_with('}'));
        functions.extend(length.map(|length| Function {
            name,
            head,
            end: head + length,
        }));
    }
    functions
}

/// Lines of the function that are statements or parts of them.
fn body(function: &Function<'_>) -> std::ops::Range<usize> {
    function.head + 2..function.end
}

/// Start and length of each constant with a suffix.
fn find_constants(line: &str) -> Vec<(usize, usize)> {
    let bytes = line.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let inside_word =
            at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        if !bytes[at].is_ascii_digit() || inside_word {
            at += 1;
            continue;
        }
        let length = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        if bytes[at + length - 1] == b'L' {
            found.push((at, length));
        }
        at += length;
    }
    found
}

fn change_constant(
    lines: &mut [String],
    function: &Function<'_>,
    random: &mut Random,
) -> Option<String> {
    let places: Vec<(usize, usize, usize)> = body(function)
        .flat_map(|line| {
            let constants = find_constants(&lines[line]).into_iter();
            constants.map(move |(at, length)| (line, at, length))
        })
        .collect();
    let (line, at, length) = choose_place(&places, random)?;
    let old = lines[line][at..at + length].to_owned();
    let suffix: String = old
        .chars()
        .skip_while(|letter| !matches!(letter, 'U' | 'L'))
        .collect();
    let new = match random.below(3) {
        0 => format!("{}{suffix}", random.below(3)),
        1 => format!("{}{suffix}", random.below(100)),
        _ => format!("0x{:X}{suffix}", random.below(1 << 31)),
    };
    lines[line].replace_range(at..at + length, &new);
    Some(format!("{old} becomes {new}"))
}

fn change_operator(
    lines: &mut [String],
    function: &Function<'_>,
    random: &mut Random,
) -> Option<String> {
    let places: Vec<(usize, usize, usize)> = body(function)
        .flat_map(|line| {
            let text = &lines[line];
            OPERATORS
                .iter()
                .enumerate()
                .flat_map(move |(index, (old, _))| {
                    text.match_indices(old)
                        .map(move |(at, _)| (line, at, index))
                })
        })
        .collect();
    let (line, at, index) = choose_place(&places, random)?;
    let (old, new) = OPERATORS[index];
    let new = random.choose(new);
    lines[line].replace_range(at..at + old.len(), new);
    Some(format!("{} becomes {}", old.trim(), new.trim()))
}

fn negate_condition(
    lines: &mut [String],
    function: &Function<'_>,
    random: &mut Random,
) -> Option<String> {
    let whole = |line: &str| line.trim().starts_with("if (") && line.ends_with(')');
    let line = choose_line(lines, function, random, whole)?;
    lines[line] = lines[line].replacen("if (", "if (!(", 1) + ")";
    Some("a condition is negated".to_owned())
}

fn drop_statement(
    lines: &mut [String],
    function: &Function<'_>,
    random: &mut Random,
) -> Option<String> {
    let assigns = |line: &str| {
        let text = line.trim();
        text.ends_with(';') && (text.starts_with("(*") || text.starts_with("g_"))
    };
    let line = choose_line(lines, function, random, assigns)?;
    lines[line] = ";".to_owned();
    Some("a statement is gone".to_owned())
}

fn add_statement(
    lines: &mut [String],
    function: &Function<'_>,
    statement: &statements::Statement,
    random: &mut Random,
) -> Option<String> {
    let begins = |line: &str| {
        let text = line.trim();
        ["(*", "g_", "if (", "for (", "return", "transparent_crc("]
            .iter()
            .any(|start| text.starts_with(start))
    };
    let alone = |before: &str| {
        let text = before.trim();
        text.ends_with([';', '{', '}']) || text.ends_with(':')
    };
    let places: Vec<usize> = body(function)
        .filter(|line| begins(&lines[*line]) && alone(&lines[line - 1]))
        .collect();
    let line = choose_place(&places, random)?;
    lines[line] = format!("{}\n{}", statement.text, lines[line]);
    if !statement.function.is_empty() {
        lines[function.head] = format!("{}\n{}", statement.function, lines[function.head]);
    }
    Some(format!("{} is added", statement.name))
}

fn choose_line(
    lines: &[String],
    function: &Function<'_>,
    random: &mut Random,
    fits: impl Fn(&str) -> bool,
) -> Option<usize> {
    let places: Vec<usize> = body(function).filter(|line| fits(&lines[*line])).collect();
    choose_place(&places, random)
}

fn choose_place<T: Copy>(places: &[T], random: &mut Random) -> Option<T> {
    (!places.is_empty()).then(|| random.choose(places))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "static int g_1 = 5L;\n\
                           static int func_1(int p_2);\n\
                           static int func_1(int p_2)\n\
                           { \n\
                           \x20   int l_3[4];\n\
                           \x20   if (p_2)\n\
                           \x20   { \n\
                           \x20       g_1 ^= (p_2 & 0x1FL);\n\
                           \x20   }\n\
                           \x20   return g_1;\n\
                           }\n";

    #[test]
    fn functions_are_found_by_their_definitions() {
        let lines: Vec<&str> = PROGRAM.lines().collect();
        let functions = find_functions(&lines);
        assert_eq!(functions.len(), 1);
        assert_eq!(functions[0].name, "func_1");
        assert_eq!((functions[0].head, functions[0].end), (2, 10));
    }

    #[test]
    fn sizes_and_names_are_no_constants() {
        assert_eq!(find_constants("l_3[4] = g_17 + 0x1FL;"), [(16, 5)]);
        assert_eq!(find_constants("(-1L), 65535UL"), [(2, 2), (7, 7)]);
    }

    #[test]
    fn a_mutant_differs_within_one_function_and_by_seed_only() {
        let head = PROGRAM
            .find("static int func_1(int p_2)\n")
            .expect("a head");
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let Some(mutant) = mutate(PROGRAM, &mut Random::new(seed)) else {
                continue;
            };
            assert_ne!(mutant.text, PROGRAM, "{seed}");
            assert_eq!(mutant.text[..head], PROGRAM[..head], "{seed}");
            let again = mutate(PROGRAM, &mut Random::new(seed)).expect("a mutant again");
            assert_eq!(again.text, mutant.text, "{seed}");
            kinds.insert(mutant.description);
        }
        assert!(kinds.len() > 15, "{kinds:?}");
    }
}

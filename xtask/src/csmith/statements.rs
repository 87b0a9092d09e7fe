//! Statements that are added to functions, each with something new to bring along.

use crate::random::Random;

/// Statements use `crc32_context`, the generated program's checksum so far, which everything
/// that is computed afterwards becomes part of.
pub(super) struct Statement {
    pub(super) name: &'static str,
    pub(super) text: String,
    /// A new function that it calls, or nothing.
    pub(super) function: String,
}

pub(super) fn choose(random: &mut Random) -> Statement {
    let number = random.below(1 << 16);
    let (name, text) = match random.below(9) {
        0 => (
            "an assignment",
            format!("crc32_context = crc32_context * 33u + {number}u;"),
        ),
        1 => ("a switch", write_switch(number)),
        2 => (
            "a text",
            format!("crc32_byte((unsigned char)\"text {number:08}\"[crc32_context & 7u]);"),
        ),
        3 => (
            "a table",
            format!(
                "{{ static const unsigned table[8] = {{ {number}u, 3u, 1u, 4u, 1u, 5u, 9u, 2u }}; \
                 crc32_context ^= table[crc32_context & 7u]; }}"
            ),
        ),
        4 => (
            "a table of addresses",
            format!(
                "{{ static const char *const names[4] = {{ \"one\", \"two\", \"three\", \
                 \"{number}\" }}; crc32_byte((unsigned char)*names[crc32_context & 3u]); }}"
            ),
        ),
        5 => (
            "a counter",
            format!("{{ static unsigned calls = {number}u; crc32_context += ++calls; }}"),
        ),
        6 => (
            "a floating-point constant",
            format!("crc32_context = (unsigned)((crc32_context >> 8) * {number}.25);"),
        ),
        7 => (
            "a call of a library",
            format!(
                "{{ extern unsigned long strtoul(const char *, char **, int); \
                 crc32_context += (unsigned)strtoul(\"{number}\", 0, \
                 (int)(10u + (crc32_context & 1u))); }}"
            ),
        ),
        _ => (
            "a call of a new function",
            format!("crc32_context = added_function(crc32_context, {number}u);"),
        ),
    };
    let called = text.contains("added_function");
    Statement {
        name,
        function: if called {
            write_function(random)
        } else {
            String::new()
        },
        text,
    }
}

fn write_function(random: &mut Random) -> String {
    let attribute = random.choose(&["", "__attribute__((noinline)) "]);
    format!(
        "static {attribute}unsigned added_function(unsigned value, unsigned factor)\n\
         {{\n    unsigned round;\n    \
         for (round = 0; round < 5u && value > factor; round++)\n        \
         value = value / 3u ^ factor;\n    crc32_8bytes(value);\n    return crc32_context;\n}}"
    )
}

/// Enough cases, different enough for a jump table.
fn write_switch(number: u64) -> String {
    let cases: Vec<String> = (0..8u64)
        .map(|case| {
            let text = match case % 3 {
                0 => format!("crc32_context += {}u;", number + case),
                1 => format!("crc32_byte({}u);", (number + case) & 0xff),
                _ => format!("crc32_context = crc32_context * {}u;", number | 1),
            };
            format!("case {case}: {text} break;")
        })
        .collect();
    format!("switch (crc32_context & 15u) {{ {} }}", cases.join(" "))
}

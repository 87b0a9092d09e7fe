//! Pre-patch code that makes no sense is refused, not followed.

use engraft_module::{PreKind, PreObject};

use crate::pre_code::{Plan, read_objects};
use crate::programs::{MAIN, OTHER, WANTED};
use crate::support::{Program, Workshop};
use crate::variants::examine;

/// Needs nothing of the pre-patch code.
const PATCH: &str = r#"
#include <linux/module.h>
#include <linux/livepatch.h>
static int new_describe(void) { return 0; }
static struct klp_func funcs[] = { { .old_name = "describe", .new_func = new_describe }, {} };
static struct klp_object objs[] = { { .funcs = funcs }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static int init(void) { return klp_enable_patch(&patch); }
module_init(init);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#;

const ROUNDS: usize = 100;

/// xorshift64; the seed is printed by every failing assertion.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A number at which something may go wrong.
    fn number(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(64) as u64,
            1 => (self.below(64) as u64).wrapping_neg(),
            2 => u64::MAX >> self.below(64),
            3 => (i64::MIN >> self.below(64)).cast_unsigned(),
            _ => self.next(),
        }
    }
}

/// Changes one thing so that all positions stay valid, as the reader of modules demands.
fn damage(code: &mut PreObject, random: &mut Random) {
    let symbols = code.symbols.len();
    let sections = code.sections.len();
    let section = random.below(sections);
    let length = code.sections[section].bytes.len() as u64;
    match random.below(8) {
        0 => {
            let symbol = &mut code.symbols[random.below(symbols)];
            symbol.size = random.number();
        }
        1 => {
            let is_function = |id: usize| {
                code.functions.iter().any(|function| {
                    function.symbol as usize == id || function.cold.contains(&(id as u32))
                })
            };
            let id = random.below(symbols);
            if !is_function(id) || code.sections[section].kind == PreKind::Code {
                let place = (section as u32, random.next() % (length + 1));
                code.symbols[id].place = Some(place);
            }
        }
        2 => {
            let symbol = &mut code.symbols[random.below(symbols)];
            symbol.wanted = true;
        }
        3 => {
            let other = code.symbols[random.below(symbols)].kind;
            code.symbols[random.below(symbols)].kind = other;
        }
        4 => {
            let at = random.below(length as usize);
            if let Some(byte) = code.sections[section].bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        5 => {
            let kinds = [PreKind::ReadOnly, PreKind::Strings];
            if code.sections[section].kind != PreKind::Code {
                code.sections[section].kind = kinds[random.below(2)];
            }
        }
        _ => {
            let relocations = code.sections[section].relocations.len();
            let at = random.below(relocations);
            if let Some(relocation) = code.sections[section].relocations.get_mut(at) {
                match random.below(3) {
                    0 => relocation.kind = random.below(45) as u32,
                    1 => relocation.symbol = random.below(symbols) as u32,
                    _ => relocation.addend = random.number().cast_signed(),
                }
            }
        }
    }
}

#[test]
fn damaged_code_never_panics() {
    let seed = std::env::var("ENGRAFT_SEED").map_or(0xdada, |seed| seed.parse().expect("seed"));
    println!("ENGRAFT_SEED={seed}");
    let mut random = Random(seed);
    let workshop = Workshop::new();
    workshop.write("main.c", MAIN);
    workshop.write("other.c", OTHER);
    let objects = workshop.compile_pre("gcc", &["main.c", "other.c"], &["-O2"]);
    let plan = Plan {
        replaced: &[("describe", "")],
        wanted: WANTED,
        ..Plan::default()
    };
    let code = read_objects(&objects, &plan);
    let plain = workshop.module("damaged", PATCH);
    let path = workshop.build("gcc", "program", &["-O2", "-s", "main.c", "other.c"]);
    let program = Program::start(&path);
    let mut outcomes = [0; 2];
    for _ in 0..ROUNDS {
        let mut damaged = code.clone();
        for _ in 0..=random.below(4) {
            damage(&mut damaged, &mut random);
        }
        let module = workshop.add_pre_code("damaged", &plain, &damaged);
        let report = examine(program.pid(), "damaged", &module);
        outcomes[usize::from(report.problems.is_empty())] += 1;
    }
    program.finish();
    println!("{outcomes:?}");
    assert!(
        outcomes.iter().all(|count| *count > 5),
        "{outcomes:?}, seed {seed}"
    );
}

//! Random scenarios.

use crate::scenario::Step;

/// Numbers that look random, the same for the same seed (xorshift, Marsaglia 2003).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const PATCHES: [&str; 4] = ["conf_p0", "conf_p1", "conf_p2", "conf_p3"];
const FUNCTIONS: [&str; 4] = ["a1", "a2", "b1", "b2"];
const THREADS: usize = 3;

/// Bits of the parameters of `conf_patch.c`.
const FUNCTION_BITS: usize = 6;
const OBJECT_BITS: usize = 4;
const CALLBACK_BITS: usize = 4;

/// The scenario of a seed.
#[must_use]
pub fn generate(seed: u64) -> Vec<Step> {
    // Neighbouring seeds are to have nothing in common, and zero would stay zero.
    let mut random = Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let count = 4 + random.below(14);
    (0..count).map(|_| generate_step(&mut random)).collect()
}

fn generate_step(random: &mut Random) -> Step {
    match random.below(20) {
        0..=5 => generate_load(random),
        6..=8 => Step::Disable(random.pick(&PATCHES).to_owned()),
        9 => Step::Enable(random.pick(&PATCHES).to_owned()),
        10 | 11 => Step::Unload(random.pick(&PATCHES).to_owned()),
        12 if random.one_in(3) => Step::Force(random.pick(&PATCHES).to_owned()),
        12..=14 => {
            let (thread, function) = (random.below(THREADS), random.pick(&FUNCTIONS));
            Step::Target(format!("park {thread} {function}"))
        }
        15..=17 => Step::Target(format!("free {}", random.below(THREADS))),
        _ => Step::Target(format!("call {}", random.pick(&FUNCTIONS))),
    }
}

fn generate_load(random: &mut Random) -> Step {
    let module = random.pick(&PATCHES);
    let mut parameters = format!("version={}", 2 + random.below(90));
    let mut add = |name: &str, value: usize| {
        if value > 0 {
            parameters += &format!(" {name}={value}");
        }
    };
    add("functions", random.below(1 << FUNCTION_BITS));
    add("objects", random.below(1 << OBJECT_BITS));
    add("callbacks", random.below(1 << CALLBACK_BITS));
    add("replace", random.below(2));
    if random.one_in(3) {
        add("state1", random.below(4));
        add("state2", random.below(3));
    }
    if random.one_in(8) {
        add("fails_for", random.below(OBJECT_BITS));
        parameters += &format!(" pre_patch_ret={}", random.pick(&[-1, -12, -16, -19]));
    }
    Step::load(module, &parameters)
}

#[cfg(test)]
mod tests {
    use super::generate;

    #[test]
    fn a_seed_is_a_scenario() {
        assert_eq!(generate(7), generate(7));
        assert_ne!(generate(7), generate(8));
        assert!((0..1000).all(|seed| (4..18).contains(&generate(seed).len())));
    }
}

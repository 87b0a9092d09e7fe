//! Random scenarios.

use engraft_guest::Step;

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
const FUNCTIONS: [&str; 6] = ["a1", "a2", "b1", "b2", "c1", "c2"];

/// Objects that come and go.
const OBJECTS: [&str; 2] = ["conf_b", "conf_c"];
const THREADS: usize = 3;

/// Bits of the parameters of `conf_patch.c`.
const OBJECT_BITS: usize = 4;
const CALLBACK_BITS: usize = 4;

/// The scenario of a seed.
#[must_use]
pub fn generate(seed: u64) -> Vec<Step> {
    // Neighbouring seeds are to have nothing in common, and zero would stay zero.
    let mut generator = Generator {
        random: Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        loaded: Vec::new(),
        off: Vec::new(),
        parked: Vec::new(),
        present: vec!["conf_b"],
    };
    let count = 5 + generator.random.below(16);
    (0..count).map(|_| generator.step()).collect()
}

struct Generator {
    random: Random,
    /// Modules that a step has loaded, if nothing was in the way.
    loaded: Vec<&'static str>,
    /// Of these: patches that were disabled or replaced, if nothing was in the way.
    off: Vec<&'static str>,
    /// Threads that are inside a function.
    parked: Vec<usize>,
    /// Objects that are there, if nothing was in the way.
    present: Vec<&'static str>,
}

impl Generator {
    fn step(&mut self) -> Step {
        match self.random.below(24) {
            0..=4 => self.load(),
            5..=7 => {
                let patch = self.patch();
                self.off.push(patch);
                Step::Disable(patch.to_owned())
            }
            8 => Step::Enable(self.patch().to_owned()),
            9 | 10 => {
                let module = match self.off.pop() {
                    Some(module) if !self.random.one_in(5) => module,
                    _ => self.patch(),
                };
                self.loaded.retain(|loaded| *loaded != module);
                Step::Unload(module.to_owned())
            }
            11 if self.random.one_in(3) => Step::Force(self.patch().to_owned()),
            11..=15 => {
                let thread = self.random.below(THREADS);
                self.parked.push(thread);
                Step::Target(format!("park {thread} {}", self.random.pick(&FUNCTIONS)))
            }
            16..=18 => Step::Target(format!("free {}", self.thread())),
            19..=22 => self.come_or_go(),
            _ => Step::Target(format!("call {}", self.random.pick(&FUNCTIONS))),
        }
    }

    /// One that is probably loaded, the newest most of the time.
    fn patch(&mut self) -> &'static str {
        let on = |name: &&&'static str| !self.off.contains(name);
        match self.loaded.iter().rev().find(on) {
            Some(newest) if !self.random.one_in(3) => newest,
            Some(_) if !self.random.one_in(3) => self.random.pick(&self.loaded),
            _ => self.random.pick(&PATCHES),
        }
    }

    /// One that is probably parked.
    fn thread(&mut self) -> usize {
        match self.parked.pop() {
            Some(thread) if !self.random.one_in(5) => thread,
            _ => self.random.below(THREADS),
        }
    }

    /// An object comes or goes, whichever it can, most of the time; conf_c twice as often.
    fn come_or_go(&mut self) -> Step {
        let object = match self.random.one_in(3) {
            true => self.random.pick(&OBJECTS),
            false => "conf_c",
        };
        let goes = self.present.contains(&object) != self.random.one_in(8);
        self.present.retain(|present| *present != object);
        if goes {
            return Step::Rmmod(object.to_owned());
        }
        self.present.push(object);
        Step::Insmod(object.to_owned())
    }

    fn load(&mut self) -> Step {
        let fresh = PATCHES.iter().find(|name| !self.loaded.contains(name));
        let module = match fresh {
            Some(fresh) if !self.random.one_in(6) => fresh,
            _ => self.random.pick(&PATCHES),
        };
        let parameters = generate_parameters(&mut self.random);
        if parameters.contains("replace=1") {
            self.off.clone_from(&self.loaded);
        }
        self.off.retain(|off| *off != module);
        self.loaded.retain(|loaded| *loaded != module);
        self.loaded.push(module);
        Step::load(module, &parameters)
    }
}

fn generate_parameters(random: &mut Random) -> String {
    let mut parameters = format!("version={}", 2 + random.below(90));
    let mut add = |name: &str, value: usize| {
        if value > 0 {
            parameters += &format!(" {name}={value}");
        }
    };
    add("functions", random.below(1 << FUNCTIONS.len()));
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
    parameters
}

#[cfg(test)]
mod tests {
    use super::generate;

    #[test]
    fn a_seed_is_a_scenario() {
        assert_eq!(generate(7), generate(7));
        assert_ne!(generate(7), generate(8));
        assert!((0..1000).all(|seed| (5..21).contains(&generate(seed).len())));
    }
}

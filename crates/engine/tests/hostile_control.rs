//! A target that writes over its own control mapping: commands are refused or do something,
//! but the tool neither crashes nor hangs, and its memory stays bounded.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use engraft_abi::{CONTROL_MAGIC, ControlHeader, Descriptor};
use engraft_engine::{Engine, LoadRequest, check, read_log, read_status};
use nix::sys::resource::{Resource, setrlimit};
use support::{Program, Workshop, load};

const PROGRAM: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static volatile int entered, zero;
__attribute__((noinline)) int linger(int fd) { char byte; entered = 1; return (int)read(fd, &byte, 1) + zero; }
__attribute__((noinline)) int answer(int question) { return question + 7 + zero; }
static void *body(void *ends) { return (void *)(long)linger(*(int *)ends); }
int main(void)
{
	static char line[64];
	static int ends[2];
	pthread_t thread;
	if (pipe(ends) || pthread_create(&thread, NULL, body, ends))
		return 1;
	while (!entered)
		usleep(1000);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%d\n", answer((int)strlen(line) - 1));
		fflush(stdout);
	}
	return 0;
}
"#;

fn livepatch(function: &str) -> String {
    format!(
        r#"
#include <linux/module.h>
#include <linux/livepatch.h>
static int replacement(int x) {{ return x * 100; }}
static struct klp_func funcs[] = {{ {{ .old_name = "{function}", .new_func = replacement }}, {{}} }};
static struct klp_object objs[] = {{ {{ .funcs = funcs }}, {{}} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs }};
static int init(void) {{ return klp_enable_patch(&patch); }}
static void leave(void) {{}}
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#
    )
}

struct Scene {
    workshop: Workshop,
    modules: [Vec<u8>; 3],
}

/// A patched target whose transition cannot complete, and a copy of its control mapping.
struct Target {
    program: Program,
    memory: File,
    control: u64,
    read_only: Vec<u8>,
    writable: u64,
    writable_bytes: Vec<u8>,
}

impl Scene {
    fn set() -> Self {
        let workshop = Workshop::new();
        workshop.write("program.c", PROGRAM);
        workshop.build("cc", "program", &["program.c", "-O2", "-pthread"]);
        let modules = [
            ("first", "answer"),
            ("second", "linger"),
            ("third", "answer"),
        ]
        .map(|(name, function)| workshop.module(name, &livepatch(function)));
        Self { workshop, modules }
    }

    fn target(&self) -> Target {
        let program = Program::start(&self.workshop.path("program"));
        let mut engine = Engine::open(program.pid()).expect("open");
        load(&mut engine, "first", &self.modules[0], &[]).expect("load");
        support::settle(&mut engine);
        load(&mut engine, "second", &self.modules[1], &[]).expect("load");
        assert!(
            engine.retry().expect("retry").is_some(),
            "a thread is in linger()"
        );
        drop(engine);
        let maps = fs::read_to_string(format!("/proc/{}/maps", program.pid())).expect("maps");
        let ranges: Vec<(u64, u64)> = maps
            .lines()
            .filter(|line| line.ends_with("/memfd:engraft (deleted)"))
            .map(|line| {
                let range = line.split(' ').next().expect("a range");
                let (start, end) = range.split_once('-').expect("a range");
                let number = |text| u64::from_str_radix(text, 16).expect("an address");
                (number(start), number(end))
            })
            .collect();
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{}/mem", program.pid()))
            .expect("memory");
        let copy = |(start, end): (u64, u64)| {
            let mut bytes = vec![0; (end - start) as usize];
            memory.read_exact_at(&mut bytes, start).expect("read");
            bytes
        };
        let [first, .., last] = ranges[..] else {
            panic!("{maps}");
        };
        Target {
            control: first.0,
            read_only: copy(first),
            writable: last.0,
            writable_bytes: copy(last),
            program,
            memory,
        }
    }
}

struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed =
            std::env::var("ENGRAFT_SEED").map_or(0x5c41bb1e, |seed| seed.parse().expect("seed"));
        println!("ENGRAFT_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number as a scribbler would write it where a length or an address is.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => u64::MAX,
            1 => u64::MAX / 2,
            2 => 0,
            3 => 1 << self.below(64),
            4 => self.next(),
            _ => self.below(1 << 20) as u64,
        }
    }
}

/// The descriptors of the two places of the state.
fn descriptor_at(index: usize) -> usize {
    std::mem::offset_of!(ControlHeader, state) + index * size_of::<Descriptor>()
}

impl Target {
    fn word(&self, offset: usize) -> u64 {
        u64::from_le_bytes(
            self.read_only[offset..offset + 8]
                .try_into()
                .expect("eight bytes"),
        )
    }

    /// Index of the place in force, and where its bytes are in the copy.
    fn state(&self) -> (usize, std::ops::Range<usize>) {
        let generation = |index| self.word(descriptor_at(index));
        let index = usize::from(generation(1) > generation(0));
        let at = descriptor_at(index);
        let start = (self.word(at + 8) - self.control) as usize;
        (index, start..start + self.word(at + 16) as usize)
    }

    /// Writes over the state in force and makes its checksum right again: nothing but the
    /// contents tells.
    fn scribble_state(&self, random: &mut Random) {
        let (index, range) = self.state();
        let mut bytes = self.read_only[range.clone()].to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = 0xff,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = random.below(256) as u8,
                _ => {
                    let end = (at + 1 + random.below(9)).min(bytes.len());
                    bytes[at..end].fill(0xff);
                }
            }
        }
        let generation = self.word(descriptor_at(index));
        let checksum = generation
            .to_le_bytes()
            .iter()
            .chain(&bytes)
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
        self.write(range.start, &bytes);
        self.write(descriptor_at(index) + 32, &checksum.to_le_bytes());
    }

    /// Writes numbers over the header: huge lengths, places anywhere.
    fn scribble_header(&self, random: &mut Random) {
        for _ in 0..=random.below(3) {
            let field = random.below(size_of::<ControlHeader>() / 8) * 8;
            let value = match field {
                0 if random.below(4) > 0 => CONTROL_MAGIC,
                _ => random.number(),
            };
            self.write(field, &value.to_le_bytes());
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        let at = self.control + offset as u64;
        self.memory.write_all_at(bytes, at).expect("write");
    }

    fn restore(&self) {
        self.write(0, &self.read_only);
    }
}

const MODULE_FILE: &str = "third.lp";

/// Everything that only looks.
fn look(scene: &Scene, pid: i32, round: usize, outcomes: &mut BTreeMap<String, usize>) {
    let started = Instant::now();
    let mut note = |what: &str, result: Result<(), engraft_engine::Error>| {
        let outcome = match result {
            Ok(()) => format!("{what}: done"),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                format!("{what}: {}", error.errno_name())
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
    };
    note("status", read_status(pid).map(drop));
    note("log", read_log(pid).map(drop));
    if round % 3 == 1 {
        let request = LoadRequest {
            module: &scene.modules[2],
            file_name: MODULE_FILE,
            parameters: &[],
            enable: true,
        };
        note("check", check(pid, &request).map(drop));
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(60), "it took {took:?}");
}

fn bound_memory() {
    // What the tests need is far below; an unbounded allocation is far above.
    let limit = 4 << 30;
    setrlimit(Resource::RLIMIT_AS, limit, limit).expect("setrlimit");
}

#[test]
fn looking_at_scribbled_mappings() {
    bound_memory();
    let scene = Scene::set();
    let mut target = scene.target();
    let pid = target.program.pid();
    let mut random = Random::seeded();
    let mut outcomes = BTreeMap::new();
    for round in 0..200 {
        if round % 4 == 0 {
            target.scribble_header(&mut random);
        } else {
            target.scribble_state(&mut random);
        }
        look(&scene, pid, round, &mut outcomes);
        target.restore();
    }
    // The log's ring is the target's to write.
    for round in 0..40 {
        let ring = target.writable_bytes.len() / 2;
        for _ in 0..=random.below(40) {
            let at = random.below(ring / 8) * 8;
            let value = random.number().to_le_bytes();
            let at = target.writable + at as u64;
            target.memory.write_all_at(&value, at).expect("write");
        }
        look(&scene, pid, round, &mut outcomes);
    }
    target
        .memory
        .write_all_at(&target.writable_bytes, target.writable)
        .expect("write");
    println!("{outcomes:#?}");
    assert!(
        outcomes["status: EUCLEAN"] > 20 && outcomes["status: done"] > 20,
        "{outcomes:#?}"
    );
    // It was only looked at: with everything as it was, all goes on.
    assert_eq!(target.program.ask("abc"), "300");
    let mut engine = Engine::open(pid).expect("open");
    engine.disable("second", false).expect("reverse");
    support::settle(&mut engine);
    assert_eq!(target.program.ask("abc"), "300");
}

/// Commands may do anything to a target that lies, but they end.
#[test]
fn working_on_scribbled_mappings() {
    bound_memory();
    let scene = Scene::set();
    let mut random = Random::seeded();
    let mut outcomes = BTreeMap::<String, usize>::new();
    for round in 0..24 {
        let target = scene.target();
        let pid = target.program.pid();
        match round % 4 {
            0 => target.scribble_header(&mut random),
            1 => {
                for _ in 0..=random.below(400) {
                    let at = random.below(target.writable_bytes.len() / 8) as u64 * 8;
                    let value = random.number().to_le_bytes();
                    target
                        .memory
                        .write_all_at(&value, target.writable + at)
                        .expect("write");
                }
            }
            _ => target.scribble_state(&mut random),
        }
        let started = Instant::now();
        let result = Engine::open(pid).and_then(|mut engine| {
            engine.disable("second", true)?;
            for _ in 0..5 {
                engine.retry()?;
            }
            load(&mut engine, "third", &scene.modules[2], &[])
        });
        let outcome = result.map_or_else(|error| error.errno_name(), |()| "done".to_owned());
        *outcomes.entry(outcome).or_default() += 1;
        let took = started.elapsed();
        assert!(
            took < Duration::from_secs(120),
            "round {round} took {took:?}"
        );
    }
    println!("{outcomes:#?}");
    assert!(outcomes.contains_key("EUCLEAN"), "{outcomes:#?}");
}

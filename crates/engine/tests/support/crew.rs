//! `fixtures/crew.c` and patches for it.

use engraft_engine::{BlockerStatus, Engine, TransitionStatus, read_status};

use std::process::Command;
use std::time::{Duration, Instant};

use super::{Program, Workshop, log_of};

/// All that a patch for the crew can replace.
pub const ALL: [&str; 5] = ["step", "other", "pair", "hold", "dig"];

/// A running crew. Its workers are numbered from 0.
pub struct Crew {
    pub workshop: Workshop,
    pub program: Program,
}

impl Crew {
    pub const WORKERS: usize = 6;

    /// A crew whose workers all pause now and then.
    pub fn start() -> Self {
        Self::start_with(&["-O2"], &[])
    }

    /// A crew whose worker 0 never sleeps.
    pub fn start_spinning() -> Self {
        Self::start_with(&["-O2"], &["spin"])
    }

    pub fn start_with(flags: &[&str], arguments: &[&str]) -> Self {
        let workshop = Workshop::new();
        let program = workshop.build_fixture("crew.c", &[flags, &["-pthread"]].concat());
        let mut command = Command::new(program);
        command.args(arguments);
        Self {
            program: Program::start_with(command),
            workshop,
        }
    }

    pub fn pid(&self) -> i32 {
        self.program.pid()
    }

    pub fn open(&self) -> Engine {
        Engine::open(self.pid()).expect("open")
    }

    /// A patch whose functions are of the version given.
    pub fn patch(&self, name: &str, version: u32, functions: &[&str], replace: bool) -> Vec<u8> {
        self.workshop
            .module(name, &patch_source(version, functions, replace))
    }

    /// What every worker runs now: its version, or that it is held.
    pub fn versions(&mut self) -> String {
        self.program.ask("versions").trim_end().to_owned()
    }

    /// Puts a worker to sleep inside `hold`.
    pub fn hold(&mut self, worker: usize) {
        assert_eq!(self.program.ask(&format!("hold {worker}")), "inside");
    }

    /// Puts a worker to sleep deep inside `dig`.
    pub fn dig(&mut self, worker: usize) {
        assert_eq!(self.program.ask(&format!("dig {worker}")), "inside");
    }

    /// Wakes it; returns the version of the function that it slept in.
    pub fn free(&mut self, worker: usize) -> String {
        self.program.ask(&format!("free {worker}"))
    }

    pub fn tid(&mut self, worker: usize) -> i32 {
        let answer = self.program.ask(&format!("tid {worker}"));
        answer.parse().expect("a thread number")
    }

    /// From now on versions only rise, or only fall, in every worker.
    pub fn expect(&mut self, direction: &str) {
        assert_eq!(self.program.ask(&format!("expect {direction}")), direction);
    }

    /// The crew saw nothing that it must not see; it ends well.
    pub fn finish(mut self) {
        assert_eq!(
            self.program.ask("faults"),
            "mixed 0, backwards 0, interrupted 0"
        );
        self.program.finish();
    }
}

fn patch_source(version: u32, functions: &[&str], replace: bool) -> String {
    let funcs: String = functions
        .iter()
        .map(|name| format!("\t{{ .old_name = \"{name}\", .new_func = new_{name} }},\n"))
        .collect();
    format!(
        r#"
#include <linux/module.h>
#include <linux/livepatch.h>
struct worker;
extern int step(void), other(void), judge(int own, int first, int second);
extern int dig(struct worker *w, int depth);
extern void wait_for_release(struct worker *w);
/* Keeps a call from becoming a jump, which would leave no frame of its caller. */
#define CALL(call) ({{ int result_ = (call); barrier(); result_; }})
__attribute__((unused)) static int new_step(void) {{ return {version}; }}
__attribute__((unused)) static int new_other(void) {{ return {version}; }}
__attribute__((unused)) static int new_pair(void) {{ return CALL(judge({version}, step(), other())); }}
__attribute__((unused)) static int new_hold(struct worker *w)
{{
	wait_for_release(w);
	return CALL(judge({version}, step(), other()));
}}
__attribute__((unused)) static int new_dig(struct worker *w, int depth)
{{
	if (depth == 0)
		wait_for_release(w);
	return CALL(judge({version}, step(), depth ? dig(w, depth - 1) : other()));
}}
static struct klp_func funcs[] = {{
{funcs}	{{}}
}};
static struct klp_object objs[] = {{ {{ .funcs = funcs }}, {{}} }};
static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs, .replace = {replace} }};
static int init(void) {{ return klp_enable_patch(&patch); }}
static void leave(void) {{ }}
module_init(init);
module_exit(leave);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"#
    )
}

/// Retries until these workers alone hold up the transition, and some more: it must not
/// complete. Returns where it stands.
pub fn stall(engine: &mut Engine, crew: &Crew, workers: &[usize]) -> TransitionStatus {
    let wanted: Vec<String> = workers.iter().map(|n| format!("worker-{n}")).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut stalled = 0;
    loop {
        let Some(status) = engine.retry().expect("retry") else {
            panic!("it has completed: {:#?}", log_of(crew.pid()));
        };
        let mut left: Vec<&str> = status.blockers.iter().map(|b| b.comm.as_str()).collect();
        left.sort_unstable();
        stalled = if left == wanted { stalled + 1 } else { 0 };
        if stalled == 5 {
            return status;
        }
        assert!(Instant::now() < deadline, "others are held up: {status:#?}");
        engine.pause(Duration::from_millis(2)).expect("pause");
    }
}

/// The thread that alone holds up the running transition, as anybody can see who asks.
pub fn only_blocker(pid: i32) -> BlockerStatus {
    let status = read_status(pid).expect("status");
    let transition = status.transition.expect("a transition runs");
    assert_eq!(transition.blockers.len(), 1, "{transition:#?}");
    assert_eq!(transition.switched + 1, transition.total, "{transition:#?}");
    transition.blockers[0].clone()
}

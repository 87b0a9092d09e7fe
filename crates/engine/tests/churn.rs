//! Threads and processes come and go while functions are replaced.

mod support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engraft_engine::{Engine, Error, PatchState, read_status};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::family::{ALL, Family};
use support::{Program, load, log_of, settle};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("signal");
}

/// State letter of a thread; `None` when it has ended.
fn state_of(pid: i32, tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ").expect("a command name");
    rest.chars().next()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Up, a replace, and down again, a few times.
fn go_round(program: &mut Program, patches: &[Vec<u8>; 2], rounds: u32) {
    let mut engine = Engine::open(program.pid()).expect("open");
    for _ in 0..rounds {
        load(&mut engine, "two", &patches[0], &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("step"), "2");
        load(&mut engine, "three", &patches[1], &[]).expect("load");
        settle(&mut engine);
        assert_eq!(program.ask("step"), "3");
        engine.unload("two").expect("unload");
        engine.disable("three", false).expect("disable");
        settle(&mut engine);
        assert_eq!(program.ask("step"), "1");
        engine.unload("three").expect("unload");
    }
}

fn count(program: &mut Program) -> (u32, u32) {
    let answer = program.ask("count");
    let fields: Vec<&str> = answer.split(' ').collect();
    assert_eq!(fields[2..], ["mixed", "0", "lost", "0"], "{answer}");
    let number = |index: usize| fields[index].parse().expect("a number");
    (number(0), number(1))
}

#[test]
fn threads_start_and_end_all_the_time() {
    let family = Family::build();
    let patches = [
        family.patch("two", 2, &ALL, false),
        family.patch("three", 3, &ALL, true),
    ];
    let mut program = family.start();
    program.ask("swarm 3");
    let (before, _) = count(&mut program);
    go_round(&mut program, &patches, 6);
    let (after, _) = count(&mut program);
    assert!(after > before, "no thread started meanwhile");
    program.finish();
}

#[test]
fn children_are_forked_all_the_time() {
    let family = Family::build();
    let patches = [
        family.patch("two", 2, &ALL, false),
        family.patch("three", 3, &ALL, true),
    ];
    let mut program = family.start();
    program.ask("litter 2");
    let (_, before) = count(&mut program);
    go_round(&mut program, &patches, 6);
    let (_, after) = count(&mut program);
    assert!(after > before, "no child was forked meanwhile");
    program.finish();
}

/// A target in mid-transition: its main thread sleeps in the old hold().
fn in_transition(family: &Family, program: &mut Program, module: &[u8]) -> Engine {
    assert_eq!(program.ask("spawn"), "spawned");
    assert_eq!(program.ask("hold"), "inside");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "two", module, &[]).expect("load");
    wait_for("the other threads are switched", || {
        let status = engine.retry().expect("retry").expect("a transition");
        status.blockers.len() == 1
    });
    assert_eq!(program.ask("latest"), "2");
    assert_eq!(program.ask("step"), "1");
    assert!(family.path.exists());
    engine
}

#[test]
fn a_child_forked_in_mid_transition_is_completed_by_itself() {
    let mut family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    let mut engine = in_transition(&family, &mut program, &two);
    // It starts where its parent is: in the old universe, inside the old hold().
    let mut child = family.fork(&mut program);
    assert_eq!(child.ask("step"), "1");
    let status = read_status(child.pid).expect("status");
    assert_eq!(status.patches[0].state, PatchState::InTransition);

    let mut other = Engine::open(child.pid).expect("open the child");
    wait_for("it is seen inside hold()", || {
        let status = other.retry().expect("retry").expect("a transition");
        let functions: Vec<_> = status.blockers.iter().map(|b| &b.function).collect();
        functions == [&Some("hold".to_owned())]
    });
    assert_eq!(child.ask("free"), "1");
    settle(&mut other);
    assert_eq!(child.ask("step"), "2");
    assert_eq!(
        log_of(child.pid).last().map(String::as_str),
        Some("livepatch: 'two': patching complete")
    );

    // The parent's goes on, and back.
    assert_eq!(program.ask("step"), "1");
    engine.disable("two", false).expect("reverse");
    settle(&mut engine);
    assert_eq!(program.ask("latest"), "1");
    engine.unload("two").expect("unload");
    assert_eq!(child.ask("step"), "2");
    other.disable("two", false).expect("disable");
    settle(&mut other);
    assert_eq!(child.ask("step"), "1");
    assert_eq!(program.ask("free"), "1");
    drop(child);
    program.finish();
}

#[test]
fn a_child_forked_in_mid_transition_is_reversed_by_itself() {
    let mut family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    let mut engine = in_transition(&family, &mut program, &two);
    let mut child = family.fork(&mut program);
    let mut other = Engine::open(child.pid).expect("open the child");
    other.disable("two", false).expect("reverse");
    settle(&mut other);
    other.unload("two").expect("unload");
    assert_eq!(child.ask("free"), "1");
    assert_eq!(child.ask("step"), "1");

    assert_eq!(program.ask("free"), "1");
    settle(&mut engine);
    assert_eq!(program.ask("step"), "2");
    assert_eq!(child.ask("step"), "1");
    // A child of a settled target has the patch like its parent.
    let mut later = family.fork(&mut program);
    assert_eq!(later.ask("step"), "2");
    let mut engine = Engine::open(later.pid).expect("open the child");
    engine.disable("two", false).expect("disable");
    settle(&mut engine);
    assert_eq!(later.ask("step"), "1");
    assert_eq!(program.ask("step"), "2");
    drop((child, later));
    program.finish();
}

/// A thread that an old function starts is in its creator's universe.
#[test]
fn a_new_thread_inherits_the_universe() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    assert_eq!(program.ask("hold"), "inside");
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "two", &two, &[]).expect("load");
    // Nobody looks at threads now.
    assert_eq!(program.ask("spawn"), "spawned");
    assert_eq!(program.ask("latest"), "1");
    wait_for("the new thread is switched", || {
        let status = engine.retry().expect("retry").expect("a transition");
        status.blockers.len() == 1
    });
    assert_eq!(program.ask("latest"), "2");
    assert_eq!(program.ask("step"), "1");
    assert_eq!(program.ask("free"), "1");
    settle(&mut engine);
    program.finish();
}

#[test]
fn vfork_and_posix_spawn() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    let mut engine = in_transition(&family, &mut program, &two);
    for command in ["run", "vrun"] {
        assert_eq!(program.ask(&format!("{command} /bin/true")), "0");
        assert_eq!(program.ask(&format!("{command} /bin/false")), "1");
    }
    assert_eq!(program.ask("free"), "1");
    settle(&mut engine);
    for command in ["run", "vrun"] {
        assert_eq!(program.ask(&format!("{command} /bin/true")), "0");
    }
    drop(engine);
    program.finish();
}

/// A vfork child runs in its parent's memory, and is none of its threads.
#[test]
fn no_entry_is_rewritten_while_a_vfork_child_has_the_memory() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    assert_eq!(program.ask("borrow"), "borrowed");
    let pid = program.pid();
    let lender = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
        let tids = tasks.map(|task| task.expect("thread").file_name());
        let mut tids = tids.map(|tid| tid.to_str().expect("text").parse().expect("number"));
        tids.find(|tid| state_of(pid, *tid) == Some('D'))
    };
    wait_for("the child runs", || lender().is_some());
    let mut engine = Engine::open(pid).expect("open");
    let refused = load(&mut engine, "two", &two, &[]).expect_err("the memory is lent");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("vfork") && text.contains(&lender().expect("it still waits").to_string()),
        "{text}"
    );
    assert_eq!(program.ask("step"), "1");
    assert_eq!(program.ask("return"), "returned");
    wait_for("the child has ended", || lender().is_none());
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask("step"), "2");

    // It holds up a transition, too, for as long as it cannot be looked at.
    assert_eq!(program.ask("borrow"), "borrowed");
    wait_for("the child runs", || lender().is_some());
    engine.disable("two", false).expect("disable");
    let status = engine.retry().expect("retry").expect("a transition");
    assert_eq!(status.blockers.len(), 1);
    assert_eq!(
        (Some(status.blockers[0].tid), status.blockers[0].state),
        (lender(), 'D')
    );
    assert_eq!(program.ask("step"), "1");
    assert_eq!(program.ask("return"), "returned");
    settle(&mut engine);
    drop(engine);
    program.finish();
}

#[test]
fn exec_in_mid_transition() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    let mut engine = in_transition(&family, &mut program, &two);
    signal(program.pid(), Signal::SIGUSR1);
    assert_eq!(program.line(), "ready");
    let says_so = |error: &Error| {
        assert!(error.is_gone(), "{error}");
        assert_eq!(error.errno(), Errno::ESRCH);
        assert!(error.to_string().contains("execve"), "{error}");
    };
    says_so(&engine.retry().expect_err("the program is another"));
    says_so(
        &engine
            .disable("two", false)
            .expect_err("the program is another"),
    );
    says_so(&engine.force().expect_err("the program is another"));
    says_so(&load(&mut engine, "two", &two, &[]).expect_err("the program is another"));
    drop(engine);
    assert_eq!(program.ask("step"), "1");
    assert_eq!(read_status(program.pid()).expect("status").patches, []);
    let mut engine = Engine::open(program.pid()).expect("open");
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    assert_eq!(program.ask("step"), "2");
    drop(engine);
    program.finish();
}

/// The dynamic linker maps the libraries one after the other, and is held up at the first.
#[test]
fn a_program_that_is_still_starting() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let fifo = family.workshop.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    let mut command = Command::new(&family.path);
    command.env("LD_PRELOAD", &fifo).stderr(Stdio::null());
    let mut program = Program::spawn(command);
    let pid = program.pid();
    wait_for("it waits for the other end of the pipe", || {
        let stack = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
        stack.is_ok_and(|call| call.starts_with("257 "))
    });
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    assert!(!maps.contains("libc.so"), "{maps}");
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        std::fs::write(fifo, "no library").expect("pipe");
    });
    let mut engine = Engine::open(pid).expect("open");
    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    opener.join().expect("opener");
    assert_eq!(program.line(), "ready");
    assert_eq!(program.ask("step"), "2");
    drop(engine);
    program.finish();
}

/// Numbers that look random, from a seed that a failure message can print.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("a clock").as_nanos() as u64 | 1
}

/// Everything that can be done to a target, one after the other, for as long as it is there
/// and until `end` says so.
fn do_everything(pid: i32, patches: &[Vec<u8>; 2], end: &AtomicBool) -> Result<(), Error> {
    let mut engine = Engine::open(pid)?;
    let pass = |engine: &mut Engine| -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(status) = engine.retry()? {
            assert!(Instant::now() < deadline, "stalled: {status:#?}");
            engine.pause(Duration::from_micros(100))?;
        }
        Ok(())
    };
    while !end.load(Ordering::SeqCst) {
        load(&mut engine, "two", &patches[0], &[])?;
        pass(&mut engine)?;
        engine.disable("two", false)?;
        if engine.retry()?.is_some() {
            engine.enable("two", false)?;
            engine.force()?;
        }
        pass(&mut engine)?;
        load(&mut engine, "three", &patches[1], &[])?;
        pass(&mut engine)?;
        engine.unload("two")?;
        engine.disable("three", false)?;
        pass(&mut engine)?;
        engine.unload("three")?;
        read_status(pid)?;
    }
    Ok(())
}

#[test]
fn the_target_ends_at_any_moment() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random(seed);
    let family = Family::build();
    let patches = [
        family.patch("two", 2, &ALL, false),
        family.patch("three", 3, &ALL, true),
    ];
    for _ in 0..40 {
        let mut program = family.start();
        program.ask("spawn");
        let pid = program.pid();
        let delay = Duration::from_micros(random.below(60_000));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            signal(pid, Signal::SIGKILL);
        });
        let for_ever = AtomicBool::new(false);
        let error = do_everything(pid, &patches, &for_ever).expect_err("it ends some time");
        assert!(
            error.is_gone(),
            "seed {seed}, {delay:?}: {error} ({error:?})"
        );
        assert_eq!(error.errno(), Errno::ESRCH);
        killer.join().expect("killer");
        program.wait_for_end();
    }
}

#[test]
fn the_target_executes_another_program_at_any_moment() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random(seed);
    let family = Family::build();
    let patches = [
        family.patch("two", 2, &ALL, false),
        family.patch("three", 3, &ALL, true),
    ];
    let mut program = family.start();
    let pid = program.pid();
    for _ in 0..25 {
        program.ask("spawn");
        let delay = Duration::from_micros(random.below(60_000));
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let sender = std::thread::spawn(move || {
            std::thread::sleep(delay);
            signal(pid, Signal::SIGUSR1);
            std::thread::sleep(Duration::from_millis(20));
            ended.store(true, Ordering::SeqCst);
        });
        // Nothing goes wrong when it was another program from the beginning, or is not yet.
        let result = do_everything(pid, &patches, &end);
        let error = result.err();
        assert!(
            error.as_ref().is_none_or(Error::is_gone),
            "seed {seed}, {delay:?}: {error:?}"
        );
        sender.join().expect("sender");
        assert_eq!(program.line(), "ready", "seed {seed}, {delay:?}");
        assert_eq!(program.ask("step"), "1");
    }
    program.finish();
}

/// Everything is reported while the tool lives on: nobody waits for a tracer's notice.
#[test]
fn a_target_that_is_killed_ends_at_once() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    let mut engine = in_transition(&family, &mut program, &two);
    signal(program.pid(), Signal::SIGKILL);
    program.wait_for_end();
    let error = engine.retry().expect_err("it has ended");
    assert!(error.is_gone(), "{error}");
    let error = Engine::open(program.pid()).err().expect("it has ended");
    assert_eq!(error.errno(), Errno::ESRCH, "{error}");
}

#[test]
fn a_target_stopped_by_job_control() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let three = family.patch("three", 3, &ALL, true);
    let mut program = family.start();
    let pid = program.pid();
    let stop = || {
        signal(pid, Signal::SIGSTOP);
        wait_for("it stops", || state_of(pid, pid) == Some('T'));
    };
    stop();
    let mut engine = Engine::open(pid).expect("open");
    let refused = load(&mut engine, "two", &two, &[]).expect_err("no code can run");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    assert!(refused.to_string().contains("job control"), "{refused}");
    wait_for("it is still stopped", || state_of(pid, pid) == Some('T'));
    assert!(read_status(pid).expect("status").patches.is_empty());
    signal(pid, Signal::SIGCONT);
    assert_eq!(program.ask("step"), "1");

    load(&mut engine, "two", &two, &[]).expect("load");
    settle(&mut engine);
    stop();
    let refused = load(&mut engine, "three", &three, &[]).expect_err("no code can run");
    assert_eq!(refused.errno(), Errno::EBUSY, "{refused}");
    assert!(refused.to_string().contains("job control"), "{refused}");
    wait_for("it is still stopped", || state_of(pid, pid) == Some('T'));

    // Threads can be moved all the same.
    engine.disable("two", false).expect("disable");
    settle(&mut engine);
    wait_for("it is still stopped", || state_of(pid, pid) == Some('T'));
    drop(engine);
    wait_for("it is still stopped", || state_of(pid, pid) == Some('T'));
    signal(pid, Signal::SIGCONT);
    assert_eq!(program.ask("step"), "1");
    program.finish();
}

#[test]
fn the_leader_has_ended_and_others_go_on() {
    let family = Family::build();
    let patches = [
        family.patch("two", 2, &ALL, false),
        family.patch("three", 3, &ALL, true),
    ];
    let mut program = family.start();
    let pid = program.pid();
    assert_eq!(program.ask("lead"), "leading");
    wait_for("the leader is a zombie", || state_of(pid, pid) == Some('Z'));
    go_round(&mut program, &patches, 2);
    let status = read_status(pid).expect("status");
    assert!(status.patches.is_empty() && status.executable.ends_with("/family"));
    program.finish();
}

/// The leader ends while the tool works.
#[test]
fn the_leader_ends_in_mid_transition() {
    let family = Family::build();
    let two = family.patch("two", 2, &ALL, false);
    let mut program = family.start();
    let pid = program.pid();
    let mut engine = in_transition(&family, &mut program, &two);
    assert_eq!(program.ask("lead"), "leading");
    wait_for("the leader is a zombie", || state_of(pid, pid) == Some('Z'));
    settle(&mut engine);
    assert_eq!(program.ask("step"), "2");
    engine.disable("two", false).expect("disable");
    settle(&mut engine);
    assert_eq!(program.ask("step"), "1");
    engine.unload("two").expect("unload");
    drop(engine);
    program.finish();
}

//! Waiting for a transition: when to try again, and what to do when time is up.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use engraft_engine::{Direction, Engine, TransitionStatus};

use crate::failure::Failure;

/// Threads leave a function within a moment or not for long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The kernel retries about once a second (livepatch's own delayed work).
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After a force nothing holds the transition up but threads that come into being meanwhile.
const FORCE_LIMIT: Duration = Duration::from_secs(10);

/// What to do with a transition that did not complete in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnTimeout {
    /// Go back to the code before it
    Reverse,
    /// Leave it as it is
    Leave,
    /// Complete it although threads still use the code to be left
    Force,
}

/// How long to wait, and what comes then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// False: look once and return.
    pub(crate) wait: bool,
    pub(crate) timeout: Duration,
    pub(crate) on_timeout: OnTimeout,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Every thread has moved.
    Completed,
    /// Nobody was to wait for it.
    Running(TransitionStatus),
    /// Time was up: left in transition.
    Left(TransitionStatus),
    /// Time was up: forced, and complete.
    Forced,
    /// Time was up: reversed, and the reversal is complete.
    Reversed(TransitionStatus),
    /// Time was up: reversed, but the reversal, whose state this is, has not completed either.
    Reversing(TransitionStatus),
}

/// One transition as it was followed.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) ending: Ending,
    /// Threads there were at the last pass.
    pub(crate) threads: u32,
    pub(crate) elapsed: Duration,
}

/// A process with a transition; the engine, or a double in tests.
pub(crate) trait Transitioning {
    /// One more pass over the threads; `None` when no transition runs any more.
    fn retry(&mut self) -> Result<Option<TransitionStatus>, Failure>;
    /// Lets time go by between passes.
    fn pause(&mut self, time: Duration) -> Result<(), Failure>;
    fn reverse(&mut self, status: &TransitionStatus) -> Result<(), Failure>;
    fn force(&mut self) -> Result<(), Failure>;
    /// Threads there were at the last pass.
    fn threads(&self) -> u32;
}

impl Transitioning for Engine {
    fn retry(&mut self) -> Result<Option<TransitionStatus>, Failure> {
        Ok(Engine::retry(self)?)
    }

    fn pause(&mut self, time: Duration) -> Result<(), Failure> {
        Ok(Engine::pause(self, time)?)
    }

    fn reverse(&mut self, status: &TransitionStatus) -> Result<(), Failure> {
        // The order on the stack was checked when the transition began.
        match status.target {
            Direction::Patched => self.disable(&status.patch, true)?,
            Direction::Unpatched => self.enable(&status.patch, true)?,
        }
        Ok(())
    }

    fn force(&mut self) -> Result<(), Failure> {
        Ok(Engine::force(self)?)
    }

    fn threads(&self) -> u32 {
        Engine::threads(self)
    }
}

/// Somebody who looks on.
pub(crate) trait Watcher {
    fn show(&mut self, status: &TransitionStatus);
}

/// Follows the transition that began at `started` to its end.
pub(crate) fn follow(
    process: &mut dyn Transitioning,
    waiting: &Waiting,
    started: Instant,
    watcher: &mut dyn Watcher,
) -> Result<Passage, Failure> {
    let timeout = if waiting.wait {
        waiting.timeout
    } else {
        Duration::ZERO
    };
    let left = pass_until(process, started + timeout, watcher)?;
    let ending = match left {
        None => Ending::Completed,
        Some(status) if !waiting.wait => Ending::Running(status),
        Some(status) => give_up(process, waiting, status, watcher)?,
    };
    Ok(Passage {
        ending,
        threads: process.threads(),
        elapsed: started.elapsed(),
    })
}

/// Passes until no transition runs or the deadline has gone by; at least one pass.
fn pass_until(
    process: &mut dyn Transitioning,
    deadline: Instant,
    watcher: &mut dyn Watcher,
) -> Result<Option<TransitionStatus>, Failure> {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(status) = process.retry()? else {
            return Ok(None);
        };
        watcher.show(&status);
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some(status));
        }
        process.pause(pause.min(left))?;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

fn give_up(
    process: &mut dyn Transitioning,
    waiting: &Waiting,
    status: TransitionStatus,
    watcher: &mut dyn Watcher,
) -> Result<Ending, Failure> {
    match waiting.on_timeout {
        OnTimeout::Leave => Ok(Ending::Left(status)),
        OnTimeout::Force => {
            process.force()?;
            let deadline = Instant::now() + FORCE_LIMIT;
            Ok(match pass_until(process, deadline, watcher)? {
                None => Ending::Forced,
                Some(status) => Ending::Left(status),
            })
        }
        OnTimeout::Reverse => {
            process.reverse(&status)?;
            let deadline = Instant::now() + waiting.timeout;
            Ok(match pass_until(process, deadline, watcher)? {
                None => Ending::Reversed(status),
                Some(back) => Ending::Reversing(back),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process whose transition needs so many more passes, one way and back.
    struct Double {
        passes: u32,
        passes_back: u32,
        pauses: u32,
        calls: Vec<&'static str>,
    }

    fn status(switched: u32) -> TransitionStatus {
        TransitionStatus {
            patch: "fix".to_owned(),
            target: Direction::Patched,
            total: 9,
            switched,
            attempts: 1,
            blockers: Vec::new(),
        }
    }

    impl Transitioning for Double {
        fn retry(&mut self) -> Result<Option<TransitionStatus>, Failure> {
            if self.passes == 0 {
                return Ok(None);
            }
            self.passes -= 1;
            Ok(Some(status(1)))
        }
        fn pause(&mut self, time: Duration) -> Result<(), Failure> {
            self.pauses += 1;
            std::thread::sleep(time);
            Ok(())
        }
        fn reverse(&mut self, _: &TransitionStatus) -> Result<(), Failure> {
            self.calls.push("reverse");
            self.passes = self.passes_back;
            Ok(())
        }
        fn force(&mut self) -> Result<(), Failure> {
            self.calls.push("force");
            self.passes = 0;
            Ok(())
        }
        fn threads(&self) -> u32 {
            9
        }
    }

    struct Nobody;
    impl Watcher for Nobody {
        fn show(&mut self, _: &TransitionStatus) {}
    }

    const NEVER: u32 = u32::MAX;

    fn run(passes: u32, passes_back: u32, waiting: Waiting) -> (Passage, Vec<&'static str>) {
        let (passage, double) = run_double(passes, passes_back, waiting);
        (passage, double.calls)
    }

    fn run_double(passes: u32, passes_back: u32, waiting: Waiting) -> (Passage, Double) {
        let mut double = Double {
            passes,
            passes_back,
            pauses: 0,
            calls: Vec::new(),
        };
        let passage = follow(&mut double, &waiting, Instant::now(), &mut Nobody).unwrap();
        (passage, double)
    }

    fn waiting(milliseconds: u64, on_timeout: OnTimeout) -> Waiting {
        Waiting {
            wait: true,
            timeout: Duration::from_millis(milliseconds),
            on_timeout,
        }
    }

    #[test]
    fn completes_without_intervention() {
        let (passage, calls) = run(3, NEVER, waiting(60_000, OnTimeout::Reverse));
        assert!(matches!(passage.ending, Ending::Completed));
        assert_eq!(passage.threads, 9);
        assert!(
            passage.elapsed >= Duration::from_millis(10 + 15 + 22),
            "it was too impatient"
        );
        assert!(
            passage.elapsed < Duration::from_secs(5),
            "it did not retry soon"
        );
        assert!(calls.is_empty());
    }

    #[test]
    fn not_waiting_makes_one_pass() {
        let waiting = Waiting {
            wait: false,
            ..waiting(60_000, OnTimeout::Reverse)
        };
        let (passage, double) = run_double(NEVER, 0, waiting);
        assert!(matches!(passage.ending, Ending::Running(_)));
        assert_eq!(double.pauses, 0, "it waited");
        assert!(double.calls.is_empty());
    }

    #[test]
    fn each_action_on_timeout() {
        let (passage, calls) = run(NEVER, 1, waiting(30, OnTimeout::Reverse));
        assert!(matches!(passage.ending, Ending::Reversed(_)));
        assert_eq!(calls, ["reverse"]);
        let (passage, calls) = run(NEVER, NEVER, waiting(30, OnTimeout::Reverse));
        assert!(matches!(passage.ending, Ending::Reversing(_)));
        assert_eq!(calls, ["reverse"]);
        let (passage, calls) = run(NEVER, 0, waiting(30, OnTimeout::Leave));
        assert!(matches!(passage.ending, Ending::Left(_)));
        assert!(calls.is_empty());
        let (passage, calls) = run(NEVER, 0, waiting(30, OnTimeout::Force));
        assert!(matches!(passage.ending, Ending::Forced));
        assert_eq!(calls, ["force"]);
    }
}

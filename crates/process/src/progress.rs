//! Letting threads get on between stops.
//!
//! A thread needs a processor to stop. On a busy machine it may get one only after the next stop
//! was asked for, again and again, and then never gets as far as its own code.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::identity::read_thread_stat;

/// How long is waited for threads that do not get a processor.
const PATIENCE: Duration = Duration::from_millis(200);

const PAUSE: Duration = Duration::from_millis(1);

/// Threads that were stopped, with how often each had been on a processor by then.
#[derive(Debug, Default)]
pub struct Stops(Vec<(i32, u64)>);

impl Stops {
    /// Notes a thread that stands still.
    pub fn note(&mut self, pid: i32, tid: i32) {
        let runs = read_thread_stat(pid, tid).and_then(|stat| stat.runs);
        // Where the kernel does not count, a pause has to do.
        self.0.extend(runs.map(|runs| (tid, runs)));
    }

    /// Waits for `pause` at least, and until every noted thread has been on a processor since, or
    /// has waited long enough for one.
    pub fn let_get_on(self, pid: i32, pause: Duration) {
        sleep(pause);
        self.wait(pid, PATIENCE);
    }

    fn wait(mut self, pid: i32, patience: Duration) {
        let end = Instant::now() + patience;
        let mut waited = false;
        loop {
            let waits = |(tid, runs): &(i32, u64)| {
                read_thread_stat(pid, *tid).is_some_and(|stat| stat.runs == Some(*runs))
            };
            self.0.retain(waits);
            if self.0.is_empty() || Instant::now() > end {
                break;
            }
            waited = true;
            sleep(PAUSE);
        }
        // Who has only just got a processor is to come as far as its own code.
        if waited {
            sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_thread_is_waited_for_until_it_has_run() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id().cast_signed();
        let signal = |signal| kill(Pid::from_raw(pid), signal).expect("signal");
        signal(Signal::SIGSTOP);
        let stat = || read_thread_stat(pid, pid).expect("it is there");
        while stat().state != 'T' {
            sleep(PAUSE);
        }
        let mut stops = Stops::default();
        stops.note(pid, pid);
        let before = stat().runs.expect("the kernel counts");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                stops.wait(pid, Duration::from_secs(60));
                stat().runs
            });
            // Nothing makes it run before this.
            assert_eq!(stat().runs, Some(before));
            signal(Signal::SIGCONT);
            assert!(waiting.join().expect("no panic") > Some(before));
        });
        signal(Signal::SIGKILL);
        child.wait().expect("ended");
        // One that has ended is not waited for.
        let gone = Stops(vec![(pid, before)]);
        gone.wait(pid, Duration::from_secs(60));
    }
}

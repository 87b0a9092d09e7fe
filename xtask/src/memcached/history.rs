//! Which levels a reply may show, given when it was asked for and when it came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::level::Level;

/// The levels that the server has been at, in order. The last one may still be on its way.
pub(super) struct History {
    levels: Mutex<Vec<Level>>,
    settled: AtomicUsize,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            levels: Mutex::new(vec![Level::Unpatched]),
            settled: AtomicUsize::new(0),
        }
    }

    /// Before the command that starts the transition.
    pub(super) fn begin(&self, level: Level) {
        self.lock().push(level);
    }

    /// After the command that says it is complete.
    pub(super) fn settle(&self) {
        let newest = self.lock().len() - 1;
        self.settled.store(newest, Ordering::SeqCst);
    }

    /// Index of the newest level that every thread has reached.
    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::SeqCst)
    }

    fn levels_from(&self, first: usize) -> Vec<Level> {
        self.lock()[first..].to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Level>> {
        self.levels.lock().unwrap_or_else(|lock| lock.into_inner())
    }
}

/// How far along the history one server thread has been seen; it never goes back.
///
/// A connection belongs to one worker thread, and a thread changes its universe as a whole,
/// so one position must explain the replies of every function, in the order they came.
pub(super) struct Position(usize);

impl Position {
    pub(super) fn start() -> Self {
        Self(0)
    }

    /// Before asking: levels older than the settled one cannot be seen any more.
    pub(super) fn catch_up(&mut self, history: &History) {
        self.0 = self.0.max(history.settled());
    }

    /// Moves to the first level that explains the reply. `None`: the thread ran old code
    /// after new code, or code of a level that it had no business at.
    pub(super) fn explain(
        &mut self,
        history: &History,
        matches: impl Fn(Level) -> bool,
    ) -> Option<()> {
        let levels = history.levels_from(self.0);
        self.0 += levels.iter().position(|level| matches(*level))?;
        Some(())
    }

    /// The levels that could still be seen, for a message.
    pub(super) fn describe(&self, history: &History) -> String {
        format!("possible were {:?}", history.levels_from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::{History, Position};
    use crate::memcached::level::Level;

    fn explain(position: &mut Position, history: &History, level: Level) -> bool {
        position
            .explain(history, |candidate| candidate == level)
            .is_some()
    }

    #[test]
    fn while_a_transition_runs_both_levels_are_fine_but_never_back_again() {
        let history = History::new();
        history.begin(Level::V1);
        let mut position = Position::start();
        position.catch_up(&history);
        assert!(explain(&mut position, &history, Level::Unpatched));
        assert!(explain(&mut position, &history, Level::V1));
        assert!(!explain(&mut position, &history, Level::Unpatched));
        assert!(explain(&mut position, &history, Level::V1));
    }

    #[test]
    fn once_settled_the_old_level_is_wrong() {
        let history = History::new();
        history.begin(Level::V1);
        history.settle();
        let mut position = Position::start();
        position.catch_up(&history);
        assert!(!explain(&mut position, &history, Level::Unpatched));
        assert!(explain(&mut position, &history, Level::V1));
    }

    #[test]
    fn a_level_that_was_never_begun_is_wrong() {
        let history = History::new();
        history.begin(Level::V1);
        assert!(!explain(&mut Position::start(), &history, Level::V2));
    }

    #[test]
    fn a_reply_that_fits_two_levels_counts_as_the_older() {
        let history = History::new();
        history.begin(Level::V2);
        history.settle();
        history.begin(Level::V3);
        let mut position = Position::start();
        position.catch_up(&history);
        let capped = |level: Level| level.largest_delta() == 1000;
        assert!(position.explain(&history, capped).is_some());
        assert!(explain(&mut position, &history, Level::V2));
        assert!(explain(&mut position, &history, Level::V3));
        assert!(!explain(&mut position, &history, Level::V2));
    }
}

//! The progress bar of a transition, on standard error and on terminals only.

use std::time::{Duration, Instant};

use engraft_engine::TransitionStatus;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::render;
use crate::wait::Watcher;

/// Threads that are still where they were by then are worth naming.
const NAME_BLOCKERS_AFTER: Duration = Duration::from_secs(3);
/// More lines would push the bar off a small terminal.
const MAX_NAMED: usize = 8;

/// Shows how many threads have been switched; vanishes when dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Where the bar goes once there is something to show.
    target: Option<ProgressDrawTarget>,
    started: Instant,
}

impl Progress {
    /// `quiet`: no bar even on a terminal.
    pub(crate) fn new(title: &str, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let template = "{prefix} [{bar:30}] {pos}/{len} threads {elapsed}{msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(render::printable(title).into_owned());
        let target = (!quiet).then(ProgressDrawTarget::stderr);
        let started = Instant::now();
        Self {
            bar,
            target,
            started,
        }
    }
}

impl Watcher for Progress {
    fn show(&mut self, status: &TransitionStatus) {
        self.bar.set_length(status.total.into());
        self.bar.set_position(status.switched.into());
        if let Some(target) = self.target.take() {
            self.bar.set_draw_target(target);
        }
        let mut message = String::new();
        if self.started.elapsed() >= NAME_BLOCKERS_AFTER {
            for blocker in status.blockers.iter().take(MAX_NAMED) {
                message += &format!("\n  {}", render::blocker(blocker));
            }
            if let Some(more) = status
                .blockers
                .len()
                .checked_sub(MAX_NAMED)
                .filter(|&n| n > 0)
            {
                message += &format!("\n  and {more} more");
            }
        }
        self.bar.set_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

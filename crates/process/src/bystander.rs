//! Taking note of the ends of traced threads while another is being attached to.
//!
//! A thread that calls exec waits until all others of its process have ended: traced ones,
//! until their tracer has taken note. Nobody can attach to the process meanwhile. A tracer
//! that holds some threads and attaches to the next would wait for ever for itself, so a
//! second thread stands by and takes note in its place when an attach lasts.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::note_end;

/// Attaching takes microseconds; longer than this, or twice this, and help is needed.
const LOOK: Duration = Duration::from_millis(10);

/// The second thread; it is started when it may be needed, and ends with this value.
#[derive(Debug)]
pub(crate) struct Bystander {
    pid: i32,
    shared: Arc<Mutex<Shared>>,
    /// Hanging up ends the thread.
    thread: RefCell<Option<Sender<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Threads that are traced.
    attached: HashSet<i32>,
    /// Number of the attach that goes on; 0 when none does.
    attaching: u64,
    /// Number of the last one.
    last: u64,
}

impl Bystander {
    pub(crate) fn new(pid: i32, attached: &[i32]) -> Self {
        let shared = Shared {
            attached: attached.iter().copied().collect(),
            ..Shared::default()
        };
        Self {
            pid,
            shared: Arc::new(Mutex::new(shared)),
            thread: RefCell::default(),
        }
    }

    /// Does what attaches to a thread.
    pub(crate) fn attach<E>(
        &self,
        tid: i32,
        attach: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let is_first = {
            let mut shared = lock(&self.shared);
            shared.last += 1;
            shared.attaching = shared.last;
            shared.attached.is_empty()
        };
        if !is_first {
            self.start();
        }
        let result = attach();
        let mut shared = lock(&self.shared);
        shared.attaching = 0;
        if result.is_ok() {
            shared.attached.insert(tid);
        }
        result
    }

    pub(crate) fn detached(&self, tid: i32) {
        lock(&self.shared).attached.remove(&tid);
    }

    fn start(&self) {
        self.thread.borrow_mut().get_or_insert_with(|| {
            let (hold, held) = channel();
            let (pid, shared) = (self.pid, Arc::clone(&self.shared));
            std::thread::spawn(move || {
                let mut seen = 0;
                while held.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    let shared = lock(&shared);
                    if shared.attaching != 0 && shared.attaching == seen {
                        note_ends(pid, &shared.attached);
                    }
                    seen = shared.attaching;
                }
            });
            hold
        });
    }
}

/// The leader's end is the caller of exec's own business, and its parent's.
fn note_ends(pid: i32, attached: &HashSet<i32>) {
    for tid in attached.iter().filter(|tid| **tid != pid) {
        note_end(*tid);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing panics while it is held; the numbers are right in any case.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

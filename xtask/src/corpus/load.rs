//! A program kept busy while it is patched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::running::Running;
use crate::failure::Failure;

/// Connections that are made at the same time.
const CLIENTS: usize = 4;

/// Clients that ask until they are stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<usize, Failure>>>,
}

impl Load {
    /// A program that takes no connections gets no clients.
    pub(super) fn start(running: &Running) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let askers = (0..CLIENTS).filter_map(|_| running.asker());
        let clients = askers.map(|ask| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    ask()?;
                    answers += 1;
                    // Finished connections keep their ports for a minute.
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Ok(answers)
            })
        });
        Self {
            clients: clients.collect(),
            stop,
        }
    }

    /// The number of answers, all of them right.
    pub(super) fn finish(self) -> Result<usize, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = 0;
        for client in self.clients {
            answers += client
                .join()
                .map_err(|_| Failure::new("a client has failed"))??;
        }
        Ok(answers)
    }
}

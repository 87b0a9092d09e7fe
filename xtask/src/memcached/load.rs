//! The load: connections that never rest, each checking every reply it gets.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::history::{History, Position};
use super::level::Level;
use super::probe::{self, Probe, Probes};
use super::traffic::{self, Reply, Traffic};
use crate::failure::{Context, Failure};

/// Four to each of the four workers, dealt in turn.
const CONNECTIONS: usize = 16;

/// Ordinary requests before each probe, all sent without waiting for replies.
const REQUESTS_PER_PROBE: usize = 4;

/// Leaves the two processors of a CI machine some time for the tool under test.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a connection may take for one batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all connections share.
struct Shared {
    history: History,
    stop: AtomicBool,
    replies: AtomicU64,
    probes: AtomicU64,
    problems: Mutex<Vec<String>>,
    /// For each connection: the settled index at the start of its newest whole batch, plus 1.
    confirmed: Vec<AtomicUsize>,
}

/// The running load.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What was checked.
pub(super) struct Totals {
    pub(super) replies: u64,
    pub(super) probes: u64,
    pub(super) transitions: usize,
}

impl Load {
    pub(super) fn start(address: SocketAddr) -> Result<Self, Failure> {
        let shared = Arc::new(Shared {
            history: History::new(),
            stop: AtomicBool::new(false),
            replies: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            problems: Mutex::new(Vec::new()),
            confirmed: (0..CONNECTIONS).map(|_| AtomicUsize::new(0)).collect(),
        });
        let mut threads = Vec::new();
        for index in 0..CONNECTIONS {
            let connection = Connection::open(address).context("connecting to memcached")?;
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || {
                Client::new(index, connection).run(&shared);
            }));
        }
        Ok(Self { shared, threads })
    }

    /// Announces a transition to `level`.
    pub(super) fn begin(&self, level: Level) {
        self.shared.history.begin(level);
    }

    /// The transition is complete: every connection must see the new level, and it only.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        self.shared.history.settle();
        self.wait_for_confirmation()
    }

    /// Until every connection has seen every probe answered by the settled level.
    pub(super) fn wait_for_confirmation(&self) -> Result<(), Failure> {
        let wanted = self.shared.history.settled() + 1;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check()?;
            let behind = self
                .shared
                .confirmed
                .iter()
                .filter(|confirmed| confirmed.load(Ordering::SeqCst) < wanted)
                .count();
            if behind == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "{behind} connections got no replies for {PATIENCE:?}"
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A failure as soon as any reply was wrong or any connection was lost.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let problems = lock(&self.shared.problems);
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(problems.join("; ")))
        }
    }

    pub(super) fn stop(mut self) -> Result<Totals, Failure> {
        self.halt();
        self.check()?;
        Ok(Totals {
            replies: self.shared.replies.load(Ordering::SeqCst),
            probes: self.shared.probes.load(Ordering::SeqCst),
            transitions: self.shared.history.settled(),
        })
    }

    fn halt(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                lock(&self.shared.problems).push("a load thread panicked".to_owned());
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.halt();
    }
}

fn lock(problems: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    problems.lock().unwrap_or_else(|lock| lock.into_inner())
}

/// One request of a batch.
enum Asked {
    Ordinary(Reply),
    Probe(Probe),
}

/// One connection with what it knows.
struct Client {
    index: usize,
    connection: Connection,
    traffic: Traffic,
    probes: Probes,
    position: Position,
}

impl Client {
    fn new(index: usize, connection: Connection) -> Self {
        let name = format!("k{index}");
        Self {
            index,
            connection,
            traffic: Traffic::new(&name, index as u64),
            probes: Probes::new(&name),
            position: Position::start(),
        }
    }

    fn run(mut self, shared: &Shared) {
        let outcome = self.prepare().and_then(|()| {
            while !shared.stop.load(Ordering::SeqCst) {
                self.exchange_batch(shared)?;
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        if let Err(problem) = outcome {
            lock(&shared.problems).push(format!("connection {}: {problem}", self.index));
        }
    }

    fn prepare(&mut self) -> Result<(), String> {
        self.connection
            .send(&self.probes.prepare())
            .map_err(describe)?;
        for _ in 0..2 {
            let reply = self.connection.read_line().map_err(describe)?;
            if reply != "STORED" {
                return Err(format!("wrong reply: `{reply}` to the first set"));
            }
        }
        Ok(())
    }

    fn exchange_batch(&mut self, shared: &Shared) -> Result<(), String> {
        let settled = shared.history.settled();
        self.position.catch_up(&shared.history);
        let mut requests = Vec::new();
        let mut batch = Vec::new();
        for kind in probe::ALL {
            for _ in 0..REQUESTS_PER_PROBE {
                batch.push(Asked::Ordinary(self.traffic.next(&mut requests)));
            }
            requests.extend(self.probes.request(kind).bytes());
            batch.push(Asked::Probe(kind));
        }
        self.connection.send(&requests).map_err(describe)?;
        for asked in &batch {
            self.check(asked, shared)?;
        }
        shared.confirmed[self.index].store(settled + 1, Ordering::SeqCst);
        Ok(())
    }

    fn check(&mut self, asked: &Asked, shared: &Shared) -> Result<(), String> {
        shared.replies.fetch_add(1, Ordering::SeqCst);
        match asked {
            Asked::Ordinary(expected) => {
                match traffic::check(&mut self.connection, expected).map_err(describe)? {
                    None => Ok(()),
                    Some(difference) => Err(format!("wrong reply: {difference}")),
                }
            }
            Asked::Probe(kind) => self.check_probe(*kind, shared),
        }
    }

    fn check_probe(&mut self, kind: Probe, shared: &Shared) -> Result<(), String> {
        let reply = self.connection.read_line().map_err(describe)?;
        let probes = &self.probes;
        let explained = self
            .position
            .explain(&shared.history, |level| probes.matches(kind, &reply, level));
        if explained.is_none() {
            return Err(format!(
                "wrong level: {kind:?} was answered `{reply}`, {}",
                self.position.describe(&shared.history)
            ));
        }
        self.probes.accept(kind, &reply);
        shared.probes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn describe(error: io::Error) -> String {
    format!("dropped connection or no reply: {error}")
}

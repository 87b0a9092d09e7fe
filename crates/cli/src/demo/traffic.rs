//! The load generator: connections that send orders without end and judge every answer.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use super::receipts::{Judgement, Order, Receipt, Universe, judge};

const CONNECTIONS: u64 = 4;
/// Orders that are under way on one connection.
const PIPELINED: usize = 4;
/// With less than the workers could do, each of them is often between two orders.
const THINK_TIME: Duration = Duration::from_micros(100);
/// No transition may stop a request for so long.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// What all connections together have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) wrong: u64,
    pub(super) mixed: u64,
    pub(super) connection_errors: u64,
}

#[derive(Default)]
struct Shared {
    port: u16,
    stop: AtomicBool,
    /// Set of universes in which threads may be now.
    possible: AtomicU32,
    requests: AtomicU64,
    wrong: AtomicU64,
    mixed: AtomicU64,
    connection_errors: AtomicU64,
}

/// A running load generator; stops when dropped.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts the load against a server that runs the original code.
    pub(super) fn start(port: u16) -> io::Result<Self> {
        let possible = AtomicU32::new(Universe::Original.bit());
        let shared = Arc::new(Shared {
            port,
            possible,
            ..Shared::default()
        });
        let mut traffic = Self {
            shared,
            threads: Vec::new(),
        };
        for number in 0..CONNECTIONS {
            let shared = Arc::clone(&traffic.shared);
            let body = move || run_connection(&shared, number);
            let thread = thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(body)?;
            traffic.threads.push(thread);
        }
        Ok(traffic)
    }

    /// From now on answers may come from these universes only. An order that is under way
    /// may still be answered by those that were possible before.
    pub(super) fn expect(&self, universes: &[Universe]) {
        let set = universes
            .iter()
            .fold(0, |set, universe| set | universe.bit());
        self.shared.possible.store(set, Ordering::SeqCst);
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: read(&self.shared.requests),
            wrong: read(&self.shared.wrong),
            mixed: read(&self.shared.mixed),
            connection_errors: read(&self.shared.connection_errors),
        }
    }

    /// Lets the orders under way be answered and returns the final counts.
    pub(super) fn stop(mut self) -> Counts {
        self.join();
        self.counts()
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared
                    .connection_errors
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.join();
    }
}

fn run_connection(shared: &Shared, number: u64) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ number << 32);
    while !shared.stop.load(Ordering::SeqCst) {
        if send_orders(shared, &mut random).is_err() {
            shared.connection_errors.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Keeps one connection busy until the load generator is stopped.
fn send_orders(shared: &Shared, random: &mut Random) -> io::Result<()> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    stream.set_write_timeout(Some(REPLY_LIMIT))?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let mut under_way: Vec<(Order, u32)> = Vec::new();
    loop {
        let stop = shared.stop.load(Ordering::SeqCst);
        while !stop && under_way.len() < PIPELINED {
            let order = random.order();
            under_way.push((order, shared.possible.load(Ordering::SeqCst)));
            (&stream).write_all(order.request().as_bytes())?;
        }
        if under_way.is_empty() {
            return Ok(());
        }
        let mut line = String::new();
        if replies.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        take_reply(shared, &mut under_way, line.trim_end())?;
        thread::sleep(THINK_TIME);
    }
}

fn take_reply(shared: &Shared, under_way: &mut Vec<(Order, u32)>, line: &str) -> io::Result<()> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let receipt = Receipt::parse(line);
    let place = receipt.as_ref().and_then(|receipt| {
        under_way
            .iter()
            .position(|(order, _)| order.id == receipt.id)
    });
    let (Some(receipt), Some(place)) = (receipt, place) else {
        // Which order it answers cannot be known, so the connection is of no more use.
        shared.wrong.fetch_add(1, Ordering::Relaxed);
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (order, possible_before) = under_way.swap_remove(place);
    let possible = possible_before | shared.possible.load(Ordering::SeqCst);
    match judge(&order, &receipt, possible) {
        Judgement::Right => {}
        Judgement::Wrong => drop(shared.wrong.fetch_add(1, Ordering::Relaxed)),
        Judgement::Mixed => drop(shared.mixed.fetch_add(1, Ordering::Relaxed)),
    }
    Ok(())
}

/// A xorshift generator: the demo needs variety, not randomness.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn order(&mut self) -> Order {
        let bits = self.next();
        Order {
            id: bits >> 16,
            quantity: 1 + (bits % 20) as i64,
            unit_price: 1 + (bits / 20 % 2_000) as i64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers every order by the given function, one connection after the other.
    fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
                thread::spawn(move || {
                    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                        let reply = line.ok().and_then(|line| answer(&line));
                        let Some(reply) = reply else { return };
                        if (&stream).write_all(reply.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        port
    }

    fn count(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Counts {
        let traffic = Traffic::start(serve(answer)).unwrap();
        thread::sleep(Duration::from_millis(300));
        traffic.stop()
    }

    fn reply(request: &str, tags: &str) -> Option<String> {
        let words: Vec<i64> = request
            .split(' ')
            .skip(1)
            .map(|w| w.parse().unwrap())
            .collect();
        let mut total = words[1] * words[2];
        if words[1] >= 10 {
            total -= words[2] / 10;
        }
        Some(format!(
            "{} {tags} {total} {}.{}\n",
            words[0],
            total / 100,
            total % 100
        ))
    }

    #[test]
    fn right_answers_are_counted_as_requests_only() {
        let counts = count(|request| reply(request, "0 0 0"));
        assert!(counts.requests > 100, "{counts:?}");
        assert_eq!(
            counts,
            Counts {
                requests: counts.requests,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn mixed_answers_are_noticed() {
        let counts = count(|request| reply(request, "0 1 0"));
        assert!(counts.requests > 100, "{counts:?}");
        assert_eq!(counts.mixed, counts.requests);
        assert_eq!((counts.wrong, counts.connection_errors), (0, 0));
    }

    #[test]
    fn answers_by_code_that_is_not_loaded_are_wrong() {
        let counts = count(|request| reply(request, "2 0 2"));
        assert!(counts.requests > 100, "{counts:?}");
        assert_eq!(counts.wrong, counts.requests);
        assert_eq!((counts.mixed, counts.connection_errors), (0, 0));
    }

    #[test]
    fn dropped_connections_are_noticed() {
        let counts = count(|_| None);
        assert!(counts.connection_errors >= CONNECTIONS, "{counts:?}");
        assert_eq!((counts.requests, counts.wrong, counts.mixed), (0, 0, 0));
    }
}

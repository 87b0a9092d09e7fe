//! Ordinary requests with random data, and the replies that they must get at any level.

use std::collections::HashMap;
use std::io;

use super::connection::Connection;
use crate::random::Random;

const KEYS: u64 = 40;
const COUNTERS: u64 = 8;
const MAX_VALUE: u64 = 6000;

/// Large enough that decrements never shorten it: memcached pads shortened numbers.
const FIRST_COUNT: u64 = 5_000_000_000;

/// What one connection believes about the items that are its own.
pub(super) struct Traffic {
    name: String,
    random: Random,
    values: HashMap<String, Vec<u8>>,
    counters: HashMap<String, u64>,
}

/// What must come back for one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Line(String),
    /// The items found, in order.
    Items(Vec<(String, Vec<u8>)>),
    /// `STAT` lines up to `END`, among them these.
    Stats(&'static [&'static str]),
}

impl Traffic {
    pub(super) fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            random: Random::new(seed),
            values: HashMap::new(),
            counters: HashMap::new(),
        }
    }

    /// Appends one random request and returns the reply it must get.
    pub(super) fn next(&mut self, requests: &mut Vec<u8>) -> Reply {
        match self.random.below(20) {
            0..=4 => self.store(requests),
            5..=9 => self.fetch(requests),
            10 => self.append(requests),
            11..=13 => self.count(requests),
            14..=15 => self.touch(requests),
            16..=17 => self.delete(requests),
            18 => ask(requests, "version", "VERSION 1.6.18"),
            _ => self.ask_oddly(requests),
        }
    }

    fn key(&mut self) -> String {
        format!("{}:v{}", self.name, self.random.below(KEYS))
    }

    fn value(&mut self) -> Vec<u8> {
        let length = self.random.below(MAX_VALUE);
        (0..length).map(|_| self.random.next() as u8).collect()
    }

    /// set, add or replace.
    fn store(&mut self, requests: &mut Vec<u8>) -> Reply {
        let (key, value) = (self.key(), self.value());
        let known = self.values.contains_key(&key);
        let (verb, stored) = match self.random.below(4) {
            0 => ("add", !known),
            1 => ("replace", known),
            _ => ("set", true),
        };
        let flags = flags_of(&key);
        let life = self.random.below(2) * 1000;
        push_line(
            requests,
            &format!("{verb} {key} {flags} {life} {}", value.len()),
        );
        requests.extend(&value);
        requests.extend(b"\r\n");
        if stored {
            self.values.insert(key, value);
        }
        line(if stored { "STORED" } else { "NOT_STORED" })
    }

    fn fetch(&mut self, requests: &mut Vec<u8>) -> Reply {
        let mut keys: Vec<String> = (0..=self.random.below(3)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        push_line(requests, &format!("get {}", keys.join(" ")));
        let found = keys
            .into_iter()
            .filter_map(|key| self.values.get(&key).cloned().map(|value| (key, value)))
            .collect();
        Reply::Items(found)
    }

    fn append(&mut self, requests: &mut Vec<u8>) -> Reply {
        let key = self.key();
        push_line(requests, &format!("append {key} 0 0 3"));
        requests.extend(b"end\r\n");
        match self.values.get_mut(&key) {
            Some(value) => {
                value.extend(b"end");
                line("STORED")
            }
            None => line("NOT_STORED"),
        }
    }

    /// Deltas that no level refuses or changes.
    fn count(&mut self, requests: &mut Vec<u8>) -> Reply {
        let key = format!("{}:c{}", self.name, self.random.below(COUNTERS));
        let Some(count) = self.counters.get_mut(&key) else {
            self.counters.insert(key.clone(), FIRST_COUNT);
            push_line(requests, &format!("set {key} 0 0 10"));
            push_line(requests, &FIRST_COUNT.to_string());
            return line("STORED");
        };
        let delta = 1 + self.random.below(1000);
        if self.random.below(2) == 0 {
            *count += delta;
            push_line(requests, &format!("incr {key} {delta}"));
        } else {
            *count -= delta;
            push_line(requests, &format!("decr {key} {delta}"));
        }
        line(&count.to_string())
    }

    fn touch(&mut self, requests: &mut Vec<u8>) -> Reply {
        let key = self.key();
        push_line(requests, &format!("touch {key} 1000"));
        let known = self.values.contains_key(&key);
        line(if known { "TOUCHED" } else { "NOT_FOUND" })
    }

    fn delete(&mut self, requests: &mut Vec<u8>) -> Reply {
        let key = self.key();
        push_line(requests, &format!("delete {key}"));
        let known = self.values.remove(&key).is_some();
        line(if known { "DELETED" } else { "NOT_FOUND" })
    }

    /// Rarer requests, wrong ones among them.
    fn ask_oddly(&mut self, requests: &mut Vec<u8>) -> Reply {
        let name = &self.name;
        match self.random.below(6) {
            0 => ask(requests, &format!("incr {name}:none 7"), "NOT_FOUND"),
            1 => ask(requests, &format!("decr {name}:none 7 "), "NOT_FOUND"),
            2 => ask(
                requests,
                &format!("incr {name}:none seven"),
                "CLIENT_ERROR invalid numeric delta argument",
            ),
            3 => ask(requests, "mn", "MN"),
            4 => ask(requests, "nonsense", "ERROR"),
            _ => {
                push_line(requests, "stats");
                Reply::Stats(&["STAT threads 4", "STAT version 1.6.18", "STAT evictions 0"])
            }
        }
    }
}

fn ask(requests: &mut Vec<u8>, request: &str, reply: &str) -> Reply {
    push_line(requests, request);
    line(reply)
}

fn line(text: &str) -> Reply {
    Reply::Line(text.to_owned())
}

fn push_line(requests: &mut Vec<u8>, text: &str) {
    requests.extend(text.as_bytes());
    requests.extend(b"\r\n");
}

/// Each key always has the same flags, so that they can be checked.
fn flags_of(key: &str) -> u32 {
    key.bytes()
        .fold(7, |flags, byte| (flags * 3 + u32::from(byte)) % 65_536)
}

/// Reads one reply; the text says how it differs from what must come.
pub(super) fn check(connection: &mut Connection, expected: &Reply) -> io::Result<Option<String>> {
    match expected {
        Reply::Line(text) => {
            let reply = connection.read_line()?;
            Ok((reply != *text).then(|| format!("`{reply}` instead of `{text}`")))
        }
        Reply::Items(items) => check_items(connection, items),
        Reply::Stats(wanted) => check_stats(connection, wanted),
    }
}

fn check_items(
    connection: &mut Connection,
    items: &[(String, Vec<u8>)],
) -> io::Result<Option<String>> {
    for (key, value) in items {
        let header = connection.read_line()?;
        let expected = format!("VALUE {key} {} {}", flags_of(key), value.len());
        if header != expected {
            return Ok(Some(format!("`{header}` instead of `{expected}`")));
        }
        if connection.read_block(value.len())? != *value {
            return Ok(Some(format!("other data than were stored in {key}")));
        }
    }
    let end = connection.read_line()?;
    Ok((end != "END").then(|| format!("`{end}` instead of the end of the items")))
}

fn check_stats(connection: &mut Connection, wanted: &[&str]) -> io::Result<Option<String>> {
    let mut found = Vec::new();
    loop {
        let reply = connection.read_line()?;
        if reply == "END" {
            break;
        }
        if !reply.starts_with("STAT ") {
            return Ok(Some(format!("`{reply}` among statistics")));
        }
        found.push(reply);
    }
    let missing = wanted.iter().find(|line| !found.iter().any(|f| f == *line));
    Ok(missing.map(|line| format!("no `{line}` among statistics")))
}

//! Requests whose replies show which level the serving thread is at.

use super::level::Level;

/// The life that the probe asks for, in seconds.
const WANTED_LIFE: u64 = 7200;

/// The clock of the server ticks once a second; a reply may be read this much later.
const CLOCK_SLACK: u64 = 3;

const LARGE_DELTA: u64 = 5000;

/// One kind of probe for each function of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// `process_arithmetic_command`: incr by zero.
    ZeroDelta,
    /// `realtime`: the life that an item is given.
    Life,
    /// `add_delta`: incr by a lot.
    LargeDelta,
    /// `item_touch`: a key that begins with `pin:`.
    PinnedTouch,
}

pub(super) const ALL: [Probe; 4] = [
    Probe::ZeroDelta,
    Probe::Life,
    Probe::LargeDelta,
    Probe::PinnedTouch,
];

/// One connection's own items for probing.
pub(super) struct Probes {
    name: String,
    counter: u64,
}

impl Probes {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            counter: 1_000_000,
        }
    }

    /// Creates the items; answered by as many `STORED` as there are items (two).
    pub(super) fn prepare(&self) -> Vec<u8> {
        let Self { name, counter } = self;
        let digits = counter.to_string();
        let length = digits.len();
        format!("set {name}:n 0 0 {length}\r\n{digits}\r\nset pin:{name} 0 0 1\r\nx\r\n").into()
    }

    pub(super) fn request(&self, probe: Probe) -> String {
        let name = &self.name;
        match probe {
            Probe::ZeroDelta => format!("incr {name}:n 0\r\n"),
            Probe::Life => {
                format!("set {name}:t 0 {WANTED_LIFE} 1 noreply\r\nx\r\nmg {name}:t t\r\n")
            }
            Probe::LargeDelta => format!("incr {name}:n {LARGE_DELTA}\r\n"),
            Probe::PinnedTouch => format!("touch pin:{name} 0\r\n"),
        }
    }

    /// Whether a thread at `level` answers like this.
    pub(super) fn matches(&self, probe: Probe, reply: &str, level: Level) -> bool {
        match probe {
            Probe::ZeroDelta if level.refuses_zero_delta() => {
                reply == "CLIENT_ERROR delta must not be zero"
            }
            Probe::ZeroDelta => reply == self.counter.to_string(),
            Probe::Life => {
                let granted = WANTED_LIFE.min(level.longest_life());
                reply
                    .strip_prefix("HD t")
                    .and_then(|left| left.parse::<u64>().ok())
                    .is_some_and(|left| (granted - CLOCK_SLACK..=granted).contains(&left))
            }
            Probe::LargeDelta => {
                let granted = LARGE_DELTA.min(level.largest_delta());
                reply == (self.counter + granted).to_string()
            }
            Probe::PinnedTouch if level.pins_items() => reply == "NOT_FOUND",
            Probe::PinnedTouch => reply == "TOUCHED",
        }
    }

    /// Takes over what an explained reply has changed.
    pub(super) fn accept(&mut self, probe: Probe, reply: &str) {
        if let (Probe::LargeDelta, Ok(counter)) = (probe, reply.parse()) {
            self.counter = counter;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, Level, Probe, Probes};

    const LEVELS: [Level; 4] = [Level::Unpatched, Level::V1, Level::V2, Level::V3];

    fn matching(probe: Probe, reply: &str) -> Vec<Level> {
        let probes = Probes::new("a");
        LEVELS
            .into_iter()
            .filter(|level| probes.matches(probe, reply, *level))
            .collect()
    }

    #[test]
    fn every_two_levels_differ_in_some_probe() {
        let replies = [
            (Probe::ZeroDelta, "1000000"),
            (Probe::Life, "HD t3600"),
            (Probe::Life, "HD t1799"),
            (Probe::PinnedTouch, "NOT_FOUND"),
        ];
        let sets: Vec<Vec<Level>> = replies
            .iter()
            .map(|(probe, reply)| matching(*probe, reply))
            .collect();
        for first in LEVELS {
            for second in LEVELS {
                let told_apart = sets
                    .iter()
                    .any(|set| set.contains(&first) != set.contains(&second));
                assert_eq!(told_apart, first != second, "{first:?} {second:?}");
            }
        }
    }

    #[test]
    fn replies_match_their_levels_only() {
        use Level::{Unpatched, V1, V2, V3};
        let refused = "CLIENT_ERROR delta must not be zero";
        assert_eq!(matching(Probe::ZeroDelta, refused), [V1]);
        assert_eq!(matching(Probe::LargeDelta, "1005000"), [Unpatched, V1]);
        assert_eq!(matching(Probe::LargeDelta, "1001000"), [V2, V3]);
        assert_eq!(matching(Probe::PinnedTouch, "TOUCHED"), [Unpatched, V1, V3]);
        assert_eq!(matching(Probe::Life, "HD t7200"), [Unpatched]);
    }

    #[test]
    fn other_replies_match_no_level() {
        for probe in ALL {
            assert_eq!(matching(probe, "ERROR"), []);
            assert_eq!(matching(probe, "HD t2500"), []);
        }
    }

    #[test]
    fn a_counter_follows_the_replies() {
        let mut probes = Probes::new("a");
        probes.accept(Probe::LargeDelta, "1001000");
        assert!(probes.matches(Probe::ZeroDelta, "1001000", Level::V2));
        assert!(!probes.matches(Probe::ZeroDelta, "1000000", Level::V2));
    }
}

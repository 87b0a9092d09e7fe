//! A transition as a picture: a row for each thread, time across.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use engraft_engine::{Direction, Engine, Look, Outcome, Timeline};

use crate::failure::Failure;
use crate::render;

/// Rows that are drawn; of more threads those that held the transition up come first.
const ROWS: usize = 200;

const ROW: f64 = 16.0;
const LABELS: f64 = 190.0;
const PLOT: f64 = 760.0;
const REASONS: f64 = 330.0;
const TOP: f64 = 64.0;
/// About how many marks the axis has.
const MARKS: u32 = 6;

/// Draws what the engine has kept.
///
/// # Errors
///
/// When the file cannot be written.
pub(crate) fn write(path: &Path, patch: &str, engine: &Engine) -> Result<(), Failure> {
    let Some(timeline) = engine.timeline() else {
        return Ok(());
    };
    engraft_module::write_atomically(path, draw(patch, timeline).as_bytes())
        .map_err(|error| Failure::new(format!("cannot write '{}': {error}", path.display())))
}

/// One thread.
struct Row<'a> {
    looks: Vec<&'a Look>,
}

impl Row<'_> {
    /// Why it was held up last.
    fn reason(&self) -> Option<&str> {
        let reasons = self.looks.iter().rev().filter_map(|look| reason_of(look));
        reasons.into_iter().next()
    }

    fn held_up(&self) -> usize {
        self.looks.iter().filter_map(|look| reason_of(look)).count()
    }
}

fn reason_of(look: &Look) -> Option<&str> {
    match &look.outcome {
        Outcome::Blocked(reason) => Some(reason),
        Outcome::Switched => None,
    }
}

fn draw(patch: &str, timeline: &Timeline) -> String {
    let mut rows: BTreeMap<i32, Row<'_>> = BTreeMap::new();
    for look in &timeline.looks {
        let row = rows.entry(look.tid).or_insert(Row { looks: Vec::new() });
        row.looks.push(look);
    }
    let mut rows: Vec<Row<'_>> = rows.into_values().collect();
    let threads = rows.len();
    if threads > ROWS {
        rows.sort_by_key(|row| std::cmp::Reverse(row.held_up()));
        rows.truncate(ROWS);
    }
    rows.sort_by_key(|row| row.looks.last().map(|look| look.began));
    let picture = Picture::of(timeline, rows.len());
    let mut body = String::new();
    picture.draw_axis(&mut body);
    for (index, row) in rows.iter().enumerate() {
        picture.draw_row(&mut body, index, row);
    }
    for stop in &timeline.stops {
        let title = format!(
            "{} threads stand still together for {}",
            stop.threads,
            render::duration(stop.held)
        );
        let (top, height) = (TOP, picture.height - TOP - ROW);
        picture.draw_box(
            &mut body,
            "stop",
            (stop.began, stop.held),
            (top, height),
            &title,
        );
    }
    let left_out = match threads - rows.len() {
        0 => String::new(),
        number => format!(", {number} of them not shown"),
    };
    picture.frame(&format!("{patch}: {threads} threads{left_out}"), &body)
}

/// Where things go.
struct Picture {
    began: Instant,
    /// First look's direction: what the threads come from is the other one.
    heading: Direction,
    length: Duration,
    height: f64,
}

impl Picture {
    fn of(timeline: &Timeline, rows: usize) -> Self {
        let looks = timeline.looks.iter().map(|look| look.began + look.took);
        let stops = timeline.stops.iter().map(|stop| stop.began + stop.held);
        let end = looks.chain(stops).max().unwrap_or(timeline.began);
        let length = end.saturating_duration_since(timeline.began);
        let first = timeline.looks.first();
        Self {
            began: timeline.began,
            heading: first.map_or(Direction::Patched, |look| look.heading),
            length: length.max(Duration::from_micros(1)),
            height: TOP + ROW * (rows as f64 + 1.0),
        }
    }

    fn x(&self, at: Instant) -> f64 {
        let passed = at.saturating_duration_since(self.began);
        let share = passed.as_secs_f64() / self.length.as_secs_f64();
        LABELS + PLOT * share.min(1.0)
    }

    fn draw_axis(&self, text: &mut String) {
        let step = round_step(self.length / MARKS);
        let mut at = Duration::ZERO;
        while at <= self.length {
            let x = self.x(self.began + at);
            let bottom = self.height - ROW;
            let _ = writeln!(
                text,
                "<path class=\"mark\" d=\"M{x:.1} {TOP} V{bottom:.1}\"/>\
                 <text class=\"time\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                TOP - 6.0,
                render::duration(at)
            );
            at += step;
        }
    }

    fn draw_row(&self, text: &mut String, index: usize, row: &Row<'_>) {
        let top = TOP + ROW * index as f64;
        let bar = (top + 3.0, ROW - 6.0);
        let Some(first) = row.looks.first() else {
            return;
        };
        let name = escape(&format!("{} {}", first.tid, first.comm));
        let baseline = top + ROW - 4.5;
        let _ = writeln!(
            text,
            "<text class=\"name\" x=\"{:.1}\" y=\"{baseline:.1}\">{name}</text>",
            LABELS - 8.0
        );
        let mut is_patched = self.heading == Direction::Unpatched;
        let (mut since, mut is_held) = (self.began, false);
        let end = self.began + self.length;
        let mut segment = |text: &mut String, until: Instant, is_patched, is_held| {
            let class = match (is_held, is_patched) {
                (true, _) => "held",
                (false, true) => "new",
                (false, false) => "old",
            };
            let time = until.saturating_duration_since(since);
            self.draw_box(text, class, (since, time), bar, class);
            since = until;
        };
        for look in &row.looks {
            segment(text, look.began, is_patched, is_held);
            is_held = reason_of(look).is_some();
            if !is_held {
                is_patched = look.heading == Direction::Patched;
            }
        }
        segment(text, end, is_patched, is_held);
        for look in &row.looks {
            let took = render::duration(look.took);
            let title = match reason_of(look) {
                Some(reason) => format!("{reason} (looked at for {took})"),
                None => format!("switched ({took})"),
            };
            self.draw_box(
                text,
                "look",
                (look.began, look.took),
                (top + 1.0, ROW - 2.0),
                &title,
            );
        }
        if let Some(reason) = row.reason() {
            let reason = escape(&render::printable(reason));
            let _ = writeln!(
                text,
                "<text class=\"why\" x=\"{:.1}\" y=\"{baseline:.1}\">{reason}</text>",
                LABELS + PLOT + 8.0
            );
        }
    }

    /// A box at least as wide as can be seen.
    fn draw_box(
        &self,
        text: &mut String,
        class: &str,
        (from, time): (Instant, Duration),
        (top, height): (f64, f64),
        title: &str,
    ) {
        let left = self.x(from);
        let width = (self.x(from + time) - left).max(1.0);
        let title = escape(title);
        let _ = writeln!(
            text,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"><title>{title}</title></rect>"
        );
    }

    fn frame(&self, title: &str, body: &str) -> String {
        let width = LABELS + PLOT + REASONS;
        let height = self.height;
        let title = escape(&render::printable(title));
        let mut legend = String::new();
        let words = [
            ("old", "old code"),
            ("new", "new code"),
            ("held", "held up"),
            ("look", "looked at"),
            ("stop", "common stop"),
        ];
        for (index, (class, word)) in words.iter().enumerate() {
            let x = LABELS + 120.0 * index as f64;
            let _ = writeln!(
                legend,
                "<rect class=\"{class}\" x=\"{x}\" y=\"26\" width=\"10\" height=\"10\"/>\
                 <text x=\"{}\" y=\"35\">{word}</text>",
                x + 15.0
            );
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"{LABELS}\" y=\"16\">{title}</text>\n\
             {legend}{body}</svg>\n"
        )
    }
}

const STYLE: &str = "text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}\
.name{text-anchor:end}.time{text-anchor:middle;fill:#777}.page{fill:#fff}.old{fill:#c9ced6}\
.new{fill:#3f7fd0}.held{fill:#e8a13c}.look{fill:#222}.stop{fill:#c0392b;opacity:.6}\
.mark{stroke:#e4e4e4}";

/// The next of 1, 2 and 5 times a power of ten, in nanoseconds.
fn round_step(least: Duration) -> Duration {
    let least = u64::try_from(least.as_nanos()).unwrap_or(u64::MAX).max(1);
    let mut power = 1_u64;
    while power.saturating_mul(5) < least && power < u64::MAX / 100 {
        power *= 10;
    }
    let steps = [1, 2, 5, 10].map(|factor| power * factor);
    let step = steps.into_iter().find(|step| *step >= least);
    Duration::from_nanos(step.unwrap_or(least))
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

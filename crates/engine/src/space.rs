//! Handing out pieces of address space.

use serde::{Deserialize, Serialize};

/// A range of addresses of which parts are in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Space {
    start: u64,
    end: u64,
    /// Free pieces in address order, never adjacent.
    free: Vec<(u64, u64)>,
}

/// A piece of address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) size: u64,
}

impl Span {
    /// Numbers that were read back from a target may be anything before they are checked.
    pub(crate) fn end(self) -> u64 {
        self.start.saturating_add(self.size)
    }

    pub(crate) fn contains(self, address: u64) -> bool {
        (self.start..self.end()).contains(&address)
    }

    /// Whether all of another piece lies in this one. The other's numbers may be anything.
    pub(crate) fn covers(self, other: Self) -> bool {
        let end = other.start.checked_add(other.size);
        other.start >= self.start && end.is_some_and(|end| end <= self.end())
    }
}

impl Space {
    pub(crate) fn new(start: u64, size: u64) -> Self {
        Self {
            start,
            end: start + size,
            free: vec![(start, start + size)],
        }
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Whether its numbers agree with each other.
    pub(crate) fn is_sound(&self) -> bool {
        let mut last = self.start;
        self.start <= self.end
            && self.free.iter().enumerate().all(|(index, (start, end))| {
                let apart = if index == 0 {
                    *start >= last
                } else {
                    *start > last
                };
                last = *end;
                apart && start < end && *end <= self.end
            })
    }

    pub(crate) fn span(&self) -> Span {
        Span {
            start: self.start,
            size: self.end.saturating_sub(self.start),
        }
    }

    /// Takes `size` bytes at a multiple of `alignment`.
    pub(crate) fn take(&mut self, size: u64, alignment: u64) -> Option<Span> {
        if size == 0 {
            return Some(Span {
                start: self.start.next_multiple_of(alignment),
                size: 0,
            });
        }
        let (index, at) = self
            .free
            .iter()
            .enumerate()
            .find_map(|(index, (start, end))| {
                let at = start.checked_next_multiple_of(alignment)?;
                (at.checked_add(size)? <= *end).then_some((index, at))
            })?;
        let (start, end) = self.free.remove(index);
        let rest = [(start, at), (at + size, end)];
        self.free.splice(
            index..index,
            rest.into_iter().filter(|(start, end)| start < end),
        );
        Some(Span { start: at, size })
    }

    /// Gives a piece back that was taken from here.
    pub(crate) fn give(&mut self, span: Span) {
        if span.size == 0 {
            return;
        }
        let index = self.free.partition_point(|(start, _)| *start < span.start);
        self.free.insert(index, (span.start, span.end()));
        if self
            .free
            .get(index + 1)
            .is_some_and(|next| next.0 == self.free[index].1)
        {
            self.free[index].1 = self.free.remove(index + 1).1;
        }
        if index > 0 && self.free[index - 1].1 == self.free[index].0 {
            self.free[index - 1].1 = self.free.remove(index).1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_overlap_and_come_back() {
        let mut space = Space::new(0x1000, 0x1000);
        let a = space.take(100, 16).expect("room");
        let b = space.take(0x200, 0x100).expect("room");
        let c = space.take(8, 8).expect("room");
        assert_eq!((a.start, b.start % 0x100), (0x1000, 0));
        assert!(
            a.end() <= c.start && c.end() <= b.start,
            "small pieces fill gaps"
        );
        assert_eq!(space.take(0x1000, 1), None);
        for span in [b, a, c] {
            space.give(span);
        }
        assert_eq!(space, Space::new(0x1000, 0x1000));
        assert_eq!(space.take(0x1000, 0x1000).expect("all of it").start, 0x1000);
    }
}

//! Memory of ours in a target: where it goes and who has which part.

use serde::{Deserialize, Serialize};

use engraft_process::{ArenaPlan, Mapping};

use crate::space::{Space, Span};

/// Name of the control mapping's memfd.
pub(crate) const CONTROL_NAME: &str = "engraft";
/// Name of further arenas' memfds.
pub(crate) const ARENA_NAME: &str = "engraft-arena";

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// What rel32 operands reach, less a margin for the sizes of code and arena themselves.
const REACH: u64 = (1 << 31) - 64 * MIB;

/// Lowest address that is tried; vm.mmap_min_addr is at most this on any sane system.
const LOWEST: u64 = 0x10000;

/// Below this lie the addresses that 32-bit absolute relocations (R_X86_64_32S) reach.
const LOW_END: u64 = 1 << 31;

/// Address space kept free above an object, where the heap of the main executable grows.
const HEAP_ROOM: u64 = 1 << 30;

/// End of user addresses (47 bits).
const USER_END: u64 = 0x7fff_ffff_f000;

/// One mapping of ours: a read-only, an executable and a writable part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arena {
    pub(crate) read_only: Space,
    pub(crate) executable: Space,
    pub(crate) writable: Space,
}

/// The part of an arena that a piece is wanted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    ReadOnly,
    Executable,
    Writable,
}

impl Arena {
    pub(crate) fn new(plan: &ArenaPlan) -> Self {
        let executable = plan.address + plan.read_only;
        Self {
            read_only: Space::new(plan.address, plan.read_only),
            executable: Space::new(executable, plan.executable),
            writable: Space::new(executable + plan.executable, plan.writable),
        }
    }

    pub(crate) fn part(&mut self, part: Part) -> &mut Space {
        match part {
            Part::ReadOnly => &mut self.read_only,
            Part::Executable => &mut self.executable,
            Part::Writable => &mut self.writable,
        }
    }

    /// Whether its parts follow each other where user memory can be.
    pub(crate) fn is_sound(&self) -> bool {
        let parts = [&self.read_only, &self.executable, &self.writable];
        let spans = parts.map(Space::span);
        parts.into_iter().all(Space::is_sound)
            && spans.windows(2).all(|pair| pair[0].end() == pair[1].start)
            && spans[0].start >= LOWEST
            && spans[2].end() <= USER_END
            && spans[2].end() - spans[0].start <= REACH
    }

    pub(crate) fn span(&self) -> Span {
        let start = self.read_only.span().start;
        Span {
            start,
            size: self.writable.span().end() - start,
        }
    }

    /// Whether code anywhere in the arena reaches all of `target`, and the other way round.
    pub(crate) fn reaches(&self, target: Span) -> bool {
        let own = self.span();
        own.end().max(target.end()) - own.start.min(target.start) < REACH
    }
}

/// Index of an arena that reaches `target` and has room: so many bytes in each part.
pub(crate) fn find_room(arenas: &[Arena], target: Span, room: [u64; 3]) -> Option<usize> {
    arenas.iter().position(|arena| {
        let mut trial = arena.clone();
        arena.reaches(target)
            && [Part::ReadOnly, Part::Executable, Part::Writable]
                .into_iter()
                .zip(room)
                .all(|(part, size)| trial.part(part).take(size, 64).is_some())
    })
}

/// Sizes of a new arena in which so much room is needed.
pub(crate) fn roomy(room: [u64; 3]) -> [u64; 3] {
    let mut size = DEFAULT_ROOM;
    for (size, room) in size.iter_mut().zip(room) {
        *size = (*size).max(room.next_multiple_of(PAGE) + PAGE);
    }
    size
}

/// Plans an arena near `object` where nothing is mapped.
pub(crate) fn plan_arena(
    maps: &[Mapping],
    object: Span,
    name: &'static str,
    room: [u64; 3],
) -> Option<ArenaPlan> {
    let [read_only, executable, writable] = room.map(|size| size.next_multiple_of(PAGE));
    let mut plan = ArenaPlan {
        name,
        address: 0,
        read_only,
        executable,
        writable,
    };
    plan.address = find_hole(maps, object, plan.length())?;
    Some(plan)
}

/// Room that a first arena gets: read-only, executable, writable.
pub(crate) const DEFAULT_ROOM: [u64; 3] = [2 * MIB, MIB, MIB];

/// Below the object if possible, since heaps grow upwards and libraries are mapped
/// downwards from the top; else far above it. Fixed-position programs (below 2 GiB) get an
/// address that their absolute relocations reach.
fn find_hole(maps: &[Mapping], object: Span, length: u64) -> Option<u64> {
    let lowest = object.end().saturating_sub(REACH).max(LOWEST);
    let mut highest = (object.start + REACH).min(USER_END);
    if object.end() < LOW_END {
        highest = highest.min(LOW_END - 16 * MIB);
    }
    let mut holes = Vec::new();
    let mut previous = 0;
    for mapping in maps {
        // The stack grows down into the hole below it.
        let end = if mapping.path == "[stack]" {
            mapping.start.saturating_sub(HEAP_ROOM)
        } else {
            mapping.start
        };
        holes.push((previous, end));
        previous = mapping.end;
    }
    holes.push((previous, USER_END));
    let fit = |(start, end): &(u64, u64)| {
        let start = (*start).max(lowest) + PAGE;
        let end = (*end).min(highest).saturating_sub(PAGE);
        (end > start && end - start >= length).then_some((start, end))
    };
    let below = holes
        .iter()
        .filter(|(_, end)| *end <= object.start)
        .filter_map(fit)
        .next_back();
    if let Some((_, end)) = below.filter(|(start, end)| end - start >= length + 16 * MIB) {
        return Some((end - length - 8 * MIB) & !(PAGE - 1));
    }
    let above = holes
        .iter()
        .filter(|(start, _)| *start >= object.end())
        .filter_map(fit)
        .next_back()
        .map(|(_, end)| end - length);
    above
        .or(below.map(|(_, end)| end - length))
        .map(|address| address & !(PAGE - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, path: &str) -> Mapping {
        Mapping {
            start,
            end,
            read: true,
            write: false,
            execute: false,
            offset: 0,
            inode: 0,
            device: String::new(),
            path: path.into(),
        }
    }

    fn plan(maps: &[Mapping], object: (u64, u64)) -> Option<ArenaPlan> {
        let span = Span {
            start: object.0,
            size: object.1 - object.0,
        };
        plan_arena(maps, span, ARENA_NAME, [PAGE, PAGE, PAGE])
    }

    #[test]
    fn lies_in_a_hole_within_reach() {
        let pie = (0x5555_5555_0000, 0x5555_5556_0000);
        let library = (0x7fff_f7a0_0000, 0x7fff_f7c0_0000);
        let fixed = (0x40_0000, 0x4c_0000);
        let maps = [
            mapping(fixed.0, fixed.1, "/fixed"),
            mapping(0x4d_0000, 0x4f_0000, "[heap]"),
            mapping(pie.0, pie.1, "/pie"),
            mapping(0x5555_5556_1000, 0x5555_5560_0000, "[heap]"),
            mapping(library.0, library.1, "/libc.so.6"),
            mapping(0x7fff_fffd_0000, 0x7fff_ffff_e000, "[stack]"),
        ];
        for object in [pie, library, fixed] {
            let plan = plan(&maps, object).expect("there is room");
            let end = plan.address + plan.length();
            assert!(
                maps.iter().all(|m| end <= m.start || plan.address >= m.end),
                "{plan:x?}"
            );
            assert!(plan.address.abs_diff(object.1) < REACH && end.abs_diff(object.0) < REACH);
            assert_eq!(plan.address % PAGE, 0);
        }
        assert!(plan(&maps, fixed).expect("room").address < LOW_END);
        assert!(
            plan(&maps, pie).expect("room").address < pie.0,
            "away from the heap"
        );
    }

    #[test]
    fn no_room_is_said() {
        let object = (0x5555_5555_0000, 0x5555_5556_0000);
        let maps = [
            mapping(LOWEST, object.0, "below"),
            mapping(object.0, object.1, "/pie"),
            mapping(object.1, USER_END, "above"),
        ];
        assert_eq!(plan(&maps, object), None);
    }
}

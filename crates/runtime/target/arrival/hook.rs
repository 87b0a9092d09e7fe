//! Where the dynamic linker's notification leads, and what it is about.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use engraft_abi::{Arrivals, LibraryStatus};

use super::coming::come;
use super::going::{forget, go};
use super::link_map::{LinkMap, RDebug, is_called, objects};
use super::linker::Table;
use super::plan::{Library, Part, PlanInForce};
use super::redirects::Redirects;
use super::symbols::Symbols;
use super::turn::Turn;
use crate::config;

/// Read by the tool.
#[unsafe(no_mangle)]
pub(crate) static mut engraft_arrivals: Arrivals = Arrivals {
    working: 0,
    events: 0,
};

// All registers are kept, also those that a function may change: a linker that was compiled
// together with its notification function, which is empty, may rely on that (gcc's -fipa-ra).
global_asm!(
    ".pushsection .text.engraft_arrival, \"ax\", @progbits",
    ".globl engraft_arrival",
    ".type engraft_arrival, @function",
    ".p2align 4",
    "engraft_arrival:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rax",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "sub rsp, 256",
    "and rsp, -16",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movups [rsp + 16 * \\n], xmm\\n",
    ".endr",
    "call {follow}",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movups xmm\\n, [rsp + 16 * \\n]",
    ".endr",
    "lea rsp, [rbp - 72]",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    ".size engraft_arrival, . - engraft_arrival",
    ".popsection",
    follow = sym follow,
);

/// `void engraft_watch(LibraryStatus *, const char *name)`: begins to follow a library. If it is
/// there already, it is the tool's to patch, and the linker is made to note when it has run the
/// destructors. The tool has put a plan in force that names the library.
///
/// # Safety
/// `status` describes the library, `name` is a C string.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn engraft_watch(status: *mut LibraryStatus, name: *const u8) {
    let _turn = Turn::take();
    let library = Library::at(status);
    let mut status = library.read();
    status.watched = 1;
    // SAFETY: the tool names the linker's structure, or none.
    let debug = unsafe { (config::read_config().debug as *const RDebug).as_ref() };
    // SAFETY: the linker's list. Objects are added at its end, and who is removed from it is
    // announced, for which the turn is needed.
    let found = debug.and_then(|debug| unsafe { find_map(debug.r_map, name) });
    if let Some(map) = found {
        status.loads += 1;
        status.load = status.loads;
        status.map = core::ptr::from_ref::<LinkMap>(map) as u64;
        status.bias = map.l_addr;
        status.started = 1;
        status.finished = 0;
        status.end = u64::MAX;
        mark(library, &mut status, map);
    }
    library.write(status);
}

fn mark(library: Library, status: &mut LibraryStatus, map: &LinkMap) -> Option<()> {
    // SAFETY: the object is mapped.
    let symbols = unsafe { Symbols::open_exported(map) }?;
    status.end = symbols.range().1;
    let table = Table::find(map, &symbols)?;
    if table.is_marked(status) {
        return Some(());
    }
    let redirects = Redirects::prepare(status, 0, symbols.range())?;
    let marks = table.write_marks(library, &redirects);
    redirects.close().ok()?;
    table.set_marks(&marks);
    Some(())
}

/// `r_state` (link.h).
const RT_CONSISTENT: i32 = 0;
const RT_DELETE: i32 = 2;

/// Called by the thread that changes the list of objects, which holds the linker's lock.
extern "C" fn follow() {
    let turn = Turn::take();
    let before = working().load(Ordering::Relaxed);
    working().store(u64::MAX, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if let Some(plan) = PlanInForce::read() {
        working().store(plan.generation(), Ordering::Release);
        follow_plan(plan);
    }
    working().store(before, Ordering::Release);
    drop(turn);
}

fn follow_plan(plan: PlanInForce) {
    // SAFETY: the tool names the linker's structure, or none.
    let Some(debug) = (unsafe { (config::read_config().debug as *const RDebug).as_ref() }) else {
        return;
    };
    match debug.r_state {
        RT_CONSISTENT => {
            for (library, part) in plan.libraries() {
                look_for(plan, library, part, debug.r_map);
            }
        }
        RT_DELETE => {
            for (library, part) in plan.libraries() {
                let status = library.read();
                // One whose constructors have not begun goes because its load has failed; if it
                // stays nevertheless, it comes again in a moment.
                if status.load != 0 && (status.finished != 0 || status.started == 0) {
                    go(plan, library, part);
                    count_event();
                }
            }
        }
        _ => {}
    }
}

/// The list is as it will be: has this library come, or vanished?
fn look_for(plan: PlanInForce, library: Library, part: Part, first: *const LinkMap) {
    let mut status = library.read();
    if status.watched == 0 {
        return;
    }
    if status.map != 0 {
        let is_it = |map: &&LinkMap| {
            core::ptr::from_ref::<LinkMap>(*map) as u64 == status.map && map.l_addr == status.bias
        };
        // SAFETY: the linker's list, which its lock protects.
        if unsafe { objects(first) }.any(|map| is_it(&map)) {
            return;
        }
        if status.load != 0 {
            forget(plan, library);
            count_event();
        }
        status = library.read();
        status.map = 0;
        library.write(status);
    }
    // SAFETY: as above.
    let found = unsafe { find_map(first, part.0.name as *const u8) };
    if let Some(map) = found {
        come(plan, library, part, map);
        count_event();
    }
}

/// The first object of that name; sonames, which take longer, are looked at last.
///
/// # Safety
/// `first` begins the linker's list, which does not change; `name` is a C string.
unsafe fn find_map(first: *const LinkMap, name: *const u8) -> Option<&'static LinkMap> {
    let null = core::ptr::null();
    // SAFETY: the caller's contract. The first object is the executable.
    let libraries = || unsafe { objects(first) }.skip(1);
    // SAFETY: `l_name` is a C string or null.
    let by_file = libraries().find(|map| unsafe { is_called(map.l_name, null, name) });
    by_file.or_else(|| {
        libraries().find(|map| {
            // SAFETY: the object is mapped; the soname is a C string or null.
            unsafe {
                let symbols = Symbols::open_exported(map);
                symbols.is_some_and(|symbols| is_called(null, symbols.soname(), name))
            }
        })
    })
}

fn working() -> &'static AtomicU64 {
    // SAFETY: an aligned word that everybody uses atomically.
    unsafe { AtomicU64::from_ptr(&raw mut engraft_arrivals.working) }
}

fn count_event() {
    // SAFETY: as above.
    let events = unsafe { AtomicU64::from_ptr(&raw mut engraft_arrivals.events) };
    events.fetch_add(1, Ordering::AcqRel);
}
